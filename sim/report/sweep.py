"""A sweep: its Pareto front, what meets the requirements, or all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sim.quantities import counted, duration, gib, percent, usd
from sim.report.view import Cell, Column, Lines, Row, Table, View, ViewPart, left
from sim.study.screen import Screening
from sim.study.sweep import SweepOutcome, as_text

SHOWN_ROWS = 40
_BEST = 10  # rows of a screening: further down, others that were not computed lie between
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
    said: set[str] = set()
    rows = [_cells(outcome, i, said) for i in chosen]
    table = Table(columns, rows, indent=0, apart=False)
    parts: list[ViewPart] = [table] if chosen or outcome.screening is None else []
    if outcome.screening is not None:
        parts.append(Lines(_screened(outcome.screening), indent=0))
    return View(title, parts, outcome)


def _screened(said: Screening) -> list[str]:
    """What a screening did, and how sure it is."""
    lines = [
        f"screened {said.points:,} configurations; computed {said.exact:,} exactly, of which "
        f"{said.invalid:,} contradict themselves"
    ]
    if said.error is None:
        return [*lines, "too few of them are valid to learn from; nothing is known of the others"]
    worst = percent(said.worst or 0.0)
    lines.append(
        f"the surrogate is off by {percent(said.error)} (at worst {worst}) of samples kept back; "
        f"it leaves {said.too_large:,} out as larger than memory"
    )
    if said.open:
        lines.append(
            f"not proven: {said.open:,} that were not computed may be better by that error; "
            "--exact N computes more"
        )
    elif said.winner is not None:
        lines.append("the first is exact, and by that error no other one is better; those below "
                     "it are the best of what was computed")  # fmt: skip
    return lines


def _chosen(outcome: SweepOutcome) -> tuple[list[int], str]:
    """Rows for people, and what they are."""
    if outcome.grid.pareto:
        names = " and ".join(outcome.grid.pareto)
        found = counted(len(outcome.front), "configuration")
        if not outcome.front:
            found = f"none of {len(outcome.rows):,} configurations fits and meets what is asked"
        return list(outcome.front), f"Pareto front of {names}: {found}"
    said = outcome.screening
    if said is not None:
        best = [i for i, row in enumerate(outcome.rows) if row.measures.get("fits")]
        best = [i for i in best if outcome.meets[i]][:_BEST]
        what = f"The best by {said.measure} of {said.points:,} configurations"
        if said.winner is None:
            what = f"None of {said.exact:,} configurations computed fits and meets what is asked"
        return best, what
    rows = [i for i, ok in enumerate(outcome.meets) if ok] if outcome.grid.require else None
    chosen = list(range(len(outcome.rows))) if rows is None else rows
    what = f"{len(chosen):,} of {len(outcome.rows):,} configurations meet the requirements"
    if rows is None:
        what = f"{len(chosen):,} configurations"
    if len(chosen) > SHOWN_ROWS:
        what += f"; the first {SHOWN_ROWS} (all with -o FILE.csv)"
    return chosen[:SHOWN_ROWS], what


def _cells(outcome: SweepOutcome, place: int, said: set[str]) -> Row:
    """A row; an error that a row above has is not told again."""
    row = outcome.rows[place]
    varied = [as_text(row.changes.get(key)) or "null" for key in outcome.grid.keys]
    if row.status != "ok":
        error = row.error.splitlines()[0] if row.error else row.status
        again = error in said
        said.add(error)
        return [*varied, row.status, "the same as above" if again else error]
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
    rate = counted(round(outcome.rate), "point")
    return f"{', '.join(parts)}; {outcome.seconds:.1f} s, {rate} a second"
