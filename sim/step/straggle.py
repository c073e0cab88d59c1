"""Which ranks of a priced step wait for each other, and what its kernels take on the slowest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sim.cost.host import pace_of
from sim.inputs.architecture import facts_of
from sim.inputs.gpu import Gpu
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.lowering.costs import Priced
from sim.lowering.parts import B1, CATEGORIES, F8, I8, NOT_KERNELS, Part
from sim.lowering.table import each_of, table_of
from sim.records import NamedTuple
from sim.step.rhythm import cycle_of
from sim.step.slowest import Ranks, deviation
from sim.strategies.plan import KERNEL, OWNED, SEGMENT, Plan

MAX_RUNS = 64  # that are kept of a plan
_KERNELS = ~np.isin(np.arange(len(CATEGORIES)), NOT_KERNELS)


def ranks_of(
    priced: Priced, workload: Workload, jitter: float = 0.0, whole: Workload | None = None
) -> tuple[Ranks, ...]:
    """The ranks that wait for each other, for each part of a priced step.

    Parameters
    ----------
    priced : Priced
        The step.
    workload : Workload
        Whose ranks hand units on, or do not.
    jitter : float
        Deviation of a rank's kernel time over its mean instead of the usual one; 0: that one.
    whole : Workload, optional
        The same with all its blocks and micro-steps, where `priced` has some of them.
    """
    whole = whole or workload
    layers = workload.model.layers
    missing = whole.model.layers - layers
    further = whole.gradient_accumulation - workload.gradient_accumulation
    cycle = (cycle_of(workload) if further else 0) or 1
    classes = priced.compiled.classes
    sizes = np.bincount(classes.of, minlength=len(classes.ranks)).tolist()
    alike: dict[Gpu, int] = {}  # ranks of a faster kind are never the last
    for role, ranks in zip(classes.role.tolist(), sizes, strict=True):
        gpu = priced.parts[role].role.gpu
        alike[gpu] = alike.get(gpu, 0) + ranks
    handed_on = hands_on(workload)
    found = []
    for part in priced.parts:
        n, runs = alike[part.role.gpu], _runs_of(part, layers, cycle)
        generation, host = facts_of(part.role.gpu).constants, part.role.host
        # no BLAS: its threads would wait for more, on cores of others
        inside = part.rows.alone_s * runs.blocks
        times = np.einsum("aij,kj->kai", runs.times, np.stack((part.rows.alone_s, inside)))
        busy_s, blocks_s = (times @ (1.0, missing) @ (1.0, further / cycle)).tolist()
        units = runs.units[0] + further / cycle * runs.units[1]
        gathered = units * whole.model.layers / layers if handed_on and n > 1 else 0.0
        usual = deviation(generation, busy_s, gathered, pace_of(host.cpu, host.gpus))
        known = deviation(generation, busy_s, gathered)
        found.append(Ranks(n, jitter or usual, known, blocks_s / busy_s if gathered else 1.0))
    return tuple(found)


def hands_on(workload: Workload) -> bool:
    """Whether hosts of ranks that wait for each other hand on every unit of parameters.

    Their strategy says whether they come together for each; a CUDA graph of the step needs no host.
    """
    return strategy_of(workload).gathers_blocks and not workload.cuda_graphs


def slowed(part: Part, ranks: Ranks, layers: int) -> Part:
    """The part whose kernels on the compute stream take as long as the slowest rank's in the mean.

    Copies beside them go on at their own pace: a wait that follows from the kernels is not one for
    the wires too. A kernel asks as many bytes in all, at a lower rate.

    Parameters
    ----------
    part : Part
        As the constants have it.
    ranks : Ranks
        Those that play it.
    layers : int
        Blocks of its plan.
    """
    rows = part.rows
    factor = np.where(_on_compute(part), ranks.of_others.slowdown, 1.0)
    factor = np.where(_in_blocks(part, layers), ranks.of_blocks.slowdown, factor)
    entry = np.repeat(factor, np.diff(rows.demand_ptr))
    return part._replace(
        rows=rows._replace(
            work=rows.work * factor, alone_s=rows.alone_s * factor,
            demand_amount=rows.demand_amount / entry,
        )
    )  # fmt: skip


def _on_compute(part: Part) -> B1:
    """Which rows are kernels that the compute stream runs, (n_rows,)."""
    t = table_of(part.plan)
    return _kernels(part, "rows on compute", lambda: t.stream_id == t.streams.index("compute"))


def _in_blocks(part: Part, layers: int) -> B1:
    """Which rows are kernels of blocks, copies in and out of what they send apart, (n_rows,)."""
    return _kernels(part, "rows of blocks", lambda: of_blocks(part.plan, layers))


def _kernels(part: Part, name: str, ops: Callable[[], B1]) -> B1:
    """Which rows are kernels that some ops of the plan run, (n_rows,)."""
    known = part.plan.first.derived.setdefault(name, {})
    key = part.runs, part.rows.kinds
    found: B1 | None = known.get(key)
    if found is None:
        edge, mine = np.zeros(part.rows.category.size + 1), ops()
        begin = part.row_start[mine]
        np.add.at(edge, begin, 1.0)
        np.add.at(edge, begin + part.row_count[mine], -1.0)
        if len(known) >= MAX_RUNS:
            known.clear()
        found = known[key] = (np.cumsum(edge)[:-1] > 0.0) & _KERNELS[part.rows.category]
    return found


def of_blocks(plan: Plan, layers: int) -> B1:
    """Which ops are what blocks compute, of a plan with so many: the kernels that hand units on.

    Returns
    -------
    (P,) bool
        For all plans of its structure.
    """
    found: B1 | None = plan.first.derived.get("ops of blocks")
    if found is None:
        of, ops, _ = each_of(plan.first)
        mine = [op.kind == SEGMENT and 0 < op.block <= layers for op in ops]
        found = plan.first.derived["ops of blocks"] = np.array(mine, dtype=np.bool_)[of]
    return found


class _KernelRuns(NamedTuple):
    """How often the micro-steps of a plan run each kernel, and units that ranks gather in them.

    In all micro-steps and in a cycle in the middle: the first may have less to do, what copies
    some do once a step or once a cycle.
    """

    times: F8  # (2, 2, n_rows) whole, and a block in the middle
    blocks: B1  # (n_rows,) which are of blocks
    units: tuple[int, int]


def _runs_of(part: Part, layers: int, cycle: int) -> _KernelRuns:
    """The same for all steps of the part's plan and those like it, whatever their rows cost."""
    known = part.plan.first.derived.setdefault("runs of rows", {})
    key = part.runs, part.rows.kinds, cycle
    found: _KernelRuns | None = known.get(key)
    if found is None:
        again, block, one, units = _in_micro_steps(part.plan, layers, cycle)
        kernels = _KERNELS[part.rows.category]
        times = np.zeros((4, kernels.size + 1))
        for row, mine in zip(times, (again, block, one, block & one), strict=True):
            begin = part.row_start[mine]
            np.add.at(row, begin, 1.0)
            np.add.at(row, begin + part.row_count[mine], -1.0)
        if len(known) >= MAX_RUNS:
            known.clear()
        whole = (np.cumsum(times, axis=1)[:, :-1] * kernels).reshape(2, 2, kernels.size)
        found = known[key] = _KernelRuns(whole, _in_blocks(part, layers), units)
    return found


def _in_micro_steps(plan: Plan, layers: int, cycle: int) -> tuple[B1, B1, B1, tuple[int, int]]:
    """Which ops of compute micro-steps run, a block and a cycle in the middle; units gathered."""
    of, ops, _ = each_of(plan.first)
    t = table_of(plan)
    block = np.array([op.block for op in ops], dtype=np.int64)[of]
    segment = t.kind == SEGMENT
    again = segment & np.array([op.name not in OWNED for op in ops], dtype=np.bool_)[of]
    inside = np.flatnonzero(again & (block > 0) & (block <= layers))
    copies = (t.kind == KERNEL) & (t.stream_id == t.streams.index("compute"))
    again |= copies & np.array([op.phase not in OWNED for op in ops], dtype=np.bool_)[of]
    first = (int(t.micro_step.max(initial=0)) + 1 - cycle) // 2
    one = (t.micro_step >= first) & (t.micro_step < first + cycle)
    gathers = np.array([op.collective == "all_gather" and op.group != op.stream for op in ops])[of]
    units = _handed_on(plan, inside, np.flatnonzero(gathers), block, t.micro_step)
    counts = int(units.size), int(np.count_nonzero((units >= first) & (units < first + cycle)))
    return again, again & (block == (layers + 1) // 2), again & one, counts


def _handed_on(plan: Plan, inside: I8, gathers: I8, block: I8, micro_step: I8) -> I8:
    """Micro-steps in which blocks are handed on, one for each: gathered for what they run there.

    A pipeline gathers ahead, for several micro-batches: it is the first of them that waits. Forward
    and backward of one wait together. Without stages all blocks of a micro-step that gathers any
    count, as ZeRO-3 fetches several at a time.
    """
    steps = int(micro_step.max(initial=0)) + 1
    runs = np.flatnonzero(np.bincount(block[inside] * steps + micro_step[inside]))
    if plan.stages == 1:
        return runs[np.isin(runs % steps, micro_step[gathers])] % steps
    order = np.lexsort((inside, block[inside]))
    place = block[inside][order] * block.size + inside[order]
    at = np.searchsorted(place, block[gathers] * block.size + gathers)
    some = at < place.size
    nearest = inside[order[at[some]]]
    mine = nearest[block[nearest] == block[gathers[some]]]
    return np.flatnonzero(np.bincount(block[mine] * steps + micro_step[mine])) % steps
