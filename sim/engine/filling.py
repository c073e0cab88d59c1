"""Weighted max-min shares by water filling: of a component, or of one resource by itself.

`reference.max_min_rates` says what they mean.
"""

from __future__ import annotations

import math

from sim.engine.state import State
from sim.program import Program

WIDE = 16  # demands of an op from which on what changes on one of its resources is tried alone,
FEW = 8  # where no more than so many are on it
INFINITY = math.inf


def fill(p: Program, s: State, n_flows: int, n_resources: int) -> None:
    """Find the rates of a component.

    Parameters
    ----------
    p, s : Program, State
        Its `flows` and `resources`; their rates so far become `old_rate`.
    n_flows, n_resources : int
        How many they are.
    """
    if n_flows == 1:
        at = s.flows[0]
        s.old_rate[at] = s.rate[at]
        s.rate[at] = s.limit[at]
        s.height[at] = -1.0
        return
    weight, demand_resource, demand_amount, capacity = (
        p.weight, p.demand_resource, p.demand_amount, p.capacity,
    )  # fmt: skip
    entry, shared_end, link_shared = s.entry, s.shared_end, s.link_shared
    flows, resources, rising, op_at, limit = s.flows, s.resources, s.rising, s.op_at, s.limit
    rate, old_rate, height, tight, free = s.rate, s.old_rate, s.height, s.tight, s.free
    pull, full = s.pull, s.full
    has_wide = s.widest >= WIDE
    for j in range(n_flows):
        at = flows[j]
        old_rate[at] = rate[at]
        rate[at] = -1.0
        rising[j] = at
    for j in range(n_resources):
        free[resources[j]] = capacity[resources[j]]
    n_rising, n_up, level = n_flows, n_flows, 0.0
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
                for e in range(entry[at], shared_end[at]):
                    z = link_shared[e]
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
                    for e in range(entry[at], shared_end[at]):
                        if full[demand_resource[link_shared[e]]] == 1:
                            stops = True
                if stops:
                    x = level * weight[o]
                    if x > limit[at]:
                        x = limit[at]
                    rate[at] = x
                    height[at] = level
                    tight[at] = 0
                    n_rising -= 1
                    if has_wide:
                        for e in range(entry[at], entry[at + 1]):
                            s.link_tight[e] = 0
                    for e in range(entry[at], shared_end[at]):
                        z = link_shared[e]
                        k = demand_resource[z]
                        free[k] -= x * demand_amount[z]
                        if has_wide and full[k] == 1:
                            s.link_tight[entry[at] + z - p.demand_ptr[p.route[o]]] = 1
                            tight[at] += 1
        if n_rising > FEW:
            n_up, n_resources = let_stand(p, s, n_up, n_resources, level)
            n_rising = n_up


def let_stand(p: Program, s: State, n_up: int, n_resources: int, level: float) -> tuple[int, int]:
    """Pass over what rises no longer; end what is left alone on its resource.

    Such a flow ends where its resource, or its bound, lets it.

    Returns
    -------
    n_rising, n_resources : int, int
        What still rises, and resources that it draws on.
    """
    demand_resource, entry, shared_end, link_shared = (
        p.demand_resource, s.entry, s.shared_end, s.link_shared,
    )  # fmt: skip
    op_at, rate, limit, full = s.op_at, s.rate, s.limit, s.full
    rising, resources = s.rising, s.resources
    for j in range(n_resources):
        full[resources[j]] = 0
    for j in range(n_up):
        at = rising[j]
        if rate[at] < 0.0:
            for e in range(entry[at], shared_end[at]):
                full[demand_resource[link_shared[e]]] += 1
    c = 0
    for j in range(n_up):
        at = rising[j]
        if rate[at] >= 0.0:
            continue
        o = op_at[at]
        z = link_shared[entry[at]]
        k = demand_resource[z]
        if shared_end[at] - entry[at] == 1 and full[k] == 1:
            quotient = s.free[k] / (p.demand_amount[z] * p.weight[o])
            x = limit[at] / p.weight[o]
            if quotient < x:
                x = quotient
            if level > x:
                x = level
            x *= p.weight[o]
            if x > limit[at]:
                x = limit[at]
            rate[at] = x
            full[k] = 0
        else:
            rising[c] = at
            c += 1
    n_rising = c
    c = 0
    for j in range(n_resources):
        if full[resources[j]] > 0:
            resources[c] = resources[j]
            c += 1
    return n_rising, c


def fill_one(p: Program, s: State, k: int) -> int:
    """Find the rates on one resource of wide ops, with wide ops as high as they are.

    A change on one of the many resources of a wide op seldom concerns others. The answer stands if
    no wide op is too high for the resource, and each is still held there: by its bound, or by a
    resource that is full.

    Returns
    -------
    int
        Lanes on the resource, in `flows`, whose rates so far are now `old_rate`; 0 where the answer
        does not stand, or wide ops have yet to be settled.
    """
    route, weight, demand_ptr, demand_amount = p.route, p.weight, p.demand_ptr, p.demand_amount
    flows, op_at, limit, entry = s.flows, s.op_at, s.limit, s.entry
    rate, old_rate, height, tight = s.rate, s.old_rate, s.height, s.tight
    link_lane, link_next, link_tight = s.link_lane, s.link_next, s.link_tight
    head = s.head[k]
    n_flows, widest, lowest = 0, 0, 0.0
    e = head
    while e >= 0:
        at = link_lane[e]
        flows[n_flows] = at
        n_flows += 1
        i = route[op_at[at]]
        n_demands = demand_ptr[i + 1] - demand_ptr[i]
        if n_demands > widest:
            widest = n_demands
        if n_demands > 1 and height[at] < lowest:
            lowest = height[at]
        e = link_next[e]
    if widest < WIDE or lowest < 0.0:
        return 0
    for j in range(n_flows):
        at = flows[j]
        old_rate[at] = rate[at]
        rate[at] = -1.0
    n_rising, spare, level, fits = n_flows, p.capacity[k], 0.0, True
    while n_rising > 0 and fits:
        pull = 0.0
        lowest = INFINITY
        e = head
        while e >= 0:
            at = link_lane[e]
            if rate[at] < 0.0:
                o = op_at[at]
                z = demand_ptr[route[o]]
                pull += demand_amount[z + e - entry[at]] * weight[o]
                quotient = limit[at] / weight[o]
                if demand_ptr[route[o] + 1] - z > 1:
                    quotient = height[at]
                if quotient < lowest:
                    lowest = quotient
            e = link_next[e]
        quotient = spare / pull
        if quotient < lowest:
            lowest = quotient
        if lowest > level:
            level = lowest
        full = 1 if quotient <= level else 0
        e = head
        while e >= 0:
            at = link_lane[e]
            if rate[at] < 0.0:
                o = op_at[at]
                z = demand_ptr[route[o]]
                quotient = limit[at] / weight[o]
                x = -1.0
                if demand_ptr[route[o] + 1] - z > 1:
                    if height[at] <= level:
                        x = old_rate[at]
                        tight[at] += full - link_tight[e]
                        link_tight[e] = full
                        if tight[at] == 0 and height[at] < quotient:
                            fits = False
                    elif full == 1:
                        fits = False
                elif full == 1 or quotient <= level:
                    x = level * weight[o]
                    if x > limit[at]:
                        x = limit[at]
                if x >= 0.0:
                    rate[at] = x
                    n_rising -= 1
                    spare -= x * demand_amount[z + e - entry[at]]
            e = link_next[e]
    if fits:
        return n_flows
    for j in range(n_flows):
        rate[flows[j]] = old_rate[flows[j]]
    return 0
