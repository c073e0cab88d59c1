"""Measured layouts in the validation report: errors by kind and cell, order, best layout."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from sim.calibration.mesh import AT_ODDS
from sim.calibration.validate_mesh import Cell as MeshCell
from sim.calibration.validate_mesh import MeshValidation
from sim.quantities import percent
from sim.report.validation_cells import count, groups, points, share, table
from sim.report.view import Cell, Lines, Part, Row


def parts(report: MeshValidation, misses: int) -> list[Part]:
    """All of it, the worst of the consistent rows last."""
    heads = (
        "cell", "looked at", "rows", "bias %", "mean %", "median %", "Spearman", "regret %",
    )  # fmt: skip
    worst = [p.point for p in report.consistent]
    return [
        Lines([_INTRODUCTION], "Layouts on 8 to 512 H100s", indent=0),
        groups(report.groups),
        Lines([_KNOWN], indent=0), table(heads, [_row(cell) for cell in report.known]),
        Lines([_said(report.known)], indent=0, list=True),
        Lines([_CELLS], indent=0), table(heads, [_row(cell) for cell in report.cells]),
        Lines([_said(report.cells), _refused(report), _left_out(report)], indent=0, list=True),
        points(worst, f"The {misses} worst layouts not at odds with others", misses),
    ]  # fmt: skip


def _row(cell: MeshCell) -> Row:
    order = Cell("", None) if cell.order is None else Cell(f"{cell.order:.2f}", cell.order)
    return [
        cell.name, "no" if cell.held else "yes", count(cell.rows), share(cell.bias, "+"),
        share(cell.mean), share(cell.median), order, share(cell.regret),
    ]  # fmt: skip


def _said(cells: Sequence[MeshCell]) -> str:
    orders = [c.order for c in cells if c.order is not None] or [1.0]
    regrets = [c.regret for c in cells]
    return (
        f"Spearman's correlation within a cell is {statistics.median(orders):.2f} in the median, "
        f"{min(orders):.2f} at least; the layout that the model chooses loses "
        f"{percent(statistics.fmean(regrets), 1)} against the measured best on average, "
        f"{percent(max(regrets), 1)} at most."
    )


def _refused(report: MeshValidation) -> str:
    words = [p.point.memory.verdict.word for p in report.points]
    refused = percent(len(report.refused) / len(words), 1)
    return (
        f"Of {len(words)} layouts that ran {len(report.refused)} ({refused}) are said not to fit, "
        f"{words.count('at risk')} to be at risk."
    )


def _left_out(report: MeshValidation) -> str:
    why = sorted({message for _, message in report.inexpressible})
    said = f"{len(report.inexpressible)} layouts cannot be written down"
    return f"{said}: {'; '.join(why)}." if why else f"{said}."


_INTRODUCTION = (
    "The Ultra-Scale Playbook's benchmark of nanotron: data, tensor and pipeline parallelism with "
    "and without ZeRO-1, 1 M tokens a step (`sim/data/measured/mesh.toml` says what ran); made by "
    "`scaling-sim validate mesh -o docs/validation-mesh.md`, which takes minutes. Of the "
    "trainer one constant is fitted here, the CPU time of a layer; one cell (model and nodes) in "
    "three was never looked at. Rows are at odds with others if one of their micro-batches takes "
    f"more than {AT_ODDS:g} times what an equal or larger one takes on the same stages and "
    "tensor-parallel ranks elsewhere in the table: most of them take 0.7 to 1.2 s a micro-batch "
    "whatever its work. Pipelines over nodes with tensor parallelism take 2.5 ms a layer and "
    "tensor-parallel rank, however long the micro-batch, as if every collective were first agreed "
    "on over TCP (what TORCH_DISTRIBUTED_DEBUG=DETAIL does); the same layouts within a node do "
    "not, and nothing here models that. Many of these also took less memory, as if inputs of "
    "matrices were gathered again: the table holds runs of two versions of the trainer."
)
_KNOWN = (
    "By model and number of nodes, the rows not at odds with others that have no tensor "
    "parallelism, or have it within a node and no pipeline over nodes:"
)
_CELLS = "All rows not at odds with others, by model and number of nodes:"
