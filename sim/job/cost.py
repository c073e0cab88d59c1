"""Total cost of compute: rate x wall-clock, setup, storage, egress; and where the answer flips."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sim.errors import Fault, InputError

OFFERS = Path(__file__).parents[1] / "data" / "prices" / "offers.csv"
COLUMNS = (
    "provider", "instance", "gpu", "gpus_per_node", "usd_per_gpu_hour",
    "spot_usd_per_gpu_hour", "region", "residency", "as_of", "source",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One rentable node type."""

    provider: str
    instance: str
    gpu: str
    gpus_per_node: int
    usd_per_gpu_hour: float
    spot_usd_per_gpu_hour: float | None
    region: str
    residency: str
    as_of: str
    source: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job costs. [USD]"""

    total_usd: float
    compute_usd: float
    setup_usd: float
    storage_usd: float
    egress_usd: float
    price_per_gpu_hour_usd: float
    gpu_hours: float
    usd_per_million_tokens: float | None


@cache
def offers() -> tuple[PriceRow, ...]:
    """The shipped snapshot of offers, dearest information last."""
    return tuple(read_offers(OFFERS))


def read_offers(path: Path) -> Iterable[PriceRow]:
    """Offers from a CSV of the columns `COLUMNS`; every fault of the file at once.

    Raises
    ------
    InputError
        Missing columns or values that are not prices.
    """
    faults: list[Fault] = []
    rows: list[PriceRow] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [c for c in COLUMNS[:5] if c not in (reader.fieldnames or ())]
            if missing:
                message = f"columns missing: {', '.join(missing)}; need {', '.join(COLUMNS[:5])}"
                raise InputError([Fault(str(path), 1, 1, "", message)])
            for record in reader:
                row = _row(str(path), reader.line_num, record, faults)
                if row is not None:
                    rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError([Fault(str(path), None, None, "", f"cannot read: {error}")]) from error
    if faults:
        raise InputError(faults)
    return rows


def _row(
    source: str, line: int, record: dict[str, str | None], faults: list[Fault]
) -> PriceRow | None:
    def text(column: str) -> str:
        return (record.get(column) or "").strip()

    def number(column: str, optional: bool = False) -> float | None:
        raw = text(column)
        if optional and not raw:
            return None
        try:
            value = float(raw)
        except ValueError:
            faults.append(Fault(source, line, None, column, f"{raw!r} is not a number"))
            return None
        if not 0 < value < 1e6:
            faults.append(Fault(source, line, None, column, f"{raw} is not a plausible price"))
            return None
        return value

    price, gpus = number("usd_per_gpu_hour"), number("gpus_per_node")
    spot = number("spot_usd_per_gpu_hour", optional=True)
    if price is None or gpus is None:
        return None
    return PriceRow(
        text("provider"), text("instance"), text("gpu"), int(gpus), price, spot,
        text("region"), text("residency"), text("as_of"), text("source"),
    )  # fmt: skip


def total_cost(
    price_per_gpu_hour_usd: float,
    gpus: int,
    wall_s: float,
    *,
    setup_hours: float = 0.0,
    storage_gb: float = 0.0,
    storage_usd_per_gb_month: float = 0.0,
    egress_gb: float = 0.0,
    egress_usd_per_gb: float = 0.0,
    tokens: float | None = None,
) -> Cost:
    """Total cost of compute.

    Parameters
    ----------
    price_per_gpu_hour_usd : float
        Rate. [USD/h]
    gpus : int
        GPUs rented.
    wall_s : float
        Wall-clock of the job. [s]
    setup_hours : float
        Hours paid before the first step. [h]
    storage_gb, storage_usd_per_gb_month : float
        Checkpoints and data kept while the job runs.
    egress_gb, egress_usd_per_gb : float
        What leaves the provider at the end.
    tokens : float, optional
        For the price per million tokens.
    """
    hours = wall_s / 3600.0
    compute = price_per_gpu_hour_usd * gpus * hours
    setup = price_per_gpu_hour_usd * gpus * setup_hours
    storage = storage_gb * storage_usd_per_gb_month * (hours + setup_hours) / 730.0
    egress = egress_gb * egress_usd_per_gb
    total = compute + setup + storage + egress
    return Cost(
        total_usd=total,
        compute_usd=compute,
        setup_usd=setup,
        storage_usd=storage,
        egress_usd=egress,
        price_per_gpu_hour_usd=price_per_gpu_hour_usd,
        gpu_hours=gpus * (hours + setup_hours),
        usd_per_million_tokens=total / tokens * 1e6 if tokens else None,
    )


def break_even_price(own_total_usd: float, other: Cost, other_price_usd: float) -> float | None:
    """Price per GPU-hour at which the other machine costs as much; None if no price does. [USD]

    The other's total is linear in its price: fixed parts (storage, egress) and the rest.
    """
    fixed = other.storage_usd + other.egress_usd
    variable = other.compute_usd + other.setup_usd
    if variable <= 0.0 or own_total_usd <= fixed:
        return None
    return other_price_usd * (own_total_usd - fixed) / variable
