"""Price files: read whole or with every fault, and written."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

from sim.errors import Fault, InputError
from sim.inputs.catalogue import gpu_names
from sim.inputs.csv_file import csv_rows
from sim.inputs.price import CONFIDENCES, TERMS, UNCHECKED, Currency, PriceRow, currency_of

_A_SLIP = 0.8  # of likeness: "country_name" beside country is a column of its own
MOST_BYTES = 32_000_000  # a catalogue of all of a provider's regions is a few MB
COLUMNS = tuple(f.name for f in fields(PriceRow))
REQUIRED = COLUMNS[:5]


def read_offers(path: Path) -> list[PriceRow]:
    """Offers from a CSV of the columns `COLUMNS`; every fault of the file at once.

    Raises
    ------
    InputError
        As for `csv_rows`; missing columns or values that are not prices.
    """
    return read_rows(path, _row, known=COLUMNS)


def unread_columns(path: Path) -> list[str]:
    """Columns of a file for `read_offers` that nothing reads; none are known of a pipe."""
    if not path.is_file():
        return []
    with csv_rows(path, MOST_BYTES, "leave regions out") as reader:
        return [column for column in reader.fieldnames or () if column not in COLUMNS]


Parse = Callable[[str, int, dict[str, str | None], list[Fault]], PriceRow | None]


def read_rows(
    path: Path, parse: Parse, required: Sequence[str] = REQUIRED, known: Sequence[str] = ()
) -> list[PriceRow]:
    """Rows of a CSV, each by `parse`; every fault of the file at once.

    A column that is nearly one of `known`, which the file lacks, is a fault; others are its own.
    """
    faults: list[Fault] = []
    rows: list[PriceRow] = []
    with csv_rows(path, MOST_BYTES, "leave regions out") as reader:
        missing = [c for c in required if c not in (reader.fieldnames or ())]
        if missing:
            message = f"columns missing: {', '.join(missing)}; need {', '.join(required)}"
            raise InputError([Fault(str(path), 1, 1, "", message)])
        columns = reader.fieldnames or ()
        faults += _slips(str(path), columns, known)
        for column in sorted({c for c in columns if c and columns.count(c) > 1}):
            faults.append(Fault(str(path), 1, None, column, "stands in two columns; name one"))
        for record in reader:
            if reader.restkey in record:
                message = f"has more cells than the {len(columns)} columns of the first line"
                faults.append(Fault(str(path), reader.line_num, None, "", message))
            row = parse(str(path), reader.line_num, record, faults)
            if row is not None:
                rows.append(row)
    if faults:
        raise InputError(faults)
    return rows


def _slips(source: str, columns: Sequence[str], known: Sequence[str]) -> Iterator[Fault]:
    """Columns that are nearly one that the file lacks."""
    from difflib import get_close_matches

    absent = [column for column in known if column not in columns]
    for column in columns:
        near = get_close_matches(column, absent, n=1, cutoff=_A_SLIP)
        if column not in known and near:
            message = f'unknown column; did you mean "{near[0]}"?'
            yield Fault(source, 1, None, column, message)


class PriceCells:
    """The cells of a line; what is no number becomes a fault."""

    def __init__(
        self, source: str, line: int, record: dict[str, str | None], faults: list[Fault]
    ) -> None:
        self.source, self.line, self.record, self.faults = source, line, record, faults

    def text(self, column: str) -> str:
        """The cell, "" where there is none."""
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

    def currency(self) -> Currency | None:
        """In which the line states its prices; a fault where it has no rate."""
        try:
            return currency_of(self.text("currency") or "USD")
        except InputError as error:
            message = error.faults[0].message
            self.faults.append(Fault(self.source, self.line, None, "currency", message))
            return None

    def optional(self, column: str, *, least: float | None = None) -> float | None:
        """A number, or None where the cell is empty."""
        return self.number(column, least=least) if self.text(column) else None


def _row(
    source: str, line: int, record: dict[str, str | None], faults: list[Fault]
) -> PriceRow | None:
    cells = PriceCells(source, line, record, faults)
    price, gpus = cells.number("usd_per_gpu_hour"), cells.number("gpus_per_node")
    spot, year, three = (cells.optional(column) for column in list(TERMS.values())[1:])
    egress = cells.optional("egress_usd_per_gb", least=0.0)
    storage = cells.optional("storage_usd_per_gb_month", least=0.0)
    gpu = _known_gpu(cells, cells.text("gpu"))
    t = cells.text
    confidence, rate = t("confidence"), cells.currency()
    if confidence not in CONFIDENCES:
        message = f'"{confidence}" is none of listed, {UNCHECKED}'
        faults.append(Fault(source, line, None, "confidence", message))
    if price is not None and spot is not None and spot > price:
        message = f"{spot:g} is above the {price:g} on demand: are the two exchanged?"
        faults.append(Fault(source, line, None, TERMS["spot"], message))
    if gpus is not None and not gpus.is_integer():
        message = f"{gpus:g} is not a whole number"
        faults.append(Fault(source, line, None, "gpus_per_node", message))
    if price is None or gpus is None or rate is None:
        return None

    def usd(value: float | None) -> float | None:
        return None if value is None else value * rate.usd

    row = PriceRow(
        t("provider"), t("instance"), gpu, int(gpus), price * rate.usd, usd(spot), t("region"),
        t("residency"), t("as_of"), t("source"), t("country"), usd(egress), usd(storage),
        usd(year), usd(three), confidence, rate.code,
    )  # fmt: skip
    if row.as_of and row.age_days(datetime.date.today()) is None:
        message = f'"{row.as_of}" is no date; write 2026, 2026-11 or 2026-11-30'
        faults.append(Fault(source, line, None, "as_of", message))
    return row


def _known_gpu(cells: PriceCells, name: str) -> str:
    from difflib import get_close_matches

    if name not in gpu_names():
        near = get_close_matches(name, gpu_names(), n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        message = f'"{name}" is no GPU of the catalogue{hint}'
        cells.faults.append(Fault(cells.source, cells.line, None, "gpu", message))
    return name


def to_csv(rows: Iterable[PriceRow]) -> str:
    """Offers as a file that `read_offers` reads, in dollars."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    columns = attrgetter(*COLUMNS[:-1])
    for row in rows:  # nothing is written as an empty cell
        values = [f"{v:.6g}" if isinstance(v, float) else v for v in columns(row)]
        writer.writerow([*values, "USD"])
    return text.getvalue().rstrip("\n")
