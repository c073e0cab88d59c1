"""Measured layouts in the validation report: errors by kind and cell, order, best layout."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from sim.calibration.mesh import AT_ODDS
from sim.calibration.validate_mesh import MeshCell, MeshValidation
from sim.quantities import percent
from sim.report.validation_cells import count, groups, points, share, table
from sim.report.view import Cell, Lines, Row, ViewPart


def parts(report: MeshValidation, misses: int) -> list[ViewPart]:
    """All of it, the worst of the consistent rows last."""
    heads = (
        "cell", "fitted", "rows", "bias %", "mean %", "median %", "Spearman", "regret %",
    )  # fmt: skip
    worst = [p.point for p in report.consistent]
    return [
        Lines([_INTRODUCTION], "Layouts on 8 to 512 H100s", indent=0),
        groups(report.groups),
        Lines(list(_CAUSES), indent=0, list=True),
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
    "trainer, both ways and forward, that of each part of a parameter that ZeRO-1 gathers, that of "
    "a message while ranks agree on a collective, that of a message of a pipeline, and the latency "
    "of a hop between nodes (`bench/fit/nanotron.py`)."
)
_CAUSES = (
    "A micro-batch starts with an idle GPU: the trainer copies its tokens behind all that it has "
    "issued, and waits (`waits_for_batch` in `sim/data/trainers.toml`). So where kernels take "
    "about as long as their issue (3B with t = 2, 8B with t = 4, one sequence) forward waits for "
    "the CPU, backward for the GPU, and a step is longer than either. Without it 19 such rows are "
    "said 7.3 % too fast in the median, with it they are 0.9 % off (7 in cells held back: 6.9 and "
    "2.3). What of a layer's time is forward's is fitted on 9 of them, 1.1 % left. A layer's "
    "Python goes along with its kernels: all of it before the first one made stages of few layers "
    "slow (3B on one node, t = 1, p = 8: 4.3 % too slow where p = 2 was 2.4 % too fast; 3.9 and "
    "4.6 % too fast now).",
    "What is left without a pipeline where kernels are long: t = 2 is said 7.1 % too fast, t = 1 "
    "2.7 %, t = 4 and 8 -2 to 4 %. It is no matter of t = 2, but of a micro-batch, however many "
    "sequences it has: on two nodes (held back) 3B takes 42 ms a sequence with t = 8 (said to "
    "take 41 to 42) and 25 to 28 ms beside (12 to 15), with t = 4 66 to 68 (69 to 70) and 25 to "
    "32 beside (14 to 16), with t = 1 241 (235) and 19 beside (16); rows of t = 2 have one "
    "sequence or two, so it weighs most there. That is some 13 ms where ranks share matrices, 60 "
    "us for each of eight collectives a layer, or as much once a micro-batch; no row tells which, "
    "so none of it is in the model. Overlap is no cause: nanotron multiplies the positions that a "
    "rank has beside the gather of the others. Played so, with the SMs that NCCL holds and the "
    "waves that shorter products lose, t = 2, 4 and 8 are said 3.6, 4.1 and 2.1 points faster "
    "still. That is left out. Nor is it that streams wait for each other: two waits a collective "
    "of 2 to 3 us beside a kernel's 1 (recorded traces of A100s) are below 1 ms; nor checks that "
    "ranks read the same tokens, which are off by default (`ignore_sanity_checks`).",
    "Pipelines over nodes with tensor parallelism take 4.7 + 1.9 t ms a layer with t ranks "
    "inside a node, on 2 to 64 nodes, from 2 to 32 stages, with 1 to 16 sequences, until a "
    "layer computes longer: CPU time, for each of ten collectives in proportion to its ranks. "
    "That is what TORCH_DISTRIBUTED_DEBUG=DETAIL does, in which ranks agree on a collective "
    "over TCP before it (`stack.distributed_debug: detail`, taken for these rows, which do not "
    "print their environment); no order of the axes does: nanotron's has tensor ranks next to "
    "each other, and t = 2 to 8 is slow within one node per group. Rows on one node have none of "
    "it, and of those without a pipeline the ones that are held up (next) alone.",
    "Some runs over nodes are held up: two versions of the trainer ran, or two environments. "
    "Their ranks agree on collectives without a pipeline as well (26 rows of t = 8 to 32, which "
    "without it were 87 to 734 % off; no other row of t = 8 and more is over 94 %), and each "
    "message that a stage sends or awaits costs the CPU 0.3 s (`stack.message_time`): 0.6 s a "
    "micro-batch with two stages, 1.2 s with more, for 1 MB and 100 MB alike, within a node and "
    "between nodes, so neither the network nor a proxy of NCCL's. Memory tells which they are, as "
    "they gather again what their tensor-parallel ranks have gathered, and the others keep it: "
    "what is held beyond a run that gathers again is below 0.6 copies of what enters the layers "
    "(`mesh.kept_copies`), where the others hold one to five. Without a pipeline the memory of "
    "either kind is met within 10 % (t = 16: 43.3 GB of 44.3 kept, 23.6 of 23.8 gathered again). "
    "With one it is told from four stages on: with t < 32 and fewer than 64 nodes 8 of 172 rows "
    "are told wrongly, 2 of 54 in cells held back (area under the curve 0.98). All rows "
    "on 64 nodes and of t = 32 with a pipeline are held up where memory tells, so the rest of "
    "them is taken to be, and so are rows of more than 70 GB; and where neither tells, those "
    "without ZeRO, with several data-parallel ranks and 16 and more micro-batches, on 8 nodes and "
    "more: all 29 are, 15 of them in cells held back. That is not a cause, but says which run is "
    "which. The time of a message is one number, fitted on rows that are not held back; those "
    "held back follow it as well (`held up`, below `kind`). Of rows still at odds most are held "
    "up by their speed (35 of 48 pipelines within 15 % if they were), and nothing else says so.",
    "What is fitted carries over (`python bench/fit/nanotron.py --cross`): with one model, one "
    "number of nodes or one t left out of all rows, the others give 3.11 to 3.22 ms a layer, 1.35 "
    "to 1.40 of it forward, 46 to 51 us a message in a node and 65 to 67 between nodes, 0.29 to "
    "0.30 s a message of a pipeline and 141 to 150 us a switch; rows left out are 0.3 to 11 % off "
    "in the median, most of all hops on 4, 8 and 64 nodes without theirs.",
    "Norms are whole on each rank of a matrix and see a part of the positions, so their gradients "
    "are summed over those ranks, a parameter at a time (`sums_apart` in `sim/data/trainers.toml`; "
    "Megatron-LM sums one flat tensor): 57 times the latency between nodes a step of 3B with t = "
    "16 and 32, 0.06 and 0.11 s, and where ranks agree first 57 times that. Nothing is fitted to "
    "it. Rows of t over nodes without a pipeline were 25.2 % off in the mean and 9.7 in the "
    "median, those held up in cells held back 8.3 and 5.3.",
    f"Rows are at odds with others if one of their micro-batches takes more than {AT_ODDS:g} times "
    "what an equal or larger one takes on the same stages and tensor-parallel ranks elsewhere "
    "in the table, in runs of the same kind.",
    "Between nodes a hop takes 0.43 ms longer than other measurements of EFA have it "
    "(`docs/collectives.md`), here `network.switch_latency`: fitted on 47 rows that wait for it "
    "(no pipeline; t = 16 and 32, or gradients reduced in buckets beside backward on 16 nodes and "
    "more), which agree on it if a ring over two nodes crosses between them twice, one over four "
    "four times. What is left is with long collectives on many nodes.",
)
_CELLS = "All rows not at odds with others, by model and number of nodes:"
