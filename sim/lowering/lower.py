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
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cost.nccl.loads import Demands
from sim.lowering.cost_table import CostPlaces, CostTable, places_of, routes_of
from sim.lowering.layout import PartLayout, exclusive
from sim.lowering.lowered import Lowered, RankView, lane_name
from sim.lowering.parts import (
    CATEGORIES,
    F8,
    I4,
    I8,
    NO_FLIGHTS,
    Classes,
    Flights,
    Part,
    Rows,
)
from sim.lowering.runs import ClassRun, Ground, Played, runs_of
from sim.lowering.table import comm_bytes_of, table_of
from sim.lowering.wires import successors, taken_in, wire_costs, wires_of
from sim.program import NUMBERS, Program, followers_of, revalue, validate_structure
from sim.records import NamedTuple

_COPY_STREAMS = frozenset({"copy_in", "offload_in", "offload_out", "nvme"})


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
    ground = Ground(parts, classes, flights)
    some = np.arange(len(classes.ranks))
    return written(ground, ground.played(), classes, flights, some)


def written(
    ground: Ground, played: Sequence[Played], classes: Classes, flights: Flights, some: I8
) -> Lowered:
    """The program of some classes alone: nobody waits for the others.

    Parameters
    ----------
    ground : Ground
        Of all classes.
    played : sequence of Played
        Its parts, laid out.
    classes, flights : Classes, Flights
        All of them.
    some : (n,) int64
        Which to write out, ascending.
    """
    outline = outline_of(ground, played, classes, flights, some)
    found = filled(outline, ground, classes, flights)
    validate_structure(found.program)
    return found


class Outline(NamedTuple):
    """A program but for its numbers, and where in a `CostTable` each op has its own."""

    lowered: Lowered  # without numbers: columns of its program are empty, and views have no plan
    some: I8  # classes that are written out
    place: I4  # (n,)
    places: CostPlaces
    draws: Demands
    route: I4  # of each entry of the table, among those of `Routes`


def outline_of(
    ground: Ground, played: Sequence[Played], classes: Classes, flights: Flights, some: I8
) -> Outline:
    """What a program is whatever its ops cost; arguments are as for `written`."""
    role, base = classes.role, np.full(classes.role.size, -1, dtype=np.int64)
    classes = classes.only(some)
    runs = runs_of(classes, ground.curve_begin[some])
    sizes = np.array([p.layout.n for p in played], dtype=np.int64)
    first, n_local = exclusive(sizes[classes.role]), int(sizes[classes.role].sum())
    base[some] = first
    all_wires = wires_of(ground, played, flights, role, base, n_local)
    wires, own = taken_in(all_wires, n_local)
    places = places_of(ground.parts, [p.layout.launches for p in played], classes, flights)

    def columns(
        of: Callable[[ClassRun, PartLayout], npt.NDArray[Any]], wire: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Values of every class's ops, (n,) or (classes, n) a run, then of the wires'."""
        out = np.empty(n_local + wire.size, dtype=wire.dtype)
        for run in runs:
            layout, at = played[run.part].layout, int(first[run.begin])
            mine = out[at : at + run.classes * layout.n].reshape(run.classes, layout.n)
            mine[:] = of(run, layout)
        out[n_local:] = wire
        return out

    begin = places.begin[:, None]
    place = columns(
        lambda run, layout: begin[run.begin : run.begin + run.classes] + layout.entry,
        places.wire + wires.entry,
    )
    both, which = np.unique(
        place[own.op] * places.own + places.wire + own.entry, return_inverse=True
    )
    place[own.op] = places.own + which.ravel()
    places = places._replace(row=both // places.own, flown=both % places.own)
    table = CostTable(ground.parts, runs, places)
    routes = routes_of(ground.parts, runs, classes, all_wires.draws)
    wire_route = np.full(places.own - places.wire, routes.none, dtype=np.int32)
    wire_route[all_wires.entry] = routes.wires + all_wires.route
    route = table.flown(routes.of, routes.none, wire_route)

    streams = np.array([len(p.layout.streams) for p in played], dtype=np.int32)
    lanes = streams[classes.role]
    lane_base = np.cumsum(lanes, dtype=np.int32) - lanes
    n_lanes = int(lanes.sum())
    n = place.size
    hold_until = np.arange(n, dtype=np.int32)
    hold_until[wires.arrive] = wires.waits
    steps, peer = _same(1, n), _same(-1, n)
    follower = peer  # nobody's, as a rule
    if (wires.steps > 1).any():
        steps, peer = steps.copy(), peer.copy()
        steps[n_local:], peer[n_local:] = wires.steps, wires.peer
        follower = followers_of(peer)
    succ_ptr, succ = successors(played, runs, first, wires)
    holds = table.rows(lambda rows, run: np.where(rows.hold > 0, run.each, np.int32(-1)), -1, -1)
    host, wire = CATEGORIES.index("host"), CATEGORIES.index("collective")
    category = table.rows(lambda rows, _: rows.category, host, wire)
    nothing: Any = np.zeros(0)
    # ops stand as the engine wants them: there is nothing to put in order
    program = Program(
        lane=columns(
            lambda run, layout: lane_base[run.each] + layout.lane,
            (wires.lane + n_lanes).astype(np.int32),
        ),
        demand_ptr=routes.ptr,
        demand_resource=routes.resource,
        route=route.take(place),
        succ_ptr=succ_ptr,
        succ=succ,
        hold_resource=holds.take(place),
        hold_until=hold_until,
        hold_capacity=classes.sms,
        steps=steps,
        peer=peer,
        follower=follower,
        n_lanes=n_lanes + int(wires.lane.max(initial=-1)) + 1,
        **dict.fromkeys(NUMBERS, nothing),  # filled in later
    )
    lowered = Lowered(
        program=program,
        plan_op=columns(lambda _, layout: layout.plan_op, wires.plan_op.astype(np.int32)),
        category=category.take(place),
        alone_s=nothing,
        views=tuple(view for run in runs for view in _views(run, played[run.part], classes, first)),
        lane_names=_lane_names(runs, played, classes, program.n_lanes),
        wire=n_local,
    )
    return Outline(lowered, some, place.astype(np.int32), places, all_wires.draws, route)


_LONGEST = 3_500_000  # ops of a column that is kept: 14 MB
_alike: dict[int, I4] = {}  # the longest column of each value


def _same(value: int, n: int) -> I4:
    """A column that has one value, (n,): a piece of one that programs share."""
    if n > _LONGEST:
        return np.full(n, value, dtype=np.int32)
    if value not in _alike or _alike[value].size < n:
        _alike[value] = np.full(n, value, dtype=np.int32)
    return _alike[value][:n]


def filled(outline: Outline, ground: Ground, classes: Classes, flights: Flights) -> Lowered:
    """The program of an outline with the numbers of some parts, classes and flights."""
    like, places, place = outline.lowered, outline.places, outline.place.astype(np.intp)
    classes = classes.only(outline.some)
    runs = runs_of(classes, ground.curve_begin[outline.some])
    table, wire = CostTable(ground.parts, runs, places), wire_costs(flights)
    routes = routes_of(ground.parts, runs, classes, outline.draws)

    def pace(rows: Rows, run: ClassRun) -> F8:
        """Of kernels; what has no curve keeps its own."""
        return np.where(rows.curve >= 0, run.pace, 1.0)

    def shifted(rows: Rows, run: ClassRun) -> I4:
        return np.where(rows.curve >= 0, rows.curve + np.int32(run.curve), np.int32(-1))

    def reads(rows: Rows, run: ClassRun) -> I4:
        return np.where(rows.curve >= 0, run.each, np.int32(-1))

    program = revalue(
        like.program,
        place,
        route=outline.route,
        latency=table.flown(lambda rows, _: rows.latency_s, None, wire.latency),
        work=table.flown(lambda rows, _: rows.work, 0.0, wire.work),
        bound=table.flown(lambda rows, run: rows.bound * pace(rows, run), np.inf, wire.bound),
        weight=table.flown(lambda rows, run: rows.weight * pace(rows, run), 1.0, wire.bound),
        demand_amount=routes.amount,
        capacity=classes.capacity,
        hold_units=table.rows(lambda rows, _: rows.hold, 0, 0),
        curve=table.rows(shifted, -1, -1),
        curve_resource=table.rows(reads, -1, -1),
        curves=ground.curves,
    )
    alone = table.rows(lambda rows, run: rows.alone_s / pace(rows, run), None, 0.0)
    parts = [ground.parts[role] for role in classes.role.tolist()]
    return replace(
        like,
        program=program,
        alone_s=alone.take(place),
        views=tuple(
            replace(
                view, role=part.role, plan=part.plan, multiplicity=int(times),
                comm_bytes=comm_bytes_of(part.plan),
            )
            for view, part, times in zip(like.views, parts, classes.multiplicity, strict=True)
        ),
    )  # fmt: skip


def _views(run: ClassRun, played: Played, classes: Classes, base: I8) -> Iterator[RankView]:
    """Where each class's lanes stand; what is the first job's alone is filled in later."""
    nothing: Any = None
    layout, table = played.layout, table_of(played.part.plan)
    copy_lanes = [i for i, s in enumerate(layout.streams) if s in _COPY_STREAMS]
    copied = np.isin(layout.lane, copy_lanes)
    copied[layout.first[table.host_link]] = True  # gradients leave on their own stream
    copies = np.flatnonzero(copied)
    compute_lane = layout.streams.index("compute") if "compute" in layout.streams else 0
    compute = np.flatnonzero(layout.lane == compute_lane)
    first, last = layout.first[table.collectives], layout.last[table.collectives]
    for c in range(run.begin, run.begin + run.classes):
        at = int(base[c])
        yield RankView(
            index=c,
            rank=classes.ranks[c],
            multiplicity=0,
            role=nothing,
            plan=nothing,
            compute=slice(at + int(compute[0]), at + int(compute[-1]) + 1),
            copies=at + copies,
            comm_begin=at + first,
            comm_end=at + last,
            comm_plan=table.collectives,
            comm_kind=table.comm_kind,
            comm_label=table.comm_label,
            comm_bytes=nothing,
        )


def _lane_names(
    runs: Sequence[ClassRun], played: Sequence[Played], classes: Classes, n_lanes: int
) -> tuple[str, ...]:
    names = tuple(
        lane_name(classes.ranks[c], stream)
        for run in runs
        for c in range(run.begin, run.begin + run.classes)
        for stream in played[run.part].layout.streams
    )
    return names + tuple(f"wire {w}" for w in range(n_lanes - len(names)))
