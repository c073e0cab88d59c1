"""Offers of a machine: which of the catalogue's are of its kind, and at which it is taken."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError
from sim.inputs.offers import cheapest, filtered, offer_keys
from sim.inputs.price import PriceRow, regions_differ, today
from sim.inputs.price_files import read_offers
from sim.inputs.topology import Offer, Topology
from sim.job.basis import terms_of

CHEAPEST = "cheapest"
#: how a price that no list has is given
A_PRICE = '--set offer.price_per_gpu_hour="2 USD"'


def matching(topology: Topology, rows: Iterable[PriceRow]) -> list[PriceRow]:
    """Offers of the topology's GPU in nodes of its size; none of unlike ones."""
    if len(topology.gpu_counts) > 1:
        return []
    gpu, per_node = topology.first_gpu, topology.world_size // topology.node_count
    return [r for r in rows if r.gpu in (gpu.name, gpu.base) and r.gpus_per_node == per_node]


def list_price(topology: Topology, rows: Iterable[PriceRow]) -> PriceRow | None:
    """The offer that a machine without a price is taken at: the cheapest of its kind.

    That is of the provider, region and residency that its own ``offer`` names, should it name one.
    None where it has a price of its own or is one's own, and where nobody offers it.
    """
    if terms_of(topology.offer) is not None:
        return None
    said = topology.offer or Offer()
    named = {"provider": said.provider, "region": said.region, "residency": said.residency}
    there = filtered(rows, **{key: (name,) for key, name in named.items() if name})
    return cheapest(matching(topology, there))


def pick_offer(topology: Topology, name: str, rows: Iterable[PriceRow]) -> PriceRow:
    """The cheapest trusted offer of the topology's machine whose name contains `name`.

    Parameters
    ----------
    topology : Topology
        Which GPU, how many a node.
    name : str
        Part of provider, instance or region, or ``cheapest``.
    rows : iterable of PriceRow
        The catalogue.

    Raises
    ------
    InputError
        If there is none.
    """
    found = matching(topology, rows)
    if name != CHEAPEST:
        found = [r for r in found if name.lower() in r.name.lower()]
    if not found:
        which = "" if name == CHEAPEST else f'"{name}" '
        gpus = " and ".join(gpu.name for gpu in topology.gpu_counts)
        message = f"no offer {which}of nodes of {gpus} as {topology.name} has"
        raise InputError([Fault("--offer", None, None, name, f"{message}; see prices list")])
    best = cheapest(found)
    assert best is not None
    return best


def passed_over(topology: Topology, prices: Path | None, taken: PriceRow) -> str:
    """Why a machine is rented at no row of a price file of one's own; "" where it is, or none is.

    Parameters
    ----------
    topology : Topology
        The machine.
    prices : Path, optional
        The file.
    taken : PriceRow
        What it is rented at.
    """
    mine = matching(topology, read_offers(prices)) if prices is not None else []
    if prices is None or taken in mine:
        return ""
    best = cheapest(mine)
    if best is None:
        gpus = " and ".join(gpu.name for gpu in topology.gpu_counts)
        return f"{prices} has no offer of nodes of {gpus} as {topology.name} has"
    why = best.doubt(today()) or f"{best.name} is dearer, or not what was named"
    return f"no row of {prices} is taken: {why}"


def like_for_like(
    first: Topology, other: Topology, rows: Iterable[PriceRow]
) -> tuple[PriceRow | None, PriceRow | None]:
    """Offers to compare two machines at: those of one provider, in one region if it has both there.

    Parameters
    ----------
    first, other : Topology
        The machines.
    rows : iterable of PriceRow
        The catalogue.

    Returns
    -------
    PriceRow or None, twice
        The cheapest pair of one provider; the cheapest of each where none has both. Prices that
        are not trusted (`PriceRow.trusted`) only where there are no others. None where
        nobody offers one of them.
    """
    known, day = tuple(rows), today()
    pairs = [(a, b) for a in matching(first, known) for b in matching(other, known)]
    if not pairs:
        return None, None

    def distance(pair: tuple[PriceRow, PriceRow]) -> tuple[bool, bool, int, float]:
        a, b = pair
        elsewhere = regions_differ(a.region, b.region)
        apart = a.provider.lower() != b.provider.lower()
        doubtful = sum(not row.trusted(day) for row in pair)
        total = a.usd_per_gpu_hour + b.usd_per_gpu_hour
        return apart, apart or elsewhere, doubtful, total

    return min(pairs, key=distance)


#: what a machine's own price comes with; an offer that is taken instead has terms of its own
_OWN_TERMS = (
    "capacity", "spot_price_per_gpu_hour", "commitment", "commitment_discount", "energy_per_kwh",
    "own",
)  # fmt: skip


def offer_settings(topology: Topology, row: PriceRow) -> tuple[str, ...]:
    """An offer as overrides of a topology's `offer`, in place of a price that it has.

    How long the machine takes to set up, and how soon one is taken away, stay as it says.
    """
    own, keys = topology.offer or Offer(), dict[str, Any](offer_keys(row))
    if terms_of(own) is not None:
        plain = {key: Offer.model_fields[key].default for key in _OWN_TERMS}
        keys = {k: v for k, v in plain.items() if getattr(own, k) != v} | keys
    return tuple(f"offer.{key}={json.dumps(value)}" for key, value in keys.items())


def price_doubt(offer: Offer | None) -> str:
    """Why the catalogue's price of a machine is not to be relied on; one of one's own is."""
    if offer is None or not offer.instance or offer.price_per_gpu_hour is None:
        return ""
    row = PriceRow(
        offer.provider, offer.instance, "", 0, offer.price_per_gpu_hour, None, offer.region, "",
        offer.date, offer.source, confidence=offer.confidence,
    )  # fmt: skip
    return row.doubt(today())
