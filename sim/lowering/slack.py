"""Demands that can never bind, left out of a program of many ranks.

A resource limits nobody while everything that may draw on it at once, at the rate each has alone,
fits its capacity: one op at a time of each stream of a rank, one collective at a time of each
communicator. Without such demands rates are the same to the bit, and the components that an engine
solves are much smaller: links that only one communicator uses drop out, and so do kernels that
leave enough HBM bandwidth to the collectives beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.lowering.parts import B1, F8, I4, Classes, Flights, Part, Wire
from sim.lowering.table import each_of, table_of
from sim.records import NamedTuple
from sim.strategies.plan import COLLECTIVE, HOST


class Binding(NamedTuple):
    """What may bind after all."""

    local: tuple[B1, ...]  # by part, (n demands of its rows,) by entry of the demand table
    resource: B1  # (n_resources,) for the demands of collectives


def may_bind(parts: Sequence[Part], classes: Classes, flights: Flights) -> Binding:
    """Which demands can ever limit a rate.

    Parameters
    ----------
    parts, classes, flights
        As `lower` takes them.
    """
    capacity, n_local = classes.capacity, classes.local.shape[1]
    players = [np.flatnonzero(classes.role == i) for i in range(len(parts))]
    streams = [_streams_at_most(part, n_local) for part in parts]
    scales = [classes.scale[mine] * classes.speed[mine].max() for mine in players]
    total = _wires_at_most(flights.wires, capacity.size)
    for mine, scale, drawn in zip(players, scales, streams, strict=True):
        for most in drawn.values():
            np.add.at(total, classes.local[mine], most * scale)
    local = tuple(
        _own_may_bind(part, classes.local[mine], scale, drawn, total, capacity)
        for part, mine, scale, drawn in zip(parts, players, scales, streams, strict=True)
    )
    return Binding(local, total > capacity)


def _own_may_bind(
    part: Part, local: I4, scale: F8, drawn: dict[str, F8], total: F8, capacity: F8
) -> B1:
    """By entry of a part's demands: may its own op, with all other streams and wires, fill it?"""
    rows = part.rows
    entry = np.repeat(np.arange(rows.work.size), np.diff(rows.demand_ptr))
    rate = rows.demand_amount * rows.bound[entry]
    out = np.zeros(rows.demand_local.size, dtype=bool)
    own = drawn.get("compute", np.zeros(local.shape[1]))
    for k in range(local.shape[1]):
        mine = rows.demand_local == k
        beside = (total[local[:, k]] - own[k] * scale[:, k])[:, None]
        needs = beside + rate[mine] * scale[:, k, None]
        out[mine] = (needs > capacity[local[:, k]][:, None]).any(axis=0)
    return out


def _wires_at_most(wires: Sequence[Wire], n_resources: int) -> F8:
    """Sum over communicators of the most that each draws.

    Each wire lane draws the most of its ops. Stepped lanes of a communicator and its others never
    run at once: the latter wait for all ranks, and all ranks for them.
    """
    lanes: dict[tuple[str, bool], dict[int, dict[int, Wire]]] = {}
    for one in wires:
        kind = (one.comm, one.team.steps > 1)
        teams = lanes.setdefault(kind, {}).setdefault(one.lane, {})
        known = teams.get(id(one.team))
        if known is None or one.bound > known.bound:
            teams[id(one.team)] = one
    drawn: dict[str, F8] = {}
    for (comm, _), found in lanes.items():
        total = np.zeros(n_resources)
        for teams in found.values():
            total += _lane_at_most(list(teams.values()), n_resources)
        drawn[comm] = np.maximum(drawn.get(comm, 0.0), total)
    return np.asarray(sum(drawn.values(), np.zeros(n_resources)))


def _lane_at_most(wires: Sequence[Wire], n_resources: int) -> F8:
    keys, amounts = [], []
    for one in wires:
        team = one.team
        wire = np.repeat(np.arange(team.n_wires), np.diff(team.ptr))
        amounts.append(team.amount * team.pace[wire] * (one.bound * team.steps * team.chunk))
        if len(wires) == 1:  # a wire op names a resource once
            return np.bincount(team.resource, amounts[0], n_resources).astype(float)
        keys.append(wire * n_resources + team.resource)
    found, where = np.unique(np.concatenate(keys), return_inverse=True)
    most = np.zeros(found.size)
    np.maximum.at(most, where, np.concatenate(amounts))
    return np.bincount(found % n_resources, weights=most, minlength=n_resources).astype(float)


def _streams_at_most(part: Part, n_local: int) -> dict[str, F8]:
    """For every stream, the most that any of its ops draws on each local resource."""
    rows, table, at = part.rows, table_of(part.plan), each_of(part.plan).at
    draws = at[~np.isin(table.kind[at], (HOST, COLLECTIVE))]
    start, count, stream = part.row_start[draws], part.row_count[draws], table.stream_id[draws]
    entry = np.repeat(np.arange(rows.work.size), np.diff(rows.demand_ptr))
    rate = rows.demand_amount * rows.bound[entry]
    out: dict[str, F8] = {}
    for which in dict.fromkeys(stream.tolist()):
        begins = np.bincount(start[stream == which], minlength=rows.work.size + 1)
        ends = np.bincount((start + count)[stream == which], minlength=rows.work.size + 1)
        mine = (np.cumsum(begins - ends) > 0)[entry]
        most = out[table.streams[which]] = np.zeros(n_local)
        np.maximum.at(most, rows.demand_local[mine], rate[mine])
    return out
