"""What is played ahead of the heap: launches that wait for each other alone, kernels in a row.

Their ends are known when the first begins, so that many ops cost one event. A run of kernels is cut
where somebody enters their resources, or takes units that their curves read, before its end.
"""

from __future__ import annotations

import math

from sim.engine.state import AHEAD, CHAINED, FIXED, LATENCY, RUN, WAKE, WORK, State
from sim.program import Program

INFINITY = math.inf


def wake(s: State, at: int, o: int, n_moved: int) -> int:
    """Let an op begin once the last end that it waits for, known beforehand, is there."""
    s.op_at[at] = o
    s.phase[at] = WAKE
    s.due[at] = s.ready[o]
    s.moved[n_moved] = at
    return n_moved + 1


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
    lane, latency, kind, ready, waiting = p.lane, p.latency, s.kind, s.ready, s.waiting
    succ_ptr, succ, start, end, stack = p.succ_ptr, p.succ, s.start, s.end, s.stack
    at = lane[o]
    t = now
    n_finished, events = 0, 0
    while True:
        start[o] = t
        if latency[o] > 0.0:
            t += latency[o]
            events += 1
            if not t < INFINITY:
                return o, n_finished, events, n_stack, n_moved
        end[o] = t
        n_finished += 1
        for z in range(succ_ptr[o], succ_ptr[o + 1]):
            other = succ[z]
            if t > ready[other]:
                ready[other] = t
            waiting[other] -= 1
            if waiting[other] == 0:
                if ready[other] > now:
                    n_moved = wake(s, lane[other], other, n_moved)
                else:
                    stack[n_stack] = other << 3
                    n_stack += 1
        o += 1
        if o >= s.n_ops or lane[o] != at:
            break
        if t > ready[o]:
            ready[o] = t
        waiting[o] -= 1
        if waiting[o] > 0:
            break
        t = ready[o]
        if kind[o] == FIXED:
            continue
        if t > now:
            n_moved = wake(s, at, o, n_moved)
        else:
            stack[n_stack] = o << 3
            n_stack += 1
        break
    return -1, n_finished, events, n_stack, n_moved


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

    Returns
    -------
    float
        When the last of them ends. [s]
    """
    kind, waiting, ready, end = s.kind, s.waiting, s.ready, s.end
    c = o
    while kind[c] == CHAINED and waiting[c + 1] == 1 and ready[c + 1] <= t:
        x = rate_alone(p, c + 1, bound_of(p, s, c + 1, units))
        if not x > 0.0:
            break
        end[c] = t
        c += 1
        t += p.work[c] / x
    if c > o:
        end[c] = t
        s.phase[at] = RUN
        s.run_last[at] = c
        s.run_units[at] = units
    return t


def cut_run(p: Program, s: State, at: int, now: float) -> int:
    """Leave a lane's run of kernels at the one that runs now; how many have ended."""
    start, end = s.start, s.end
    first: int = s.op_at[at]
    c = first
    while c < s.run_last[at] and end[c] <= now:
        c += 1
        start[c] = end[c - 1]
    if c > first:
        s.op_at[at] = c
        s.since[at] = start[c]
        s.remaining[at] = p.work[c]
        s.limit[at] = bound_of(p, s, c, s.run_units[at])
        s.rate[at] = rate_alone(p, c, s.limit[at])
    s.phase[at] = WORK
    s.due[at] = end[c]
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
