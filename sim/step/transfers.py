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
from typing import NamedTuple

import numpy as np

from sim.lowering.lower import Lowered, RankView
from sim.lowering.parts import B1, CATEGORIES, F8, I4, I8
from sim.program import Program, Timeline
from sim.step.breakdown import Windows
from sim.step.intervals import Coverage

COLLECTIVES, COPIES, KERNELS = "collectives", "copies", "kernels (HBM)"
_COPY = CATEGORIES.index("copy")
_SLOWER = 1e-6  # of a transfer's time alone: less is rounding
_FULL = 1.0 + 1e-9  # of a capacity


def shared(
    lowered: Lowered, timeline: Timeline, view: RankView, windows: Sequence[Windows]
) -> list[list[dict[str, float]]]:
    """Seconds that a rank's collectives and copies took longer than alone, by window and cause.

    Keys say which of the two lost and beside what (`beside`): a copy that goes faster may take less
    from its like, and more from collectives that the step waits for.

    Parameters
    ----------
    lowered, timeline : Lowered, Timeline
        The step and when it ran; or a stack.
    view : RankView
        The rank; of a stack, that of its first step.
    windows : sequence of sequences of (begin, finish)
        Of each step. Transfers that start within one count there. [s]

    Returns
    -------
    list of list of dict
        Seconds by key, of each window of each step. [s]

    Notes
    -----
    Ring steps (level ``steps``) wait for each other, which is no sharing: they are left out.
    """
    program = lowered.program
    own = np.zeros(program.lane.size, dtype=np.bool_)
    own[_transfers(program, [view])] = True
    views = [view] if program.stack else lowered.views
    ops = _transfers(program, views, np.arange(lowered.wire, program.lane.size))
    start, end = np.atleast_2d(timeline.start)[:, ops], np.atleast_2d(timeline.end)[:, ops]
    latency, work, weight, curve = (
        np.broadcast_to(np.atleast_2d(column)[:, ops], start.shape)
        for column in (program.latency, program.work, program.weight, program.curve)
    )
    flying = (program.steps[ops] == 1) & (work > 0.0) & (curve < 0)
    alone = latency + np.divide(work, weight, out=np.zeros(start.shape), where=flying)
    lost = end - start - alone  # its rate alone
    slower = flying & own[ops] & (lost > _SLOWER * alone)
    moving = start + latency
    routes = _Routes.of_ops(lowered, ops)
    found: list[list[dict[str, float]]] = []
    for i, (each, some) in enumerate(zip(windows, slower.any(axis=1).tolist(), strict=True)):
        if not some:
            found.append([{} for _ in each])
            continue
        on = np.flatnonzero(flying[i])
        flights = _Flights(
            start[i, on], end[i, on], moving[i, on], lost[i, on], weight[i, on], routes.place[on]
        )
        transfers = _Beside(routes, program, i, flights)
        found.append(transfers.lost(np.flatnonzero(slower[i, on]), each))
    return found


class _Routes(NamedTuple):
    """Routes that transfers take, (r,), and what each demands, (d,).

    Attributes
    ----------
    copies : list of bool
        Whether copies take them, (r,).
    place : (transfers,) int64
        Which of these each one takes.
    entry : (d,) int64
        Demands of the program that are theirs.
    of : (d,) int64
        Whose each is.
    """

    copies: list[bool]
    place: I8
    entry: I8
    of: I8

    @classmethod
    def of_ops(cls, lowered: Lowered, ops: I8) -> _Routes:
        """Those of some ops."""
        program = lowered.program
        number, first, place = np.unique(program.route[ops], return_index=True, return_inverse=True)
        copies = (lowered.category[ops[first]] == _COPY).tolist()
        many = program.demand_ptr[number + 1] - program.demand_ptr[number]
        of = np.repeat(np.arange(number.size), many)
        entry = np.arange(of.size) + np.repeat(
            program.demand_ptr[number] - many.cumsum() + many, many
        )
        return cls(copies, place, entry, of)


class _Flights(NamedTuple):
    """Transfers of a step, (n,) each."""

    start: F8  # [s]
    end: F8  # [s]
    moving: F8  # when their latency is over [s]
    lost: F8  # how much longer than alone [s]
    weight: F8  # their pace alone [unit/s]
    place: I8  # which of `_Routes`


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
    return ops


def beside(loser: str, cause: str) -> str:
    """The key of what one of `COLLECTIVES` and `COPIES` lost to a cause."""
    return f"{loser} beside {cause}"


class _Beside:
    """The transfers of a step, and which were under way at the same time."""

    def __init__(self, routes: _Routes, program: Program, row: int, flights: _Flights) -> None:
        self._routes, self._flights = routes, flights
        amount, capacity = (
            column[row] if program.stacked(name) else column
            for name, column in (
                ("demand_amount", program.demand_amount), ("capacity", program.capacity),
            )
        )  # fmt: skip
        self._amount = amount[routes.entry]
        self._resource = program.demand_resource[routes.entry]
        self._capacity = _FULL * capacity
        self._sharings: dict[bytes, _Sharing] = {}
        self._busy: dict[tuple[tuple[bool, ...], int], Coverage] = {}

    def lost(self, slower: I8, windows: Windows) -> list[dict[str, float]]:
        """What some of them lost, by the window that they start in, which of the two and cause."""
        f = self._flights
        start, parts = f.start[slower], []
        for number, (begin, finish) in enumerate(windows):
            mine = slower[(start >= begin) & (start < finish)]
            if mine.size:
                last = f.end[mine].max()  # of what begins in the window, be it behind that
                near = (f.end > begin) & (f.start < last)
                parts.append((self._sharing(near), mine, np.full(mine.size, number)))
        found: defaultdict[str, F8] = defaultdict(lambda: np.zeros(len(windows)))
        for sharing in dict.fromkeys(part[0] for part in parts):
            together = [part[1:] for part in parts if part[0] is sharing]
            mine, window = (np.concatenate(each) for each in zip(*together, strict=True))
            place = f.place[mine]
            for company, routes in sharing.companies(place).items():
                on = np.flatnonzero(routes[place])
                for key, seconds in self._lost_in(company, mine[on]).items():
                    found[key] += np.bincount(window[on], seconds, len(windows))
        rows = [(key, seconds.tolist()) for key, seconds in found.items()]
        return [
            {key: seconds[i] for key, seconds in rows if seconds[i] > 0.0}
            for i in range(len(windows))
        ]

    def _sharing(self, near: B1) -> _Sharing:
        """How routes share links, each at the pace of the fastest transfer of those near."""
        routes, f = self._routes, self._flights
        pace = np.zeros(len(routes.copies))
        np.maximum.at(pace, f.place[near], f.weight[near])
        key = pace.tobytes()
        if key not in self._sharings:
            load = self._amount * pace[routes.of]
            self._sharings[key] = _Sharing(routes, self._resource, load, self._capacity)
        return self._sharings[key]

    def _lost_in(self, company: _Company, mine: I8) -> dict[str, F8]:
        """What transfers lost, by which of the two they are and cause, (n,). [s]"""
        f = self._flights
        lost, parts = f.lost[mine], self._seconds(company, f.start[mine], f.end[mine])
        total = np.asarray(sum(parts.values(), np.zeros(mine.size)))
        share = np.divide(lost, total, out=np.zeros(mine.size), where=total > 0.0)
        loser = COPIES if company.copies else COLLECTIVES
        found = {beside(loser, cause): share * part for cause, part in parts.items()}
        found[beside(loser, KERNELS)] = np.where(total > 0.0, 0.0, lost)
        return found

    def _seconds(self, company: _Company, start: F8, end: F8) -> dict[str, F8]:
        """How long others that share with transfers were under way, by cause, (n,)."""
        found = {}
        for cause, copies in ((COLLECTIVES, False), (COPIES, True)):
            own = company.copies is copies
            if own and company.alike:
                found[cause] = end - start  # those of the ranks that it stands for
                continue
            kinds = zip(self._routes.copies, company.meets, strict=True)
            meets = tuple([c is copies and m for c, m in kinds])
            if any(meets):
                least = 2 if own and company.itself else 1  # itself and another
                found[cause] = self._under_way(meets, least).inside(start, end)
        return found

    def _under_way(self, routes: tuple[bool, ...], least: int) -> Coverage:
        """When at least so many transfers on some routes are; several routes meet the same ones."""
        key = routes, least
        if key not in self._busy:
            on = np.array(routes)[self._flights.place]
            busy = deep(self._flights.moving[on], self._flights.end[on], least)
            self._busy[key] = Coverage(*busy, apart=True)
        return self._busy[key]


class _Sharing:
    """Which routes share links that cannot carry both.

    Parameters
    ----------
    routes : _Routes
        That transfers take.
    resource, load : (d,) int32, (d,) float64
        What they are on, and what a transfer puts on it: nothing on a route that none is on.
        [unit/s]
    capacity : (resources,) float64
        What is more than full. [unit/s]
    """

    def __init__(self, routes: _Routes, resource: I4, load: F8, capacity: F8) -> None:
        self._routes, self._resource, self._load, self._capacity = routes, resource, load, capacity
        self._known: dict[int, _Company] = {}

    def companies(self, place: I8) -> dict[_Company, B1]:
        """What routes share links with, and which of them, (r,), do so alike."""
        found: dict[_Company, B1] = {}
        for route in dict.fromkeys(place.tolist()):
            if route not in self._known:
                self._known[route] = self._company(route)
            routes = found.setdefault(self._known[route], np.zeros(len(self._routes.copies), bool))
            routes[route] = True
        return found

    def _company(self, route: int) -> _Company:
        of, resource, load = self._routes.of, self._resource, self._load
        mine = slice(*of.searchsorted((route, route + 1)).tolist())
        room = np.full(self._capacity.size, np.inf)
        room[resource[mine]] = self._capacity[resource[mine]] - load[mine]
        over = (load > room[resource]) & (load > 0.0)
        copies = self._routes.copies
        met = tuple((np.bincount(of[over], minlength=len(copies)) > 0).tolist())
        return _Company(copies[route], bool((room < 0.0).any()), met[route], met)


class _Company(NamedTuple):
    """What a route shares links with that cannot carry all at the pace that each has alone.

    Attributes
    ----------
    copies : bool
        Whether copies take it.
    alike, itself : bool
        Whether it shares with transfers of equal ranks, which are simulated as one, and of its own.
    meets : tuple of bool
        With which routes, (r,).
    """

    copies: bool
    alike: bool
    itself: bool
    meets: tuple[bool, ...]


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
