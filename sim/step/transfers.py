"""What collectives and copies lose to what shares their way, by cause.

A transfer alone takes its latency and its work at the rate that is its weight (a copy has no other
bound than its links). Beside others on a link that cannot carry all of them at the pace each would
have alone, it takes longer; the loss goes to those that were under way beside it on such a link, by
the seconds they were. What no transfer explains went to kernels on the same HBM. It is time in
flight: of the step it costs what is exposed of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from sim.lowering.lower import Lowered, RankView
from sim.lowering.parts import CATEGORIES, F8, I4, I8
from sim.program import Program, Timeline
from sim.step.intervals import Coverage

COLLECTIVES, COPIES, KERNELS = "collectives", "copies", "kernels (HBM)"
_COPY = CATEGORIES.index("copy")
_SLOWER = 1e-6  # of a transfer's time alone: less is rounding
_FULL = 1.0 + 1e-9  # of a capacity


def shared(
    lowered: Lowered, timeline: Timeline, view: RankView, windows: Sequence[tuple[float, float]]
) -> list[dict[str, float]]:
    """Seconds that a rank's collectives and copies took longer than alone, by window and cause.

    Keys say which of the two lost and beside what (`beside`): a copy that goes faster may take less
    from its like, and more from collectives that the step waits for.

    Parameters
    ----------
    lowered, timeline : Lowered, Timeline
        The step and when it ran.
    view : RankView
        The rank.
    windows : sequence of (begin, finish)
        Transfers that start within one count there. [s]

    Notes
    -----
    Ring steps (level ``steps``) wait for each other, which is no sharing: they are left out.
    """
    program = lowered.program
    ops = _transfers(program, [view])
    start, end = timeline.start[ops], timeline.end[ops]
    alone = program.latency[ops] + program.work[ops] / program.weight[ops]  # its rate alone
    lost = end - start - alone
    slower = lost > _SLOWER * alone
    if not slower.any():
        return [{} for _ in windows]
    every = _transfers(program, lowered.views, np.arange(lowered.wire, program.lane.size))
    found: list[dict[str, float]] = []
    for begin, finish in windows:
        mine = slower & (start >= begin) & (start < finish)
        if not mine.any():
            found.append({})
            continue
        last = end[mine].max()  # of what begins in the window, be it behind that
        near = (timeline.end[every] > begin) & (timeline.start[every] < last)
        others = _Beside(lowered, timeline, every[near])
        routes = program.route[ops[mine]]
        found.append(others.lost(routes, start[mine], end[mine], lost[mine]))
    return found


def _transfers(program: Program, views: Sequence[RankView], wires: I8 | None = None) -> I8:
    """What ranks have on the wire: collectives, and copies that no kernel makes; and `wires`."""
    parts = [part for v in views for part in (program.hold_until[v.comm_begin], v.copies)]
    if wires is not None:
        parts.append(wires)
    ops: I8 = np.concatenate(parts).astype(np.int64)
    if len(views) > 1 or (wires is not None and wires.size):  # of a group all ranks name the one
        named = np.zeros(program.lane.size, dtype=np.bool_)
        named[ops] = True
        ops = np.flatnonzero(named)
    whole = (program.steps[ops] == 1) & (program.work[ops] > 0.0) & (program.curve[ops] < 0)
    flying: I8 = ops[whole]
    return flying


def beside(loser: str, cause: str) -> str:
    """The key of what one of `COLLECTIVES` and `COPIES` lost to a cause."""
    return f"{loser} beside {cause}"


class _Beside:
    """Some transfers by what they put on the links."""

    def __init__(self, lowered: Lowered, timeline: Timeline, ops: I8) -> None:
        program = lowered.program
        # under way once their latency is over
        self._start, self._end = timeline.start[ops] + program.latency[ops], timeline.end[ops]
        routes, first, self._place = np.unique(
            program.route[ops], return_index=True, return_inverse=True
        )
        pace = np.zeros(routes.size)
        np.maximum.at(pace, self._place, program.weight[ops])
        copies = (lowered.category[ops[first]] == _COPY).tolist()
        self._copies = dict(zip(routes.tolist(), copies, strict=True))
        self._loads = {
            route: _load(program, route, fastest)
            for route, fastest in zip(routes.tolist(), pace.tolist(), strict=True)
        }
        self._capacity: list[float] = program.capacity.tolist()
        self._busy: dict[tuple[tuple[bool, ...], int], Coverage] = {}

    def lost(self, routes: I4, start: F8, end: F8, lost: F8) -> dict[str, float]:
        """What transfers on some routes lost, by which of the two they are and cause. [s]"""
        found: defaultdict[str, float] = defaultdict(float)
        for route in np.unique(routes).tolist():
            mine = routes == route
            parts = self.seconds(route, start[mine], end[mine])
            total = np.asarray(sum(parts.values(), np.zeros(int(mine.sum()))))
            share = np.divide(lost[mine], total, out=np.zeros_like(total), where=total > 0.0)
            loser = COPIES if self._copies[route] else COLLECTIVES
            for cause, part in parts.items():
                found[beside(loser, cause)] += float((share * part).sum())
            found[beside(loser, KERNELS)] += float(lost[mine][total <= 0.0].sum())
        return {cause: seconds for cause, seconds in found.items() if seconds > 0.0}

    def seconds(self, route: int, start: F8, end: F8) -> dict[str, F8]:
        """How long others that share with transfers of a route were under way, by cause, (n,)."""
        found = {}
        for cause, copies in ((COLLECTIVES, False), (COPIES, True)):
            own = self._copies[route] is copies
            if own and self._alike(route):
                found[cause] = end - start  # those of the ranks that it stands for
                continue
            meets = tuple([c is copies and self._meet(route, r) for r, c in self._copies.items()])
            if any(meets):
                least = 2 if own and self._meet(route, route) else 1  # itself and another
                found[cause] = self._under_way(meets, least).inside(start, end)
        return found

    def _under_way(self, routes: tuple[bool, ...], least: int) -> Coverage:
        """When at least so many transfers on some routes are; several routes meet the same ones."""
        key = routes, least
        if key not in self._busy:
            on = np.array(routes)[self._place]
            busy = deep(self._start[on], self._end[on], least)
            self._busy[key] = Coverage(*busy, apart=True)
        return self._busy[key]

    def _alike(self, route: int) -> bool:
        """Whether transfers of equal ranks, simulated as one, fill a link that they share."""
        load, capacity = self._loads[route], self._capacity
        return any(rate > _FULL * capacity[resource] for resource, rate in load.items())

    def _meet(self, one: int, other: int) -> bool:
        """Whether a link of both cannot carry the two at the pace each has alone."""
        mine, theirs = self._loads[one], self._loads[other]
        return any(
            rate + theirs[resource] > _FULL * self._capacity[resource]
            for resource, rate in mine.items()
            if resource in theirs
        )


def _load(program: Program, route: int, pace: float) -> dict[int, float]:
    """What a transfer puts on each resource of its route at a pace. [unit/s]"""
    row = slice(program.demand_ptr[route], program.demand_ptr[route + 1])
    amounts = pace * program.demand_amount[row]
    return dict(zip(program.demand_resource[row].tolist(), amounts.tolist(), strict=True))


def deep(start: F8, end: F8, least: int) -> tuple[F8, F8]:
    """Where at least so many of some intervals overlap: starts and ends, ascending. [s]"""
    keep = end > start
    if not keep.all():
        start, end = start[keep], end[keep]
    times = np.concatenate((end, start))
    order = times.argsort(kind="stable")  # ends before starts
    times, depth = times[order], np.where(order < end.size, -1, 1).cumsum()
    inside = np.flatnonzero(depth >= least)
    return times[inside], times[inside + 1]
