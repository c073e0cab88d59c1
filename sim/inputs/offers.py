"""The catalogue of offers: dated rows with their source, and a user's own file over them."""

from __future__ import annotations

import csv
import datetime
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from sim import units
from sim.data import DATA
from sim.documents import SCHEMAS, Listing
from sim.errors import Fault, InputError
from sim.inputs.catalogue import gpu_names
from sim.records import dataclass

PRICES = DATA / "prices"
OFFERS = PRICES / "offers.csv"
COLUMNS = (
    "provider", "instance", "gpu", "gpus_per_node", "usd_per_gpu_hour",
    "spot_usd_per_gpu_hour", "region", "residency", "as_of", "source",
    "country", "egress_usd_per_gb", "storage_usd_per_gb_month",
)  # fmt: skip
REQUIRED = COLUMNS[:5]
STALE_DAYS = 90


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One rentable node type. Prices in USD."""

    provider: str
    instance: str
    gpu: str
    gpus_per_node: int
    usd_per_gpu_hour: float
    spot_usd_per_gpu_hour: float | None
    region: str
    residency: str
    as_of: str  # year, year-month or date
    source: str
    country: str = ""  # ISO 3166 alpha-3
    egress_usd_per_gb: float | None = None  # None: the provider's, `services`
    storage_usd_per_gb_month: float | None = None

    @property
    def name(self) -> str:
        """Provider, instance and region: what tells offers apart."""
        where = f" {self.region}" if self.region not in ("", "any") else ""
        return f"{self.provider} {self.instance}{where}"

    def age_days(self, today: datetime.date) -> tuple[int, int] | None:
        """Least and greatest age of the price; None if it has no date. [d]"""
        match = re.fullmatch(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?", self.as_of)
        if match is None:
            return None
        year, month, day = (int(g) if g else None for g in match.groups())
        assert year is not None
        try:
            first = datetime.date(year, month or 1, day or 1)
            if day:
                last = first
            elif month:
                last = (first + datetime.timedelta(days=31)).replace(day=1)
                last -= datetime.timedelta(days=1)
            else:
                last = datetime.date(year, 12, 31)
        except ValueError:
            return None
        return max(0, (today - last).days), max(0, (today - first).days)

    def egress(self) -> float:
        """Price of a gigabyte that leaves the provider. [USD/GB]"""
        if self.egress_usd_per_gb is not None:
            return self.egress_usd_per_gb
        return services().get(self.provider.lower(), (0.0, 0.0))[0]

    def storage(self) -> float:
        """Price of keeping a gigabyte for a month. [USD/GB/month]"""
        if self.storage_usd_per_gb_month is not None:
            return self.storage_usd_per_gb_month
        return services().get(self.provider.lower(), (0.0, 0.0))[1]


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


@cache
def services() -> dict[str, tuple[float, float]]:
    """Egress and storage price by provider. [USD/GB], [USD/GB/month]"""
    with (PRICES / "services.csv").open(encoding="utf-8", newline="") as file:
        return {
            row["provider"]: (
                float(row["egress_usd_per_gb"]),
                float(row["storage_usd_per_gb_month"]),
            )
            for row in csv.DictReader(file)
        }


def list_offers(
    own: Path | None = None, *, name: str = "", gpu: str = "", provider: str = "",
    all_dates: bool = False,
) -> Offers:  # fmt: skip
    """Offers of the catalogue, today.

    Parameters
    ----------
    own : Path, optional
        A price file of one's own over the shipped offers.
    name, gpu : str
        Only those whose name (provider, instance, region) or whose GPU contains this.
    provider : str
        Only this one's.
    all_dates : bool
        Older prices of the same offer too.
    """
    rows = catalogue(own) if all_dates else newest(catalogue(own))
    chosen = (
        row for row in rows
        if name.lower() in row.name.lower()
        and gpu.lower() in row.gpu
        and provider.lower() in ("", row.provider.lower())
    )  # fmt: skip
    return Offers(tuple(chosen), datetime.date.today())


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
        "source": row.source,
    }  # fmt: skip
    texts |= {k: units.write(v, "USD") for k, v in prices.items() if v is not None}
    return {key: text for key, text in texts.items() if text}


def read_offers(path: Path) -> list[PriceRow]:
    """Offers from a CSV of the columns `COLUMNS`; every fault of the file at once.

    Raises
    ------
    InputError
        Missing columns or values that are not prices.
    """
    return _read(path, _row)


Parse = Callable[[str, int, dict[str, str | None], list[Fault]], PriceRow | None]


def _read(path: Path, parse: Parse, required: Sequence[str] = REQUIRED) -> list[PriceRow]:
    faults: list[Fault] = []
    rows: list[PriceRow] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [c for c in required if c not in (reader.fieldnames or ())]
            if missing:
                message = f"columns missing: {', '.join(missing)}; need {', '.join(required)}"
                raise InputError([Fault(str(path), 1, 1, "", message)])
            for record in reader:
                row = parse(str(path), reader.line_num, record, faults)
                if row is not None:
                    rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError([Fault(str(path), None, None, "", f"cannot read: {error}")]) from error
    if faults:
        raise InputError(faults)
    return rows


class _Cells:
    """The cells of a line; what is no number becomes a fault."""

    def __init__(
        self, source: str, line: int, record: dict[str, str | None], faults: list[Fault]
    ) -> None:
        self.source, self.line, self.record, self.faults = source, line, record, faults

    def text(self, column: str) -> str:
        return (self.record.get(column) or "").strip()

    def number(self, column: str, *, least: float | None = None) -> float | None:
        """A positive number; `least` 0 allows nothing, an empty cell is None where it may be."""
        raw = self.text(column)
        try:
            value = float(raw)
        except ValueError:
            self.faults.append(
                Fault(self.source, self.line, None, column, f"{raw!r} is not a number")
            )
            return None
        allowed = value >= 0.0 if least == 0.0 else value > 0.0
        if not allowed or value >= 1e6:
            message = f"{raw} is not a plausible price"
            self.faults.append(Fault(self.source, self.line, None, column, message))
            return None
        return value

    def optional(self, column: str, *, least: float | None = None) -> float | None:
        return self.number(column, least=least) if self.text(column) else None


def _row(
    source: str, line: int, record: dict[str, str | None], faults: list[Fault]
) -> PriceRow | None:
    cells = _Cells(source, line, record, faults)
    price, gpus = cells.number("usd_per_gpu_hour"), cells.number("gpus_per_node")
    spot = cells.optional("spot_usd_per_gpu_hour")
    egress = cells.optional("egress_usd_per_gb", least=0.0)
    storage = cells.optional("storage_usd_per_gb_month", least=0.0)
    gpu = _known_gpu(cells, cells.text("gpu"))
    if price is None or gpus is None:
        return None
    t = cells.text
    return PriceRow(
        t("provider"), t("instance"), gpu, int(gpus), price, spot, t("region"), t("residency"),
        t("as_of"), t("source"), t("country"), egress, storage,
    )  # fmt: skip


def _known_gpu(cells: _Cells, name: str) -> str:
    from difflib import get_close_matches

    if name not in gpu_names():
        near = get_close_matches(name, gpu_names(), n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        message = f'"{name}" is no GPU of the catalogue{hint}'
        cells.faults.append(Fault(cells.source, cells.line, None, "gpu", message))
    return name


# --- import --------------------------------------------------------------------------------------

_SKYPILOT = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Price", "Region")
_SKYPILOT_GPUS = {
    "a100-80gb": "a100-sxm-80gb", "a100-80gb-sxm": "a100-sxm-80gb", "a100": "a100-sxm-40gb",
    "h100": "h100-sxm-80gb", "h100-sxm": "h100-sxm-80gb", "h100-mega": "h100-sxm-80gb",
    "h200": "h200-sxm-141gb", "h200-sxm": "h200-sxm-141gb", "b200": "b200-sxm-180gb",
    "b300": "b300-sxm-288gb", "gb200": "gb200-186gb", "l40s": "l40s-pcie-48gb",
    "l4": "l4-pcie-24gb", "a10g": "a10g-pcie-24gb", "v100": "v100-sxm-16gb",
    "v100-32gb": "v100-sxm-32gb", "rtx4090": "rtx-4090-24gb",
}  # fmt: skip


def import_offers(path: Path, provider: str, as_of: str = "") -> Offers:
    """Offers of a SkyPilot catalogue (``vms.csv``), and which of its rows were left out.

    Parameters
    ----------
    path : Path
        The CSV.
    provider : str
        As the file does not say it.
    as_of : str
        Date of the prices; today by default.
    """
    today = datetime.date.today()
    as_of = as_of or today.isoformat()
    left_out: dict[str, int] = {}

    def parse(
        source: str, line: int, record: dict[str, str | None], faults: list[Fault]
    ) -> PriceRow | None:
        cells = _Cells(source, line, record, faults)
        name = cells.text("AcceleratorName").lower()
        if not name:
            return None
        instance = cells.text("InstanceType")
        gpu = _SKYPILOT_GPUS.get(name)
        if gpu == "h100-sxm-80gb" and "pcie" in instance.lower():
            gpu = "h100-pcie-80gb"
        if gpu is None:
            left_out[name] = left_out.get(name, 0) + 1
            return None
        count, price = cells.number("AcceleratorCount"), cells.optional("Price")
        spot = cells.optional("SpotPrice")
        if count is None or price is None:
            return None
        note = f"{path.name} (SkyPilot catalogue)"
        return PriceRow(
            provider, instance, gpu, int(count), price / count, spot / count if spot else None,
            cells.text("Region"), "", as_of, note,
        )  # fmt: skip

    rows = _read(path, parse, _SKYPILOT)
    notes = (f"{n} rows of {name}: no such GPU here" for name, n in sorted(left_out.items()))
    return Offers(tuple(rows), today, tuple(notes))


def to_csv(rows: Iterable[PriceRow]) -> str:
    """Offers as a file that `read_offers` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    order = [f.name for f in fields(PriceRow)]
    assert tuple(order) == COLUMNS
    for row in rows:
        values = [getattr(row, name) for name in order]
        writer.writerow(
            ["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in values]
        )
    return text.getvalue().rstrip("\n")
