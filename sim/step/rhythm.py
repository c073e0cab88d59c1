"""Micro-steps that repeat: which few stand for all, and whether they have settled into a rhythm.

Without stages every micro-step in the middle is like the next. In a 1F1B pipeline, ranks do a
forward and a backward a micro-batch once it is full, so that each micro-batch adds one period: that
of the stage that takes longest. How soon it is reached depends on how unequal stages are, so a
longer step is tried until two periods in a row are equal on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sim.inputs.workload import Workload
from sim.lowering.lower import Lowered, RankView
from sim.lowering.table import table_of
from sim.program import Timeline
from sim.strategies.plan import SEGMENT

MICRO_STEPS = 3  # simulated without stages: the first, one that stands for those between, the last
EVEN = 1e-4  # of a period: how much it may still change
_TRIED = (2, 4)  # times as many micro-batches as stages
_MORE = 4  # micro-batches beside

F8 = npt.NDArray[np.float64]


def shortened(workload: Workload) -> Iterator[Workload]:
    """The job with ever more of its micro-steps, at last all of them."""
    steps, p = workload.gradient_accumulation, workload.parallelism
    tried: list[int] = []
    if p.pipeline_parallel == 1:
        tried = [MICRO_STEPS]
    elif p.pipeline_schedule == "1f1b":
        tried = [times * p.pipeline_parallel + _MORE for times in _TRIED]
    for few in tried:
        if few < steps:
            yield workload.model_copy(update={"gradient_accumulation": few})
    yield workload


def settled(lowered: Lowered, timeline: Timeline) -> bool:
    """Whether the middle micro-step stands for more: ranks of a pipeline have found a rhythm."""
    if lowered.views[0].plan.stages == 1:
        return True
    each = [_forwards(lowered, timeline, view)[-3:] for view in lowered.views]
    periods = np.diff(np.array([starts for starts in each if starts.size == 3]), axis=1)
    return bool(periods.max() - periods.min() <= EVEN * periods.max())


def middle_of(lowered: Lowered, timeline: Timeline, view: RankView) -> tuple[F8, F8]:
    """When the compute lane enters the micro-step that stands for others, and the next one. [s]

    Parameters
    ----------
    lowered, timeline : Lowered, Timeline
        A step, or a stack; then the two have an entry each.
    view : RankView
        The rank, in each of them.
    """
    starts = _forwards(lowered, timeline, view)
    if starts.shape[-1] < MICRO_STEPS:  # a stage without blocks passes messages on
        starts = max((_forwards(lowered, timeline, v) for v in lowered.views), key=len)
    begin, end = (-2, -1) if view.plan.stages > 1 else (1, 2)
    return starts[..., begin], starts[..., end]


def _forwards(lowered: Lowered, timeline: Timeline, view: RankView) -> F8:
    """When the forward of each micro-step begins, (micro-steps,) or a row a step. [s]"""
    table = table_of(view.plan)
    of, starts = lowered.plan_op[view.compute], timeline.start[..., view.compute]
    inside = np.flatnonzero((table.kind == SEGMENT)[of])
    micro = table.micro_step[of[inside]]
    first = np.full(int(micro.max()) + 1, -1, dtype=np.int64)
    first[micro[::-1]] = inside[::-1]  # ops of a lane follow each other: the first stays
    return np.where(first >= 0, starts[..., first], np.inf)
