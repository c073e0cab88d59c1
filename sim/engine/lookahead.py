"""What is played ahead of the contest: launches that wait for each other alone, kernels in a row.

Their ends are known when the first begins, so that many ops cost one event. A run of kernels is cut
where somebody enters their resources, or takes units that their curves read, before its end.
"""

from __future__ import annotations

import math

from sim.engine.state import AHEAD, ALIKE, FREE, LAST, LATENCY, LINKED, RUN, WAKE, WORK, State
from sim.program import Program

INFINITY = math.inf
LONGEST_RUN = 64  # kernels that are reckoned at once: what is cut was reckoned in vain


def wake(s: State, at: int, o: int, n_moved: int) -> int:
    """Let an op begin once the last end that it waits for, known beforehand, is there."""
    s.op_at[at] = o
    s.phase[at] = WAKE
    s.due[at] = s.times[2 * o]
    s.moved[n_moved] = at
    return n_moved + 1


def let_go(p: Program, s: State, o: int, now: float, n_stack: int, n_moved: int) -> tuple[int, int]:
    """Count one less that an op waits for; with none left it begins, now or when all have ended.

    Returns
    -------
    n_stack, n_moved : int, int
        What begins now, and lanes with a new event, with those that were there.
    """
    left = s.times[2 * o + 1] + 1.0
    s.times[2 * o + 1] = left
    if left == 0.0:
        if s.times[2 * o] > now:
            n_moved = wake(s, p.lane[o], o, n_moved)
        else:
            s.stack[n_stack] = o << 3
            n_stack += 1
    return n_stack, n_moved


def play_launches(
    p: Program, s: State, o: int, now: float, n_stack: int, n_moved: int
) -> tuple[int, int, int, int, int]:
    """Play an op of nothing but latency, and those of the likes of it behind it.

    Returns
    -------
    op : int
        Whose end is too far off for a float, or -1.
    n_finished, events : int, int
        Ops that have ended, and latencies.
    n_stack, n_moved : int, int
        What begins now, and lanes with a new event, with those that were there.
    """
    latency, succ_ptr, succ, times = p.latency, p.succ_ptr, p.succ, s.times
    t = now
    n_finished, events = 0, 0
    while True:
        times[2 * o] = t
        if latency[o] > 0.0:
            t += latency[o]
            events += 1
            if not t < INFINITY:
                return o, n_finished, events, n_stack, n_moved
        times[2 * o + 1] = t
        n_finished += 1
        for z in range(succ_ptr[o], succ_ptr[o + 1]):
            other = succ[z]
            if t > times[2 * other]:
                times[2 * other] = t
            n_stack, n_moved = let_go(p, s, other, now, n_stack, n_moved)
        if s.kind[o] & LAST:
            break
        o += 1
        if t > times[2 * o]:
            times[2 * o] = t
        if times[2 * o + 1] < -1.0 or not is_launch(p, s, o):
            n_stack, n_moved = let_go(p, s, o, now, n_stack, n_moved)
            break
        t = times[2 * o]
    return -1, n_finished, events, n_stack, n_moved


def is_launch(p: Program, s: State, o: int) -> bool:
    """Whether an op is nothing but latency."""
    launch: bool = s.kind[o] & FREE != 0 and p.work[o] == 0.0
    return launch


def rate_alone(p: Program, o: int, x: float) -> float:
    """Rate of an op that has its resources alone, at most `x`."""
    for z in range(p.demand_ptr[p.route[o]], p.demand_ptr[p.route[o] + 1]):
        quotient = p.capacity[p.demand_resource[z]] / p.demand_amount[z]
        if quotient < x:
            x = quotient
    return x


def bound_of(p: Program, s: State, o: int, units: int) -> float:
    """Bound of an op, by its curve where it has one, with so many units left."""
    bound: float = p.bound[o]
    if s.n_units > 0 and p.curve[o] >= 0:
        bound = s.curves[p.curve[o] * s.curve_width + units]
    return bound


def play_run(p: Program, s: State, o: int, at: int, t: float, units: int) -> float:
    """Play kernels in a row that have their resources alone, the first of which ends at `t`.

    No more than `LONGEST_RUN` after it: of a deep step all that follow could be reckoned, and again
    after each of as many cuts.

    Returns
    -------
    float
        When the last of them ends. [s]
    """
    times = s.times
    c = o
    while (
        c < o + LONGEST_RUN
        and s.kind[c] & LINKED
        and times[2 * c + 3] == -1.0
        and times[2 * c + 2] <= t
        and (s.kind[c] & ALIKE or is_alike(p, s, c, c + 1))
    ):
        x = rate_alone(p, c + 1, bound_of(p, s, c + 1, units))
        if not x > 0.0:
            break
        times[2 * c + 1] = t
        c += 1
        t += p.work[c] / x
    if c > o:
        times[2 * c + 1] = t
        s.phase[at] = RUN
        s.run_last[at] = c
        s.run_units[at] = units
    return t


def is_alike(p: Program, s: State, c: int, o: int) -> bool:
    """Whether op `o` is nothing but a work, on the resources of work `c`."""
    if not p.work[o] > 0.0 or p.latency[o] > 0.0:
        return False
    if s.n_units > 0:
        mine = p.curve_resource[c] if p.curve[c] >= 0 else -1
        if mine != (p.curve_resource[o] if p.curve[o] >= 0 else -1):
            return False
    i, j = p.route[c], p.route[o]
    if i == j:
        return True
    x, y = p.demand_ptr[i], p.demand_ptr[j]
    n_demands = p.demand_ptr[i + 1] - x
    if n_demands != p.demand_ptr[j + 1] - y or n_demands > 1:
        return False
    alike: bool = n_demands == 0 or p.demand_resource[x] == p.demand_resource[y]
    return alike


def start_runs(s: State, now: float) -> None:
    """Write down, all at once, when works of runs have started: as the one before them ended."""
    times = s.times
    for o in range(s.n_ops):
        if s.kind[o] & LINKED and times[2 * o + 2] < times[2 * o + 1] <= now:
            times[2 * o + 2] = times[2 * o + 1]


def cut_run(p: Program, s: State, at: int, now: float) -> int:
    """Leave a lane's run of kernels at the one that runs now; how many have ended."""
    times = s.times
    first: int = s.op_at[at]
    c = first
    while c < s.run_last[at] and times[2 * c + 1] <= now:
        c += 1
    for o in range(c + 1, s.run_last[at] + 1):
        times[2 * o + 1] = -1.0
    if c > first:
        s.op_at[at] = c
        s.since[at] = times[2 * c - 1]
        s.remaining[at] = p.work[c]
        s.rate[at] = rate_alone(p, c, bound_of(p, s, c, s.run_units[at]))
        s.limit[at] = s.rate[at]
    s.phase[at] = WORK
    s.due[at] = times[2 * c + 1]
    return c - first


def disturb(p: Program, s: State, at: int, now: float, n_moved: int) -> tuple[int, int, int]:
    """Undo what was reckoned for a lane that has its resources no longer alone.

    Returns
    -------
    n_finished, events, n_moved : int, int, int
        Ops and events that have ended meanwhile; lanes with a new event, with those there were.
    """
    if s.phase[at] == RUN:
        passed = cut_run(p, s, at, now)
        s.moved[n_moved] = at
        return passed, passed, n_moved + 1
    if s.phase[at] != AHEAD:
        return 0, 0, n_moved
    if s.since[at] <= now:
        s.phase[at] = WORK
        return 0, 1, n_moved
    s.phase[at] = LATENCY
    s.due[at] = s.since[at]
    s.moved[n_moved] = at
    route = p.route[s.op_at[at]]
    for z in range(p.demand_ptr[route], p.demand_ptr[route + 1]):
        s.users[p.demand_resource[z]] = 0
        s.head[p.demand_resource[z]] = -1
    return 0, 0, n_moved + 1
