"""What can be rented: offers of the catalogue on the shipped topologies, and machines of one's own.

An offer says price and place; the topology says how the GPUs are joined. They are matched by GPU,
GPUs a node and provider; where a provider's own topology does not ship, one with the same nodes
stands in for it, and the machine says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

from sim.errors import Fault, InputError
from sim.inputs import catalogue as shipped
from sim.inputs.arguments import Argument
from sim.inputs.loader import Prepared, load_topology
from sim.inputs.mistaken import shipped_with
from sim.inputs.offers import (
    catalogue,
    filtered,
    lies_in,
    newest,
    no_such,
    offer_keys,
    unknown_places,
)
from sim.inputs.price import PriceRow
from sim.inputs.reader import Reader
from sim.inputs.spoken import gpus_meant
from sim.inputs.topology import Nics, Offer, Topology
from sim.inputs.tree import Branch, from_python
from sim.job.basis import terms_of
from sim.quantities import usd
from sim.records import dataclass
from sim.step.kept import machine_key
from sim.study.machine_offers import A_PRICE, list_price


@dataclass(frozen=True, slots=True)
class Machine:
    """A node type that can be had, and how many of it.

    Attributes
    ----------
    name : str
        Provider, instance and region, or the topology's name.
    topology : Topology
        One node, with its offer.
    most_nodes : int
        1 where nodes are joined by no network.
    note : str
        What was assumed.
    """

    name: str
    topology: Topology
    most_nodes: int
    note: str = ""

    @property
    def kind(self) -> Hashable:
        """What searches keep what they know of its steps by: equal where the steps are."""
        return machine_key(self.topology)

    @property
    def gpu(self) -> str:
        """Name of its GPU."""
        return self.topology.first_gpu.name

    @property
    def price(self) -> float | None:
        """Per GPU and hour, on the terms of its offer. [USD/h]"""
        terms = terms_of(self.topology.offer)
        return terms.price_per_gpu_hour_usd if terms else None


@dataclass(frozen=True, slots=True)
class MachineFilter:
    """Where a machine may be and what it may be; empty means any.

    Attributes
    ----------
    residency, region, provider, gpu : tuple of str
        Alternatives, compared without case; a region matches by its beginning.
    """

    residency: tuple[str, ...] = ()
    region: tuple[str, ...] = ()
    provider: tuple[str, ...] = ()
    gpu: tuple[str, ...] = ()


MOST_NODES = 1024
#: paid for on every node before the first step: it boots, pulls an image, is tested with a
#: collective, fetches weights and data. Set, not measured; an offer's own `setup` replaces it.
SETUP_S = 900.0


def machines(
    wanted: MachineFilter,
    own: Iterable[Argument] = (),
    prices: Path | None = None,
    spot: bool = False,
) -> tuple[list[Machine], list[str]]:
    """Machines that meet what is wanted, and why others were left out.

    Parameters
    ----------
    wanted : MachineFilter
        Place and kind.
    own : iterable of topology arguments
        Instead of the catalogue: topologies, at their own offers; one without a price at the
        cheapest of its kind that is where and whose is wanted (`list_price`), said in its note.
    prices : Path, optional
        Offers of one's own, over the shipped ones.
    spot : bool
        Also at spot prices, where there are any.

    Raises
    ------
    InputError
        A GPU or provider that no offer has, or a topology that cannot be read.
    """
    mine, rows = list(own), newest(catalogue(prices))
    if mine:
        there = filtered(
            rows, region=wanted.region, residency=wanted.residency, provider=wanted.provider
        )
        found = [_own(argument, there) for argument in mine]
    else:
        _check(wanted, rows)
        found = [m for m in (_offered(row) for row in rows) if m is not None]
    found = _told_apart(found)
    if spot:
        found = _told_apart([*found, *(m for m in map(_at_spot, found) if m is not None)])
    kept, left_out = [], []
    for machine in found:
        reason = _unwanted(machine, wanted)
        if reason:
            left_out.append(f"{machine.name}: {reason}")
        else:
            kept.append(machine)
    return kept, left_out


def _told_apart(found: Sequence[Machine]) -> list[Machine]:
    """Machines each with a name of its own.

    Those of one name have their region in it, and a number from the second of that name on.
    """
    names = Counter(machine.name for machine in found)
    taken: set[str] = set()
    apart = []
    for machine in found:
        name, offer = machine.name, machine.topology.offer
        if names[name] > 1 and offer is not None and offer.region:
            name = f"{name} {offer.region}"
        free, number = name, 1
        while free in taken or (free in names and free != machine.name):
            number += 1
            free = f"{name} ({number})"
        taken.add(free)
        apart.append(replace(machine, name=free))
    return apart


def set_up(machine: Machine, seconds: float) -> Machine:
    """The machine with a set-up time, where no offer of it states one."""
    offer = machine.topology.offer or Offer()
    if offer.setup is not None:
        return machine
    topology = machine.topology.model_copy(
        update={"offer": offer.model_copy(update={"setup": seconds})}
    )
    return replace(machine, topology=topology)


def rented_as_set(machine: Machine, base: Prepared) -> Machine:
    """The machine at the offer that settings of a pair with it make of its own."""
    offer = base.loaded().topology.offer
    if offer == machine.topology.offer:
        return machine
    return replace(machine, topology=machine.topology.model_copy(update={"offer": offer}))


def _check(wanted: MachineFilter, rows: Sequence[PriceRow]) -> None:
    """A name that no offer has is a slip."""
    gpus = {row.gpu for row in rows}
    faults = [_unrented(gpu, gpus) for gpu in wanted.gpu if not gpus_meant(gpu, gpus)]
    faults += unknown_places(
        rows, region=wanted.region, residency=wanted.residency, provider=wanted.provider
    )
    if faults:
        raise InputError(faults)


def _unwanted(machine: Machine, wanted: MachineFilter) -> str:
    """Why a machine is not what is wanted; "" if it is."""
    offer = machine.topology.offer or Offer()
    if wanted.gpu and not any(gpus_meant(g, [machine.gpu]) for g in wanted.gpu):
        return f"its GPU is {machine.gpu}"
    if wanted.provider and offer.provider.lower() not in map(str.lower, wanted.provider):
        return f"its provider is {offer.provider or 'not stated'}"
    if wanted.residency and offer.residency.lower() not in map(str.lower, wanted.residency):
        return f"its residency is {offer.residency or 'not stated'}"
    if wanted.region and not lies_in(offer.region, wanted.region):
        return f"its region is {offer.region or 'not stated'}"
    return ""


def _own(argument: Argument, rows: Iterable[PriceRow]) -> Machine:
    topology = load_topology(argument)
    if topology.node is None or topology.graph is not None:
        message = "size varies the number of nodes; describe the machine by `node`, not by a graph"
        raise InputError.single(str(argument), message)
    most = topology.nodes if topology.nodes > 1 else MOST_NODES
    if topology.node.nics is None:
        most = 1
    row, note = list_price(topology, rows), ""
    if row is not None:
        topology = rented(topology, row)
        rate = f"{usd(row.usd_per_gpu_hour)} per GPU-hour on demand"
        note = f"it has no price, so that of {row.name}, {row.as_of}: {rate}"
    return Machine(topology.name, topology.model_copy(update={"nodes": 1}), most, note)


def rented(topology: Topology, row: PriceRow) -> Topology:
    """The machine at an offer of the catalogue, with what its own states beside that."""
    said = offer_of(row)
    update = {key: getattr(said, key) for key in offer_keys(row)}
    offer = (topology.offer or Offer()).model_copy(update=update)
    return topology.model_copy(update={"offer": offer})


def _at_spot(machine: Machine) -> Machine | None:
    offer = machine.topology.offer
    if offer is None or offer.spot_price_per_gpu_hour is None:
        return None
    spot = offer.model_copy(update={"capacity": "spot"})
    topology = machine.topology.model_copy(update={"offer": spot})
    return Machine(f"{machine.name} spot", topology, machine.most_nodes, machine.note)


@cache
def _topologies() -> tuple[Topology, ...]:
    """Shipped machines whose number of nodes can be chosen."""
    found = []
    for name in shipped.names("topologies"):
        topology = load_topology(name)
        if topology.node is not None and topology.graph is None:
            found.append(topology.model_copy(update={"nodes": 1}))
    return tuple(found)


def offer_of(row: PriceRow) -> Offer:
    """An offer as a topology has it."""
    keys = cast(Branch, from_python(offer_keys(row), row.name))
    return cast(Offer, Reader(quiet=True).read_table(Offer, keys, ""))  # keys that a reader takes


def _offered(row: PriceRow) -> Machine | None:
    """The machine of an offer; None where no shipped topology has its GPU."""
    fitting = [
        t for t in _topologies()
        if t.first_gpu.name == row.gpu and t.node is not None and t.node.gpus >= row.gpus_per_node
    ]  # fmt: skip
    if not fitting:
        return None

    def distance(topology: Topology) -> tuple[bool, bool, bool, bool, str]:
        assert topology.node is not None
        provider = topology.offer.provider.lower() if topology.offer else ""
        plain = topology.name.startswith("dgx")
        return (
            topology.node.gpus != row.gpus_per_node, provider != row.provider.lower(), not plain,
            bool(provider), topology.name,
        )  # fmt: skip

    base = min(fitting, key=distance)
    different, foreign, *_ = distance(base)
    assert base.node is not None
    node, most, note = base.node, MOST_NODES, ""
    if different:
        # part of a bigger node: its GPUs and links, and no network for the rest
        share = row.gpus_per_node / node.gpus
        nics = Nics(**{**node.nics.model_dump(), "count": max(1, round(node.nics.count * share))}) \
            if node.nics else None  # fmt: skip
        nvlink = node.nvlink if row.gpus_per_node > 1 else None
        node = node.model_copy(update={"gpus": row.gpus_per_node, "nics": nics, "nvlink": nvlink})
        most, note = 1, f"as {row.gpus_per_node} of the {base.node.gpus} GPUs of {base.name}, alone"
    elif foreign:
        note = f"joined as {base.name}"
    if node.nics is None:
        most = 1
    name = f"{row.provider} {row.instance}"
    topology = base.model_copy(update={"node": node, "offer": offer_of(row), "name": row.instance})
    return Machine(name, topology, most, note)


def _unrented(gpu: str, rented: set[str]) -> Fault:
    """That no offer has a GPU, and which machines with it can be named instead."""
    machines = shipped_with(gpu)
    if not machines:
        return no_such("--gpu", gpu, rented)
    own = " ".join(f"--topology {name}" for name in machines)
    message = f"no offer has {gpu!r}; machines of one's own: {own}, at a price of yours: {A_PRICE}"
    return Fault("--gpu", None, None, "", message)
