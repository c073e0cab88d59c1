"""What transfers lose to others that share their way, as one loop over columns.

`sim.step.transfers` says what the sums mean and puts names to them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.engine.looped import Looped
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]

KINDS = 2  # of transfers: collectives and copies
CAUSES = KINDS + 1  # transfers of each kind, and what is no transfer
SLOWER = 1e-6  # of a transfer's time alone: less is rounding
FULL = 1.0 + 1e-9  # of a capacity


class Transfers(NamedTuple):
    """Transfers of a step, the routes that they take, and what these are on."""

    start: F8  # (n,) [s]
    moving: F8  # (n,) when their latency is over; at its end what is no transfer [s]
    end: F8  # (n,) [s]
    alone: F8  # (n,) how long they take with nothing beside; infinite what is no transfer [s]
    weight: F8  # (n,) their pace alone; nothing what is no transfer [unit/s]
    own: I4  # (n,) whether what it loses counts
    route: I4  # (n,)
    by_moving: I4  # (n,) in order of when they begin to move
    by_end: I4  # (n,)
    n: int
    kind: I4  # (r,) of the transfers on a route
    first: I4  # (r + 1,) where the demands of each begin
    n_routes: int  # r
    resource: I4  # (d,) what a demand is on
    amount: F8  # (d,)
    capacity: F8  # (resources,) [unit/s]
    windows: int | I8
    begin: F8  # (w,) windows to look through [s]
    finish: F8


class Losses(NamedTuple):
    """What is found, and room to find it in."""

    total: F8  # (windows x KINDS x CAUSES,) [s]
    lost: F8  # (n,)
    losing: I4  # (r,)
    pace: F8  # (r,)
    room: F8  # (resources,) infinite
    meets: I4  # (r,)
    low: F8  # (n,)
    high: F8
    before: F8  # (n,)
    beside: F8  # (KINDS x n,)


def lose(t: Transfers, s: Losses) -> tuple[int, int]:
    """Seconds that transfers took longer than alone, by the window that they start in and cause.

    Parameters
    ----------
    t : Transfers
        With arrays or with lists in its columns.
    s : Losses
        `total` of zeros.

    Returns
    -------
    windows, shared : int, int
        Windows looked through, routes of all of them on which some was lost.

    Notes
    -----
    Routes share a resource that cannot carry a transfer of each, both at the pace of the fastest
    that is near the window. What one loses goes to those that were moving meanwhile on routes which
    share with its own, by the seconds that some of each kind were; of its own kind where it shares
    with ranks that are simulated as one by all of its time, and of its own route by that in which
    another was. What no transfer explains has the last cause.
    """
    start, moving, end, route, by_moving, by_end = (
        t.start, t.moving, t.end, t.route, t.by_moving, t.by_end,
    )  # fmt: skip
    first, resource, amount = t.first, t.resource, t.amount
    total, lost, losing, pace, room, meets = s.total, s.lost, s.losing, s.pace, s.room, s.meets
    low, high, before, beside = s.low, s.high, s.before, s.beside
    n, routes = t.n, t.n_routes
    shared = 0
    windows = int(t.windows)
    for v in range(windows):
        begin, finish = t.begin[v], t.finish[v]

        # 1. what loses something, and how fast routes are meanwhile
        for r in range(routes):
            losing[r] = 0
            pace[r] = 0.0
        last = begin  # end of what begins in the window, be it behind that
        for i in range(n):
            lost[i] = 0.0
            more = end[i] - start[i] - t.alone[i]
            if t.own[i] > 0 and more > SLOWER * t.alone[i] and begin <= start[i] < finish:
                lost[i] = more
                losing[route[i]] = 1
                last = max(last, end[i])
        for i in range(n):
            if end[i] > begin and start[i] < last:
                pace[route[i]] = max(pace[route[i]], t.weight[i])

        for r in range(routes):
            if losing[r] == 0:
                continue
            shared += 1
            own = t.kind[r]

            # 2. what shares a resource with the route that cannot carry both
            alike = False  # with transfers of equal ranks
            for d in range(first[r], first[r + 1]):
                left = FULL * t.capacity[resource[d]] - amount[d] * pace[r]
                room[resource[d]] = left
                alike = alike or left < 0.0
            for q in range(routes):
                meets[q] = -1
                for d in range(first[q], first[q + 1]):
                    load = amount[d] * pace[q]
                    if load > 0.0 and load > room[resource[d]]:
                        meets[q] = t.kind[q]
                        break
            for d in range(first[r], first[r + 1]):
                room[resource[d]] = np.inf

            for c in range(KINDS):
                if c == own and alike:
                    for i in range(n):
                        beside[c * n + i] = end[i] - start[i]
                    continue

                # 3. when enough of a kind are moving: intervals, ascending, and how long before
                least = 2 if c == own and meets[r] == c else 1  # itself and another
                depth, kept, covered = 0, 0, 0.0
                a, b = 0, 0
                while b < n:
                    if a < n and moving[by_moving[a]] < end[by_end[b]]:
                        i = by_moving[a]
                        a += 1
                        if meets[route[i]] == c and moving[i] < end[i]:
                            depth += 1
                            if depth == least:
                                low[kept] = moving[i]
                                before[kept] = covered
                    else:
                        i = by_end[b]
                        b += 1
                        if meets[route[i]] == c and moving[i] < end[i]:
                            if depth == least:
                                high[kept] = end[i]
                                covered += high[kept] - low[kept]
                                kept += 1
                            depth -= 1

                # 4. how much of that each is beside
                for i in range(n):
                    if not (lost[i] > 0.0 and route[i] == r):
                        continue
                    beside[c * n + i] = 0.0
                    for side in range(2 if kept > 0 else 0):
                        moment = end[i] if side > 0 else start[i]
                        a, b = 0, kept  # the first that begins later
                        while a < b:
                            middle = (a + b) // 2
                            if low[middle] < moment:
                                a = middle + 1
                            else:
                                b = middle
                        if a > 0:
                            upto = before[a - 1] + (min(moment, high[a - 1]) - low[a - 1])
                            beside[c * n + i] += upto if side > 0 else -upto

            # 5. by whom
            place = (v * KINDS + own) * CAUSES
            for i in range(n):
                if not (lost[i] > 0.0 and route[i] == r):
                    continue
                whole = 0.0
                for c in range(KINDS):
                    whole += beside[c * n + i]
                if whole > 0.0:
                    for c in range(KINDS):
                        total[place + c] += lost[i] / whole * beside[c * n + i]
                else:
                    total[place + KINDS] += lost[i]
    return windows, shared


def losses(t: Transfers, calls: int) -> F8:
    """`lose` of several timelines, (calls, windows, KINDS * CAUSES). [s]

    Parameters
    ----------
    t : Transfers
        Columns with a leading axis have a row a timeline; so have numbers that are arrays.
    calls : int
        How many timelines.
    """
    windows, n, routes = t.begin.shape[-1], t.n, t.n_routes
    s = Losses(
        np.zeros((calls, windows * KINDS * CAUSES)), np.empty(n), np.empty(routes, dtype=np.int32),
        np.empty(routes), np.full(t.capacity.shape[-1], np.inf), np.empty(routes, dtype=np.int32),
        np.empty(n), np.empty(n), np.empty(n), np.empty(KINDS * n),
    )  # fmt: skip
    _losses(t, s, calls)
    return s.total.reshape(calls, windows, KINDS * CAUSES)


_losses = Looped(lose, Transfers, Losses)
