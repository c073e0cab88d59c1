"""Programs from columns in any order, vectorised."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.errors import EngineError
from sim.program.checks import in_range, validate, validate_values
from sim.program.table import F8, I4, I8, Program


def assemble(
    *,
    lane: npt.ArrayLike,
    latency: npt.ArrayLike = 0.0,
    work: npt.ArrayLike = 0.0,
    bound: npt.ArrayLike = math.inf,
    weight: npt.ArrayLike = 1.0,
    demand_ptr: npt.ArrayLike | None = None,
    demand_resource: npt.ArrayLike | None = None,
    demand_amount: npt.ArrayLike | None = None,
    route: npt.ArrayLike | None = None,
    capacity: npt.ArrayLike | None = None,
    src: npt.ArrayLike | None = None,
    dst: npt.ArrayLike | None = None,
    hold_resource: npt.ArrayLike | None = None,
    hold_units: npt.ArrayLike | None = None,
    hold_until: npt.ArrayLike | None = None,
    hold_capacity: npt.ArrayLike | None = None,
    curve: npt.ArrayLike | None = None,
    curve_resource: npt.ArrayLike | None = None,
    curves: npt.ArrayLike | None = None,
    steps: npt.ArrayLike | None = None,
    peer: npt.ArrayLike | None = None,
    n_lanes: int | None = None,
) -> tuple[Program, I8]:
    """Sort op columns by lane and make a validated Program of them.

    Columns have one entry per op, in any order that keeps each lane's issue order, or are scalars;
    everything left out is "none". `src`, `dst`, `hold_until` and `peer` are input indices.

    Parameters
    ----------
    lane : (n,) int
        Lane of each op.
    latency, work, bound, weight : (n,) float
        See `Program`.
    demand_ptr, demand_resource, demand_amount : CSR of routes
        Route 0, 1, ...: its resources and demands per unit work.
    route : (n,) int
        Row of the routes, -1 for none.
    capacity : (n_resources,) float
        [unit/s]
    src, dst : (m,) int
        Precedence edges beside lane order: `dst` starts after `src` has ended.
    hold_resource, hold_units, hold_until, hold_capacity : (n,) int and (n_holds,) int
        See `Program`; `hold_until` defaults to the op itself.
    curve, curve_resource, curves : (n,) int, (n,) int and (n_curves, max_units+1) float
        See `Program`.
    steps, peer : (n,) int
        See `Program`.
    n_lanes : int, optional
        Lanes, idle ones included.

    Returns
    -------
    Program, (n,) int64
        The program, and the index in it of each input op.

    Raises
    ------
    EngineError
        If a column is not what `validate` asks for. Cycles are found by `check_acyclic`, or by any
        engine when it runs the program.
    """
    lanes = np.asarray(lane, dtype=np.int32)
    n = lanes.size
    order: I8 | None = None
    position = np.arange(n, dtype=np.int64)
    if n > 1 and bool((lanes[1:] < lanes[:-1]).any()):
        order = np.argsort(lanes, kind="stable")
        position = np.empty(n, dtype=np.int64)
        position[order] = np.arange(n)

    def floats(values: npt.ArrayLike) -> F8:
        return _column(values, n, order, np.float64)

    def ints(values: npt.ArrayLike | None, default: int) -> I4:
        return _column(default if values is None else values, n, order, np.int32)

    def references(values: npt.ArrayLike | None, own: bool) -> I4:
        """Op indices, renumbered; -1 becomes the op itself or stays."""
        if values is None:
            return position_of_self.copy() if own else np.full(n, -1, dtype=np.int32)
        column = ints(values, -1)
        in_range("an op reference", column, -1, n)
        renumbered = column if order is None else position.astype(np.int32)[column]
        return np.where(column < 0, position_of_self if own else np.int32(-1), renumbered)

    position_of_self = np.arange(n, dtype=np.int32)
    hold_on = ints(hold_resource, -1)
    until = references(hold_until, own=True)
    until = np.where(hold_on < 0, position_of_self, until)
    ptr, routes = _routes(demand_ptr, ints(route, -1))
    peers = references(peer, own=False)
    succ_ptr, succ = _successors(n, src, dst, None if order is None else position)
    program = Program(
        lane=lanes if order is None else lanes[order],
        latency=floats(latency),
        work=floats(work),
        bound=floats(bound),
        weight=floats(weight),
        demand_ptr=ptr,
        demand_resource=_plain(demand_resource, np.int32),
        demand_amount=_plain(demand_amount, np.float64),
        route=routes,
        capacity=_plain(capacity, np.float64),
        succ_ptr=succ_ptr,
        succ=succ,
        hold_resource=hold_on,
        hold_units=ints(hold_units, 0),
        hold_until=until,
        hold_capacity=_plain(hold_capacity, np.int32),
        curve=ints(curve, -1),
        curve_resource=ints(curve_resource, -1),
        curves=np.ascontiguousarray(np.zeros((0, 1)) if curves is None else curves, dtype=float),
        steps=ints(steps, 1),
        peer=peers,
        follower=followers_of(peers),
        n_lanes=int(n_lanes if n_lanes is not None else (lanes.max() + 1 if n else 0)),
    )
    validate(program)
    return program, position


#: columns of numbers with an entry an op
_OF_OPS = ("latency", "work", "bound", "weight", "hold_units", "curve", "curve_resource")


def revalue(program: Program, place: I8 | None = None, **columns: Any) -> Program:
    """A program of the same ops and edges with other numbers.

    Parameters
    ----------
    program : Program
        From `assemble`.
    place : (n,) int64, optional
        Of each op in a table, whose entries columns of ops then have; with it their `route`.
    **columns : arrays
        Columns of `Program`, but for those that say which op is which and what waits for what; of
        a stack of programs those of `NUMBERS`, with a row a program.

    Raises
    ------
    EngineError
        As from `assemble`; structure, unchanged, is not checked again.
    """
    changed = program._replace(**columns)
    validate_values(changed)
    if place is None:
        return changed
    of_ops = {name: getattr(changed, name).take(place, axis=-1) for name in _OF_OPS}
    return changed._replace(route=program.route, **of_ops)


def _column(
    values: npt.ArrayLike, n: int, order: I8 | None, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    array = np.asarray(values, dtype=dtype)
    if array.ndim == 0:
        return np.full(n, array)
    if array.shape != (n,):
        message = f"a column has shape {array.shape}, not ({n},)"
        raise EngineError(message)
    return np.ascontiguousarray(array) if order is None else array[order]


def _plain(values: npt.ArrayLike | None, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.ascontiguousarray(() if values is None else values, dtype=dtype)


def _routes(demand_ptr: npt.ArrayLike | None, route: I4) -> tuple[I4, I4]:
    """Point ops without a route at an empty row, appended where one is needed."""
    ptr = _plain((0,) if demand_ptr is None else demand_ptr, np.int32)
    none = route < 0
    if bool(none.any()):
        route = np.where(none, np.int32(ptr.size - 1), route)
        ptr = np.append(ptr, ptr[-1:])
    return ptr, route


def _successors(
    n: int, src: npt.ArrayLike | None, dst: npt.ArrayLike | None, position: I8 | None
) -> tuple[I4, I4]:
    """As `successors_of`, of edges that are checked and renumbered first."""
    sources = np.asarray(() if src is None else src, dtype=np.int64).ravel()
    targets = np.asarray(() if dst is None else dst, dtype=np.int64).ravel()
    if sources.size != targets.size:
        message = f"{sources.size} sources for {targets.size} targets of edges"
        raise EngineError(message)
    in_range("an edge", sources, 0, n)
    in_range("an edge", targets, 0, n)
    if position is not None:
        sources, targets = position[sources], position[targets]
    loops = sources == targets
    if bool(loops.any()):
        message = f"op {int(sources[loops][0])} waits for itself"
        raise EngineError(message)
    return successors_of(n, sources, targets)


def successors_of(n: int, sources: I8, targets: I8) -> tuple[I4, I4]:
    """Precedence edges as CSR: who waits for each op, ascending, each once.

    Parameters
    ----------
    n : int
        Ops.
    sources, targets : (m,) int64
        Edges in any order, of ops that exist: a target waits for its source.

    Returns
    -------
    (n + 1,) int32, (at most m,) int32
        Row pointers, and targets.
    """
    # One sort of (source, target) keys: faster than a stable argsort, and rows come out ascending.
    key = sources * n + targets
    if not bool((key[1:] > key[:-1]).all()):
        key.sort(kind="stable")  # runs that ascend, one after the other, as a rule
        repeated = key[1:] == key[:-1]
        if bool(repeated.any()):
            key = np.concatenate((key[:1], key[1:][~repeated]))
    sources = key // max(n, 1)
    ptr = np.zeros(n + 1, dtype=np.int32)
    np.cumsum(np.bincount(sources, minlength=n), out=ptr[1:])
    return ptr, (key - sources * n).astype(np.int32)


def followers_of(peer: I4) -> I4:
    """Which op has each op as its peer, (n,); -1 none."""
    follower = np.full(peer.size, -1, dtype=np.int32)
    has_peer = np.flatnonzero(peer >= 0)
    follower[peer[has_peer]] = has_peer
    return follower
