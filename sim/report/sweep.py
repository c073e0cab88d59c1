"""A sweep: its Pareto front, what meets the requirements, or all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sim.quantities import duration, gib, percent, usd
from sim.report.view import Cell, Column, Row, Table, View, left
from sim.study.sweep import SweepOutcome, as_text

SHOWN_ROWS = 40
_MEASURES: dict[str, tuple[str, Callable[[float], str], str]] = {
    "step_time_s": ("step", duration, "s"),
    "tokens_per_s": ("tokens/s", "{:,.0f}".format, ""),
    "mfu": ("MFU", percent, ""),
    "memory_bytes": ("memory", gib, "B"),
    "wall_clock_s": ("job", duration, "s"),
    "cost_usd": ("cost", usd, "USD"),
}


def view(outcome: SweepOutcome) -> View:
    """What `scaling-sim sweep` says."""
    chosen, title = _chosen(outcome)
    columns = [
        *map(left, outcome.grid.keys), left("verdict"),
        *(Column(head) for head, _, _ in _MEASURES.values()),
    ]  # fmt: skip
    table = Table(columns, [_cells(outcome, i) for i in chosen], indent=0, apart=False)
    return View(title, [table], outcome)


def _chosen(outcome: SweepOutcome) -> tuple[list[int], str]:
    """Rows for people, and what they are."""
    if outcome.grid.pareto:
        names = " and ".join(outcome.grid.pareto)
        return list(outcome.front), f"Pareto front of {names}: {len(outcome.front)} configurations"
    rows = [i for i, ok in enumerate(outcome.meets) if ok] if outcome.grid.require else None
    chosen = list(range(len(outcome.rows))) if rows is None else rows
    what = f"{len(chosen):,} of {len(outcome.rows):,} configurations meet the requirements"
    if rows is None:
        what = f"{len(chosen):,} configurations"
    if len(chosen) > SHOWN_ROWS:
        what += f"; the first {SHOWN_ROWS} (all with -o FILE.csv)"
    return chosen[:SHOWN_ROWS], what


def _cells(outcome: SweepOutcome, place: int) -> Row:
    row = outcome.rows[place]
    varied = [as_text(row.changes.get(key)) or "null" for key in outcome.grid.keys]
    if row.status != "ok":
        return [*varied, row.status, row.error.splitlines()[0] if row.error else row.status]
    figures = [_cell(row.measures[name], show, unit) for name, (_, show, unit) in _MEASURES.items()]
    return [*varied, row.measures["verdict"], *figures]


def _cell(value: float | None, show: Callable[[float], str], unit: str) -> Cell:
    return Cell("-" if value is None else show(value), value, unit)


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
