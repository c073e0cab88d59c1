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
        "cell", "fitted", "rows", "bias %", "mean %", "median %", "Spearman", "regret %",
    )  # fmt: skip
    worst = [p.point for p in report.consistent]
    return [
        Lines([_INTRODUCTION], "Layouts on 8 to 512 H100s", indent=0),
        groups(report.groups),
        Lines(list(_CAUSES), indent=0, list=True),
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
    "`scaling-sim validate mesh -o docs/validation-mesh.md`, which takes minutes. Fitted here, "
    "with one cell (model and nodes) in three left out, are the CPU time of a layer of the "
    "trainer, that of each part of a parameter that ZeRO-1 gathers, and that of a message while "
    "ranks agree on a collective (`bench/fit/nanotron.py`)."
)
_CAUSES = (
    "Pipelines over nodes with tensor parallelism take 4.7 + 1.9 t ms a layer with t ranks inside "
    "a node, on 2 to 64 nodes, from 2 to 32 stages, with 1 to 16 sequences, until a layer computes "
    "longer: CPU time, for each of ten collectives in proportion to its ranks. That is what "
    "TORCH_DISTRIBUTED_DEBUG=DETAIL does, in which ranks agree on a collective over TCP before it "
    "(`stack.distributed_debug: detail`, taken for these rows, which do not print their "
    "environment); no order of the axes does: nanotron's has tensor ranks next to each other, "
    "and t = 2 to 8 is slow within one node per group. Rows on one node and rows without a "
    "pipeline have none of it.",
    "Rows are at odds with others if one of their micro-batches takes more than "
    f"{AT_ODDS:g} times what an equal or larger one takes on the same stages and tensor-parallel "
    "ranks elsewhere in the table. Of 463 rows with a pipeline over nodes 228, 94 of them not at "
    "odds, lose 0.5 s a micro-batch with two stages and 1.0 s with more, a quarter of a second for "
    "each message that a stage sends or awaits, of 1 MB or 100 MB alike. Which ones is no "
    "accident: all with t = 32 (61), all others on 64 nodes (60), half of ZeRO-1 on 32 nodes (35 "
    "of 80), a sixth on 16 (15 of 91), all of it on fewer above 66 GB (12) and 3 of 112 below; "
    "without ZeRO, on 8 and 16 nodes all with 16 or more micro-batches (29) and none with fewer. "
    "It is not parameters (3B and 8B alike), bytes of gradients, bytes of messages, layers, ranks "
    "of a matrix, or memory alone (1 to 77 GB). Nothing here models it.",
    "Without a pipeline, t = 16 and 32 over nodes take 0.5 and 1.3 ms longer a collective than "
    "said, whatever its bytes: as if a hop between nodes took 0.33 ms, of which other "
    "measurements of EFA know nothing (`docs/collectives.md`). Not modelled either.",
    "At four sequences and more many rows took less memory than what is gathered would: the table "
    "holds runs of two versions of the trainer.",
)
_KNOWN = (
    "By model and number of nodes, the rows not at odds with others that have no tensor "
    "parallelism, or have it within a node:"
)
_CELLS = "All rows not at odds with others, by model and number of nodes:"
