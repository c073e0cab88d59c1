"""Plan + costs + fabric -> Program: what runs meets how much work it is.

Each rank (or class of equal ranks) gets one lane a stream and one for the host thread. A compute
segment becomes its kernels, each launched by a host op of its own; a collective becomes one op
with the demands of all its edges, or, where several lanes take part, an arrival op a lane (which
takes the SMs of its channels and holds them while it waits for late peers), its ops on the wire
(`teams.py`) and a finish op a lane. Where a group is one class, the arrival op is the one on the
wire.

Where there are many classes, a segment whose kernels are longer than their launches keeps the
launch of its first kernel; the others can't be waited for and become one host op. Op columns are
written once, in the order in which the engine wants them, since there may be millions of ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.fabric.role import Role
from sim.lowering.parts import (
    CATEGORIES,
    F8,
    I4,
    I8,
    NO_FLIGHTS,
    NOT_KERNELS,
    Classes,
    Flights,
    Part,
)
from sim.lowering.runs import ClassRun, Ground, ground_of, runs_of
from sim.lowering.table import table_of
from sim.lowering.wires import OwnTransfers, Wires, successors, taken_in, wires_of
from sim.program import Program, Timeline, followers_of, validate
from sim.records import dataclass
from sim.strategies.plan import Plan

_COPY_STREAMS = frozenset({"copy_in", "offload_in", "offload_out", "nvme"})


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
    wire: int  # first op on the wire

    def row(self, i: int) -> Lowered:
        """One program of a stack."""
        if not self.program.stack:
            return self
        return Lowered(
            self.program.row(i), self.plan_op, self.category, self.alone_s[i], (self.views[i],),
            self.lane_names, self.wire,
        )  # fmt: skip

    def slower(self, factor: F8) -> Lowered:
        """The same where ops take so many times as long, (n,)."""
        program = self.program._replace(work=self.program.work * factor)
        return replace(self, program=program, alone_s=self.alone_s * factor)

    def kernels(self, view: RankView) -> I8:
        """Ops of a rank that its GPU's pace changes."""
        ops = np.arange(view.compute.start, view.compute.stop)
        return ops[~np.isin(self.category[ops], NOT_KERNELS)]

    def slowest(self, timeline: Timeline) -> RankView:
        """The rank whose kernels end last; of a stack, the first row's."""
        if len(self.views) == 1 or self.program.stack:
            return self.views[0]
        return max(self.views, key=lambda view: float(timeline.end[view.compute].max()))


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
    ground = ground_of(parts, classes, flights)
    return written(ground, classes, flights, np.arange(len(classes.ranks)))


def written(ground: Ground, classes: Classes, flights: Flights, some: I8) -> Lowered:
    """The program of some classes alone: nobody waits for the others.

    Parameters
    ----------
    ground : Ground
        Of all classes.
    classes, flights : Classes, Flights
        All of them.
    some : (n,) int64
        Which to write out, ascending.
    """
    role, base = classes.role, np.full(classes.role.size, -1, dtype=np.int64)
    classes, curves = classes.only(some), ground.curves
    runs = runs_of(ground.played, classes, ground.curve_begin[some])
    n_local = sum(run.classes * run.played.layout.n for run in runs)
    base[some] = np.concatenate([run.base.ravel() for run in runs])
    all_wires = wires_of(ground, flights, role, base, n_local)
    routes = _routes(runs, classes, all_wires)
    wires, own = taken_in(all_wires, n_local)

    rows: dict[int, I8] = {}  # first row of each class, by the first class of its run
    n_rows = 0
    for run in runs:
        size = run.played.part.rows.work.size + 1
        rows[run.begin] = n_rows + size * np.arange(run.classes)[:, None]
        n_rows += size * run.classes

    def columns(
        of: Callable[[ClassRun], npt.NDArray[Any]], wire: npt.NDArray[Any] | float
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

    # where each op's values stand among those of all rows, class by class, and of the wires
    place = columns(lambda run: rows[run.begin] + run.played.row, 0)
    place[n_local:] = n_rows + np.arange(wires.lane.size)

    def spread(
        of: Callable[[ClassRun], npt.NDArray[Any]], wire: npt.NDArray[Any] | float
    ) -> npt.NDArray[Any]:
        """Values by row of costs, see `Played.costs`, (rows,) or (classes, rows) a run."""
        values = [
            np.broadcast_to(of(run), (run.classes, run.played.part.rows.work.size + 1)).ravel()
            for run in runs
        ]
        beyond = np.broadcast_to(np.asarray(wire, dtype=values[0].dtype), wires.lane.shape)
        found: npt.NDArray[Any] = np.concatenate((*values, beyond)).take(place)
        return found

    def costs(name: str, host: float, wire: npt.NDArray[Any] | float) -> npt.NDArray[Any]:
        return spread(lambda run: run.played.costs(name, host), wire)

    def paced(name: str, host: float, wire: F8) -> npt.NDArray[Any]:
        def values(run: ClassRun) -> F8:
            own = run.played.costs(name, host)
            return np.asarray(own * np.where(curve(run) >= 0, run.pace, 1.0))

        return spread(values, wire)

    def flown(column: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A column in which collectives of one class are what they are on the wire."""
        column[own.op] = values
        return column

    def issued(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A column in which host ops take what each of them does."""
        for run in runs:
            at, n, host_s = int(run.base[0, 0]), run.played.layout.n, run.played.layout.host_s
            own = column[at : at + run.classes * n].reshape(run.classes, n)
            own[:, : host_s.size] = host_s
        return column

    def curve(run: ClassRun) -> I4:
        return run.played.costs("curve", -1)

    def shifted(run: ClassRun) -> I4:
        own = curve(run)
        return np.where(own >= 0, own + np.int32(run.curve), np.int32(-1))

    def alone(run: ClassRun) -> F8:
        own = run.played.costs("alone_s", 0.0)
        return np.where(curve(run) >= 0, own / run.pace, own)

    def holds(run: ClassRun) -> I4:
        return np.where(run.played.costs("hold", 0) > 0, run.each, np.int32(-1))

    def reads(run: ClassRun) -> I4:
        return np.where(curve(run) >= 0, run.each, np.int32(-1))

    streams = np.array([len(p.layout.streams) for p in ground.played], dtype=np.int32)
    lanes = streams[classes.role]
    lane_base = np.cumsum(lanes, dtype=np.int32) - lanes
    n_lanes = int(lanes.sum())
    n = n_local + wires.lane.size
    hold_until = np.arange(n, dtype=np.int32)
    hold_until[wires.arrive] = wires.waits
    steps, peer = np.ones(n, dtype=np.int32), np.full(n, -1, dtype=np.int32)
    follower = peer  # nobody's, as a rule
    if (wires.steps > 1).any():
        steps[n_local:], peer[n_local:] = wires.steps, wires.peer
        follower = followers_of(peer)
    succ_ptr, succ = successors(runs, wires)
    # ops stand as the engine wants them: there is nothing to put in order
    program = Program(
        lane=columns(lambda r: lane_base[r.each] + r.played.layout.lane, wires.lane + n_lanes),
        latency=flown(issued(costs("latency_s", 0.0, wires.latency)), own.latency),
        work=flown(costs("work", 0.0, wires.work), own.work),
        bound=flown(paced("bound", np.inf, wires.bound), own.bound),
        weight=flown(paced("weight", 1.0, wires.bound), own.bound),
        demand_ptr=routes.ptr,
        demand_resource=routes.resource,
        demand_amount=routes.amount,
        route=flown(spread(routes.of, routes.of_wires(wires)), routes.of_wires(own)),
        capacity=classes.capacity,
        succ_ptr=succ_ptr,
        succ=succ,
        hold_resource=spread(holds, -1),
        hold_units=costs("hold", 0, 0),
        hold_until=hold_until,
        hold_capacity=classes.sms,
        curve=spread(shifted, -1),
        curve_resource=spread(reads, -1),
        curves=curves,
        steps=steps,
        peer=peer,
        follower=follower,
        n_lanes=n_lanes + int(wires.lane.max(initial=-1)) + 1,
    )
    validate(program)
    host, wire = CATEGORIES.index("host"), CATEGORIES.index("collective")
    return Lowered(
        program=program,
        plan_op=columns(lambda r: r.played.layout.plan_op, wires.plan_op),
        category=costs("category", host, wire),
        alone_s=issued(spread(alone, 0.0)),
        views=tuple(view for run in runs for view in _views(run, classes)),
        lane_names=_lane_names(runs, classes, program.n_lanes),
        wire=n_local,
    )


class _Routes(NamedTuple):
    """Demand table: one route a (class, row), then the wires'; the last route is empty."""

    ptr: I4
    resource: I4
    amount: F8
    wires: int  # first route of a wire op
    begin: dict[int, int]  # first route of a run, by its first class

    def of(self, run: ClassRun) -> I4:
        """Route of each row of costs of a run, see `Played.costs`; host ops have the empty one."""
        n = run.played.part.rows.work.size
        first = self.begin[run.begin] + (run.each - run.begin) * n
        out = np.full((run.classes, n + 1), self.ptr.size - 2, dtype=np.int32)
        out[:, :-1] = first + np.arange(n)
        return out

    def of_wires(self, ops: Wires | OwnTransfers) -> I8:
        """Route of each op on the wire."""
        return self.wires + ops.route


def _routes(runs: Sequence[ClassRun], classes: Classes, wires: Wires) -> _Routes:
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
        own,
        begin,
    )


def _views(run: ClassRun, classes: Classes) -> Iterator[RankView]:
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


def _lane_names(runs: Sequence[ClassRun], classes: Classes, n_lanes: int) -> tuple[str, ...]:
    names = tuple(
        f"rank {classes.ranks[c]} {stream}"
        for run in runs
        for c in range(run.begin, run.begin + run.classes)
        for stream in run.played.layout.streams
    )
    return names + tuple(f"wire {w}" for w in range(n_lanes - len(names)))
