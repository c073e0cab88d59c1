"""Where a program repeats itself: on each lane, ops that are as those one cycle before.

A long program of that kind is a short one whose cycles are run through again and again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.program.table import I4, I8, Program
from sim.records import NamedTuple

B1 = npt.NDArray[np.bool_]

_COLUMNS = (
    "latency", "work", "bound", "weight", "route", "hold_resource", "hold_units", "curve",
    "curve_resource",
)  # fmt: skip


class Cycles(NamedTuple):
    """The ops of each lane that repeat, (n_lanes,).

    From `begin` to `end` each op is as that `period` ops before it: in numbers, in how many it
    waits for, and in what waits for it, a cycle later. No op before `begin` waits for one of them.
    A lane that has no such ops has a period of 0.
    """

    begin: I8
    end: I8
    period: I8

    @property
    def lanes(self) -> I8:
        """Those that have some."""
        return np.flatnonzero(self.period)


class Gates(NamedTuple):
    """Where a run is stopped: ops among those that repeat, at most one a lane."""

    pausing: I8  # the run pauses before one of them begins
    held: I8  # launches that are held back while the run goes on


def cycles_of(program: Program, period: I8) -> Cycles | None:
    """Where a program repeats itself.

    Parameters
    ----------
    program : Program
        Without stepped ops.
    period : (n_lanes,) int64
        Ops that each lane has in a cycle; 0 where none repeat.

    Returns
    -------
    Cycles or None
        None where one of the lanes does not repeat itself even once.
    """
    p = program
    if int(p.steps.max(initial=1)) > 1 or int(p.peer.max(initial=-1)) >= 0:
        return None
    ends = np.searchsorted(p.lane, np.arange(p.n_lanes + 1))
    waits = np.bincount(p.succ, minlength=p.lane.size).astype(np.int32)
    begin, end = ends[1:].copy(), ends[1:].copy()
    for lane in np.flatnonzero(period).tolist():
        low, high, n = int(ends[lane]), int(ends[lane + 1]), int(period[lane])
        if high - low < 2 * n:
            return None
        same = _same(p, low, high, n, period)
        same &= waits[low : high - n] == waits[low + n : high]
        edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
        first, last = edges[0::2], edges[1::2]
        if not first.size:
            return None
        longest = int(np.argmax(last - first))
        begin[lane], end[lane] = low + first[longest], low + last[longest] + n
    found = Cycles(_closed(p, begin, end, period), end, period)
    lanes = found.lanes
    enough = (found.end - found.begin)[lanes] >= 2 * period[lanes]
    return found if enough.all() else None


def _same(p: Program, low: int, high: int, n: int, period: I8) -> B1:
    """Which ops of a lane are as those `n` after them, (high - low - n,)."""
    one, other = slice(low, high - n), slice(low + n, high)
    same: B1 = np.ones(high - low - n, dtype=np.bool_)
    for name in _COLUMNS:
        column = getattr(p, name)
        same &= column[one] == column[other]
    until = p.hold_until[low:high]
    same &= until[n:] - until[:-n] == period[p.lane[until[:-n]]]
    degree = np.diff(p.succ_ptr[low : high + 1])
    same &= degree[:-n] == degree[n:]
    # what waits for each is a cycle later, and there is such a thing as a cycle of it
    by = np.repeat(np.arange(same.size), np.where(same, degree[:-n], 0))
    first = np.cumsum(np.where(same, degree[:-n], 0)) - np.where(same, degree[:-n], 0)
    nth = np.arange(by.size) - first[by]
    to = p.succ[p.succ_ptr[low + by] + nth]
    later = period[p.lane[to]]
    moved = p.succ[p.succ_ptr[low + n + by] + nth] - to
    same[by[(moved != later) | (later == 0)]] = False
    return same


def _closed(p: Program, begin: I8, end: I8, period: I8) -> I8:
    """Later beginnings, so that what repeats has no part before them.

    Nothing before waits for what repeats; and what holds until another op ends repeats with it.
    """
    begin = begin.copy()
    firsts, seconds = [], []
    for lane in np.flatnonzero(period).tolist():
        low = max(int(begin[lane] - period[lane]), int(np.searchsorted(p.lane, lane)))
        high = int(end[lane])
        own = np.arange(low, high, dtype=np.int32)
        by = np.repeat(own, np.diff(p.succ_ptr[low : high + 1]))
        to = p.succ[p.succ_ptr[low] : p.succ_ptr[high]]
        until = p.hold_until[low:high]
        holding = until != own
        firsts += [by, own[holding], until[holding]]
        seconds += [to, until[holding], own[holding]]
    first: I4 = np.concatenate(firsts)
    second: I4 = np.concatenate(seconds)
    of_first, of_second = p.lane[first], p.lane[second]
    some = (period[of_first] > 0) & (period[of_second] > 0)
    first, second, of_first, of_second = (
        column[some] for column in (first, second, of_first, of_second)
    )
    while True:
        late = (first >= begin[of_first]) & (second < begin[of_second])
        if not late.any():
            return begin
        np.maximum.at(begin, of_first[late], first[late].astype(np.int64) + 1)
