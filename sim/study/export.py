"""Rows of a sweep as CSV, JSON lines, Parquet, Markdown or a table for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sim import units
from sim.documents import dumps, plain
from sim.errors import InputError
from sim.study.sweep import SweepOutcome

FORMATS = ("table", "csv", "jsonl", "json", "md", "parquet")
SHOWN_ROWS = 40
_SHOWN = ("step_time_s", "tokens_per_s", "mfu", "memory_bytes", "wall_clock_s", "cost_usd")
_HEADS = {
    "step_time_s": "step",
    "tokens_per_s": "tokens/s",
    "mfu": "MFU",
    "memory_bytes": "memory",
    "wall_clock_s": "job",
    "cost_usd": "cost",
}


def rendered(outcome: SweepOutcome, form: str) -> str:
    """The rows as text.

    Parameters
    ----------
    outcome : SweepOutcome
        What a sweep found.
    form : str
        ``table | csv | jsonl | json | md``.
    """
    texts: dict[str, Callable[[SweepOutcome], str]] = {
        "table": _table,
        "csv": _csv,
        "jsonl": lambda o: "\n".join(dumps(plain(r), None) for r in o.records()),
        "json": lambda o: o.to_json(),
        "md": _markdown,
    }
    return texts[form](outcome)


def write_parquet(outcome: SweepOutcome, path: Path) -> None:
    """Write the rows as a Parquet file.

    Raises
    ------
    InputError
        pyarrow is not installed, or the file cannot be written.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        message = "Parquet needs pyarrow: pip install pyarrow (or write .csv or .jsonl)"
        raise InputError.single(str(path), message) from None
    rows = [{k: _cell(v) if k in outcome.study.keys else v for k, v in r.items()}
            for r in outcome.records()]  # fmt: skip
    table = pyarrow.Table.from_pylist(rows) if rows else pyarrow.table({})
    try:
        parquet.write_table(table, path)
    except OSError as error:
        raise InputError.single(str(path), f"cannot write: {error.strerror}") from None


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | None) else dumps(plain(value), None)


def _csv(outcome: SweepOutcome) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, outcome.columns, lineterminator="\n")
    writer.writeheader()
    for record in outcome.records():
        writer.writerow({k: "" if v is None else _cell(v) if isinstance(v, dict | list) else v
                         for k, v in record.items()})  # fmt: skip
    return out.getvalue().rstrip("\n")


def _chosen(outcome: SweepOutcome) -> tuple[list[int], str]:
    """Rows for people, and what they are."""
    if outcome.study.pareto:
        names = " and ".join(outcome.study.pareto)
        return list(outcome.front), f"Pareto front of {names}: {len(outcome.front)} configurations"
    rows = [i for i, ok in enumerate(outcome.meets) if ok] if outcome.study.require else None
    chosen = list(range(len(outcome.rows))) if rows is None else rows
    what = f"{len(chosen):,} of {len(outcome.rows):,} configurations meet the requirements"
    if rows is None:
        what = f"{len(chosen):,} configurations"
    if len(chosen) > SHOWN_ROWS:
        what += f"; the first {SHOWN_ROWS} (all with -o FILE.csv)"
    return chosen[:SHOWN_ROWS], what


def _lines(outcome: SweepOutcome, chosen: list[int]) -> list[list[str]]:
    keys = outcome.study.keys
    lines = [[*keys, "fits", *(_HEADS[m] for m in _SHOWN)]]
    for i in chosen:
        row = outcome.rows[i]
        cells = [_text(row.changes.get(k)) for k in keys]
        if row.status != "ok":
            reason = row.error.splitlines()[0] if row.error else row.status
            lines.append([*cells, row.status, reason])
            continue
        fits = "yes" if row.measures["fits"] else "no"
        lines.append([*cells, fits, *(_shown(m, row.measures[m]) for m in _SHOWN)])
    return lines


def _text(value: Any) -> str:
    return value if isinstance(value, str) else dumps(plain(value), None)


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name == "memory_bytes":
        return units.show(value, "B", binary=True)
    if name == "cost_usd":
        return f"${value:,.0f}" if value >= 100 else f"${value:,.2f}"
    if name == "mfu":
        return f"{value:.1%}"
    if name == "tokens_per_s":
        return f"{value:,.0f}"
    return units.show(value, "s")


def _table(outcome: SweepOutcome) -> str:
    chosen, what = _chosen(outcome)
    lines = _lines(outcome, chosen)
    count = len(lines[0])
    widths = [max(len(line[c]) for line in lines if len(line) == count) for c in range(count)]
    keys = len(outcome.study.keys)
    text = [what]
    for line in lines:
        cells = [
            cell.ljust(widths[c]) if c <= keys or len(line) < count else cell.rjust(widths[c])
            for c, cell in enumerate(line)
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def _markdown(outcome: SweepOutcome) -> str:
    chosen, what = _chosen(outcome)
    head, *body = _lines(outcome, chosen)
    rows = [head, ["---"] * len(head), *([*b, *[""] * (len(head) - len(b))] for b in body)]
    return "\n".join([what, "", *("| " + " | ".join(r) + " |" for r in rows)])


def summary(outcome: SweepOutcome, store: Path) -> str:
    """One line on what was done and how fast."""
    parts = [f"{len(outcome.rows):,} configurations: {outcome.computed:,} computed"]
    if outcome.reused:
        parts.append(f"{outcome.reused:,} from {store}")
    if outcome.filtered:
        parts.append(f"{outcome.filtered:,} left out by where")
    if outcome.failed:
        parts.append(f"{outcome.failed:,} without a result (see their error)")
    return f"{', '.join(parts)}; {outcome.seconds:.1f} s, {outcome.rate:,.0f} points a second"
