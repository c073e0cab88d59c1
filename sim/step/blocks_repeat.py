"""Blocks that repeat to the last op: a step of more of them is this one and so many periods more.

Where each lane, the host's too, does in one block what it did in the block before, a period later,
the state of the step behind the one is that behind the other. Blocks put in between do the same
again, and what follows them is put off by as many periods.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.lowering.lower import Lowered
from sim.lowering.parts import B1, F8, I8
from sim.program import Timeline
from sim.step.rhythm import SAME

#: the block from whose begin on they are to repeat, and the one that is measured
_FROM = 2
MEASURED = _FROM + 1


def blocks_repeat(lowered: Lowered, timeline: Timeline, begins: F8) -> B1:
    """Which steps of a stack repeat three blocks in every direction of every micro-step, (steps,).

    Parameters
    ----------
    lowered, timeline : Lowered, Timeline
        Steps of a few blocks, with ranks of one class.
    begins : (steps, 2 x micro-steps, blocks) float64
        When each begins a block. [s]
    """
    cuts = begins[..., _FROM : _FROM + 4]
    period = cuts[..., 2] - cuts[..., 1]
    least = SAME * period
    even = np.abs(np.diff(cuts, axis=2) - period[..., None]).max(axis=2) <= least
    cuts = cuts - 2 * least[..., None]  # what begins with a block may be rounded to before it
    found: B1 = even.all(axis=1)
    left = np.flatnonzero(found)
    while left.size:  # ops of a block stand at other places where a lane is further ahead
        found[left] = False
        places = _places(lowered, timeline, cuts[left[0]], int(left[0]))
        there = _stand(timeline, places, cuts, left)
        if places.periods is not None:
            mine = left[there]
            found[mine] = _periodic(timeline, places, places.periods, cuts, period, mine)
        left = left[~there]
    return found


class _Places(NamedTuple):
    """Which ops of each lane begin in which block, in one step.

    Attributes
    ----------
    at : (lanes, passes, 4) int64
        The first op of a lane that begins in a block or later, of three blocks and the next.
    low, high : (lanes, 1, 1) int64
        Ops of the lane.
    periods : (lanes, passes) int64 or None
        Ops in a block; None where blocks have not the same number of them, or the host has none.
    """

    at: I8
    low: I8
    high: I8
    periods: I8 | None


def _places(lowered: Lowered, timeline: Timeline, cuts: F8, step: int) -> _Places:
    """Of one step of a stack, its blocks from `cuts`, (passes, 4)."""
    program, view = lowered.program, lowered.views[0]
    bounds = np.searchsorted(program.lane, np.arange(program.n_lanes + 1))
    start = timeline.start[step]
    at = np.stack([
        low + np.searchsorted(start[low:high], cuts)
        for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ])  # fmt: skip
    many = np.diff(at, axis=2)
    host = many[lowered.lane_names.index(f"rank {view.rank} host")]
    alike = (many == many[..., :1]).all() and host.all()
    low, high = bounds[:-1, None, None], bounds[1:, None, None]
    return _Places(at, low, high, many[..., 0] if alike else None)


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
