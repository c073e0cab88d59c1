"""The catalogue of offers: dated rows with their source, and a user's own file over them."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from sim import units
from sim.documents import SCHEMAS, Listing
from sim.errors import Fault, InputError
from sim.inputs.nearest import did_you_mean
from sim.inputs.price import PRICES, PriceRow, today
from sim.inputs.price_files import COLUMNS, read_offers
from sim.records import dataclass

OFFERS = PRICES / "offers.csv"


@dataclass(frozen=True, slots=True)
class Offers(Listing):
    """Offers as they stand on a day."""

    schema: ClassVar[str] = SCHEMAS["offers"]

    rows: tuple[PriceRow, ...]
    today: datetime.date
    left_out: tuple[str, ...] = ()  # of a file that was read

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row an offer: the columns of a price file, `age_days` its least and greatest age."""
        return [
            {name: getattr(row, name) for name in COLUMNS}
            | {
                "egress_usd_per_gb": row.egress(),
                "storage_usd_per_gb_month": row.storage(),
                "age_days": row.age_days(self.today),
            }
            for row in self.rows
        ]


@cache
def offers() -> tuple[PriceRow, ...]:
    """The shipped snapshot of offers."""
    return tuple(read_offers(OFFERS))


def filtered(
    rows: Iterable[PriceRow], *, region: Sequence[str] = (), residency: Sequence[str] = (),
    provider: Sequence[str] = (),
) -> tuple[PriceRow, ...]:  # fmt: skip
    """Offers of a place: alternatives without case, a region by its beginning; empty means any.

    An offer that is the same anywhere is in every region, and of no stated residency.
    """
    places, names = ([x.lower() for x in xs] for xs in (residency, provider))
    return tuple(
        row for row in rows
        if (not region or lies_in(row.region, region))
        and (not places or row.residency.lower() in places)
        and (not names or row.provider.lower() in names)
    )  # fmt: skip


def lies_in(region: str, wanted: Sequence[str]) -> bool:
    """Whether a region is one of those by its beginning, without case; ``any`` is all of them."""
    low = region.lower()
    return low == "any" or low.startswith(tuple(w.lower() for w in wanted))


def unknown_places(
    rows: Iterable[PriceRow], *, region: Sequence[str] = (), residency: Sequence[str] = (),
    provider: Sequence[str] = (),
) -> list[Fault]:  # fmt: skip
    """Faults of places that no offer has, which are slips: arguments as of `filtered`."""
    rows, faults = tuple(rows), []
    asked = {"provider": provider, "residency": residency, "region": region}
    for key, values in asked.items():
        names = {getattr(row, key).lower() for row in rows} - {"", "any"}
        for value in values:
            low = value.lower()
            beginnings = [n for n in names if n.startswith(low) and key == "region"]
            if low not in names and low != "any" and not beginnings:
                faults.append(no_such(f"--{key}", value, names))
    return faults


def no_such(option: str, value: str, names: Iterable[str]) -> Fault:
    """No offer has such a value: the nearest there is, or all."""
    known = sorted(names)
    hint = did_you_mean(value.lower(), known)
    listed = hint if hint.startswith("; did") else f"; there are {', '.join(known)}"
    return Fault(option, None, None, "", f"no offer has {value!r}{listed}")


def cheapest(rows: Iterable[PriceRow], day: datetime.date | None = None) -> PriceRow | None:
    """The cheapest offer on demand of those that are trusted; of all, where none is."""
    day = day or today()
    ranked = sorted(rows, key=lambda r: (not r.trusted(day), r.usd_per_gpu_hour))
    return ranked[0] if ranked else None


def list_offers(
    own: Path | None = None, *, name: str = "", gpu: str = "",
    provider: Sequence[str] = (), all_dates: bool = False, region: Sequence[str] = (),
    residency: Sequence[str] = (),
) -> Offers:  # fmt: skip
    """Offers of the catalogue, today.

    Parameters
    ----------
    own : Path, optional
        A price file of one's own over the shipped offers.
    name, gpu : str
        Only those whose name (provider, instance, region) or whose GPU contains this.
    all_dates : bool
        Older prices of the same offer too.
    provider, region, residency : sequence of str
        As for `filtered`.

    Raises
    ------
    InputError
        A place or GPU that no offer has.
    """
    rows = catalogue(own) if all_dates else newest(catalogue(own))
    faults = unknown_places(rows, region=region, residency=residency, provider=provider)
    gpus = {row.gpu for row in rows}
    if not any(gpu.lower() in known for known in gpus):
        faults.append(no_such("--gpu", gpu, gpus))
    if faults:
        raise InputError(faults)
    chosen = (
        row for row in filtered(rows, region=region, residency=residency, provider=provider)
        if name.lower() in row.name.lower()
        and gpu.lower() in row.gpu
    )  # fmt: skip
    return Offers(tuple(chosen), today())


def catalogue(own: Path | None = None) -> tuple[PriceRow, ...]:
    """Shipped offers, a file of one's own over them.

    A row of the file replaces all shipped rows of its provider, instance and region.
    """
    if own is None:
        return offers()
    mine = tuple(read_offers(own))
    replaced = {_key(row) for row in mine}
    return (*mine, *(row for row in offers() if _key(row) not in replaced))


def _key(row: PriceRow) -> tuple[str, str, str]:
    return row.provider.lower(), row.instance.lower(), row.region.lower()


def newest(rows: Iterable[PriceRow]) -> tuple[PriceRow, ...]:
    """Of rows that differ in date alone, the newest."""
    best: dict[tuple[str, str, str], PriceRow] = {}
    for row in rows:
        old = best.get(_key(row))
        if old is None or row.as_of > old.as_of:
            best[_key(row)] = row
    return tuple(best.values())


def find_offers(
    rows: Iterable[PriceRow], provider: str, instance: str, region: str = ""
) -> tuple[PriceRow, ...]:
    """The newest offers of an instance; any provider's and region's where that is empty."""
    return newest(
        row for row in rows
        if row.instance.lower() == instance.lower()
        and row.provider.lower() == (provider.lower() or row.provider.lower())
        and row.region.lower() == (region.lower() or row.region.lower())
    )  # fmt: skip


def instances(provider: str = "") -> list[str]:
    """Names of the shipped instances of a provider, of all where none is named."""
    wanted = provider.lower()
    return [row.instance for row in offers() if not wanted or row.provider.lower() == wanted]


def offer_keys(row: PriceRow) -> dict[str, str]:
    """What an offer says, as keys of a topology's ``offer``, quantities as text."""
    prices = {
        "price_per_gpu_hour": row.usd_per_gpu_hour,
        "spot_price_per_gpu_hour": row.spot_usd_per_gpu_hour,
        "egress_per_gb": row.egress(), "storage_per_gb_month": row.storage(),
    }  # fmt: skip
    texts = {
        "provider": row.provider, "instance": row.instance, "region": row.region,
        "residency": row.residency, "country": row.country, "date": row.as_of,
        "source": row.source, "confidence": row.confidence,
    }  # fmt: skip
    texts |= {k: units.write(v, "USD") for k, v in prices.items() if v is not None}
    return {key: text for key, text in texts.items() if text}
