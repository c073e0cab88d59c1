"""Columns of the ops on the wire, and who waits for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cost.nccl.loads import Demands
from sim.lowering.layout import exclusive
from sim.lowering.parts import B1, F8, I4, I8, Flights
from sim.lowering.runs import ClassRun, Ground, Played, kept
from sim.lowering.teams import Team
from sim.records import NamedTuple


class Wires(NamedTuple):
    """Columns of all wire ops, and the precedence edges to and from them."""

    plan_op: I8
    lane: I8
    entry: I8  # of `WireCosts`
    route: I8  # among the wires' own routes
    steps: I8
    peer: I8
    arrive: I8  # (m,) op of a member that a wire op waits for; the next one is its finish
    waits: I8  # (m,) the wire op
    draws: Demands  # of each op of a team, team by team
    alone: B1  # one class takes part, in one step


class OwnTransfers(NamedTuple):
    """Collectives in which one class takes part: they need no op on the wire."""

    op: I8  # (n,) with which the class arrives
    entry: I8  # of `WireCosts`


class WireCosts(NamedTuple):
    """What ops on the wire cost, by kind of collective and, of each, by op."""

    latency: F8  # [s]
    work: F8
    bound: F8


def wire_costs(flights: Flights) -> WireCosts:
    """Of all flights, whichever are written out."""
    wires = flights.wires
    sizes = np.array([w.team.n_wires for w in wires], dtype=np.int64)

    def each(values: Iterable[float]) -> F8:
        return np.repeat(np.array(list(values), dtype=float), sizes)

    pace = np.concatenate([np.zeros(0), *(w.team.pace for w in wires)])
    return WireCosts(
        latency=each(w.latency_s / w.team.steps for w in wires),
        work=each(w.work * w.team.chunk for w in wires),
        bound=each(w.bound * w.team.steps * w.team.chunk for w in wires) * pace,
    )


def taken_in(wires: Wires, n_local: int) -> tuple[Wires, OwnTransfers]:
    """The wires without collectives of one class each, and those as ops of the class.

    Parameters
    ----------
    wires : Wires
        Of all flights.
    n_local : int
        Ops of classes, which stand before them.
    """
    which = wires.waits - n_local
    single = wires.alone[which]
    mine, left = which[single], ~wires.alone
    place = np.append(n_local + np.cumsum(left) - 1, -1)
    own = OwnTransfers(wires.arrive[single], wires.entry[mine])
    peer = wires.peer[left]
    rest = wires._replace(
        plan_op=wires.plan_op[left],
        lane=wires.lane[left],
        entry=wires.entry[left],
        route=wires.route[left],
        steps=wires.steps[left],
        peer=place[np.where(peer < 0, -1, peer - n_local)],
        arrive=wires.arrive[~single],
        waits=place[which[~single]],
        alone=wires.alone[left],
    )
    return rest, own


def wires_of(
    ground: Ground, played: Sequence[Played], flights: Flights, role: I8, base: I8, n_local: int
) -> Wires:
    """Wire ops of all flights by lane, after the ops of classes.

    Parameters
    ----------
    ground : Ground
        What may bind.
    played : sequence of Played
        Its parts, laid out.
    flights : Flights
        Collectives on the wire.
    role : (n_classes,) int64
        Which part each class plays.
    base : (n_classes,) int64
        First op of each; -1 for those that are not written out: nobody waits for them.
    n_local : int
        Ops of classes.
    """
    if not flights.of.size:
        none, no = np.zeros(0, dtype=np.int64), np.zeros(0)
        draws = Demands(np.zeros(1, dtype=np.int64), none, no)
        return Wires(none, none, none, none, none, none, none, none, draws, no > 0.0)
    wires, of = flights.wires, flights.of
    teams = {id(w.team): w.team for w in wires}
    number = {key: i for i, key in enumerate(teams)}
    team_of = np.array([number[id(w.team)] for w in wires])[of]
    arrivals = _arrivals(flights, list(teams.values()), team_of, played, role, base)
    there = arrivals >= 0
    keep = ground.keep
    if keep is not None:
        for key, t in teams.items():
            some = keep[t.resource]
            teams[key] = t._replace(
                ptr=kept(t.ptr, some).astype(np.int64),
                resource=t.resource[some],
                amount=t.amount[some],
            )
    whole = list(teams.values())
    sizes = np.array([t.n_wires for t in whole])
    starts = exclusive(sizes)
    ends = exclusive(np.array([t.resource.size for t in whole])).tolist()
    counts = sizes[team_of]
    at = n_local + exclusive(counts)
    own = np.arange(int(counts.sum())) - np.repeat(at - n_local, counts)

    def index(values: Iterable[int]) -> I8:
        return np.repeat(np.array(list(values), dtype=np.int64)[of], counts)

    waits = _joined([t.wire for t in whole], team_of)
    waits = waits + np.repeat(at, np.array([t.wire.size for t in whole])[team_of])
    lane = index(w.lane for w in wires) + own
    order = np.argsort(lane, kind="stable")
    place = np.empty(order.size + 1, dtype=np.int64)
    place[order] = n_local + np.arange(order.size)
    place[-1] = -1
    peer = _joined([t.peer for t in whole], team_of)
    peer = np.where(peer < 0, -1, peer + np.repeat(at, counts))[order]
    entries = exclusive(np.array([w.team.n_wires for w in wires]))
    return Wires(
        plan_op=np.repeat(flights.ops.max(axis=1), counts)[order],
        lane=lane[order],
        entry=(np.repeat(entries[of], counts) + own)[order],
        route=(np.repeat(starts[team_of], counts) + own)[order],
        steps=index(w.team.steps for w in wires)[order],
        peer=place[np.where(peer < 0, -1, peer - n_local)],
        arrive=arrivals[there],
        waits=place[waits[there] - n_local],
        draws=Demands(
            np.concatenate([[0], *(t.ptr[1:] + i for t, i in zip(whole, ends, strict=True))]),
            np.concatenate([t.resource for t in whole]),
            np.concatenate([t.amount for t in whole]),
        ),
        alone=_joined([t.alone for t in whole], team_of)[order],
    )


def successors(
    played: Sequence[Played], runs: Sequence[ClassRun], base: I8, wires: Wires
) -> tuple[I4, I4]:
    """Who waits for whom, as CSR over all ops: those of classes, then those on the wire.

    `base` is the first op of each class, (n_classes,).
    """
    lengths, to = [], []
    for run in runs:
        own = played[run.part]
        lengths.append(np.tile(np.diff(own.waited_ptr), run.classes))
        first = base[run.begin : run.begin + run.classes, None].astype(np.int32)
        to.append((first + own.waited).ravel())
    n_local, n = sum(each.size for each in lengths), wires.lane.size
    # what comes to the wire is waited for by its op there, behind all others
    order = np.argsort(wires.arrive)
    arrive, waits = wires.arrive[order], wires.waits[order]
    counts = np.concatenate([*lengths, np.bincount(wires.waits - n_local, minlength=n)])
    counts[arrive] += 1
    ptr = np.zeros(counts.size + 1, dtype=np.int32)
    np.cumsum(counts, out=ptr[1:])
    found = np.empty(int(ptr[-1]), dtype=np.int32)
    local = np.ones(int(ptr[n_local]), dtype=np.bool_)
    last = ptr[arrive + 1] - 1
    local[last] = False
    found[: local.size][local] = np.concatenate(to)
    found[last] = waits
    found[local.size :] = arrive[np.argsort(waits, kind="stable")] + 1
    return ptr, found


def _joined(columns: Sequence[npt.NDArray[Any]], of: I8) -> npt.NDArray[Any]:
    """``columns[i]`` for each i of `of`, one after the other."""
    sizes = np.array([column.size for column in columns])
    counts = sizes[of]
    inside = np.arange(int(counts.sum())) - np.repeat(exclusive(counts), counts)
    found: npt.NDArray[Any] = np.concatenate(columns)[
        np.repeat(exclusive(sizes)[of], counts) + inside
    ]
    return found


def _arrivals(
    flights: Flights, teams: Sequence[Team], team_of: I8, played: Sequence[Played], role: I8,
    base: I8,
) -> I8:  # fmt: skip
    """Op with which each member arrives at each flight; -1 for a member without ops."""
    sizes = np.array([team.member.size for team in teams])[team_of]
    begin = exclusive(sizes)
    out = np.full(int(sizes.sum()), -1, dtype=np.int64)
    order = np.argsort(team_of, kind="stable")
    ends = np.cumsum(np.bincount(team_of, minlength=len(teams))).tolist()
    for team, first, end in zip(teams, [0, *ends], ends, strict=False):
        mine = order[first:end]
        for i, c in enumerate(team.member.tolist()):
            if base[c] >= 0:
                part = int(role[c])
                out[begin[mine] + i] = base[c] + played[part].layout.first[flights.ops[mine, part]]
    return out
