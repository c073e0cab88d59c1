"""The op table that engines run, and the timeline they return.

A `Program` is a set of column arrays. `assemble` makes one from columns in any order, vectorised,
for programs of thousands to millions of ops; `ProgramBuilder` makes small ones op by op.

The rules (docs/decisions/0006-engine.md has the reasons):

- Ops on one lane run in index order; the other precedence edges are in the successor CSR. An op
  starts at the largest end of its predecessors, exactly.
- An op runs its fixed latency, then its work. Its rate is ``weight`` times the water level of
  weighted max-min sharing, limited by its bound and by the capacities it draws on.
- An op may take whole units of a countable resource (SMs) when it starts and give them back when
  `hold_until` ends. Takes never wait: where more is held than there is, none is left.
- The bound of an op with a curve is a step function of the units left.
- Step s of a stepped op starts when its own and its peer's step s-1 are done; the op ends when
  both have done all their steps. Each step has the op's latency and work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.errors import EngineError

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]


class Program(NamedTuple):
    """Column arrays; ops are sorted by (primary) lane, order within a lane is issue order.

    Every precedence edge other than "next in lane" is in the successor CSR.
    """

    lane: I4  # (n,) primary lane, ascending
    latency: F8  # (n,) [s] fixed, unshared, runs before the work
    work: F8  # (n,) in the op's own unit (flows: bytes; kernels: 1 = the kernel)
    bound: F8  # (n,) rate when alone [work/s]; may be inf; unused where there is a curve
    weight: F8  # (n,) share weight; flows 1, kernels their stand-alone rate
    demand_ptr: I4  # (n_routes+1,) CSR of demands per route
    demand_resource: I4
    demand_amount: F8  # resource units per unit work
    route: I4  # (n,) row of the demand CSR (shared by equal ops)
    capacity: F8  # (n_resources,) [unit/s]
    succ_ptr: I4  # (n+1,)
    succ: I4
    # holds: whole units of a countable resource (SMs), from this op's start to the end of
    # `hold_until`
    hold_resource: I4  # (n,) -1 none
    hold_units: I4  # (n,)
    hold_until: I4  # (n,) op whose end releases; own index as a rule
    hold_capacity: I4  # (n_holds,) units each countable resource has
    # kernels whose bound is a step function of the units left
    curve: I4  # (n,) row of `curves`, -1 none
    curve_resource: I4  # (n,) countable resource that the curve reads, -1 none
    curves: F8  # (n_curves, max_units+1) bound by units left; column 0 holds for "none left"
    # stepped ops (level "steps")
    steps: I4  # (n,) 1 unless stepped
    peer: I4  # (n,) op whose step s-1 must be done before step s; -1 none
    follower: I4  # (n,) inverse of peer
    n_lanes: int


class Timeline(NamedTuple):
    """When each op came to the head of its lane, started (nothing left to wait for) and ended."""

    arrive: F8  # (n,) end of the previous op of its lane, 0 for the first [s]
    start: F8  # (n,) largest end of its predecessors [s]
    end: F8  # (n,) [s]
    events: int  # ends of latencies, works and steps: heap pops of the plain algorithm
    solves: int  # components solved


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
        _in_range("an op reference", column, -1, n)
        renumbered = column if order is None else position.astype(np.int32)[column]
        return np.where(column < 0, position_of_self if own else np.int32(-1), renumbered)

    position_of_self = np.arange(n, dtype=np.int32)
    hold_on = ints(hold_resource, -1)
    until = references(hold_until, own=True)
    until = np.where(hold_on < 0, position_of_self, until)
    ptr, routes = _routes(demand_ptr, ints(route, -1))
    peers = references(peer, own=False)
    follower = np.full(n, -1, dtype=np.int32)
    has_peer = np.flatnonzero(peers >= 0)
    follower[peers[has_peer]] = has_peer
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
        follower=follower,
        n_lanes=int(n_lanes if n_lanes is not None else (lanes.max() + 1 if n else 0)),
    )
    validate(program)
    return program, position


def revalue(program: Program, **columns: Any) -> Program:
    """A program of the same ops and edges with other numbers.

    Parameters
    ----------
    program : Program
        From `assemble`.
    **columns : arrays
        Columns of `Program`, but for those that say which op is which and what waits for what.

    Raises
    ------
    EngineError
        As from `assemble`; structure, unchanged, is not checked again.
    """
    changed = program._replace(**columns)
    _validate_values(changed)
    return changed


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
    """CSR of precedence edges, ascending and without repeats within a row."""
    sources = np.asarray(() if src is None else src, dtype=np.int64).ravel()
    targets = np.asarray(() if dst is None else dst, dtype=np.int64).ravel()
    if sources.size != targets.size:
        message = f"{sources.size} sources for {targets.size} targets of edges"
        raise EngineError(message)
    _in_range("an edge", sources, 0, n)
    _in_range("an edge", targets, 0, n)
    if position is not None:
        sources, targets = position[sources], position[targets]
    loops = sources == targets
    if bool(loops.any()):
        message = f"op {int(sources[loops][0])} waits for itself"
        raise EngineError(message)
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


def _in_range(what: str, values: npt.NDArray[np.integer], low: int, high: int) -> None:
    if values.size and (int(values.min()) < low or int(values.max()) >= high):
        bad = int(values[(values < low) | (values >= high)][0])
        message = f"{what} names {bad}, outside [{low}, {high})"
        raise EngineError(message)


def _demand_all(
    ok: npt.NDArray[np.bool_], message: str, values: npt.NDArray[np.generic], kind: str = "op"
) -> None:
    if not bool(ok.all()):
        at = int(np.flatnonzero(~ok)[0])
        text = f"{kind} {at}: {message}, not {values[at]}"
        raise EngineError(text)


def _demand_finite(values: F8, message: str, *, positive: bool = False, kind: str = "op") -> None:
    """Finite and not negative (or positive); least and largest tell, and carry a NaN."""
    if values.size:
        low, high = float(values.min()), float(values.max())
        if not ((low > 0 if positive else low >= 0) and high < math.inf):
            ok = ((values > 0) if positive else (values >= 0)) & (values < math.inf)
            _demand_all(ok, message, values, kind)


def validate(program: Program) -> None:
    """Check every column; the first fault is raised with the index of its op.

    Raises
    ------
    EngineError
        Values outside their range, an op that could never finish, a resource twice in one route,
        peers that do not match, a hold whose end does not follow its op.
    """
    p = program
    _in_range("a lane", p.lane, 0, p.n_lanes)
    _demand_all(p.lane[1:] >= p.lane[:-1], "lanes must ascend", p.lane[1:])
    _validate_values(p)
    if p.hold_capacity.size or int(p.hold_resource.max(initial=-1)) >= 0:
        _validate_holds(p)
    if int(p.steps.min(initial=1)) < 1:
        _demand_all(p.steps >= 1, "steps must be >= 1", p.steps)
    if int(p.peer.max(initial=-1)) >= 0:
        _validate_peers(p)


def _validate_values(p: Program) -> None:
    """Numbers, and what they name beside other ops."""
    _demand_finite(p.latency, "latency must be >= 0")
    _demand_finite(p.work, "work must be finite and >= 0")
    _demand_finite(p.weight, "weight must be > 0", positive=True)
    _demand_finite(p.capacity, "capacity must be > 0", positive=True, kind="resource")
    _demand_finite(p.demand_amount, "amount must be > 0", positive=True, kind="demand")
    if p.bound.size and not float(p.bound.min()) > 0:
        _demand_all(p.bound > 0, "bound must be > 0", p.bound)
    _validate_routes(p)
    unbounded = (p.bound == math.inf) & (p.work > 0) & (p.curve < 0)
    _demand_all(
        ~unbounded | (np.diff(p.demand_ptr) > 0)[p.route],
        "bound must be finite where nothing else limits the rate",
        p.bound,
    )
    _validate_curves(p)


def _validate_routes(p: Program) -> None:
    ptr, resource = p.demand_ptr, p.demand_resource
    if ptr[0] != 0 or ptr[-1] != resource.size or resource.size != p.demand_amount.size:
        message = "the demand table's pointers do not match its length"
        raise EngineError(message)
    lengths = np.diff(ptr)
    _demand_all(lengths >= 0, "a row's length must be >= 0", lengths, "route")
    _in_range("a route", p.route, 0, lengths.size)
    _in_range("a demand", resource, 0, p.capacity.size)
    key = np.repeat(np.arange(lengths.size), lengths) * max(p.capacity.size, 1) + resource
    key.sort()
    twice = np.flatnonzero(key[1:] == key[:-1])
    if twice.size:
        row, which = divmod(int(key[twice[0]]), p.capacity.size)
        message = f"route {row} names resource {which} twice"
        raise EngineError(message)


def _validate_holds(p: Program) -> None:
    holds = p.hold_resource >= 0
    _in_range("a hold", p.hold_resource, -1, p.hold_capacity.size)
    _demand_all(p.hold_capacity >= 0, "units must be >= 0", p.hold_capacity, "countable resource")
    _demand_all(~holds | (p.hold_units >= 1), "hold_units must be >= 1", p.hold_units)
    ops = np.flatnonzero(holds & (p.hold_until != np.arange(p.lane.size)))
    until = p.hold_until[ops].astype(np.int64)
    follows = (p.lane[ops] == p.lane[until]) & (until > ops)
    if p.succ.size:
        # Rows of the CSR ascend, so its (source, target) keys do: look the direct edges up.
        n = p.lane.size
        edges = np.repeat(np.arange(n), np.diff(p.succ_ptr)) * n + p.succ
        at = np.minimum(np.searchsorted(edges, ops * n + until), edges.size - 1)
        follows |= edges[at] == ops * n + until
    for op in ops[~follows].tolist():
        if not _follows(p, op, int(p.hold_until[op])):
            message = f"op {op}: holds until op {p.hold_until[op]}, which does not follow it"
            raise EngineError(message)


def _follows(p: Program, op: int, later: int) -> bool:
    """Whether a path of precedence edges leads from `op` to `later`."""
    seen, todo = {op}, [op]
    while todo:
        at = todo.pop()
        nexts = p.succ[p.succ_ptr[at] : p.succ_ptr[at + 1]].tolist()
        if at + 1 < p.lane.size and p.lane[at + 1] == p.lane[at]:
            nexts.append(at + 1)
        if later in nexts:
            return True
        todo += [x for x in nexts if x not in seen]
        seen.update(nexts)
    return False


def _validate_curves(p: Program) -> None:
    _in_range("a curve", p.curve, -1, p.curves.shape[0])
    _in_range("a curve's resource", p.curve_resource, -1, p.hold_capacity.size)
    _demand_finite(p.curves.ravel(), "bounds must be > 0", positive=True, kind="curve entry")
    if p.curves.shape[0] == 0:
        return
    has = p.curve >= 0
    _demand_all(~has | (p.curve_resource >= 0), "a curve needs a resource", p.curve_resource)
    most = int(p.hold_capacity[p.curve_resource[has]].max(initial=0))
    if p.curves.shape[1] <= most:
        message = f"curves reach {p.curves.shape[1] - 1} units, their resources have {most}"
        raise EngineError(message)


def _validate_peers(p: Program) -> None:
    ops = np.flatnonzero(p.peer >= 0)
    peers = p.peer[ops]
    matched = np.ones(p.lane.size, dtype=bool)
    matched[ops] = p.follower[peers] == ops
    _demand_all(matched, "two ops have the same peer, or follower is not peer's inverse", p.peer)
    matched[ops] = (p.steps[peers] == p.steps[ops]) & (peers != ops)
    _demand_all(matched, "a peer must be another op with as many steps", p.peer)


def check_acyclic(program: Program) -> None:
    """Raise if ops wait for each other.

    Plain Python, about 1 us an edge: for small programs, and for naming the culprits after an
    engine has found that it cannot go on.

    Raises
    ------
    EngineError
        Names the ops of one cycle, in the order in which they wait.
    """
    cycle = find_cycle(program)
    if cycle:
        chain = " -> ".join(str(op) for op in (*cycle, cycle[0]))
        message = f"ops wait for each other: {chain}"
        raise EngineError(message)


def find_cycle(program: Program) -> list[int]:
    """Ops of one cycle of waiting, each after the one it waits for; empty if there is none.

    Node o is the start of op o, node n+o its end. An end waits for its own start and, through its
    peers' steps, for the starts of as many peers up the chain as it has steps.
    """
    n = program.lane.size
    nexts: list[list[int]] = [[n + o] for o in range(n)] + [[] for _ in range(n)]
    lane, ptr, succ = program.lane.tolist(), program.succ_ptr.tolist(), program.succ.tolist()
    for o in range(n):
        nexts[n + o] += succ[ptr[o] : ptr[o + 1]]
        if o + 1 < n and lane[o + 1] == lane[o]:
            nexts[n + o].append(o + 1)
    peer, steps = program.peer.tolist(), program.steps.tolist()
    for o in np.flatnonzero(program.peer >= 0).tolist():
        other, hops = peer[o], steps[o]
        while other >= 0 and other != o and hops > 0:
            nexts[other].append(n + o)
            other, hops = peer[other], hops - 1
    waits = [0] * (2 * n)
    for row in nexts:
        for node in row:
            waits[node] += 1
    ready = [node for node in range(2 * n) if waits[node] == 0]
    while ready:
        for node in nexts[ready.pop()]:
            waits[node] -= 1
            if waits[node] == 0:
                ready.append(node)
    stuck = {node for node in range(2 * n) if waits[node] > 0}
    if not stuck:
        return []
    before = {node: row for row in stuck for node in nexts[row] if node in stuck}
    node, path = min(before), list[int]()
    while node not in path:
        path.append(node)
        node = before[node]
    ring = [x % n for x in reversed(path[path.index(node) :])]
    return [op for i, op in enumerate(ring) if op != ring[i - 1] or len(ring) == 1]


class ProgramBuilder:
    """Makes a small program op by op, in issue order within each lane.

    >>> build = ProgramBuilder()
    >>> link = build.resource(100.0)
    >>> first = build.op(0, work=50.0, demands={link: 1.0})
    >>> build.op(1, latency=1.0, after=[first])
    1
    >>> program = build.build()
    """

    def __init__(self) -> None:
        self._capacity: list[float] = []
        self._units: list[int] = []
        self._curves: list[list[float]] = []
        self._ops: list[dict[str, float]] = []
        self._demands: list[Mapping[int, float]] = []
        self._edges: list[tuple[int, int]] = []

    def resource(self, capacity: float) -> int:
        """Add a shared resource; returns its index."""
        self._capacity.append(capacity)
        return len(self._capacity) - 1

    def countable(self, units: int) -> int:
        """Add a countable resource; returns its index."""
        self._units.append(units)
        return len(self._units) - 1

    def curve(self, bounds: Iterable[float]) -> int:
        """Add a curve: its bound with 0, 1, ... units left; returns its index."""
        self._curves.append(list(bounds))
        return len(self._curves) - 1

    def op(
        self,
        lane: int,
        *,
        latency: float = 0.0,
        work: float = 0.0,
        bound: float = math.inf,
        weight: float = 1.0,
        demands: Mapping[int, float] | None = None,
        after: Iterable[int] = (),
        hold: tuple[int, int] | None = None,
        hold_until: int = -1,
        curve: tuple[int, int] | None = None,
        steps: int = 1,
    ) -> int:
        """Add an op; returns its index.

        Parameters
        ----------
        lane, latency, work, bound, weight, steps
            See `Program`.
        demands : mapping of resource to float
            Resource units per unit work.
        after : iterable of int
            Ops to wait for beside the previous one of the lane.
        hold : (countable resource, units), optional
            Taken at the start; released at the end of `hold_until` (default: of the op itself).
        hold_until : int
            May name an op yet to be added.
        curve : (curve, countable resource), optional
            The bound, by units left.
        """
        index = len(self._ops)
        resource, units = hold or (-1, 0)
        row, reads = curve or (-1, -1)
        self._ops.append(
            {
                "lane": lane, "latency": latency, "work": work, "bound": bound, "weight": weight,
                "hold_resource": resource, "hold_units": units, "hold_until": hold_until,
                "curve": row, "curve_resource": reads, "steps": steps, "peer": -1,
            }
        )  # fmt: skip
        self._demands.append(dict(demands or {}))
        self._edges += [(before, index) for before in after]
        return index

    def edge(self, before: int, after: int) -> None:
        """Let op `after` start only when op `before` has ended."""
        self._edges.append((before, after))

    def pair(self, op: int, peer: int) -> None:
        """Let step s of `op` wait for step s-1 of `peer`."""
        self._ops[op]["peer"] = peer

    def ring(self, ops: Iterable[int]) -> None:
        """Pair each op with the one before it, and the first with the last."""
        members = list(ops)
        for i, op in enumerate(members):
            self.pair(op, members[i - 1])

    def build(self) -> tuple[Program, I8]:
        """Assemble, validate and check for cycles; see `assemble`."""
        width = max((len(c) for c in self._curves), default=1)
        columns = {
            name: np.array([op[name] for op in self._ops])
            for name in (self._ops[0] if self._ops else ("lane",))
        }
        ptr = np.cumsum([0] + [len(d) for d in self._demands])
        program, position = assemble(
            **columns,  # type: ignore[arg-type]
            demand_ptr=ptr,
            demand_resource=[r for d in self._demands for r in d],
            demand_amount=[x for d in self._demands for x in d.values()],
            route=np.arange(len(self._ops)),
            capacity=self._capacity,
            src=[a for a, _ in self._edges],
            dst=[b for _, b in self._edges],
            hold_capacity=self._units,
            curves=np.array([c + c[-1:] * (width - len(c)) for c in self._curves]).reshape(
                len(self._curves), width
            ),
        )
        check_acyclic(program)
        return program, position
