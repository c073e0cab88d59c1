"""The simulation as one loop over columns: run as it is on lists, or jitted on arrays.

`reference.py` says what it means. Here it is arranged for speed: an indexed heap of one event a
lane, links from resources to the lanes that draw on them, and water filling only for components
in which something changed. One function, because helpers that take many arrays cost numba a
reference count for each of them.

The loop has three parts, until nothing is left:

1. the stack: ops that begin, step, enter their work or end at this instant, and what follows;
   ops of nothing but latency (launches) are played ahead, as far as they wait only for each other,
   and so are kernels in a row that have their resources alone (RUN), until one is disturbed;
2. the heap: lanes with a new event time are put in their place, the next event is taken;
3. settling: once an instant has no more events, changed components get new rates.
"""

from __future__ import annotations

import math

from sim.engine.state import State
from sim.program import Program

# What to do with an op on the stack; each falls through to the next where nothing takes time.
BEGIN, STEP, ENTER_WORK, END_STEP, FINISH = range(5)
LATENCY, WORK, AHEAD = 1, 2, 3  # what a lane's event in the heap ends; AHEAD: both, see STEP
WAKE = 4  # or an op begins, since the last end it waits for was known beforehand
RUN = 5  # or the last of several works in a row
FIXED, CHAINED = 1, 2  # kinds of ops that are played ahead, see `State.kind`
DONE, NOT_FINITE, NO_RATE = range(3)  # status
WIDE = 16  # demands of an op from which on what changes on one of its resources is tried alone,
FEW = 8  # where no more than so many are on it
INFINITY = math.inf

Outcome = tuple[int, int, int, float, int, int]


def simulate(p: Program, s: State) -> Outcome:
    """Run a program to its end.

    Parameters
    ----------
    p : Program
        With arrays or with lists in its columns.
    s : State
        Fresh from `prepare`, likewise.

    Returns
    -------
    status, op : int, int
        DONE, or what went wrong at which op.
    n_finished : int
        Fewer than there are ops if some wait for each other.
    now : float
        Time of the last event. [s]
    events, solves : int
        Ends of latencies and works; components solved.
    """
    lane, latency, work, bound, weight = p.lane, p.latency, p.work, p.bound, p.weight
    demand_ptr, demand_resource, demand_amount = p.demand_ptr, p.demand_resource, p.demand_amount
    route, capacity, succ_ptr, succ = p.route, p.capacity, p.succ_ptr, p.succ
    hold_resource, hold_units = p.hold_resource, p.hold_units
    curve, curve_resource, curves, width = p.curve, p.curve_resource, s.curves, s.curve_width
    n_steps, peer, follower = p.steps, p.peer, p.follower
    start, end, waiting, done = s.start, s.end, s.waiting, s.done
    release_ptr, release, kind, ready = s.release_ptr, s.release, s.kind, s.ready
    op_at, phase, key, due, place = s.op_at, s.phase, s.key, s.due, s.place
    heap, moved, remaining, rate, old_rate = s.heap, s.moved, s.remaining, s.rate, s.old_rate
    since, limit, entry, flow_mark, flows = s.since, s.limit, s.entry, s.flow_mark, s.flows
    ripe, ripe_mark = s.ripe, s.ripe_mark
    run_last, run_units = s.run_last, s.run_units
    link_lane, link_next, link_prev, head, users = (
        s.link_lane, s.link_next, s.link_prev, s.head, s.users,
    )  # fmt: skip
    dirty, dirty_mark, resource_mark, resources = (
        s.dirty, s.dirty_mark, s.resource_mark, s.resources,
    )  # fmt: skip
    free, pull, full = s.free, s.pull, s.full
    tight, height, link_tight, rising = s.tight, s.height, s.link_tight, s.rising
    left, dirty_units, dirty_units_mark = s.left, s.dirty_units, s.dirty_units_mark
    reader_head, reader_next, reader_prev = s.reader_head, s.reader_next, s.reader_prev
    stack = s.stack

    n = s.n_ops
    has_units = s.n_units > 0
    has_wide = s.widest >= WIDE
    now = 0.0
    n_stack, n_heap, n_moved = s.n_ready, 0, 0
    n_dirty, n_ripe, n_dirty_units = 0, 0, 0
    n_finished, events, solves, generation = 0, 0, 0, 0
    hole = False  # the heap's first place is free

    while True:
        # 1. Whatever happens at this instant without taking time.
        while n_stack > 0:
            n_stack -= 1
            item = stack[n_stack]
            action = item & 7
            o = item >> 3
            at = lane[o]
            if action == BEGIN and kind[o] == FIXED:
                # Its end is known now, and so are those of the likes of it behind it.
                t = now
                while True:
                    start[o] = t
                    if latency[o] > 0.0:
                        t += latency[o]
                        events += 1
                        if not t < INFINITY:
                            return NOT_FINITE, o, n_finished, now, events, solves
                    end[o] = t
                    n_finished += 1
                    for z in range(succ_ptr[o], succ_ptr[o + 1]):
                        other = succ[z]
                        if t > ready[other]:
                            ready[other] = t
                        waiting[other] -= 1
                        if waiting[other] == 0:
                            if ready[other] > now:
                                a = lane[other]
                                op_at[a] = other
                                phase[a] = WAKE
                                due[a] = ready[other]
                                moved[n_moved] = a
                                n_moved += 1
                            else:
                                stack[n_stack] = other << 3
                                n_stack += 1
                    o += 1
                    if o >= n or lane[o] != at:
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
                        op_at[at] = o
                        phase[at] = WAKE
                        due[at] = t
                        moved[n_moved] = at
                        n_moved += 1
                    else:
                        stack[n_stack] = o << 3
                        n_stack += 1
                    break
                continue
            if action == BEGIN:
                op_at[at] = o
                start[o] = now
                if has_units and hold_resource[o] >= 0:
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
                    first_z = demand_ptr[route[o]]
                    last_z = demand_ptr[route[o] + 1]
                    ahead = work[o] > 0.0 and not (has_units and curve[o] >= 0)
                    if ahead:
                        for z in range(first_z, last_z):
                            if users[demand_resource[z]] > 0:
                                ahead = False
                    if ahead:
                        # Nobody is on its resources: reckon with having them alone, and spare an
                        # event. Whoever enters them before the end undoes it (ENTER_WORK).
                        x = bound[o]
                        e = entry[at]
                        for z in range(first_z, last_z):
                            k = demand_resource[z]
                            quotient = capacity[k] / demand_amount[z]
                            if quotient < x:
                                x = quotient
                            users[k] = 1
                            link_next[e] = -1
                            link_prev[e] = -1
                            head[k] = e
                            e += 1
                        if not x > 0.0:
                            return NO_RATE, o, n_finished, now, events, solves
                        phase[at] = AHEAD
                        height[at] = -1.0
                        limit[at] = bound[o]
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
                    height[at] = -1.0
                    x = bound[o]
                    units = 0
                    if has_units and curve[o] >= 0:
                        k = curve_resource[o]
                        units = left[k]
                        if units < 0:
                            units = 0
                        if units >= width:
                            units = width - 1
                        x = curves[curve[o] * width + units]
                        first = reader_head[k]
                        reader_next[at] = first
                        reader_prev[at] = -1
                        if first >= 0:
                            reader_prev[first] = at
                        reader_head[k] = at
                    limit[at] = x
                    for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                        k = demand_resource[z]
                        if users[k] != 1:
                            continue
                        a = link_lane[head[k]]
                        if phase[a] == RUN:
                            c = op_at[a]
                            first = c
                            while c < run_last[a] and end[c] <= now:
                                c += 1
                                start[c] = end[c - 1]
                            n_finished += c - first
                            events += c - first
                            if c > first:
                                op_at[a] = c
                                since[a] = start[c]
                                remaining[a] = work[c]
                                rest = bound[c]
                                if has_units and curve[c] >= 0:
                                    rest = curves[curve[c] * width + run_units[a]]
                                limit[a] = rest
                                for i in range(demand_ptr[route[c]], demand_ptr[route[c] + 1]):
                                    quotient = capacity[demand_resource[i]] / demand_amount[i]
                                    if quotient < rest:
                                        rest = quotient
                                rate[a] = rest
                            phase[a] = WORK
                            due[a] = end[c]
                            moved[n_moved] = a
                            n_moved += 1
                        if phase[a] != AHEAD:
                            continue
                        if since[a] <= now:
                            phase[a] = WORK
                            events += 1
                        else:
                            phase[a] = LATENCY
                            due[a] = since[a]
                            moved[n_moved] = a
                            n_moved += 1
                            other = route[op_at[a]]
                            for y in range(demand_ptr[other], demand_ptr[other + 1]):
                                users[demand_resource[y]] = 0
                                head[demand_resource[y]] = -1
                    alone = True
                    e = entry[at]
                    for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                        k = demand_resource[z]
                        quotient = capacity[k] / demand_amount[z]
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
                    if alone:
                        rate[at] = x
                        t = now + work[o] / x
                        if kind[o] == CHAINED:
                            # Reckon with nobody coming between, and spare an event a kernel.
                            c = o
                            while kind[c] == CHAINED and waiting[c + 1] == 1 and ready[c + 1] <= t:
                                x = bound[c + 1]
                                if has_units and curve[c + 1] >= 0:
                                    x = curves[curve[c + 1] * width + units]
                                i = route[c + 1]
                                for z in range(demand_ptr[i], demand_ptr[i + 1]):
                                    quotient = capacity[demand_resource[z]] / demand_amount[z]
                                    if quotient < x:
                                        x = quotient
                                if not x > 0.0:
                                    break
                                end[c] = t
                                c += 1
                                t += work[c] / x
                            if c > o:
                                end[c] = t
                                phase[at] = RUN
                                run_last[at] = c
                                run_units[at] = units
                        due[at] = t
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
            if action == END_STEP and (n_steps[o] > 1 or peer[o] >= 0 or follower[o] >= 0):
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
            end[o] = now
            n_finished += 1
            if s.gives_back > 0:
                for z in range(release_ptr[o], release_ptr[o + 1]):
                    k = hold_resource[release[z]]
                    left[k] += hold_units[release[z]]
                    if dirty_units_mark[k] == 0:
                        dirty_units_mark[k] = 1
                        dirty_units[n_dirty_units] = k
                        n_dirty_units += 1
            for z in range(succ_ptr[o], succ_ptr[o + 1]):
                other = succ[z]
                waiting[other] -= 1
                if waiting[other] == 0:
                    if ready[other] > now:
                        a = lane[other]
                        op_at[a] = other
                        phase[a] = WAKE
                        due[a] = ready[other]
                        moved[n_moved] = a
                        n_moved += 1
                    else:
                        stack[n_stack] = other << 3
                        n_stack += 1
            other = o + 1
            if other < n and lane[other] == at:
                waiting[other] -= 1
                if waiting[other] == 0:
                    if ready[other] > now:
                        op_at[at] = other
                        phase[at] = WAKE
                        due[at] = ready[other]
                        moved[n_moved] = at
                        n_moved += 1
                    else:
                        stack[n_stack] = other << 3
                        n_stack += 1

        # 2. Put lanes with a new event time in their place: ties go to the lower lane.
        m = 0
        while m < n_moved or hole:
            if m < n_moved and not (hole and place[moved[m]] >= 0):
                at = moved[m]
                m += 1
                t = due[at]
                key[at] = t
                i = place[at]
                if hole:
                    i = 0
                    hole = False
                elif i < 0:
                    i = n_heap
                    n_heap += 1
            else:  # fill the hole with the last lane
                hole = False
                n_heap -= 1
                if n_heap == 0:
                    continue
                at = heap[n_heap]
                t = key[at]
                i = 0
            while i > 0:
                up = (i - 1) >> 1
                a = heap[up]
                if t < key[a] or (t == key[a] and at < a):
                    heap[i] = a
                    place[a] = i
                    i = up
                else:
                    break
            while True:
                c = 2 * i + 1
                if c >= n_heap:
                    break
                a = heap[c]
                if c + 1 < n_heap:
                    b = heap[c + 1]
                    if key[b] < key[a] or (key[b] == key[a] and b < a):
                        c += 1
                        a = b
                if key[a] < t or (key[a] == t and a < at):
                    heap[i] = a
                    place[a] = i
                    i = c
                else:
                    break
            heap[i] = at
            place[at] = i
        n_moved = 0

        if n_heap == 0 or key[heap[0]] > now:
            # 3. The instant is over: settle what changed in it.
            for m in range(n_dirty_units):
                k = dirty_units[m]
                dirty_units_mark[k] = 0
                units = left[k]
                if units < 0:
                    units = 0
                if units >= width:
                    units = width - 1
                at = reader_head[k]
                while at >= 0:
                    if phase[at] == RUN:
                        if units == run_units[at]:
                            at = reader_next[at]
                            continue
                        c = op_at[at]
                        first = c
                        while c < run_last[at] and end[c] <= now:
                            c += 1
                            start[c] = end[c - 1]
                        n_finished += c - first
                        events += c - first
                        if c > first:
                            op_at[at] = c
                            since[at] = start[c]
                            remaining[at] = work[c]
                            x = curves[curve[c] * width + run_units[at]]
                            limit[at] = x
                            for z in range(demand_ptr[route[c]], demand_ptr[route[c] + 1]):
                                quotient = capacity[demand_resource[z]] / demand_amount[z]
                                if quotient < x:
                                    x = quotient
                            rate[at] = x
                        phase[at] = WORK
                        due[at] = end[c]
                        moved[n_moved] = at
                        n_moved += 1
                    x = curves[curve[op_at[at]] * width + units]
                    if x != limit[at]:
                        limit[at] = x
                        if ripe_mark[at] == 0:
                            ripe_mark[at] = 1
                            ripe[n_ripe] = at
                            n_ripe += 1
                    at = reader_next[at]
            n_dirty_units = 0
            generation += 1
            for m in range(n_ripe + n_dirty):
                k = -1
                if m < n_ripe:
                    at = ripe[m]
                    ripe_mark[at] = 0
                    if flow_mark[at] == generation:
                        continue
                    i = route[op_at[at]]
                    if demand_ptr[i + 1] - demand_ptr[i] == 1:
                        k = demand_resource[demand_ptr[i]]
                else:
                    k = dirty[m - n_ripe]
                    dirty_mark[k] = 0
                    if resource_mark[k] == generation or users[k] == 0:
                        continue
                    if users[k] == 1:
                        a = phase[link_lane[head[k]]]
                        if a in (AHEAD, RUN):
                            continue
                # A change on one of the many resources of a wide op seldom concerns others: fill
                # this one with wide ops as high as they are. It will do if none is too high for it,
                # and each is still held there: by its bound, or by a resource that is full.
                fits = False
                if has_wide and k >= 0 and users[k] <= FEW:
                    n_rising = 0
                    c = 0
                    lowest = 0.0
                    e = head[k]
                    while e >= 0:
                        at = link_lane[e]
                        old_rate[at] = -1.0
                        n_rising += 1
                        i = route[op_at[at]]
                        n_demands = demand_ptr[i + 1] - demand_ptr[i]
                        if n_demands > c:
                            c = n_demands
                        if n_demands > 1 and height[at] < lowest:
                            lowest = height[at]
                        e = link_next[e]
                    fits = c >= WIDE and lowest == 0.0  # else one has yet to be settled
                if fits:
                    spare = capacity[k]
                    level = 0.0
                    while n_rising > 0 and fits:
                        x = 0.0
                        lowest = INFINITY
                        e = head[k]
                        while e >= 0:
                            at = link_lane[e]
                            if old_rate[at] < 0.0:
                                o = op_at[at]
                                z = demand_ptr[route[o]]
                                x += demand_amount[z + e - entry[at]] * weight[o]
                                quotient = limit[at] / weight[o]
                                if demand_ptr[route[o] + 1] - z > 1:
                                    quotient = height[at]
                                if quotient < lowest:
                                    lowest = quotient
                            e = link_next[e]
                        quotient = spare / x
                        if quotient < lowest:
                            lowest = quotient
                        if lowest > level:
                            level = lowest
                        filled = 1 if quotient <= level else 0
                        e = head[k]
                        while e >= 0:
                            at = link_lane[e]
                            if old_rate[at] < 0.0:
                                o = op_at[at]
                                z = demand_ptr[route[o]]
                                quotient = limit[at] / weight[o]
                                x = -1.0
                                if demand_ptr[route[o] + 1] - z > 1:
                                    if height[at] <= level:
                                        x = rate[at]
                                        tight[at] += filled - link_tight[e]
                                        link_tight[e] = filled
                                        if tight[at] == 0 and height[at] < quotient:
                                            fits = False
                                    elif filled == 1:
                                        fits = False
                                elif filled == 1 or quotient <= level:
                                    x = level * weight[o]
                                    if x > limit[at]:
                                        x = limit[at]
                                if x >= 0.0:
                                    old_rate[at] = x
                                    n_rising -= 1
                                    spare -= x * demand_amount[z + e - entry[at]]
                            e = link_next[e]
                if fits:
                    solves += 1
                    e = head[k]
                    while e >= 0:
                        at = link_lane[e]
                        x = old_rate[at]
                        if x != rate[at]:
                            if not x > 0.0:
                                return NO_RATE, op_at[at], n_finished, now, events, solves
                            if rate[at] > 0.0:
                                quotient = remaining[at] - rate[at] * (now - since[at])
                                remaining[at] = quotient if quotient > 0.0 else 0.0
                            rate[at] = x
                            since[at] = now
                            due[at] = now + remaining[at] / x
                            moved[n_moved] = at
                            n_moved += 1
                        e = link_next[e]
                    continue
                # A component: from a lane or a resource, along links, until nothing is new.
                n_flows, n_resources = 0, 0
                if m < n_ripe:
                    at = ripe[m]
                    flow_mark[at] = generation
                    flows[0] = at
                    n_flows = 1
                    o = op_at[at]
                    for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                        k = demand_resource[z]
                        resource_mark[k] = generation
                        resources[n_resources] = k
                        n_resources += 1
                else:
                    resource_mark[k] = generation
                    resources[0] = k
                    n_resources = 1
                i = 0
                while i < n_resources:
                    e = head[resources[i]]
                    i += 1
                    while e >= 0:
                        at = link_lane[e]
                        if flow_mark[at] != generation:
                            flow_mark[at] = generation
                            flows[n_flows] = at
                            n_flows += 1
                            o = op_at[at]
                            for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                                k = demand_resource[z]
                                if resource_mark[k] != generation:
                                    resource_mark[k] = generation
                                    resources[n_resources] = k
                                    n_resources += 1
                        e = link_next[e]
                solves += 1
                for j in range(n_flows):
                    at = flows[j]
                    old_rate[at] = rate[at]
                    rate[at] = -1.0
                if n_flows == 1:
                    at = flows[0]
                    o = op_at[at]
                    x = limit[at]
                    for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                        quotient = capacity[demand_resource[z]] / demand_amount[z]
                        if quotient < x:
                            x = quotient
                    rate[at] = x
                    height[at] = -1.0
                    n_rising = 0
                else:
                    for j in range(n_resources):
                        free[resources[j]] = capacity[resources[j]]
                    n_rising = n_flows
                    for j in range(n_flows):
                        rising[j] = flows[j]
                n_up = n_rising
                level = 0.0
                while n_rising > 0:
                    # Sums are taken anew each round: subtracting a kernel's large weight from
                    # them would leave rounding errors as large as a flow's small one.
                    for j in range(n_resources):
                        pull[resources[j]] = 0.0
                        full[resources[j]] = 0
                    lowest = INFINITY
                    for j in range(n_up):
                        at = rising[j]
                        if rate[at] < 0.0:
                            o = op_at[at]
                            quotient = limit[at] / weight[o]
                            if quotient < lowest:
                                lowest = quotient
                            for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                                pull[demand_resource[z]] += demand_amount[z] * weight[o]
                    for j in range(n_resources):
                        k = resources[j]
                        if pull[k] > 0.0:
                            quotient = free[k] / pull[k]
                            pull[k] = quotient
                            full[k] = 1
                            if quotient < lowest:
                                lowest = quotient
                    if lowest > level:
                        level = lowest
                    for j in range(n_resources):
                        k = resources[j]
                        if full[k] == 1 and pull[k] > level:
                            full[k] = 0
                    for j in range(n_up):
                        at = rising[j]
                        if rate[at] < 0.0:
                            o = op_at[at]
                            stops = limit[at] / weight[o] <= level
                            if not stops:
                                for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                                    if full[demand_resource[z]] == 1:
                                        stops = True
                            if stops:
                                x = level * weight[o]
                                if x > limit[at]:
                                    x = limit[at]
                                rate[at] = x
                                height[at] = level
                                tight[at] = 0
                                e = entry[at]
                                n_rising -= 1
                                for z in range(demand_ptr[route[o]], demand_ptr[route[o] + 1]):
                                    k = demand_resource[z]
                                    free[k] -= x * demand_amount[z]
                                    if has_wide:
                                        link_tight[e] = full[k]
                                        tight[at] += full[k]
                                        e += 1
                    if n_rising > FEW:
                        # What rises no longer is passed over; what is left alone on its resource
                        # ends where that, or its bound, lets it.
                        for j in range(n_resources):
                            full[resources[j]] = 0
                        for j in range(n_up):
                            at = rising[j]
                            if rate[at] < 0.0:
                                i = route[op_at[at]]
                                for z in range(demand_ptr[i], demand_ptr[i + 1]):
                                    full[demand_resource[z]] += 1
                        c = 0
                        for j in range(n_up):
                            at = rising[j]
                            if rate[at] >= 0.0:
                                continue
                            o = op_at[at]
                            z = demand_ptr[route[o]]
                            k = demand_resource[z]
                            if demand_ptr[route[o] + 1] - z == 1 and full[k] == 1:
                                quotient = free[k] / (demand_amount[z] * weight[o])
                                x = limit[at] / weight[o]
                                if quotient < x:
                                    x = quotient
                                if level > x:
                                    x = level
                                x *= weight[o]
                                if x > limit[at]:
                                    x = limit[at]
                                rate[at] = x
                                n_rising -= 1
                                full[k] = 0
                            else:
                                rising[c] = at
                                c += 1
                        n_up = c
                        c = 0
                        for j in range(n_resources):
                            if full[resources[j]] > 0:
                                resources[c] = resources[j]
                                c += 1
                        n_resources = c
                for j in range(n_flows):
                    at = flows[j]
                    if rate[at] == old_rate[at]:
                        continue
                    if not rate[at] > 0.0:
                        return NO_RATE, op_at[at], n_finished, now, events, solves
                    if old_rate[at] > 0.0:
                        x = remaining[at] - old_rate[at] * (now - since[at])
                        remaining[at] = x if x > 0.0 else 0.0
                    since[at] = now
                    due[at] = now + remaining[at] / rate[at]
                    moved[n_moved] = at
                    n_moved += 1
            n_ripe, n_dirty = 0, 0
            if n_moved > 0:
                continue
            if n_heap == 0:
                break
            now = key[heap[0]]
            if not now < INFINITY:
                return NOT_FINITE, op_at[heap[0]], n_finished, now, events, solves

        # Take the next event, leaving a hole for one that follows from it.
        at = heap[0]
        place[at] = -1
        hole = True
        o = op_at[at]
        if phase[at] == WAKE:
            stack[0] = o << 3 | BEGIN
        elif phase[at] == LATENCY:
            events += 1
            stack[0] = o << 3 | ENTER_WORK
        else:
            events += 2 if phase[at] == AHEAD else 1
            if phase[at] == RUN:
                n_finished += run_last[at] - o
                events += run_last[at] - o
                while o < run_last[at]:
                    o += 1
                    start[o] = end[o - 1]
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
                    reader_head[curve_resource[o]] = b
                if b >= 0:
                    reader_prev[b] = a
            stack[0] = o << 3 | END_STEP
        n_stack = 1
    return DONE, -1, n_finished, now, events, solves
