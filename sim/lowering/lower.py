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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.lowering.slack import may_bind
from sim.lowering.table import labels_of, total_bytes
from sim.lowering.teams import Team
from sim.program import Program, assemble
from sim.strategies.plan import COLLECTIVE, HOST, Plan, PlanOp

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]
B1 = npt.NDArray[np.bool_]

CATEGORIES = (
    "gemm", "attention", "norm", "elementwise", "reduction", "embedding", "loss",
    "optimizer", "copy", "quantize", "collective", "host",
)  # fmt: skip

_COPY_STREAMS = frozenset({"copy_in", "offload_in", "offload_out", "nvme"})
_HASTE = 0.5  # kernels may be so much faster than their rows say (jitter) and still hide launches


class Rows(NamedTuple):
    """Cost of each distinct op, columns of length n_rows; plan ops point at runs of rows.

    Demands name *local* resources: `Machine.local` maps them to resources class by class.
    """

    latency_s: F8  # fixed, unshared [s]
    work: F8
    bound: F8  # rate alone [work/s]
    weight: F8
    curve: I4  # row of `curves`, -1 none
    hold: I4  # SMs taken, 0 none
    host_s: F8  # CPU time to launch [s]
    category: npt.NDArray[np.int8]
    alone_s: F8  # duration with nothing beside it [s]
    recompute: B1
    demand_ptr: I4
    demand_local: I4
    demand_amount: F8
    curves: F8  # (n_curves, max_units + 1)


class Machine(NamedTuple):
    """Classes of equal ranks and the resources they draw on."""

    ranks: tuple[int, ...]  # representative rank of each class
    multiplicity: I4  # (n_classes,)
    speed: F8  # (n_classes,) relative kernel speed (stragglers), 1 as a rule
    local: I4  # (n_classes, n_local) local resource -> resource
    scale: F8  # (n_classes, n_local) demand multiplier (equal ranks folded onto one resource)
    capacity: F8  # (n_resources,) [unit/s]
    sms: I4  # (n_classes,) countable units


class Flight(NamedTuple):
    """One collective of the plan on the wire, in all groups."""

    plan_op: int
    comm: str  # collectives of one communicator follow each other
    team: Team
    lane: int  # wire lane of its first op; each op has its own
    latency_s: float
    work: float  # [B]
    bound: float  # [B/s]


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

    rank: int
    multiplicity: int
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
    """A program and what its ops are."""

    program: Program
    plan: Plan
    plan_op: I4  # (n,) index into plan.ops, also of the host op that launches it
    category: npt.NDArray[np.int8]  # (n,) index into CATEGORIES
    alone_s: F8  # (n,)
    recompute: B1  # (n,)
    views: tuple[RankView, ...]
    lane_names: tuple[str, ...]


class _Layout(NamedTuple):
    """Local op indices of one class: host ops first, then each stream's ops."""

    n: int
    n_host: int
    host_first: I8  # (P,)
    first: I8  # (P,) first device op, or the host op of a host-only plan op
    last: I8
    rows: I8  # (n_device,)
    launched: I8  # (m,) device ops that wait for their launch
    launch: I8  # (m,) host op of it
    host_s: F8  # (n_host,) [s]
    lane: I4  # (n,)
    plan_op: I4  # (n,)
    streams: tuple[str, ...]


def _exclusive(counts: I8) -> I8:
    out = np.zeros(counts.size, dtype=np.int64)
    np.cumsum(counts[:-1], out=out[1:])
    return out


def _hidden(rows: Rows, row_start: I8, row_count: I8, fastest: float) -> B1:
    """Plan ops whose rows but the first are launched before they can be needed, whatever else runs.

    Launch i follows launch 0 by the host's time for 1..i; kernel i follows kernel 0 by at least
    what 0..i-1 take alone, and kernel 0 its launch.
    """
    alone = rows.latency_s + np.where(rows.work > 0.0, rows.work / rows.bound, 0.0)
    launched, run = np.cumsum(rows.host_s), _HASTE / fastest * np.cumsum(alone)
    known: dict[tuple[int, int], bool] = {}
    out = np.zeros(row_start.size, dtype=bool)
    for i, (first, count) in enumerate(zip(row_start.tolist(), row_count.tolist(), strict=True)):
        found = known.get((first, count))
        if found is None:
            end = first + count
            before = run[first : end - 1] - run[first] + _HASTE / fastest * alone[first]
            found = bool((launched[first + 1 : end] - launched[first] <= before).all())
            known[first, count] = found
        out[i] = found
    return out


def _layout(
    kind: I8, stream: Sequence[str], rows: Rows, row_start: I8, row_count: I8, hidden: B1
) -> _Layout:
    names = tuple(dict.fromkeys(s for s in stream if s != "host"))
    number = {name: i + 1 for i, name in enumerate(names)} | {"host": 0}
    stream_id = np.array([number[s] for s in stream], dtype=np.int64)
    host_only = kind == HOST
    device_count = np.where(host_only, 0, row_count)
    hidden = hidden & ~host_only & (row_count > 1)
    host_time = np.concatenate(([0.0], np.cumsum(rows.host_s)))
    rest = np.where(hidden, host_time[row_start + row_count] - host_time[row_start + 1], 0.0)
    host_count = np.where(host_only, 1, np.where(hidden, 1 + (rest > 0.0), row_count))
    host_first = _exclusive(host_count)
    n_host = int(host_count.sum())
    host_rows = np.repeat(row_start, host_count) + (
        np.arange(n_host) - np.repeat(host_first, host_count)
    )
    host_s = rows.host_s[host_rows]
    host_s[host_first[rest > 0.0] + 1] = rest[rest > 0.0]
    order = np.argsort(stream_id, kind="stable")
    order = order[device_count[order] > 0]
    counts = device_count[order]
    base = _exclusive(counts)
    n_device = int(counts.sum())
    step = np.arange(n_device) - np.repeat(base, counts)
    first = host_first.copy()
    first[order] = n_host + base
    last = host_first.copy()
    last[order] = n_host + base + counts - 1
    lane = np.zeros(n_host + n_device, dtype=np.int32)
    lane[n_host:] = np.repeat(stream_id[order], counts)
    plan_op = np.empty(n_host + n_device, dtype=np.int32)
    plan_op[:n_host] = np.repeat(np.arange(kind.size), host_count)
    plan_op[n_host:] = np.repeat(order, counts)
    waits = np.flatnonzero((step == 0) | ~np.repeat(hidden[order], counts))
    return _Layout(
        n=n_host + n_device,
        n_host=n_host,
        host_first=host_first,
        first=first,
        last=last,
        rows=np.repeat(row_start[order], counts) + step,
        launched=n_host + waits,
        launch=(np.repeat(host_first[order], counts) + step)[waits],
        host_s=host_s,
        lane=lane,
        plan_op=plan_op,
        streams=("host", *names),
    )


def _edges(plan: Plan, layout: _Layout, communicator: Sequence[str], kind: I8) -> tuple[I8, I8]:
    """Cross-lane edges of one class: launches, dependencies, host syncs, communicator order."""
    deps = [op.deps for op in plan.ops]
    lengths = np.fromiter(map(len, deps), dtype=np.int64, count=len(deps))
    on = np.fromiter(chain.from_iterable(deps), dtype=np.int64, count=int(lengths.sum()))
    of = np.repeat(np.arange(len(deps)), lengths)
    sync = np.fromiter((op.host_after for op in plan.ops), dtype=np.int64, count=len(plan.ops))
    blocked = np.flatnonzero(sync >= 0)
    collectives = np.flatnonzero(kind == COLLECTIVE)
    previous: dict[str, int] = {}
    fifo: list[tuple[int, int]] = []
    for i in collectives.tolist():
        before = previous.get(communicator[i])
        if before is not None:
            fifo.append((before, i))
        previous[communicator[i]] = i
    pairs = np.array(fifo, dtype=np.int64).reshape(-1, 2)
    src = np.concatenate(
        (layout.launch, layout.last[on], layout.last[sync[blocked]], layout.last[pairs[:, 0]])
    )
    dst = np.concatenate(
        (
            layout.launched,
            layout.first[of],
            layout.host_first[blocked],
            layout.first[pairs[:, 1]],
        )
    )
    order = np.argsort(src * layout.n + dst)
    return src[order], dst[order]


def lower(
    plan: Plan,
    rows: Rows,
    row_start: I8,
    row_count: I8,
    machine: Machine,
    flights: Sequence[Flight] = (),
) -> Lowered:
    """Build the program of one step.

    Parameters
    ----------
    plan : Plan
        What runs and what it waits for.
    rows : Rows
        Costs of distinct ops.
    row_start, row_count : (P,) int64
        Run of rows of each plan op. A collective has one row where one class takes part, else
        two (arrive, finish) and its wire op in `flights`.
    machine : Machine
        Classes of ranks and resources.
    flights : sequence of Flight
        Collectives on the wire, in plan order; empty where all ranks are one class.
    """
    kind = np.fromiter((op.kind for op in plan.ops), dtype=np.int64, count=len(plan.ops))
    n_classes = len(machine.ranks)
    hidden = np.zeros(kind.size, dtype=bool)
    keep: B1 | None = None
    if n_classes > 1:
        hidden = _hidden(rows, row_start, row_count, float(machine.speed.max()))
        binding = may_bind(plan.ops, rows, row_start, row_count, machine, flights)
        rows, keep = _kept_rows(rows, binding.local), binding.resource
    layout = _layout(kind, [op.stream for op in plan.ops], rows, row_start, row_count, hidden)
    src, dst = _edges(plan, layout, [communicator(op) for op in plan.ops], kind)
    n, lanes = layout.n, len(layout.streams)
    n_local = n_classes * n
    wires = _wires(flights, layout.first, n, n_local, keep)
    is_host = np.arange(n) < layout.n_host
    row = np.concatenate((np.zeros(layout.n_host, dtype=np.int64), layout.rows))
    each = np.arange(n_classes, dtype=np.int32)[:, None]

    def device(column: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
        return np.where(is_host, np.asarray(fill, dtype=column.dtype), column[row])

    def columns(values: npt.NDArray[Any], wire: npt.NDArray[Any] | float) -> npt.NDArray[Any]:
        """Values of every class's ops, (n,) or (n_classes, n), then of the wires'."""
        out = np.empty(n_local + wires.lane.size, dtype=values.dtype)
        out[:n_local].reshape(n_classes, n)[:] = values
        out[n_local:] = wire
        return out

    latency = rows.latency_s[row]
    latency[is_host] = layout.host_s
    curve, hold = device(rows.curve, -1), device(rows.hold, 0)
    bound, weight = device(rows.bound, np.inf), device(rows.weight, 1.0)
    # a slow rank's curves are the same curves, lower
    speeds, speed_of = np.unique(machine.speed, return_inverse=True)
    curves = (rows.curves * speeds[:, None, None]).reshape(-1, rows.curves.shape[1])
    reads = columns(np.where(curve >= 0, each, np.int32(-1)), -1)
    pace = machine.speed[:, None] if speeds.size > 1 else speeds
    if speeds[0] != 1.0 or speeds.size > 1:
        speed = np.where(curve >= 0, pace, 1.0)
        bound, weight = bound * speed, weight * speed
    if speeds.size > 1:
        shift = (speed_of * rows.curves.shape[0]).astype(np.int32)
        curve = np.where(curve >= 0, curve + shift[:, None], np.int32(-1))
    hold_until = columns(each * n + np.arange(n, dtype=np.int32), -1)
    hold_until[wires.arrive] = wires.waits
    base = np.arange(n_classes)[:, None] * n
    ptr, resource, amount, route, wire_route = _routes(rows, row, is_host, machine, wires)
    stepped = bool((wires.steps > 1).any())
    # lanes ascend, so that ops keep their place
    program, _ = assemble(
        lane=columns(each * lanes + layout.lane, wires.lane + n_classes * lanes),
        latency=columns(latency, wires.latency),
        work=columns(device(rows.work, 0.0), wires.work),
        bound=columns(bound, wires.bound),
        weight=columns(weight, wires.bound),
        demand_ptr=ptr,
        demand_resource=resource,
        demand_amount=amount,
        route=columns(route, wire_route),
        capacity=machine.capacity,
        src=np.concatenate(((base + src).ravel(), wires.arrive, wires.waits)),
        dst=np.concatenate(((base + dst).ravel(), wires.waits, wires.arrive + 1)),
        hold_resource=columns(np.where(hold > 0, each, np.int32(-1)), -1),
        hold_units=columns(hold, 0),
        hold_until=hold_until,
        hold_capacity=machine.sms,
        curve=columns(curve, -1),
        curve_resource=reads,
        curves=curves,
        steps=columns(np.ones(n, dtype=np.int32), wires.steps) if stepped else None,
        peer=columns(np.full(n, -1, dtype=np.int32), wires.peer) if stepped else None,
        n_lanes=n_classes * lanes + int(wires.lane.max(initial=-1)) + 1,
    )
    own = rows.alone_s[row]
    own[is_host] = layout.host_s
    if speeds[0] != 1.0 or speeds.size > 1:
        own = np.where((rows.curve[row] >= 0) & ~is_host, own / pace, own)
    host, wire = np.int8(CATEGORIES.index("host")), CATEGORIES.index("collective")
    return Lowered(
        program=program,
        plan=plan,
        plan_op=columns(layout.plan_op, wires.plan_op),
        category=columns(np.where(is_host, host, rows.category[row]), wire),
        alone_s=columns(own, 0.0),
        recompute=columns(~is_host & rows.recompute[row], False),
        views=_views(plan, layout, machine),
        lane_names=_lane_names(machine, layout, program.n_lanes),
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


def _wires(flights: Sequence[Flight], first: I8, n: int, n_local: int, keep: B1 | None) -> _Wires:
    """Wire ops of all flights by lane, after `n_local` ops of `n` a class."""
    if not flights:
        none, no = np.zeros(0, dtype=np.int64), np.zeros(0)
        return _Wires(none, none, no, no, no, none, none, none, none, none, none, none, no)
    teams = {id(f.team): f.team for f in flights}
    if keep is not None:
        for key, t in teams.items():
            some = keep[t.resource]
            teams[key] = t._replace(
                ptr=_kept(t.ptr, some).astype(np.int64),
                resource=t.resource[some],
                amount=t.amount[some],
            )
    starts = dict(
        zip(teams, _exclusive(np.array([t.n_wires for t in teams.values()])).tolist(), strict=True)
    )
    ends = _exclusive(np.array([t.resource.size for t in teams.values()])).tolist()
    counts = np.array([f.team.n_wires for f in flights], dtype=np.int64)
    at = n_local + _exclusive(counts)
    own = np.arange(int(counts.sum())) - np.repeat(at - n_local, counts)

    def each(values: Sequence[float]) -> F8:
        return np.repeat(np.array(values, dtype=float), counts)

    def index(values: Sequence[int]) -> I8:
        return np.repeat(np.array(values, dtype=np.int64), counts)

    peers = [
        np.where(f.team.peer < 0, -1, f.team.peer + i) for f, i in zip(flights, at, strict=True)
    ]
    bound = each([f.bound * f.team.steps * f.team.chunk for f in flights])
    waits = [f.team.wire + i for f, i in zip(flights, at, strict=True)]
    lane = index([f.lane for f in flights]) + own
    order = np.argsort(lane, kind="stable")
    place = np.empty(order.size + 1, dtype=np.int64)
    place[order] = n_local + np.arange(order.size)
    place[-1] = -1
    peer = np.concatenate(peers)[order]
    return _Wires(
        plan_op=index([f.plan_op for f in flights])[order],
        lane=lane[order],
        latency=each([f.latency_s / f.team.steps for f in flights])[order],
        work=each([f.work * f.team.chunk for f in flights])[order],
        bound=(bound * np.concatenate([f.team.pace for f in flights]))[order],
        route=(index([starts[id(f.team)] for f in flights]) + own)[order],
        steps=index([f.team.steps for f in flights])[order],
        peer=place[np.where(peer < 0, -1, peer - n_local)],
        arrive=np.concatenate([f.team.member * n + first[f.plan_op] for f in flights]),
        waits=place[np.concatenate(waits) - n_local],
        ptr=np.concatenate([t.ptr[1:] + i for t, i in zip(teams.values(), ends, strict=True)]),
        resource=np.concatenate([t.resource for t in teams.values()]),
        amount=np.concatenate([t.amount for t in teams.values()]),
    )


def communicator(op: PlanOp) -> str:
    """Collectives of one communicator run in issue order; other ops have none."""
    return op.comm if op.kind == COLLECTIVE else ""


def _routes(
    rows: Rows, row: I8, is_host: B1, machine: Machine, wires: _Wires
) -> tuple[I4, I4, F8, I4, I8]:
    """Demand table: one route a (class, row), then the wires'; the last route is empty."""
    n_classes, n_rows = len(machine.ranks), rows.work.size
    counts = np.diff(rows.demand_ptr)
    local, scale = machine.local, machine.scale
    if n_classes == 1:  # resources beyond a class's own are the machine's: it needs no flights
        shared = np.arange(machine.capacity.size)[None]
        local = np.concatenate((local, shared), axis=1)
        scale = np.concatenate((scale, np.ones_like(shared, dtype=float)), axis=1)
    resource = local[:, rows.demand_local].ravel()
    amount = (rows.demand_amount * scale[:, rows.demand_local]).ravel()
    own = n_classes * n_rows
    ptr = np.zeros(own + wires.ptr.size + 2, dtype=np.int32)
    np.cumsum(np.tile(counts, n_classes), out=ptr[1 : own + 1])
    ptr[own + 1 : -1] = ptr[own] + wires.ptr
    ptr[-1] = ptr[-2]
    empty = ptr.size - 2
    rank = np.arange(n_classes, dtype=np.int32)[:, None] * np.int32(n_rows)
    return (
        ptr,
        np.concatenate((resource, wires.resource)).astype(np.int32),
        np.concatenate((amount, wires.amount)),
        np.where(is_host, np.int32(empty), rank + row.astype(np.int32)),
        own + wires.route,
    )


def _views(plan: Plan, layout: _Layout, machine: Machine) -> tuple[RankView, ...]:
    """Where each class's lanes stand."""
    comm = np.array([i for i, op in enumerate(plan.ops) if op.kind == COLLECTIVE], dtype=np.int64)
    ops = [plan.ops[i] for i in comm]
    kinds = tuple(op.collective for op in ops)
    labels = tuple(labels_of(ops))
    moved = np.array([total_bytes(op) for op in ops], dtype=float)
    copy_lanes = [i for i, s in enumerate(layout.streams) if s in _COPY_STREAMS]
    copies = np.flatnonzero(np.isin(layout.lane, copy_lanes))
    compute_lane = layout.streams.index("compute") if "compute" in layout.streams else 0
    compute = np.flatnonzero(layout.lane == compute_lane)
    first, last = layout.first[comm], layout.last[comm]
    return tuple(
        RankView(
            rank=rank,
            multiplicity=int(machine.multiplicity[c]),
            compute=slice(at + int(compute[0]), at + int(compute[-1]) + 1),
            copies=at + copies,
            comm_begin=at + first,
            comm_end=at + last,
            comm_plan=comm,
            comm_kind=kinds,
            comm_label=labels,
            comm_bytes=moved,
        )
        for c, rank in enumerate(machine.ranks)
        for at in (c * layout.n,)
    )


def _lane_names(machine: Machine, layout: _Layout, n_lanes: int) -> tuple[str, ...]:
    names = tuple(f"rank {r} {s}" for r in machine.ranks for s in layout.streams)
    return names + tuple(f"wire {w}" for w in range(n_lanes - len(names)))
