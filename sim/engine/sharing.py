"""New rates at the end of an instant, for components in which something has changed."""

from __future__ import annotations

from sim.engine import filling
from sim.engine.filling import fill, fill_one
from sim.engine.lookahead import cut_run, rate_alone
from sim.engine.state import AHEAD, RUN, State
from sim.program import Program


def read_units(
    p: Program, s: State, now: float, n_dirty_units: int, n_ripe: int, n_moved: int
) -> tuple[int, int, int]:
    """Read bounds anew from curves on countable resources of which units were taken or given back.

    Returns
    -------
    n_ripe, n_moved, passed : int, int, int
        Lanes to solve and lanes with a new event, with those that were there; works of runs that
        have ended.
    """
    reader_next, phase, op_at, limit = s.reader_next, s.phase, s.op_at, s.limit
    passed = 0
    for m in range(n_dirty_units):
        k = s.dirty_units[m]
        s.dirty_units_mark[k] = 0
        units = units_left(s, k)
        at = s.reader_head[k]
        while at >= 0:
            if phase[at] == RUN:
                if units == s.run_units[at]:
                    at = reader_next[at]
                    continue
                passed += cut_run(p, s, at, now)
                s.moved[n_moved] = at
                n_moved += 1
            o = op_at[at]
            x = rate_alone(p, o, s.curves[p.curve[o] * s.curve_width + units])
            if x != limit[at]:
                limit[at] = x
                if s.ripe_mark[at] == 0:
                    s.ripe_mark[at] = 1
                    s.ripe[n_ripe] = at
                    n_ripe += 1
            at = reader_next[at]
    return n_ripe, n_moved, passed


def units_left(s: State, k: int) -> int:
    """Units that are left of a countable resource, as a column of its curves."""
    units: int = s.left[k]
    if units < 0:
        units = 0
    if units >= s.curve_width:
        units = s.curve_width - 1
    return units


def settle(
    p: Program, s: State, now: float, generation: int, n_ripe: int, n_dirty: int, n_moved: int
) -> tuple[int, int, int]:
    """Find the rates of what has changed: ripe lanes, and resources that others entered or left.

    Returns
    -------
    op : int
        Whose rate is no positive float, or -1.
    n_moved : int
        Lanes with a new event, with those that were there.
    solves : int
        Components solved.
    """
    demand_ptr, flow_mark, users, phase = p.demand_ptr, s.flow_mark, s.users, s.phase
    has_wide = s.widest >= filling.WIDE
    solves = 0
    for m in range(n_ripe + n_dirty):
        at, k = -1, -1
        if m < n_ripe:
            at = s.ripe[m]
            s.ripe_mark[at] = 0
            if flow_mark[at] == generation:
                continue
            i = p.route[s.op_at[at]]
            if has_wide and demand_ptr[i + 1] - demand_ptr[i] == 1:
                k = p.demand_resource[demand_ptr[i]]
        else:
            k = s.dirty[m - n_ripe]
            s.dirty_mark[k] = 0
            if s.resource_mark[k] == generation or users[k] == 0:
                continue
            if users[k] == 1:
                a = s.link_lane[s.head[k]]
                if phase[a] in (AHEAD, RUN) or flow_mark[a] == generation:
                    continue
        n_flows = 0
        if has_wide and k >= 0 and users[k] <= filling.FEW:
            n_flows = fill_one(p, s, k)
        if n_flows == 0:
            n_flows, n_resources = component(p, s, at, k, generation)
            fill(p, s, n_flows, n_resources)
        solves += 1
        for j in range(n_flows):
            at = s.flows[j]
            x, old = s.rate[at], s.old_rate[at]
            if x == old:
                continue
            if not x > 0.0:
                return s.op_at[at], n_moved, solves
            if old > 0.0:
                left = s.remaining[at] - old * (now - s.since[at])
                s.remaining[at] = left if left > 0.0 else 0.0
            s.since[at] = now
            s.due[at] = now + s.remaining[at] / x
            s.moved[n_moved] = at
            n_moved += 1
    return -1, n_moved, solves


def component(p: Program, s: State, at: int, k: int, generation: int) -> tuple[int, int]:
    """From a lane, or else a resource, along links until nothing is new.

    A resource that nobody else is on is part of its lane's `limit`, and left out.

    Returns
    -------
    n_flows, n_resources : int, int
        Of the component, in `flows` and `resources`; their rates are now the old ones.
    """
    flow_mark, flows, resources = s.flow_mark, s.flows, s.resources
    n_flows, n_resources = 0, 0
    if at >= 0:
        flow_mark[at] = generation
        flows[0] = at
        n_flows = 1
    else:
        s.resource_mark[k] = generation
        resources[0] = k
        n_resources = 1
    i, j = 0, 0
    while i < n_flows or j < n_resources:
        if i < n_flows:
            n_resources = shared_with(p, s, flows[i], generation, n_resources)
            i += 1
            continue
        e = s.head[resources[j]]
        j += 1
        while e >= 0:
            at = s.link_lane[e]
            if flow_mark[at] != generation:
                flow_mark[at] = generation
                flows[n_flows] = at
                n_flows += 1
            e = s.link_next[e]
    return n_flows, n_resources


def shared_with(p: Program, s: State, at: int, generation: int, n_resources: int) -> int:
    """Note resources that a lane's op shares with others; how many the component has then."""
    i = p.route[s.op_at[at]]
    n_shared = s.entry[at]
    for z in range(p.demand_ptr[i], p.demand_ptr[i + 1]):
        k = p.demand_resource[z]
        if s.users[k] > 1:
            s.link_shared[n_shared] = z
            n_shared += 1
            if s.resource_mark[k] != generation:
                s.resource_mark[k] = generation
                s.resources[n_resources] = k
                n_resources += 1
    s.shared_end[at] = n_shared
    return n_resources
