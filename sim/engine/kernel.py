"""The simulation as loops over columns: run as they are on lists, or jitted on arrays.

`reference.py` says what they mean. Here it is arranged for speed: a contest of one event a lane,
links from resources to the lanes that draw on them, and water filling only for components
in which something changed.

The main loop has three parts, until nothing is left:

1. the stack: ops that begin, step, enter their work or end at this instant, and what follows;
   ops of nothing but latency (launches) are played ahead, as far as they wait only for each other,
   and so are kernels in a row that have their resources alone, until disturbed (`lookahead`);
2. the contest: lanes with a new event time are put in their place, the next event is taken;
3. settling: once an instant has no more events, changed components get new rates (`sharing`).
"""

from __future__ import annotations

import math

from sim.engine.contest import place_lanes
from sim.engine.filling import fill, fill_one, let_stand
from sim.engine.lookahead import (
    bound_of,
    cut_run,
    disturb,
    is_alike,
    is_launch,
    let_go,
    play_launches,
    play_run,
    rate_alone,
    start_runs,
    wake,
)  # fmt: skip
from sim.engine.sharing import component, read_units, settle, shared_with, units_left
from sim.engine.state import (
    AHEAD,
    GATE,
    GIVES,
    HOLDS,
    LAST,
    LATENCY,
    RUN,
    STEPPED,
    WAKE,
    WORK,
    State,
)
from sim.program import Program

# What to do with an op on the stack; each falls through to the next where nothing takes time.
BEGIN, STEP, ENTER_WORK, END_STEP, FINISH = range(5)
RESUME = 5  # as BEGIN, of a launch that was held back from when it would have begun
DONE, NOT_FINITE, NO_RATE, PAUSED, LATE = range(5)  # status
INFINITY = math.inf

#: what `simulate` calls
PARTS = (
    bound_of, component, cut_run, disturb, fill, fill_one, is_alike, is_launch, let_go, let_stand,
    place_lanes, play_launches, play_run, rate_alone, read_units, settle,
    shared_with, start_runs, units_left, wake,
)  # fmt: skip

Outcome = tuple[int, int, int, float, int, int]


def simulate(p: Program, s: State) -> Outcome:
    """Run a program to its end.

    Parameters
    ----------
    p : Program
        With arrays or with lists in its columns.
    s : State
        Fresh from `prepare`, likewise; or as a run left it that was PAUSED.

    Returns
    -------
    status, op : int, int
        DONE; PAUSED before an op with a `GATE`; or what went wrong at which op. LATE: an op that
        could have begun while what launches it was held back.
    n_finished : int
        Fewer than there are ops if some wait for each other.
    now : float
        Time of the last event. [s]
    events, solves : int
        Ends of latencies and works; components solved.
    """
    lane, latency, work, route, demand_ptr = p.lane, p.latency, p.work, p.route, p.demand_ptr
    demand_resource, capacity, succ_ptr, succ = p.demand_resource, p.capacity, p.succ_ptr, p.succ
    hold_resource, hold_units, curve = p.hold_resource, p.hold_units, p.curve
    n_steps, peer, follower = p.steps, p.peer, p.follower
    times, done, kind = s.times, s.done, s.kind
    op_at, phase, due, key, earliest, leaf = s.op_at, s.phase, s.due, s.key, s.earliest, s.leaf
    moved, remaining, rate, since, limit, entry = (
        s.moved, s.remaining, s.rate, s.since, s.limit, s.entry,
    )  # fmt: skip
    link_lane, link_next, link_prev, head, users = (
        s.link_lane, s.link_next, s.link_prev, s.head, s.users,
    )  # fmt: skip
    dirty, dirty_mark, left, stack = s.dirty, s.dirty_mark, s.left, s.stack
    dirty_units, dirty_units_mark = s.dirty_units, s.dirty_units_mark
    reader_head, reader_next, reader_prev = s.reader_head, s.reader_next, s.reader_prev

    has_units = s.n_units > 0
    held = s.held
    now = s.clock[0]
    n_stack, n_moved, generation = int(held[0]), int(held[1]), int(held[2])
    n_dirty, n_ripe, n_dirty_units = int(held[3]), int(held[4]), int(held[5])
    n_finished, events, solves = int(held[6]), int(held[7]), int(held[8])
    top, n_taken, n_free, hole = int(held[9]), int(held[10]), int(held[11]), int(held[12])

    while True:
        # 1. Whatever happens at this instant without taking time.
        while n_stack > 0:
            n_stack -= 1
            item = stack[n_stack]
            action = item & 7
            o = item >> 3
            if action in (BEGIN, RESUME) and is_launch(p, s, o):
                since_when = times[2 * o] if action == RESUME else now
                far, ended, passed, n_stack, n_moved = play_launches(
                    p, s, o, since_when, n_stack, n_moved
                )
                n_finished += ended
                events += passed
                if far >= 0:
                    return NOT_FINITE, far, n_finished, now, events, solves
                continue
            at = lane[o]
            if action == BEGIN:
                if kind[o] & GATE:
                    n_stack += 1  # where it still is
                    s.clock[0] = now
                    held[0], held[1], held[2] = n_stack, n_moved, generation
                    held[3], held[4], held[5] = n_dirty, n_ripe, n_dirty_units
                    held[6], held[7], held[8] = n_finished, events, solves
                    held[9], held[10], held[11], held[12] = top, n_taken, n_free, hole
                    start_runs(s, now)
                    return PAUSED, o, n_finished, now, events, solves
                op_at[at] = o
                times[2 * o] = now
                if kind[o] & HOLDS:
                    k = hold_resource[o]
                    left[k] -= hold_units[o]
                    if dirty_units_mark[k] == 0:
                        dirty_units_mark[k] = 1
                        dirty_units[n_dirty_units] = k
                        n_dirty_units += 1
                action = STEP
            if action == STEP:
                if latency[o] > 0.0:
                    t = now + latency[o]
                    alone = work[o] > 0.0 and not (has_units and curve[o] >= 0)
                    if alone:
                        for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                            if users[demand_resource[z]] > 0:
                                alone = False
                    if alone:
                        # Nobody is on its resources: reckon with having them alone, and spare an
                        # event. Whoever enters them before the end undoes it (`disturb`).
                        x = rate_alone(p, o, p.bound[o])
                        if not x > 0.0:
                            return NO_RATE, o, n_finished, now, events, solves
                        e = entry[at]
                        for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                            k = demand_resource[z]
                            users[k] = 1
                            link_next[e] = -1
                            link_prev[e] = -1
                            head[k] = e
                            e += 1
                        phase[at] = AHEAD
                        s.height[at] = -1.0
                        limit[at] = x
                        remaining[at] = work[o]
                        since[at] = t
                        rate[at] = x
                        due[at] = t + work[o] / x
                    else:
                        phase[at] = LATENCY
                        due[at] = t
                    moved[n_moved] = at
                    n_moved += 1
                    continue
                action = ENTER_WORK
            if action == ENTER_WORK:
                if work[o] > 0.0:
                    phase[at] = WORK
                    remaining[at] = work[o]
                    since[at] = now
                    s.height[at] = -1.0
                    x = p.bound[o]
                    units = 0
                    if has_units and curve[o] >= 0:
                        k = p.curve_resource[o]
                        units = units_left(s, k)
                        first = reader_head[k]
                        reader_next[at] = first
                        reader_prev[at] = -1
                        if first >= 0:
                            reader_prev[first] = at
                        reader_head[k] = at
                        x = s.curves[curve[o] * s.curve_width + units]
                    for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                        k = demand_resource[z]
                        if users[k] == 1 and phase[link_lane[head[k]]] >= AHEAD:
                            ended, passed, n_moved = disturb(p, s, link_lane[head[k]], now, n_moved)
                            n_finished += ended
                            events += passed
                    alone = True
                    e = entry[at]
                    for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                        k = demand_resource[z]
                        quotient = capacity[k] / p.demand_amount[z]
                        if quotient < x:
                            x = quotient
                        if users[k] > 0:
                            alone = False
                        users[k] += 1
                        first = head[k]
                        link_next[e] = first
                        link_prev[e] = -1
                        if first >= 0:
                            link_prev[first] = e
                        head[k] = e
                        e += 1
                    if not x > 0.0:
                        return NO_RATE, o, n_finished, now, events, solves
                    limit[at] = x
                    if alone:
                        rate[at] = x
                        t = now + work[o] / x
                        # Reckon with nobody coming between, and spare an event a kernel.
                        due[at] = play_run(p, s, o, at, t, units)
                        moved[n_moved] = at
                        n_moved += 1
                    else:
                        rate[at] = 0.0
                        for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                            k = demand_resource[z]
                            if dirty_mark[k] == 0:
                                dirty_mark[k] = 1
                                dirty[n_dirty] = k
                                n_dirty += 1
                    continue
                action = END_STEP
            if action == END_STEP and kind[o] & STEPPED:
                d = done[o] + 1
                done[o] = d
                # The follower can't be ahead; where it is level it waits for this very step.
                other = follower[o]
                if other >= 0 and done[other] == d:
                    stack[n_stack] = other << 3 | (STEP if d < n_steps[other] else FINISH)
                    n_stack += 1
                if peer[o] >= 0 and done[peer[o]] < d:
                    continue
                if d < n_steps[o]:
                    stack[n_stack] = o << 3 | STEP
                    n_stack += 1
                    continue
            # FINISH
            times[2 * o + 1] = now
            n_finished += 1
            if kind[o] & GIVES:
                for z in range(s.release_ptr[o], s.release_ptr[o + 1]):
                    other = s.release[z]
                    k = hold_resource[other]
                    left[k] += hold_units[other]
                    if dirty_units_mark[k] == 0:
                        dirty_units_mark[k] = 1
                        dirty_units[n_dirty_units] = k
                        n_dirty_units += 1
            for z in range(succ_ptr[o], succ_ptr[o + 1]):
                n_stack, n_moved = let_go(p, s, succ[z], now, n_stack, n_moved)
            if not kind[o] & LAST:
                n_stack, n_moved = let_go(p, s, o + 1, now, n_stack, n_moved)

        # 2. Put lanes with a new event time in their place.
        top, n_taken, n_free = place_lanes(s, n_moved, top, n_taken, n_free, hole)
        n_moved, hole = 0, -1

        if key[top] > now:
            # 3. The instant is over: settle what changed in it.
            if n_dirty_units > 0:
                n_ripe, n_moved, passed = read_units(p, s, now, n_dirty_units, n_ripe, n_moved)
                n_dirty_units = 0
                n_finished += passed
                events += passed
            if n_ripe + n_dirty > 0:
                generation += 1
                far, n_moved, solved = settle(p, s, now, generation, n_ripe, n_dirty, n_moved)
                solves += solved
                if far >= 0:
                    return NO_RATE, far, n_finished, now, events, solves
                n_ripe, n_dirty = 0, 0
            if n_moved > 0:
                continue
            if earliest[top] == s.n_lanes:
                break
            now = key[top]
            if not now < INFINITY:
                return NOT_FINITE, op_at[earliest[top]], n_finished, now, events, solves

        # Take the next event, leaving a hole for one that follows from it.
        at = earliest[top]
        hole = leaf[at]
        leaf[at] = -1
        o = op_at[at]
        if phase[at] == WAKE:
            if key[top] < now:
                return LATE, o, n_finished, now, events, solves
            stack[0] = o << 3 | BEGIN
        elif phase[at] == LATENCY:
            events += 1
            stack[0] = o << 3 | ENTER_WORK
        else:
            events += 2 if phase[at] == AHEAD else 1
            if phase[at] == RUN:
                last = s.run_last[at]
                n_finished += last - o
                events += last - o
                o = last
                op_at[at] = o
            e = entry[at]
            for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                k = demand_resource[z]
                a = link_prev[e]
                b = link_next[e]
                if a >= 0:
                    link_next[a] = b
                else:
                    head[k] = b
                if b >= 0:
                    link_prev[b] = a
                e += 1
                users[k] -= 1
                if users[k] > 0 and dirty_mark[k] == 0:
                    dirty_mark[k] = 1
                    dirty[n_dirty] = k
                    n_dirty += 1
            if has_units and curve[o] >= 0:
                a = reader_prev[at]
                b = reader_next[at]
                if a >= 0:
                    reader_next[a] = b
                else:
                    reader_head[p.curve_resource[o]] = b
                if b >= 0:
                    reader_prev[b] = a
            stack[0] = o << 3 | END_STEP
        n_stack = 1
    start_runs(s, now)
    return DONE, -1, n_finished, now, events, solves
