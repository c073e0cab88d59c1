"""Plan + costs + fabric -> Program: what runs meets how much work it is.

Each rank (or class of equal ranks) gets one lane a stream and one for the host thread. A compute
segment becomes its kernels, each launched by a host op of its own; a collective becomes one op
with the demands of all its edges, or, where several lanes take part, an arrival op a lane (which
takes the SMs of its channels and holds them while it waits for late peers), its ops on the wire
(`teams.py`) and a finish op a lane.

Where there are many classes, a segment whose kernels are longer than their launches keeps the
launch of its first kernel; the others can't be waited for and become one host op. Op columns are
written once, in the order in which the engine wants them, since there may be millions of ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.fabric.role import Role
from sim.lowering.layout import PartLayout, edges_of, exclusive, lay_out
from sim.lowering.parts import (
    B1,
    CATEGORIES,
    F8,
    I4,
    I8,
    NO_FLIGHTS,
    Classes,
    Flights,
    Part,
    Rows,
)  # fmt: skip
from sim.lowering.slack import may_bind
from sim.lowering.table import table_of
from sim.lowering.teams import Team
from sim.program import Program, Timeline, assemble
from sim.records import dataclass
from sim.strategies.plan import Plan

_COPY_STREAMS = frozenset({"copy_in", "offload_in", "offload_out", "nvme"})
_HASTE = 0.5  # kernels may be so much faster than their rows say (jitter) and still hide launches


class _Wires(NamedTuple):
    """Columns of all wire ops, and the precedence edges to and from them."""

    plan_op: I8
    lane: I8
    latency: F8
    work: F8
    bound: F8
    route: I8  # among the wires' own routes
    steps: I8
    peer: I8
    arrive: I8  # (m,) op of a member that a wire op waits for; the next one is its finish
    waits: I8  # (m,) the wire op
    ptr: I8  # routes
    resource: I8
    amount: F8


@dataclass(frozen=True, slots=True)
class RankView:
    """Where one class of ranks is found in the op table."""

    index: int  # of the class, and of the SMs that its ops hold
    rank: int
    multiplicity: int
    role: Role
    plan: Plan
    compute: slice
    copies: I8
    comm_begin: I8  # ops at whose start a collective is in flight
    comm_end: I8  # ops at whose end it is over
    comm_plan: I8
    comm_kind: tuple[str, ...]
    comm_label: tuple[str, ...]
    comm_bytes: F8


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program and what its ops are; or a stack of programs, with a row and a view each."""

    program: Program
    plan_op: I4  # (n,) index into its view's plan, also of the host op that launches it
    category: npt.NDArray[np.int8]  # (n,) index into CATEGORIES
    alone_s: F8  # (n,)
    views: tuple[RankView, ...]
    lane_names: tuple[str, ...]

    def row(self, i: int) -> Lowered:
        """One program of a stack."""
        if not self.program.stack:
            return self
        return Lowered(
            self.program.row(i), self.plan_op, self.category, self.alone_s[i], (self.views[i],),
            self.lane_names,
        )  # fmt: skip

    def slowest(self, timeline: Timeline) -> RankView:
        """The rank whose kernels end last; of a stack, the first row's."""
        if len(self.views) == 1 or self.program.stack:
            return self.views[0]
        return max(self.views, key=lambda view: float(timeline.end[view.compute].max()))


def hidden_launches(part: Part, fastest: float) -> B1:
    """Plan ops whose rows but the first are launched before they can be needed, whatever else runs.

    Launch i follows launch 0 by the host's time for 1..i; kernel i follows kernel 0 by at least
    what 0..i-1 take alone, and kernel 0 its launch. A kernel that the host waits for hides none.
    """
    rows, row_start, row_count = part.rows, part.row_start, part.row_count
    alone = rows.latency_s + np.where(rows.work > 0.0, rows.work / rows.bound, 0.0)
    launched, run = np.cumsum(rows.host_s), _HASTE / fastest * np.cumsum(alone)
    key = row_start * (rows.work.size + 1) + row_count
    _, places, which = np.unique(key, return_index=True, return_inverse=True)
    found = np.zeros(places.size, dtype=bool)
    for i, (first, count) in enumerate(
        zip(row_start[places].tolist(), row_count[places].tolist(), strict=True)
    ):
        end = first + count
        before = run[first : end - 1] - run[first] + _HASTE / fastest * alone[first]
        found[i] = bool((launched[first + 1 : end] - launched[first] <= before).all())
        found[i] &= not rows.waits[first:end].any()
    out: B1 = found[which.ravel()]
    return out


class _Played(NamedTuple):
    """A part as the ops of a class that plays it."""

    part: Part
    layout: PartLayout
    row: I8  # (n,) of costs; 0 for host ops, which have none
    is_host: B1
    src: I8  # edges
    dst: I8

    def device(self, column: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
        """A column of costs, op by op; `fill` for host ops."""
        return np.where(self.is_host, np.asarray(fill, dtype=column.dtype), column[self.row])


class _ClassRun(NamedTuple):
    """Classes in a row that play the same part."""

    played: _Played
    role: int  # which part that is
    begin: int  # first class
    classes: int  # how many
    each: I4  # (classes, 1) their numbers
    base: I8  # (classes, 1) first op of each
    pace: F8 | float  # (classes, 1) their speed, or the speed of all
    curve: I4 | int  # (classes, 1) where their curves begin, or those of all begin


def _played(part: Part, hidden: B1) -> _Played:
    table = table_of(part.plan)
    layout = lay_out(part, table, hidden)
    row = np.concatenate((np.zeros(layout.n_host, dtype=np.int64), layout.rows))
    src, dst = edges_of(table, layout)
    return _Played(part, layout, row, np.arange(layout.n) < layout.n_host, src, dst)


def _curves(parts: Sequence[Part], classes: Classes) -> tuple[F8, I4]:
    """All curves, and where each class's begin; a slow rank's are the same ones, lower."""
    tables: list[F8] = []
    begin = np.zeros(len(classes.ranks), dtype=np.int32)
    at = 0
    for i, part in enumerate(parts):
        mine = classes.role == i
        speeds, of = np.unique(classes.speed[mine], return_inverse=True)
        curves = part.rows.curves
        tables.append((curves * speeds[:, None, None]).reshape(-1, curves.shape[1]))
        begin[mine] = at + of * curves.shape[0]
        at += tables[-1].shape[0]
    width = max(table.shape[1] for table in tables)  # columns beyond a GPU's SMs are never read
    wide = [np.pad(t, ((0, 0), (0, width - t.shape[1])), mode="edge") for t in tables]
    return (np.concatenate(wide) if len(wide) > 1 else tables[0]), begin


def _runs(played: Sequence[_Played], classes: Classes, curve: I4) -> tuple[_ClassRun, ...]:
    sizes = np.array([p.layout.n for p in played], dtype=np.int64)
    base = exclusive(sizes[classes.role])
    starts = [0, *(np.flatnonzero(np.diff(classes.role)) + 1).tolist(), classes.role.size]
    runs = []
    for first, end in pairwise(starts):
        speed, curves = classes.speed[first:end], curve[first:end]
        runs.append(
            _ClassRun(
                played=played[int(classes.role[first])],
                role=int(classes.role[first]),
                begin=first,
                classes=end - first,
                each=np.arange(first, end, dtype=np.int32)[:, None],
                base=base[first:end, None],
                pace=float(speed[0]) if (speed == speed[0]).all() else speed[:, None],
                curve=int(curves[0]) if (curves == curves[0]).all() else curves[:, None],
            )
        )
    return tuple(runs)


def lower(parts: Sequence[Part], classes: Classes, flights: Flights = NO_FLIGHTS) -> Lowered:
    """Build the program of one step.

    Parameters
    ----------
    parts : sequence of Part
        What ranks of each role run, what it waits for and what it costs.
    classes : Classes
        Classes of ranks, which part each plays, and resources.
    flights : Flights
        Collectives on the wire; none where all ranks are one class.
    """
    keep: B1 | None = None
    hidden = [np.zeros(part.row_start.size, dtype=bool) for part in parts]
    if len(classes.ranks) > 1:
        hidden = [
            hidden_launches(part, float(classes.speed[classes.role == i].max()))
            for i, part in enumerate(parts)
        ]
        binding = may_bind(parts, classes, flights)
        keep = binding.resource
        parts = [
            part._replace(rows=_kept_rows(part.rows, local))
            for part, local in zip(parts, binding.local, strict=True)
        ]
    curves, curve_begin = _curves(parts, classes)
    played = [_played(part, hide) for part, hide in zip(parts, hidden, strict=True)]
    runs = _runs(played, classes, curve_begin)
    n_local = sum(run.classes * run.played.layout.n for run in runs)
    wires = _wires(flights, runs, n_local, keep)

    def columns(
        of: Callable[[_ClassRun], npt.NDArray[Any]], wire: npt.NDArray[Any] | float
    ) -> npt.NDArray[Any]:
        """Values of every class's ops, (n,) or (classes, n) a run, then of the wires'."""
        out: npt.NDArray[Any] | None = None
        for run in runs:
            values = of(run)
            if out is None:
                out = np.empty(n_local + wires.lane.size, dtype=values.dtype)
            at, n = int(run.base[0, 0]), run.played.layout.n
            out[at : at + run.classes * n].reshape(run.classes, n)[:] = values
        assert out is not None
        out[n_local:] = wire
        return out

    def latency(run: _ClassRun) -> F8:
        out = run.played.part.rows.latency_s[run.played.row]
        out[run.played.is_host] = run.played.layout.host_s
        return out

    def curve(run: _ClassRun) -> I4:
        return run.played.device(run.played.part.rows.curve, -1)

    def paced(name: str, fill: float) -> Callable[[_ClassRun], F8]:
        def values(run: _ClassRun) -> F8:
            out = run.played.device(getattr(run.played.part.rows, name), fill)
            if isinstance(run.pace, float) and run.pace == 1.0:
                return out
            return np.asarray(out * np.where(curve(run) >= 0, run.pace, 1.0))

        return values

    def shifted(run: _ClassRun) -> I4:
        own = curve(run)
        return np.where(own >= 0, own + np.int32(run.curve), np.int32(-1))

    def alone(run: _ClassRun) -> F8:
        p = run.played
        out = p.part.rows.alone_s[p.row]
        out[p.is_host] = p.layout.host_s
        if isinstance(run.pace, float) and run.pace == 1.0:
            return out
        return np.where((p.part.rows.curve[p.row] >= 0) & ~p.is_host, out / run.pace, out)

    def hold(run: _ClassRun) -> I4:
        return run.played.device(run.played.part.rows.hold, 0)

    lanes = np.array([len(p.layout.streams) for p in played], dtype=np.int32)[classes.role]
    lane_base = np.cumsum(lanes, dtype=np.int32) - lanes
    n_lanes = int(lanes.sum())
    hold_until = np.arange(n_local + wires.lane.size, dtype=np.int32)
    hold_until[n_local:] = -1
    hold_until[wires.arrive] = wires.waits
    routes = _routes(runs, classes, wires)
    stepped = bool((wires.steps > 1).any())
    # lanes ascend, so that ops keep their place
    program, _ = assemble(
        lane=columns(lambda r: lane_base[r.each] + r.played.layout.lane, wires.lane + n_lanes),
        latency=columns(latency, wires.latency),
        work=columns(lambda r: r.played.device(r.played.part.rows.work, 0.0), wires.work),
        bound=columns(paced("bound", np.inf), wires.bound),
        weight=columns(paced("weight", 1.0), wires.bound),
        demand_ptr=routes.ptr,
        demand_resource=routes.resource,
        demand_amount=routes.amount,
        route=columns(routes.of, routes.wires),
        capacity=classes.capacity,
        src=np.concatenate(
            [*((r.base + r.played.src).ravel() for r in runs), wires.arrive, wires.waits]
        ),
        dst=np.concatenate(
            [*((r.base + r.played.dst).ravel() for r in runs), wires.waits, wires.arrive + 1]
        ),
        hold_resource=columns(lambda r: np.where(hold(r) > 0, r.each, np.int32(-1)), -1),
        hold_units=columns(hold, 0),
        hold_until=hold_until,
        hold_capacity=classes.sms,
        curve=columns(shifted, -1),
        curve_resource=columns(lambda r: np.where(curve(r) >= 0, r.each, np.int32(-1)), -1),
        curves=curves,
        steps=columns(lambda r: np.ones(r.played.row.size, np.int32), wires.steps)
        if stepped
        else None,
        peer=columns(lambda r: np.full(r.played.row.size, -1, np.int32), wires.peer)
        if stepped
        else None,
        n_lanes=n_lanes + int(wires.lane.max(initial=-1)) + 1,
    )
    host, wire = CATEGORIES.index("host"), CATEGORIES.index("collective")
    return Lowered(
        program=program,
        plan_op=columns(lambda r: r.played.layout.plan_op, wires.plan_op),
        category=columns(lambda r: r.played.device(r.played.part.rows.category, host), wire),
        alone_s=columns(alone, 0.0),
        views=tuple(view for run in runs for view in _views(run, classes)),
        lane_names=_lane_names(runs, classes, program.n_lanes),
    )


def _kept(ptr: npt.NDArray[Any], keep: B1) -> I4:
    """Row pointers once only some entries are kept."""
    before = np.zeros(keep.size + 1, dtype=np.int32)
    np.cumsum(keep, out=before[1:])
    return np.asarray(before[ptr], dtype=np.int32)


def _kept_rows(rows: Rows, keep: B1) -> Rows:
    return rows._replace(
        demand_ptr=_kept(rows.demand_ptr, keep),
        demand_local=rows.demand_local[keep],
        demand_amount=rows.demand_amount[keep],
    )


def _wires(flights: Flights, runs: Sequence[_ClassRun], n_local: int, keep: B1 | None) -> _Wires:
    """Wire ops of all flights by lane, after the `n_local` ops of classes."""
    if not flights.of.size:
        none, no = np.zeros(0, dtype=np.int64), np.zeros(0)
        return _Wires(none, none, no, no, no, none, none, none, none, none, none, none, no)
    wires, of = flights.wires, flights.of
    teams = {id(w.team): w.team for w in wires}
    number = {key: i for i, key in enumerate(teams)}
    team_of = np.array([number[id(w.team)] for w in wires])[of]
    arrivals = _arrivals(flights, list(teams.values()), team_of, runs)
    if keep is not None:
        for key, t in teams.items():
            some = keep[t.resource]
            teams[key] = t._replace(
                ptr=_kept(t.ptr, some).astype(np.int64),
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

    def each(values: Iterable[float]) -> F8:
        return np.repeat(np.array(list(values), dtype=float)[of], counts)

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
    bound = each(w.bound * w.team.steps * w.team.chunk for w in wires)
    return _Wires(
        plan_op=np.repeat(flights.ops.max(axis=1), counts)[order],
        lane=lane[order],
        latency=each(w.latency_s / w.team.steps for w in wires)[order],
        work=each(w.work * w.team.chunk for w in wires)[order],
        bound=(bound * _joined([t.pace for t in whole], team_of))[order],
        route=(np.repeat(starts[team_of], counts) + own)[order],
        steps=index(w.team.steps for w in wires)[order],
        peer=place[np.where(peer < 0, -1, peer - n_local)],
        arrive=arrivals,
        waits=place[waits - n_local],
        ptr=np.concatenate([t.ptr[1:] + i for t, i in zip(whole, ends, strict=True)]),
        resource=np.concatenate([t.resource for t in whole]),
        amount=np.concatenate([t.amount for t in whole]),
    )


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
    flights: Flights, teams: Sequence[Team], team_of: I8, runs: Sequence[_ClassRun]
) -> I8:
    """Op with which each member arrives at each flight."""
    base = np.concatenate([run.base.ravel() for run in runs])
    run_of = np.repeat(np.arange(len(runs)), [run.classes for run in runs])
    first = np.stack([r.played.layout.first[flights.ops[:, r.role]] for r in runs], axis=1)
    sizes = np.array([team.member.size for team in teams])[team_of]
    begin = exclusive(sizes)
    out = np.empty(int(sizes.sum()), dtype=np.int64)
    for i, team in enumerate(teams):
        mine, member = np.flatnonzero(team_of == i), team.member
        where = begin[mine, None] + np.arange(member.size)
        out[where] = base[member] + first[mine[:, None], run_of[member]]
    return out


class _Routes(NamedTuple):
    """Demand table: one route a (class, row), then the wires'; the last route is empty."""

    ptr: I4
    resource: I4
    amount: F8
    wires: I8  # route of each wire op
    begin: dict[int, int]  # first route of a run, by its first class

    def of(self, run: _ClassRun) -> I4:
        """Route of each op of a run."""
        rows, empty = run.played.part.rows.work.size, np.int32(self.ptr.size - 2)
        rank = np.int32(self.begin[run.begin]) + (run.each - np.int32(run.begin)) * np.int32(rows)
        return np.where(run.played.is_host, empty, rank + run.played.row.astype(np.int32))


def _routes(runs: Sequence[_ClassRun], classes: Classes, wires: _Wires) -> _Routes:
    counts, resources, amounts = [], [], []
    begin, own = {}, 0
    for run in runs:
        rows, where = run.played.part.rows, slice(run.begin, run.begin + run.classes)
        local, scale = classes.local[where], classes.scale[where]
        if len(classes.ranks) == 1:  # beyond a class's own are the machine's: it needs no flights
            shared = np.arange(classes.capacity.size)[None]
            local = np.concatenate((local, shared), axis=1)
            scale = np.concatenate((scale, np.ones_like(shared, dtype=float)), axis=1)
        counts.append(np.tile(np.diff(rows.demand_ptr), run.classes))
        resources.append(local[:, rows.demand_local].ravel())
        amounts.append((rows.demand_amount * scale[:, rows.demand_local]).ravel())
        begin[run.begin] = own
        own += run.classes * rows.work.size
    ptr = np.zeros(own + wires.ptr.size + 2, dtype=np.int32)
    np.cumsum(np.concatenate(counts), out=ptr[1 : own + 1])
    ptr[own + 1 : -1] = ptr[own] + wires.ptr
    ptr[-1] = ptr[-2]
    return _Routes(
        ptr,
        np.concatenate([*resources, wires.resource]).astype(np.int32),
        np.concatenate([*amounts, wires.amount]),
        own + wires.route,
        begin,
    )


def _views(run: _ClassRun, classes: Classes) -> Iterator[RankView]:
    """Where each class's lanes stand."""
    layout, table = run.played.layout, table_of(run.played.part.plan)
    copy_lanes = [i for i, s in enumerate(layout.streams) if s in _COPY_STREAMS]
    copies = np.flatnonzero(np.isin(layout.lane, copy_lanes))
    compute_lane = layout.streams.index("compute") if "compute" in layout.streams else 0
    compute = np.flatnonzero(layout.lane == compute_lane)
    first, last = layout.first[table.collectives], layout.last[table.collectives]
    for c, at in enumerate(run.base.ravel().tolist(), run.begin):
        yield RankView(
            index=c,
            rank=classes.ranks[c],
            multiplicity=int(classes.multiplicity[c]),
            role=run.played.part.role,
            plan=run.played.part.plan,
            compute=slice(at + int(compute[0]), at + int(compute[-1]) + 1),
            copies=at + copies,
            comm_begin=at + first,
            comm_end=at + last,
            comm_plan=table.collectives,
            comm_kind=table.comm_kind,
            comm_label=table.comm_label,
            comm_bytes=table.comm_bytes,
        )


def _lane_names(runs: Sequence[_ClassRun], classes: Classes, n_lanes: int) -> tuple[str, ...]:
    names = tuple(
        f"rank {classes.ranks[c]} {stream}"
        for run in runs
        for c in range(run.begin, run.begin + run.classes)
        for stream in run.played.layout.streams
    )
    return names + tuple(f"wire {w}" for w in range(n_lanes - len(names)))
