"""Micro-steps that repeat: which few stand for all, and the stretch of time that stands for others.

Without stages a micro-step in the middle is like the next once the host is as late, or early enough
(`sim.step.micro_repeat`): most often at once, else ever longer steps are tried. In a pipeline whose
ranks go back and forth, each cycle of its schedule adds one period: that of the rank that takes
longest. How soon it is reached depends on how unequal stages are, so ever longer steps are tried
until two cycles in a row are the same on every lane. Nothing that has happened by then tells a
longer step from a shorter one, so that more cycles in the middle do no more than put off what
follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim.inputs.pipeline import shape_of
from sim.inputs.workload import Workload
from sim.lowering.lowered import Lowered, RankView
from sim.lowering.table import table_of
from sim.pipeline.schedules import SCHEDULES
from sim.program import Timeline
from sim.strategies.plan import SEGMENT

MICRO_STEPS = 3  # tried first without stages: the first, one that may stand for others, the last
SAME = 1e-10  # of a period: what rounding may leave between two that are the same
EVEN = 5e-4  # of a period: what may still change where longer trials would take too long
_MORE = 4  # micro-batches of a trial beside a multiple of the stages

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


def cycle_of(workload: Workload) -> int:
    """Micro-steps after which a step may repeat itself; 0 where it never does. [1]"""
    if workload.parallelism.pipeline_parallel == 1:
        return 1
    return SCHEDULES[workload.parallelism.pipeline_schedule].cycle(shape_of(workload))


def shortened(workload: Workload) -> Iterator[Workload]:
    """The job with ever more of its micro-steps, whole cycles of them missing; at last all."""
    steps, cycle = workload.gradient_accumulation, cycle_of(workload)
    for few in _tried(workload) if cycle else ():
        left = steps - (steps - few) // cycle * cycle
        if few < steps and left < steps:
            yield of_steps(workload, left)
    yield workload


@lru_cache(maxsize=1024)
def of_steps(workload: Workload, steps: int) -> Workload:
    """The job with other micro-steps; one object for equal ones, so that it is looked up fast."""
    return workload.model_copy(update={"gradient_accumulation": steps})


def fewest(workload: Workload) -> Workload:
    """The job with a few of its micro-steps, to see what one takes."""
    steps, cycle = workload.gradient_accumulation, cycle_of(workload) or 1
    few = 2 * max(workload.parallelism.pipeline_parallel, cycle)
    left = max(cycle, steps - (steps - few) // cycle * cycle)
    return workload.model_copy(update={"gradient_accumulation": left})


def _tried(workload: Workload) -> Iterator[int]:
    """Micro-steps of trials, if there are more. [1]"""
    p = workload.parallelism
    if p.pipeline_parallel == 1:
        few = MICRO_STEPS
        while few < workload.gradient_accumulation:
            yield few
            few *= 2
        return
    table = SCHEDULES[p.pipeline_schedule].table
    times, more, saved = (12, 4, 3) if table else (2, 2, 1)
    while saved * (few := times * p.pipeline_parallel + _MORE) < workload.gradient_accumulation:
        yield few
        times *= more


def middle_of(lowered: Lowered, timeline: Timeline) -> tuple[F8, F8]:
    """When the slowest rank enters the micro-step that stands for others, and the last one. [s]

    Parameters
    ----------
    lowered, timeline : Lowered, Timeline
        A step without stages, or a stack; then the two have an entry each.
    """
    starts = entered(lowered, timeline, lowered.slowest(timeline))
    return starts[..., -2], starts[..., -1]


def stretch_of(
    lowered: Lowered, timeline: Timeline, view: RankView, cycle: int, nearly: bool = False
) -> tuple[float, float] | None:
    """The stretch of time that stands for a cycle of a pipeline's left out, begin and end. [s]

    Parameters
    ----------
    lowered, timeline
        A step of fewer micro-steps.
    view : RankView
        The rank whose ops are not to be cut: the stretch begins and ends with one of its own.
    cycle : int
        Micro-steps that it is to have.
    nearly : bool
        It will do if stages take as long for a cycle as each other, to `EVEN`.

    Returns
    -------
    (float, float) or None
        None where its ranks have found no rhythm yet.
    """
    starts = entered(lowered, timeline, view)
    # a stage without blocks passes messages on, or begins with its head alone
    known = [f for f in (entered(lowered, timeline, v) for v in lowered.views) if f.size > cycle]
    if starts.size <= cycle:
        starts = known[0]
    # until then no rank has come to the end of its forwards
    latest = min(float(each[-1 - cycle]) for each in known)
    last = int(np.searchsorted(starts, latest, side="right")) - 1
    if last < 3 * cycle:
        return None
    begin, end = float(starts[last - cycle]), float(starts[last])
    if nearly:
        found = _in_step(known, latest, cycle, end - begin)
    else:
        found = _repeats(lowered, timeline, end, end - begin)
    return (begin, end) if found else None


def _in_step(known: Sequence[F8], latest: float, cycle: int, period: float) -> bool:
    """Whether every stage begins each micro-batch of the last cycle a period after the one before.

    Parameters
    ----------
    known : sequence of (micro-steps,) float64
        When each begins forward. [s]
    latest : float
        Which is the last cycle. [s]
    """
    for starts in known:
        end = int(np.searchsorted(starts, latest, side="right"))
        apart = starts[end - cycle : end] - starts[end - 2 * cycle : end - cycle] - period
        if end < 2 * cycle or float(np.abs(apart).max()) > EVEN * period:
            return False
    return True


def entered(lowered: Lowered, timeline: Timeline, view: RankView) -> F8:
    """When on a rank the forward of each micro-step begins, (micro-steps,) or a row a step. [s]"""
    table = table_of(view.plan)
    of, starts = lowered.plan_op[view.compute], timeline.start[..., view.compute]
    inside = np.flatnonzero((table.kind == SEGMENT)[of])
    micro = table.micro_step[of[inside]]
    first = np.full(int(micro.max(initial=-1)) + 1, -1, dtype=np.int64)
    first[micro[::-1]] = inside[::-1]  # ops of a lane follow each other: the first stays
    return np.where(first >= 0, starts[..., first], np.inf)


def _repeats(lowered: Lowered, timeline: Timeline, end: float, period: float) -> bool:
    """Whether all that begins in the period before `end` did so, alike, one period earlier.

    Hosts are apart: they may be ahead and get further ahead, but not fall behind.
    """
    program, least = lowered.program, SAME * period
    ends = np.searchsorted(program.lane, np.arange(program.n_lanes + 1)).tolist()
    cut = end - 2 * least  # what begins with the stretch may be rounded to before it
    hosts = {lowered.host_of(view) for view in lowered.views}
    cuts = (cut - 2 * period, cut - period, cut)
    for lane in range(program.n_lanes):
        if lane in hosts:
            continue
        own = slice(ends[lane], ends[lane + 1])
        at = np.searchsorted(timeline.start[own], cuts) + own.start
        ran = _cycles(at)
        if ran is None or not _alike(lowered, timeline, *ran, period):
            return False
        if at[0] > own.start and timeline.end[at[0] - 1] > cut - period:
            return False  # it runs for longer than a period
    for view, host in zip(lowered.views, sorted(hosts), strict=True):
        own = slice(ends[host], ends[host + 1])
        ops = np.searchsorted(timeline.start[view.compute], cuts) + view.compute.start
        issued = np.searchsorted(lowered.plan_op[own], lowered.plan_op[ops]) + own.start
        ran = _cycles(issued)
        if ran is None:
            return False
        before, after = ran
        late = timeline.end[after] - timeline.end[before] - period
        if late.size and float(late.max()) > least:
            return False
    return True


def _cycles(at: I8) -> tuple[slice, slice] | None:
    """Ops from ``at[0]`` to ``at[1]``, and from there to ``at[2]``, if as many."""
    first, middle, end = at.tolist()
    return (slice(first, middle), slice(middle, end)) if end - middle == middle - first else None


def _alike(
    lowered: Lowered, timeline: Timeline, before: slice, after: slice, period: float
) -> bool:
    """Whether ops are the same as those before, and a period later."""
    program = lowered.program
    for column in (program.work, program.latency, program.curve, program.hold_units):
        if not np.array_equal(column[before], column[after]):
            return False
    for times in (timeline.start, timeline.end):
        apart = np.abs(times[after] - times[before] - period)
        if apart.size and float(apart.max()) > SAME * period:
            return False
    return True
