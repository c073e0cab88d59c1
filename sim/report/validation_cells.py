"""Tables and numbers as the validation report writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sim.calibration.validate_training import TrainingGroup, TrainingPoint
from sim.report.view import Cell, Column, Row, Table, left
from sim.units import GIB

ERRORS = ("mean %", "median %", "p90 %", "worst %")


def table(heads: Sequence[str], rows: Sequence[Row], heading: str = "") -> Table:
    """A table whose numbers stand to the right."""
    right = [all(isinstance(row[i], Cell) for row in rows) for i in range(len(heads))]
    columns = [Column(h) if r else left(h) for h, r in zip(heads, right, strict=True)]
    return Table(columns, rows, heading, indent=0)


def share(value: float, sign: str = "", digits: int = 1) -> Cell:
    """A share in per cent."""
    return Cell(f"{100 * value:{sign}.{digits}f}", value)


def count(value: float) -> Cell:
    """A number of things."""
    return Cell(f"{value:.0f}", value)


def gib(size: float) -> Cell:
    """Bytes in GiB."""
    return Cell(f"{size / GIB:.1f}", size, "B")


def groups(found: Iterable[TrainingGroup], heading: str = "") -> Table:
    """Errors of the speed, a group a line."""
    rows: list[Row] = [
        [
            g.dimension, g.value, count(g.rows), share(g.bias, "+"),
            *map(share, (g.mean, g.median, g.p90)), share(g.worst, "+"),
        ]
        for g in found
    ]  # fmt: skip
    return table(("by", "value", "rows", "bias %", *ERRORS), rows, heading)


def points(found: Iterable[TrainingPoint], heading: str = "", most: int | None = None) -> Table:
    """Single rows, the worst first."""
    rows: list[Row] = [
        [
            p.row.id, count(p.row.gpus), p.row.workload.model.name,
            count(p.row.workload.sequence_length), count(p.row.tokens_per_s_per_gpu or 0.0),
            count(p.predicted), share(p.error, "+"), p.row.note,
        ]
        for p in sorted(found, key=lambda p: -abs(p.error))
    ]  # fmt: skip
    heads = ("row", "GPUs", "model", "length", "measured", "model says", "error %", "note")
    return table(heads, rows[:most], heading)
