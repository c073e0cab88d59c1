"""What a program must be: every column in range, no op waiting for itself."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sim.errors import EngineError
from sim.program.table import F8, Program


def in_range(what: str, values: npt.NDArray[np.integer], low: int, high: int) -> None:
    """Raise unless all values lie in ``[low, high)``; `what` names them in the message."""
    if values.size and (int(values.min()) < low or int(values.max()) >= high):
        bad = int(values[(values < low) | (values >= high)][0])
        message = f"{what} names {bad}, outside [{low}, {high})"
        raise EngineError(message)


def _demand_all(
    ok: npt.NDArray[np.bool_], message: str, values: npt.NDArray[np.generic], kind: str = "op"
) -> None:
    if not bool(ok.all()):
        at = int(np.flatnonzero(~ok)[0])
        text = f"{kind} {at % ok.shape[-1]}: {message}, not {values.ravel()[at]}"
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
    validate_values(program)
    validate_structure(program)


def validate_structure(program: Program) -> None:
    """Lanes, edges, holds and peers; the rest is `validate_values`."""
    p = program
    in_range("a lane", p.lane, 0, p.n_lanes)
    _demand_all(p.lane[1:] >= p.lane[:-1], "lanes must ascend", p.lane[1:])
    in_range("an edge", p.succ, 0, p.lane.size)
    if p.hold_capacity.size or int(p.hold_resource.max(initial=-1)) >= 0:
        _validate_holds(p)
    if int(p.steps.min(initial=1)) < 1:
        _demand_all(p.steps >= 1, "steps must be >= 1", p.steps)
    if int(p.peer.max(initial=-1)) >= 0:
        _validate_peers(p)


def validate_values(p: Program) -> None:
    """Numbers, and what they name beside other ops; of a program or of a stack."""
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
    if ptr[0] != 0 or not ptr[-1] == resource.size == p.demand_amount.shape[-1]:
        message = "the demand table's pointers do not match its length"
        raise EngineError(message)
    lengths = np.diff(ptr)
    _demand_all(lengths >= 0, "a row's length must be >= 0", lengths, "route")
    in_range("a route", p.route, 0, lengths.size)
    n_resources = p.capacity.shape[-1]
    in_range("a demand", resource, 0, n_resources)
    key = np.repeat(np.arange(lengths.size), lengths) * max(n_resources, 1) + resource
    key.sort()
    twice = np.flatnonzero(key[1:] == key[:-1])
    if twice.size:
        row, which = divmod(int(key[twice[0]]), n_resources)
        message = f"route {row} names resource {which} twice"
        raise EngineError(message)


def _validate_holds(p: Program) -> None:
    holds = p.hold_resource >= 0
    in_range("a hold", p.hold_resource, -1, p.hold_capacity.size)
    _demand_all(p.hold_capacity >= 0, "units must be >= 0", p.hold_capacity, "countable resource")
    _demand_all(~holds | (p.hold_units >= 1), "hold_units must be >= 1", p.hold_units)
    ops = np.flatnonzero(holds & (p.hold_until != np.arange(p.lane.size)))
    until = p.hold_until[ops].astype(np.int64)
    follows = (p.lane[ops] == p.lane[until]) & (until > ops)
    # is it one of those that wait for the op directly?
    lengths = p.succ_ptr[ops + 1] - p.succ_ptr[ops]
    of = np.repeat(np.arange(ops.size), lengths)
    begins = np.repeat(p.succ_ptr[ops] - np.cumsum(lengths) + lengths, lengths)
    direct = p.succ[begins + np.arange(of.size)] == until[of]
    follows[of[direct]] = True
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
    in_range("a curve", p.curve, -1, p.curves.shape[-2])
    in_range("a curve's resource", p.curve_resource, -1, p.hold_capacity.size)
    _demand_finite(p.curves.ravel(), "bounds must be > 0", positive=True, kind="curve entry")
    if p.curves.shape[-2] == 0:
        return
    has = p.curve >= 0
    _demand_all(~has | (p.curve_resource >= 0), "a curve needs a resource", p.curve_resource)
    most = int(p.hold_capacity[p.curve_resource[has]].max(initial=0))
    if p.curves.shape[-1] <= most:
        message = f"curves reach {p.curves.shape[-1] - 1} units, their resources have {most}"
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
