"""Blocks that repeat to the last op: a step of more of them is this one and so many periods more.

Where each stream does in one block what it did in the block before, a period later, its state
behind the one is that behind the other. Blocks put in between do the same again, and what follows
them is put off by as many periods. The host may get further ahead: then all that it does until it
next waits for the GPU comes earlier, which changes nothing if it was early enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sim.inputs.strategy import EACH_BLOCK, BlockRhythm
from sim.lowering.lowered import Lowered
from sim.lowering.parts import B1, F8, I8
from sim.program import Timeline
from sim.records import NamedTuple
from sim.step.depth import BlockPaces, block_paces, first_of_blocks, launches_of
from sim.step.rhythm import SAME
from sim.step.windows import Window

_T = TypeVar("_T", np.int64, np.float64)

_MIDDLE = (2, 3)  # forward and backward of the micro-step that stands for others


def blocks_repeat(
    lowered: Lowered, timeline: Timeline, pace: BlockPaces, rhythm: BlockRhythm = EACH_BLOCK
) -> B1:
    """Which steps of a stack repeat three periods in every direction of every micro-step, (steps,).

    Parameters
    ----------
    lowered, timeline : Lowered, Timeline
        Steps of a few blocks, with ranks of one class.
    pace : BlockPaces
        When they begin each block.
    rhythm : BlockRhythm
        In which they are issued.
    """
    cuts = _at(rhythm, pace.begins, 0, 1, 2, 3)
    period = cuts[..., 2] - cuts[..., 1]
    least = SAME * period
    even = np.abs(np.diff(cuts, axis=2) - period[..., None]).max(axis=2) <= least
    cuts = cuts - 2 * least[..., None]  # what begins with a block may be rounded to before it
    launches, stop = launches_of(lowered, lowered.views[0])
    gained = np.diff(_at(rhythm, pace.leads, 1, 2))[..., 0]
    kept = (gained >= -least).all(axis=1)
    in_time = host_in_time(lowered, timeline, _at(rhythm, launches, 2)[:, 0], stop, gained > least)
    found: B1 = np.asarray(kept & in_time & even.all(axis=1))
    left = np.flatnonzero(found)
    while left.size:  # ops of a block stand at other places where a lane is further ahead
        found[left] = False
        places = _places(lowered, timeline, cuts[left[0]], int(left[0]), rhythm)
        there = _stand(timeline, places, cuts, left)
        if places.periods is not None:
            mine = left[there]
            found[mine] = _periodic(timeline, places, places.periods, cuts, period, mine)
        left = left[~there]
    return found


def _at(rhythm: BlockRhythm, values: npt.NDArray[_T], *further: int) -> npt.NDArray[_T]:
    """Of columns for blocks, (..., passes, blocks), those so many on, (..., passes, n)."""
    both = np.stack([begin + np.array(further) for begin in (rhythm.forward, rhythm.backward)])
    passes = np.arange(values.shape[-2])
    return values[..., passes[:, None], both[passes % 2]]


def missing_blocks(
    lowered: Lowered, timeline: Timeline, missing: Sequence[int],
    windows: Sequence[tuple[Window, ...]], rhythm: BlockRhythm,
) -> list[tuple[Window, ...] | None]:  # fmt: skip
    """What stands for blocks that steps of a stack have not; None where nothing does.

    Parameters
    ----------
    lowered, timeline : Lowered, Timeline
        As for `blocks_repeat`.
    missing : sequence of int
        Blocks that each has not. [1]
    windows : sequence of tuples of Window
        Those of each step, of which a second one is the micro-step in its middle.
    rhythm : BlockRhythm
        In which blocks are issued.
    """
    paces = block_paces(lowered, timeline)
    repeat = blocks_repeat(lowered, timeline, paces, rhythm).tolist()
    blocks = _at(rhythm, paces.begins, 1, 2).tolist()
    found: list[tuple[Window, ...] | None] = []
    for same, more, own, passes in zip(repeat, missing, windows, blocks, strict=True):
        again = own[1].times if len(own) > 1 else 0
        within = [more if again and i in _MIDDLE else 0 for i in range(len(passes))]
        stand = tuple(
            Window(begin, end, more + again * n, n)
            for (begin, end), n in zip(passes, within, strict=True)
        )
        found.append(stand if same else None)
    return found


def host_in_time(lowered: Lowered, timeline: Timeline, nexts: I8, stop: int, ahead: B1) -> B1:
    """In which steps nothing waits for a host that would not if it came earlier, (steps,).

    Parameters
    ----------
    lowered, timeline : Lowered, Timeline
        Steps of one structure.
    nexts : (n,) int64
        Ops of a host from which on it may come earlier, until it waits for the GPU.
    stop : int
        Where its ops end.
    ahead : (steps, n) bool
        Whether it may.
    """
    program = lowered.program
    start, end = np.atleast_2d(timeline.start), np.atleast_2d(timeline.end)
    if not ahead.any():
        return np.ones(len(start), dtype=np.bool_)
    begin = int(nexts.min())
    # the last op of the host at which it may come earlier, and the last before which it waits
    earlier = np.full((len(start), stop - begin), -1)
    earlier[:, nexts - begin] = np.where(ahead, nexts - begin, -1)
    waited = np.full_like(earlier, -1)
    pauses = start[:, begin + 1 : stop] > end[:, begin : stop - 1]
    waited[:, 1:] = np.where(pauses, np.arange(1, stop - begin), -1)
    free = np.maximum.accumulate(earlier, axis=1) > np.maximum.accumulate(waited, axis=1)
    # what the GPU runs as soon as it is launched
    edges = program.succ_ptr[begin : stop + 1]
    by, to = np.repeat(np.arange(begin, stop), np.diff(edges)), program.succ[edges[0] : edges[-1]]
    mine = np.flatnonzero(to >= stop)
    launch, launched = by[mine], to[mine]
    at_once = (start[:, launched] <= end[:, launch]) & free[:, launch - begin]
    last = free[:, -1] & (end[:, stop - 1] >= end.max(axis=1))
    in_time: B1 = ~at_once.any(axis=1) & ~last
    return in_time


class _Places(NamedTuple):
    """Which ops of each lane begin in which period, in one step.

    Attributes
    ----------
    at : (lanes, passes, 4) int64
        The first op of a lane that begins in a period or later, of three periods and the next.
    low, high : (lanes, 1, 1) int64
        Ops of the lane.
    periods : (lanes, passes) int64 or None
        Ops in a period; None where they are not as many as one more brings: a stream that runs
        ahead may have done its part, or be still at what was before.
    """

    at: I8
    low: I8
    high: I8
    periods: I8 | None


def _places(
    lowered: Lowered, timeline: Timeline, cuts: F8, step: int, rhythm: BlockRhythm
) -> _Places:
    """Of the streams of one step of a stack, its periods from `cuts`, (passes, 4)."""
    program = lowered.program
    bounds = np.searchsorted(program.lane, np.arange(1, program.n_lanes + 1))  # the host is first
    start = timeline.start[step]
    at = np.stack([
        low + np.searchsorted(start[low:high], cuts)
        for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ])  # fmt: skip
    many = np.diff(at, axis=2)
    ran = many[..., 0].reshape(len(many), -1, 2).sum(axis=2)  # forward and backward
    alike = (many == many[..., :1]).all() and (ran == _ops_of_period(lowered, rhythm)[1:]).all()
    low, high = bounds[:-1, None, None], bounds[1:, None, None]
    return _Places(at, low, high, many[..., 0] if alike else None)


def _ops_of_period(lowered: Lowered, rhythm: BlockRhythm) -> I8:
    """Ops that are issued in a period on each lane, (lanes, micro-steps)."""
    program = lowered.program
    begins = _at(rhythm, first_of_blocks(lowered.views[0].plan), 1, 2)
    of = np.searchsorted(begins.ravel(), lowered.plan_op, side="right")  # forward and backward
    inside, steps = of % 2 == 1, len(begins) // 2
    ops_of = program.lane[inside] * steps + of[inside] // 4
    return np.bincount(ops_of, minlength=program.n_lanes * steps).reshape(-1, steps)


def _stand(timeline: Timeline, places: _Places, cuts: F8, steps: I8) -> B1:
    """In which of some steps ops begin in the same blocks, (steps,)."""
    at, start = places.at, timeline.start[steps]
    mine = cuts[steps][:, None]  # the same for every lane
    first = (places.at == places.high) | (start[:, np.minimum(at, places.high - 1)] >= mine)
    before = (places.at == places.low) | (start[:, np.maximum(at - 1, places.low)] < mine)
    found: B1 = (first & before).all(axis=(1, 2, 3))
    return found


def _periodic(
    timeline: Timeline, places: _Places, periods: I8, cuts: F8, period: F8, steps: I8
) -> B1:
    """In which of some steps blocks do what the block before did, a period later, (steps,)."""
    ops, later, passes = [], [], []
    for begins, many in zip(places.at[..., 0].tolist(), periods.tolist(), strict=True):
        for i, (begin, n) in enumerate(zip(begins, many, strict=True)):
            ops.append(np.arange(begin, begin + 2 * n))
            later.append(ops[-1] + n)
            passes.append(np.full(2 * n, i))
    op, other, of = (np.concatenate(each) for each in (ops, later, passes))
    expected = period[steps][:, of]
    found = np.ones(steps.size, dtype=np.bool_)
    for times in (timeline.start[steps], timeline.end[steps]):
        apart = np.abs(times[:, other] - times[:, op] - expected)
        found &= (apart <= SAME * expected).all(axis=1)
    # nothing runs for longer than a period
    low, first = places.low[..., 0], places.at[..., 0]
    ends = timeline.end[steps][:, np.maximum(first - 1, low)] <= cuts[steps, None, :, 1]
    found &= (ends | (first == low)).all(axis=(1, 2))
    return found
