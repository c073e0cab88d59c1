"""A plan of changes: step by step what each gives, and how to have them all."""

from __future__ import annotations

from sim.quantities import duration, gib, percent
from sim.report.settings import settings
from sim.report.view import Cell, Column, Lines, Row, Table, View, left, warned
from sim.result.improve import Improvement, JobState
from sim.result.trials import DEAR


def view(found: Improvement) -> View:
    """What `scaling-sim improve` says."""
    columns = [
        *map(left, ("", "change")),
        *map(Column, ("time a token", "in all", "step", "memory", "likely to run")),
        left("as"),
    ]
    rows: list[Row] = [_row("", "as it is", found.before, found.before, found.before, "")]
    at = found.before
    for i, made in enumerate(found.made, 1):
        text = made.text + (" (other rounding)" if made.rounds else "")
        rows.append(_row(str(i), text, made.state, at, found.before, settings(made.settings)))
        at = made.state
    return View(
        f"A plan of changes for {found.title}",
        [
            Table(columns, rows, indent=2),
            Lines([_answer(found), *_otherwise(found)]),
            warned(found.warnings),
        ],
        found,
    )


def _row(
    number: str, text: str, state: JobState, last: JobState, first: JobState, typed: str
) -> Row:
    fit = state.memory.verdict
    ratios = [state.gpu_s_per_token / other.gpu_s_per_token - 1.0 for other in (last, first)]
    told = [Cell(percent(r, 1, "+"), r) if number else "" for r in ratios]
    return [
        number, text, *told, Cell(duration(state.step_s), state.step_s, "s"),
        Cell(f"{gib(fit.needed_bytes)}{' !' if fit.risk else ''}", fit.needed_bytes, "B"),
        Cell(percent(fit.probability, 0), fit.probability), typed,
    ]  # fmt: skip


def _answer(found: Improvement) -> str:
    after = found.after.memory.verdict
    if found.stopped and not found.made:
        return "Stopped before anything was found that helps"
    if not found.made:
        return f"Nothing found that helps by more than the model can tell; the job {after.word}"
    if not after.fits and not found.stopped:
        return "No combination makes it fit on this machine: more nodes, or another method, would"
    typed = settings(found.settings)
    if not found.before.memory.fits:
        return f"With them it {after.word}, {percent(after.probability, 0)} likely to run: {typed}"
    return f"Together {1.0 / found.time_ratio:.2f} x as fast: {typed}"


def _otherwise(found: Improvement) -> list[str]:
    """That others may be better; where to look on, if a job fits dearly alone or not at all."""
    if found.stopped:
        return ["Stopped: this is the best so far, more or other changes may be better"]
    if found.before.memory.fits or (found.after.memory.fits and found.time_ratio <= DEAR):
        return []
    return ["`scaling-sim memory` also looks at what trains otherwise: LoRA, other weights"]
