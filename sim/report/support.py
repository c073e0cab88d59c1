"""`scaling-sim support`: what of a job is measured, modelled or neither."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim.quantities import duration, percent
from sim.report.view import Cell, Column, Lines, Row, Table, View, ViewPart, borrowed, left, warned
from sim.result.bands import LikeRun
from sim.result.support import UNFOLLOWED, Aspect, Support

_CELL = 50  # characters of evidence that a cell holds


def view(found: Support) -> View:
    """What `scaling-sim support` says."""
    apart = [f"{a.about} ({a.status}): {a.evidence}" for a in found.aspects if _long(a)]
    sections: list[ViewPart] = [
        Lines(_verdict(found)),
        _aspects(found),
        Lines(apart, list=True),
        like_table(found.like, "Published runs like it, by constants that had not seen them"),
        warned(w for w in found.warnings if w.code not in UNFOLLOWED),
        borrowed(found.borrowed),
    ]
    return View(f"{found.workload} on {found.topology}", sections, found)


def _verdict(found: Support) -> list[str]:
    counts = [
        f"{len(found.of(status))} {status}" for status in ("measured", "modelled", "not modelled")
    ]
    low, high = found.band_s.low, found.band_s.high
    wide = percent(math.exp(found.memory_band) - 1.0)
    return [
        f"Of what decides this job: {', '.join(counts)}",
        f"Step time {duration(found.step_time_s)}, 80 % band {duration(low)} to {duration(high)}, "
        f"by about {found.comparable_rows:.0f} published runs like it; peak memory within {wide}",
    ]


def _aspects(found: Support) -> Table:
    columns = [
        left("about"), left("here"), left("status"), Column("rows"), Column("sources"),
        Column("error"), left("evidence"),
    ]  # fmt: skip
    return Table(columns, [_row(aspect) for aspect in found.aspects], indent=2)


def _row(a: Aspect) -> Row:
    error = "" if a.error is None else Cell(percent(a.error), a.error)
    counts = [Cell(str(n), n) if n else "" for n in (a.rows, a.sources)]
    return [a.about, a.value, a.status, *counts, error, "below" if _long(a) else a.evidence]


def _long(a: Aspect) -> bool:
    """Whether its evidence is a sentence, which stands below the table."""
    return len(a.evidence) > _CELL


def like_table(runs: Sequence[LikeRun], heading: str = "") -> Table:
    """Published runs beside a job, and how far off the model was on each."""
    columns = [
        left("run"), left("model"), Column("GPUs"), left("strategy"), left("method"),
        Column("likeness"), Column("error"),
    ]  # fmt: skip
    rows: list[Row] = [
        [run.id, run.model, Cell(str(run.gpus), run.gpus), run.strategy, run.method,
         Cell(percent(run.likeness, 0), run.likeness),
         Cell(percent(run.error, sign="+"), run.error)]
        for run in runs
    ]  # fmt: skip
    return Table(columns, rows, heading)
