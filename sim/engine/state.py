"""The arrays that the kernel writes, allocated in one place from the program's sizes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.program import F8, I4, I8, Program
from sim.records import NamedTuple

B1 = npt.NDArray[np.bool_]
U1 = npt.NDArray[np.uint8]

# `phase`: what a lane's event in the contest ends, a latency or a work
LATENCY, WORK = 1, 2
AHEAD = 3  # or both, since nobody is on the op's resources
WAKE = 4  # or an op begins, since the last end it waits for was known beforehand
RUN = 5  # or the last of several works in a row
# `kind`: what structure says of an op, one bit each
LAST = 1  # the next op is on another lane
FREE = 2  # no steps; holds nothing, and its end gives nothing back
LINKED = 4  # so is the next op of the lane, and it alone waits for this one's end
STEPPED = 8  # steps, or another op's steps wait for this one
HOLDS = 16
GIVES = 32  # its end gives units back
ALIKE = 64  # linked, and known beforehand to be alike: the next is a work on the same resources
GATE = 128  # a run pauses before it begins


class State(NamedTuple):
    """Working memory of one run. A lane runs one op at a time, so running ops are kept by lane."""

    # by op
    times: F8  # (2 n,) of op o at 2 o its start, until then the latest end, known beforehand, of
    # what it waits for; at 2 o + 1 its end, until it begins minus how many it waits for
    done: I4  # steps ended
    release_ptr: I4  # CSR: ops whose units an op's end gives back
    release: I4
    kind: U1  # bits, see above
    # by lane
    op_at: I4  # the op that runs
    phase: I4
    due: F8  # time of its event
    leaf: I4  # that it has, -1: none
    free_leaf: I4  # leaves that had a lane, in no order
    key: F8  # (2 n_leaves,) times of events, as they contend
    earliest: I4  # (2 n_leaves,) their lanes, or how many lanes there are: none
    moved: I4  # lanes whose `due` is new
    remaining: F8
    rate: F8
    old_rate: F8
    since: F8  # when `remaining` was right
    limit: F8  # rate that the op has alone: its bound, or its curve's, and its resources'
    height: F8  # level at which it was settled, -1 where it was alone
    tight: I4  # full resources that keep it there
    run_last: I4  # the last op of several that are played ahead
    run_units: I4  # the units left that they were played with
    entry: I4  # (n_lanes+1,) first link of each lane
    flow_mark: I4
    flows: I4  # lanes of the component
    rising: I4  # those of them whose rate is yet to be found
    ripe: I4  # lanes to solve though no resource of theirs has changed
    ripe_mark: I4
    # by link: one a (lane, demand of its op), chained per resource
    link_lane: I4
    link_next: I4
    link_prev: I4
    link_tight: I4  # 1: the resource keeps the lane's op at its height
    link_shared: I4  # from a lane's first link on, demands of its op on resources that others use
    shared_end: I4  # by lane: the end of those
    # by resource
    head: I4
    users: I4
    dirty: I4
    dirty_mark: I4
    resource_mark: I4
    resources: I4  # resources of the component
    free: F8
    pull: F8  # sum of amount x weight of the rising flows
    full: I4
    # by countable resource
    left: I4
    dirty_units: I4
    dirty_units_mark: I4
    reader_head: I4  # lanes whose op has a curve on it, chained
    reader_next: I4  # by lane
    reader_prev: I4
    curves: F8  # the program's, flat
    curve_width: int
    stack: I4  # (op << 3 | action)
    clock: F8  # (1,) time, of a run that has paused
    held: I8  # (13,) what it counts, first of all items on the stack
    n_lanes: int
    n_leaves: int  # a power of two, see `contest`
    n_ops: int
    n_units: int  # countable resources
    widest: int  # the most demands of an op


#: fields of a state that are numbers
COUNTS = ("curve_width", "n_lanes", "n_leaves", "n_ops", "n_units", "widest")


class Skeleton(NamedTuple):
    """What of a state is the same for all programs of a structure, whatever their numbers."""

    waiting: npt.NDArray[np.integer]  # (n,) how many ends each op waits for
    widest: I4  # (n_lanes,) the most demands that an op of each has
    has_steps: bool
    release_ptr: I4
    release: I4
    kind: U1


def skeleton_of(program: Program) -> Skeleton:
    """Worked out from lanes, edges, routes and holds."""
    p = program
    n, i4 = p.lane.size, np.int32
    last = ends_of_lanes(p.lane)
    waiting = np.bincount(p.succ, minlength=n)
    waiting[1:] += ~last[:-1]
    widest = np.zeros(p.n_lanes, dtype=i4)
    if n:
        first = np.flatnonzero(np.append(True, last[:-1]))
        lengths = np.diff(p.demand_ptr)[p.route]
        widest[p.lane[first]] = np.maximum.reduceat(lengths, first)
    holders = np.flatnonzero(p.hold_resource >= 0)
    release_ptr, release = given_back(p, holders)
    if not holders.size:
        release_ptr = release_ptr[:1]
    has_steps = int(p.steps.max(initial=1)) > 1 or int(p.peer.max(initial=-1)) >= 0
    narrow = waiting.astype(np.min_scalar_type(int(waiting.max(initial=0))))
    return Skeleton(narrow, widest, has_steps, release_ptr, release, kinds(p, release_ptr))


def prepare(program: Program, known: Skeleton | None = None) -> State:
    """Allocate and set up the state for a run; `known` is that of the program's structure."""
    p, own = program, skeleton_of(program) if known is None else known
    n = p.lane.size
    state = state_of(
        p.n_lanes, own.widest, p.capacity.size, p.hold_capacity, p.curves,
        np.flatnonzero(own.waiting == 0),
    )  # fmt: skip
    times = np.zeros((n, 2))
    np.negative(own.waiting, out=times[:, 1], dtype=np.float64)
    return state._replace(
        times=times.ravel(),
        done=np.zeros(n if own.has_steps else 0, dtype=np.int32),
        release_ptr=own.release_ptr,
        release=own.release,
        kind=own.kind,
        n_ops=n,
    )


def parted(times: F8) -> tuple[F8, F8]:
    """Starts and ends of a state's `times`, (..., 2 n), each in one piece."""
    return np.ascontiguousarray(times[..., 0::2]), np.ascontiguousarray(times[..., 1::2])


def alike(p: Program, kind: U1) -> U1:
    """Bits of ops whose next is `is_alike`, (n,): for columns that many ranks go through."""
    found = np.zeros_like(kind)
    reader = np.where(p.curve >= 0, p.curve_resource, -1)
    sizes, first = np.diff(p.demand_ptr), np.append(p.demand_resource, -1)[p.demand_ptr[:-1]]
    # the resource of one demand, no matter how much; of several the route
    drawn = np.where(sizes == 1, first, np.where(sizes == 0, -1, -2 - np.arange(sizes.size)))
    drawn = drawn[p.route]
    same = (kind[:-1] & LINKED != 0) & (drawn[1:] == drawn[:-1]) & (reader[1:] == reader[:-1])
    found[:-1][same & (p.work[1:] > 0.0) & (p.latency[1:] == 0.0)] = ALIKE
    return found


def ends_of_lanes(lane: I4) -> B1:
    """Whether each op is the last of its lane, (n,), of the lanes of ops, ascending."""
    return np.append(lane[1:] != lane[:-1], True)[: lane.size]


def given_back(p: Program, holders: I8) -> tuple[I4, I4]:
    """Whose units the end of each op gives back, of those of some ops, as CSR."""
    until = p.hold_until[holders]
    ptr = np.zeros(p.lane.size + 1, dtype=np.int32)
    np.cumsum(np.bincount(until, minlength=p.lane.size), out=ptr[1:])
    return ptr, holders[np.argsort(until, kind="stable")].astype(np.int32)


def state_of(
    n_lanes: int, widest: I4, resources: int, hold_capacity: I4, curves: F8, ready_ops: I8
) -> State:
    """The state of lanes and resources; of ops there are none.

    Parameters
    ----------
    n_lanes : int
        Lanes.
    widest : (n_lanes,) int32
        The most demands that an op of each has.
    resources : int
        Shared resources.
    hold_capacity, curves
        See `Program`.
    ready_ops : (n,) int64
        Ops that wait for nothing, ascending.
    """
    lanes, units, i4 = n_lanes, hold_capacity.size, np.int32
    entry = np.zeros(lanes + 1, dtype=i4)
    np.cumsum(widest, out=entry[1:])
    links = int(entry[-1])
    # A lane has one unended op ready at most, and an op has at most two items on the stack.
    stack = np.empty(4 * lanes + 16, dtype=i4)
    stack[: ready_ops.size] = ready_ops[::-1] << 3  # popped from the end: lowest index first

    leaves = 1 << max(lanes - 1, 0).bit_length()
    held = np.zeros(13, dtype=np.int64)
    held[0], held[9], held[12] = ready_ops.size, leaves, -1

    def zeros(size: int) -> I4:
        return np.zeros(size, dtype=i4)

    def minus(size: int) -> I4:
        return np.full(size, -1, dtype=i4)

    return State(
        times=np.zeros(0),
        done=zeros(0),
        release_ptr=zeros(1),
        release=zeros(0),
        kind=np.zeros(0, dtype=np.uint8),
        op_at=minus(lanes),
        phase=zeros(lanes),
        due=np.zeros(lanes),
        leaf=minus(lanes),
        free_leaf=zeros(lanes),
        key=np.full(2 * leaves, np.inf),
        earliest=np.full(2 * leaves, lanes, dtype=i4),
        moved=zeros(3 * lanes + 16),
        remaining=np.zeros(lanes),
        rate=np.zeros(lanes),
        old_rate=np.zeros(lanes),
        since=np.zeros(lanes),
        limit=np.zeros(lanes),
        height=minus(lanes).astype(float),
        tight=zeros(lanes),
        run_last=zeros(lanes),
        run_units=zeros(lanes),
        entry=entry,
        flow_mark=zeros(lanes),
        flows=zeros(lanes),
        rising=zeros(lanes),
        ripe=zeros(lanes),
        ripe_mark=zeros(lanes),
        link_lane=np.repeat(np.arange(lanes, dtype=i4), widest),
        link_next=zeros(links),
        link_prev=zeros(links),
        link_tight=zeros(links),
        link_shared=zeros(links),
        shared_end=zeros(lanes),
        head=minus(resources),
        users=zeros(resources),
        dirty=zeros(resources),
        dirty_mark=zeros(resources),
        resource_mark=zeros(resources),
        resources=zeros(resources),
        free=np.zeros(resources),
        pull=np.zeros(resources),
        full=zeros(resources),
        left=hold_capacity.copy(),
        dirty_units=zeros(units),
        dirty_units_mark=zeros(units),
        reader_head=minus(units),
        reader_next=zeros(lanes if units else 0),
        reader_prev=zeros(lanes if units else 0),
        curves=curves.ravel(),
        curve_width=curves.shape[1],
        stack=stack,
        clock=np.zeros(1),
        held=held,
        n_lanes=lanes,
        n_leaves=leaves,
        n_ops=0,
        n_units=units,
        widest=int(widest.max(initial=0)),
    )


def kinds(p: Program, release_ptr: I4) -> U1:
    """`State.kind` of each op, (n,).

    Parameters
    ----------
    p : Program
        Its structure is read.
    release_ptr : (n + 1,) or (1,) int32
        CSR of what each op's end gives back.
    """
    stepped = p.steps > 1
    if int(p.peer.max(initial=-1)) >= 0:
        stepped |= (p.peer >= 0) | (p.follower >= 0)
    holds = p.hold_resource >= 0
    gives = np.diff(release_ptr) > 0 if release_ptr.size > 1 else np.zeros_like(holds)
    begins = ~(stepped | holds)
    free = begins & ~gives
    last = ends_of_lanes(p.lane)
    linked = free & ~last & (p.succ_ptr[1:] == p.succ_ptr[:-1])
    linked[:-1] &= begins[1:]
    kind: U1 = np.multiply(gives, GIVES, dtype=np.uint8)
    bits = ((LAST, last), (FREE, free), (LINKED, linked), (STEPPED, stepped), (HOLDS, holds))
    for bit, those in bits:
        kind |= np.multiply(those, bit, dtype=np.uint8)
    return kind
