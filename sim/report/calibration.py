"""A calibration: constants with what is known of them, errors before and after, a verdict."""

from __future__ import annotations

import math

from sim.calibration.calibrate import CalibrationReport, Compared, Constant, mean_error
from sim.quantities import percent
from sim.report.view import Cell, Column, Lines, Remarks, Row, Table, View, ViewPart, left

_KINDS = {
    "run": "training runs",
    "collective": "collectives (nccl-tests, trace)",
    "kernels": "kernels of a profiled step",
    "copy": "copies",
}
_MANY = 12  # single rows shown of one kind


def view(report: CalibrationReport) -> View:
    """What `scaling-sim calibrate` says."""
    sections: list[ViewPart] = [
        _constants(report), _errors(report), *_runs(report),
        Remarks([f"note: {note}" for note in report.notes], indent=0),
        Lines([report.verdict], indent=0),
    ]  # fmt: skip
    return View("", sections, report)


def _constants(report: CalibrationReport) -> Table:
    columns = [
        left("constant", width=19), Column("value", width=6, before=" "), Column("+-", width=6),
        left("known from"),
    ]  # fmt: skip
    rows: list[Row] = [
        [c.name, Cell(f"{c.value:.3f}", c.value), _share(math.expm1(c.sigma)), _source(c)]
        for c in report.constants
    ]
    return Table(columns, rows, indent=0)


def _source(c: Constant) -> str:
    if c.informed < 0.05:
        return "prior: nothing you gave says anything about it"
    return "your measurements" if c.informed > 0.5 else "your measurements and the prior"


def _errors(report: CalibrationReport) -> Table:
    columns = [
        left("mean |predicted/measured - 1|", width=34), Column("points", before=" "),
        Column("before", width=7), Column("after", width=7), Column("left out"),
    ]  # fmt: skip
    rows = []
    for kind, name in _KINDS.items():
        found = [c for c in report.fitted if c.kind == kind]
        if found:
            rows.append(_mean(name, found))
    if report.held_out:
        rows.append(_mean("held out, not fitted", list(report.held_out)))
    return Table(columns, rows, indent=0)


def _mean(name: str, found: list[Compared]) -> Row:
    errors = (
        mean_error([getattr(c, which) for c in found]) for which in ("before", "after", "unseen")
    )
    return [name, Cell(str(len(found)), len(found)), *map(_share, errors)]


def _runs(report: CalibrationReport) -> list[ViewPart]:
    runs = [c for c in (*report.fitted, *report.held_out) if c.kind != "collective"]
    columns = [
        left("run", width=38), Column("measured", width=11, before=" "),
        Column("before", before=" ", width=8), Column("after", before=" ", width=8),
        Column("left out", before=" ", width=9),
    ]  # fmt: skip
    rows: list[Row] = [
        [
            c.label[:38], Cell(f"{c.measured_s:.4g} s", c.measured_s, "s"),
            *(_share(error, "+") for error in (c.before, c.after, c.unseen)),
        ]
        for c in runs[:_MANY]
    ]  # fmt: skip
    more = [f"... and {len(runs) - _MANY} more (--format json)"] if len(runs) > _MANY else []
    return [Table(columns, rows, indent=0), Lines(more, indent=0, apart=False)]


def _share(value: float, sign: str = "") -> Cell:
    return Cell(percent(value, sign=sign), value)
