"""The compiled kernel on a crowd: columns a kind, and of each op only when it starts and ends.

An op takes 16 bytes, `State.times`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.engine import check_numbers, kernel
from sim.engine.compiled import outcome
from sim.engine.machine import MachineCode, flat, table
from sim.engine.shared import MOST, KindColumn, LinkColumn, OwnColumn, PacedColumn, grid, same
from sim.engine.state import GIVES, LAST, State, alike, ends_of_lanes, given_back, prepare, state_of
from sim.engine.watch import watched
from sim.errors import EngineError
from sim.program import Program, Timeline, assemble
from sim.program.crowd import ClassKind, Crowd
from sim.records import NamedTuple

I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]

MOST_OPS = 1 << 28  # an op and what to do with it are an int32


class _Shared:
    """Where values of kinds, one kind after the other and the wire's at last, are found.

    Parameters
    ----------
    sizes : (n_kinds,) int64
        Values of each kind.
    kind : (n_classes,) int64
        Of each class.
    stride : int
        From a class's first index to the next one's.
    """

    def __init__(self, sizes: I8, kind: I8, stride: int) -> None:
        starts = np.concatenate(([0], np.cumsum(sizes)))
        self.begin = np.arange(kind.size + 1, dtype=np.int64) * stride  # of each class's indices
        self.first = self.begin - starts[np.append(kind, sizes.size)]
        self.grid = grid(stride, kind.size)

    def each(self, values: npt.NDArray[Any]) -> Any:
        """Of the same value for all classes of a kind."""
        return KindColumn(values, self.first, *self.grid)

    def own(self, values: npt.NDArray[Any], plus: npt.NDArray[Any]) -> Any:
        """That count from each class's first, `plus`."""
        return OwnColumn(values, self.first, np.asarray(plus, dtype=np.int64), *self.grid)


class _Edges(NamedTuple):
    """Whom an end concerns: of each kind, and of the wire."""

    ptr: tuple[I4, ...]  # (n + 1,) a kind
    op: tuple[I4, ...]  # of the class; -1, -2, ... a collective on the wire
    wire_ptr: I8
    wire_op: I4  # of the crowd

    def columns(self, ops: _Shared, crowd: Crowd) -> tuple[Any, Any]:
        """Row pointers, and what they point at."""
        sizes = np.array([one.size for one in self.op], dtype=np.int64)
        found = _Shared(sizes, crowd.kind, max(1, int(sizes.max())))
        to = np.concatenate([*self.op, self.wire_op])
        begin = ops.begin.copy()
        begin[-1] = 0  # the wire names ops of the crowd
        links = LinkColumn(
            to, found.first, begin, (crowd.wire + np.int32(crowd.split)).ravel(),
            crowd.wire.shape[1], *found.grid,
        )  # fmt: skip
        if found.begin[-1] + self.wire_op.size >= MOST:
            message = f"{found.begin[-1]:.2g} edges are more than {MOST:.2g}"
            raise EngineError(message)
        return ops.own(np.concatenate([*self.ptr, self.wire_ptr]), found.begin), links


def play(crowd: Crowd, progress: Callable[[int, int], None] | None = None) -> Timeline:
    """Run it; on the way interrupts are heard.

    Parameters
    ----------
    crowd : Crowd
        What to run.
    progress : callable, optional
        Called now and then with ops of the first class that have ended, and with all of them.

    Returns
    -------
    Timeline
        Of ops as a `Crowd` numbers them; of what is no op, zeros.

    Raises
    ------
    EngineError
        As from `sim.engine.run`.
    """
    program, state = _prepared(crowd)
    code = machine()
    code.load()
    where = table(flat((program, state)), code.like, 1)
    columns = program, state
    ends = state.times[1::2]
    first = ends[: crowd.kinds[int(crowd.kind[0])].program.lane.size]

    def work() -> tuple[kernel.Outcome, tuple[Program, State]]:
        return outcome(code(where)[0]), columns  # held, though it knows but where they are

    def look() -> None:
        if progress is not None:
            progress(int(np.count_nonzero(first > 0.0)), first.size)

    said, _ = watched(work, look)
    check_numbers(said)
    if said[2] < crowd.ops:
        message = f"stuck at {said[3]} s with {crowd.ops - said[2]} ops to go"
        raise EngineError(message)
    of_class = ends[: crowd.split].reshape(crowd.kind.size, crowd.stride)
    for i, kind in enumerate(crowd.kinds):  # what is no op
        of_class[crowd.kind == i, kind.program.lane.size :] = 0.0
    return Timeline(state.times[0::2], ends, said[4], said[5])


@cache
def machine() -> MachineCode:
    """The kernel as machine code for such columns."""
    alone = assemble(lane=[0], latency=1.0)[0]
    none, no = np.zeros((1, 0), dtype=np.int32), np.zeros(0)
    like = Crowd(
        (ClassKind(alone, np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.bool_)),),
        np.zeros(1, dtype=np.int64), np.ones(1), none, none[0],
        none[0], no, no, no, none[0],
        alone.demand_ptr, alone.demand_resource, alone.demand_amount, alone.capacity,
        alone.hold_capacity,
    )  # fmt: skip
    return MachineCode(kernel.simulate, _prepared(like), 6, kernel.PARTS)


def _prepared(crowd: Crowd) -> tuple[Program, State]:
    """Columns for the kernel."""
    kinds_, stride, n_wires = crowd.kinds, crowd.stride, crowd.wire_lane.size
    n, n_classes = crowd.split + n_wires, crowd.kind.size
    if n >= MOST_OPS:
        message = f"{n:.2g} ops are more than {MOST_OPS:.2g}"
        raise EngineError(message)
    states = [prepare(kind.program) for kind in kinds_]
    sizes = np.array([kind.program.lane.size + 1 for kind in kinds_], dtype=np.int64)
    ops = _Shared(sizes, crowd.kind, stride)
    lanes = crowd.lanes
    n_lanes = int(lanes[-1]) + int(crowd.wire_lane.max(initial=-1)) + 1

    def values(name: str, fill: float, wire: npt.NDArray[Any] | float) -> npt.NDArray[Any]:
        """A column of programs, with a value after each kind's for the op that is none."""
        columns = [getattr(kind.program, name) for kind in kinds_]
        return joined(columns, fill, wire)

    def joined(
        columns: Sequence[npt.NDArray[Any]], fill: float, wire: npt.NDArray[Any] | float
    ) -> npt.NDArray[Any]:
        like = columns[0].dtype
        parts = [np.append(column, np.asarray(fill, like)) for column in columns]
        wires = np.empty(n_wires + 1, dtype=like)
        wires[:-1], wires[-1] = wire, fill
        return np.concatenate([*parts, wires])

    succ, release, waited = _edges(crowd, states)
    succ_ptr, successors = succ.columns(ops, crowd)
    release_ptr, released = release.columns(ops, crowd)
    classes = np.arange(n_classes + 1)
    work: Any = PacedColumn(
        values("work", 0.0, crowd.wire_work),
        joined([kind.paced.astype(np.uint8) for kind in kinds_], 0, 0),
        ops.first, np.append(crowd.pace, 1.0), *ops.grid,
    )  # fmt: skip
    program = Program(
        lane=ops.own(values("lane", -1, crowd.wire_lane), lanes),
        latency=ops.each(values("latency", 0.0, crowd.wire_latency)),
        work=work,
        bound=ops.each(values("bound", 1.0, crowd.wire_bound)),
        weight=ops.each(values("weight", 1.0, crowd.wire_bound)),
        demand_ptr=crowd.demand_ptr,
        demand_resource=crowd.demand_resource,
        demand_amount=crowd.demand_amount,
        route=ops.own(values("route", 0, crowd.wire_route), np.append(crowd.route, 0)),
        capacity=crowd.capacity,
        succ_ptr=succ_ptr,
        succ=successors,
        hold_resource=ops.own(values("hold_resource", -1, -1), classes),
        hold_units=ops.each(values("hold_units", 0, 0)),
        hold_until=same(-1),
        hold_capacity=crowd.hold_capacity,
        curve=ops.each(values("curve", -1, -1)),
        curve_resource=ops.own(values("curve_resource", -1, -1), classes),
        curves=kinds_[0].program.curves,
        steps=same(1),
        peer=same(-1),
        follower=same(-1),
        n_lanes=n_lanes,
    )
    times = np.empty((n, 2))
    ready = []
    for i, own in enumerate(waited[:-1]):
        begins = np.flatnonzero(crowd.kind == i) * stride
        one = np.zeros((stride, 2))
        one[:, 1] = -1.0  # what is no op waits for ever
        one[: own.size, 1] = -own
        for begin in begins.tolist():  # once over what may be gigabytes
            times[begin : begin + stride] = one
        ready.append((begins[:, None] + np.flatnonzero(own == 0)).ravel())
    times[crowd.split :, 0], times[crowd.split :, 1] = 0.0, -waited[-1]
    widest = [np.diff(state.entry) for state in states]
    lengths = np.diff(crowd.demand_ptr)[crowd.wire_route]
    on_wire = np.zeros(n_lanes - int(lanes[-1]), dtype=np.int32)
    np.maximum.at(on_wire, crowd.wire_lane, lengths)
    state = state_of(
        n_lanes=n_lanes,
        widest=np.concatenate([*(widest[kind] for kind in crowd.kind.tolist()), on_wire]),
        resources=crowd.capacity.size,
        hold_capacity=crowd.hold_capacity,
        curves=program.curves,
        ready_ops=np.sort(np.concatenate(ready)),
    )
    own_kinds = [
        s.kind | alike(kind.program, s.kind) for kind, s in zip(kinds_, states, strict=True)
    ]
    wire_kinds = np.where(ends_of_lanes(crowd.wire_lane), LAST | GIVES, GIVES).astype(np.uint8)
    return program, state._replace(
        times=times.ravel(),
        release_ptr=release_ptr,
        release=released,
        kind=ops.each(joined(own_kinds, 0, wire_kinds)),
        n_ops=n,
    )


def _edges(crowd: Crowd, states: Sequence[State]) -> tuple[_Edges, _Edges, list[I8]]:
    """Whom ends concern, whose units they give back, and how many each op waits for."""
    each = [(kind, np.flatnonzero(crowd.kind == i)) for i, kind in enumerate(crowd.kinds)]
    n_wires, wire_ops, wires, holds = crowd.wire_lane.size, [], [], []
    ptrs, succs, release_ptrs, releases, waited = [], [], [], [], []
    for (kind, mine), state in zip(each, states, strict=True):
        p, k = kind.program, kind.arrive.size
        comes = np.zeros(p.lane.size + 1, dtype=np.int32)
        comes[kind.arrive + 1] = 1
        ptrs.append((p.succ_ptr + np.cumsum(comes)).astype(np.int32))
        succs.append(np.insert(p.succ, p.succ_ptr[kind.arrive + 1], -1 - np.arange(k)))
        waiting = -state.times[1::2].astype(np.int64)
        waiting[kind.arrive + 1] += 1
        waited.append(waiting)
        own = p.hold_resource >= 0
        own[kind.arrive] = False
        ptr, holders = given_back(p, np.flatnonzero(own))
        release_ptrs.append(ptr)
        releases.append(holders)
        wires.append(crowd.wire[mine, :k].ravel())
        wire_ops.append((mine[:, None] * crowd.stride + kind.arrive).ravel())
        holds.append(np.tile(p.hold_resource[kind.arrive] >= 0, mine.size))
    wire, op, holding = np.concatenate(wires), np.concatenate(wire_ops), np.concatenate(holds)
    order = np.lexsort((op, wire))
    wire, op, holding = wire[order], op[order].astype(np.int32), holding[order]
    arrivals = np.bincount(wire, minlength=n_wires)
    arrivals[1:] += ~ends_of_lanes(crowd.wire_lane)[:-1]
    waited.append(arrivals)

    def after(which: npt.NDArray[Any], to: npt.NDArray[Any]) -> tuple[I8, I4]:
        return np.concatenate(([0], np.cumsum(np.bincount(which, minlength=n_wires)))), to

    return (
        _Edges(tuple(ptrs), tuple(succs), *after(wire, op + np.int32(1))),
        _Edges(tuple(release_ptrs), tuple(releases), *after(wire[holding], op[holding])),
        waited,
    )
