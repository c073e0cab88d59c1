"""The arrays that the kernel writes, allocated in one place from the program's sizes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.program import F8, I4, I8, Program

B1 = npt.NDArray[np.bool_]

# `phase`: what a lane's event in the heap ends, a latency or a work
LATENCY, WORK = 1, 2
AHEAD = 3  # or both, since nobody is on the op's resources
WAKE = 4  # or an op begins, since the last end it waits for was known beforehand
RUN = 5  # or the last of several works in a row
FIXED, CHAINED = 1, 2  # `kind` of ops that are played ahead


class State(NamedTuple):
    """Working memory of one run. A lane runs one op at a time, so running ops are kept by lane."""

    # by op
    start: F8
    end: F8
    waiting: I4  # predecessors yet to end
    done: I4  # steps ended
    release_ptr: I4  # CSR: ops whose units an op's end gives back
    release: I4
    kind: I4  # FIXED for ops of latency alone, which hold nothing and end no hold; CHAINED for
    # works whose end matters to the next op of the lane alone, another work on the same resources
    ready: F8  # latest end, known beforehand, of a predecessor
    # by lane
    op_at: I4  # the op that runs
    phase: I4
    key: F8  # time of its event in the heap
    due: F8  # time that `key` is to become
    place: I4  # index in the heap, -1 outside
    heap: I4
    moved: I4  # lanes whose `due` is new
    remaining: F8
    rate: F8
    old_rate: F8
    since: F8  # when `remaining` was right
    limit: F8  # bound of the op, by its curve where it has one
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
    n_ready: int
    n_ops: int
    n_units: int  # countable resources
    widest: int  # the most demands of an op
    gives_back: int  # 1: the end of some op gives units back


#: fields of a state that are numbers
COUNTS = ("curve_width", "n_ready", "n_ops", "n_units", "widest", "gives_back")


def prepare(program: Program) -> State:
    """Allocate and set up the state for a run."""
    p = program
    n, i4 = p.lane.size, np.int32
    same_lane = p.lane[1:] == p.lane[:-1]
    waiting = np.bincount(p.succ, minlength=n).astype(i4)
    waiting[1:] += same_lane
    widest = np.zeros(p.n_lanes, dtype=i4)
    if n:
        first = np.concatenate(([0], np.flatnonzero(~same_lane) + 1))
        lengths = np.diff(p.demand_ptr)[p.route]
        widest[p.lane[first]] = np.maximum.reduceat(lengths, first)
    holders = np.flatnonzero(p.hold_resource >= 0)
    release_ptr, release = given_back(p, holders)
    if not holders.size:
        release_ptr = release_ptr[:1]
    has_steps = int(p.steps.max(initial=1)) > 1 or int(p.peer.max(initial=-1)) >= 0
    state = state_of(
        p.n_lanes, widest, p.capacity.size, p.hold_capacity, p.curves, np.flatnonzero(waiting == 0)
    )
    return state._replace(
        start=np.full(n, np.nan),
        end=np.full(n, np.nan),
        waiting=waiting,
        done=np.zeros(n if has_steps else 0, dtype=i4),
        release_ptr=release_ptr,
        release=release,
        kind=kinds(p, *ahead(p, release_ptr)),
        ready=np.zeros(n),
        n_ops=n,
        gives_back=int(holders.size > 0),
    )


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

    def zeros(size: int) -> I4:
        return np.zeros(size, dtype=i4)

    def minus(size: int) -> I4:
        return np.full(size, -1, dtype=i4)

    nothing = np.zeros(0)
    return State(
        start=nothing,
        end=nothing,
        waiting=zeros(0),
        done=zeros(0),
        release_ptr=zeros(1),
        release=zeros(0),
        kind=zeros(0),
        ready=nothing,
        op_at=minus(lanes),
        phase=zeros(lanes),
        key=np.zeros(lanes),
        due=np.zeros(lanes),
        place=minus(lanes),
        heap=zeros(lanes),
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
        n_ready=ready_ops.size,
        n_ops=0,
        n_units=units,
        widest=int(widest.max(initial=0)),
        gives_back=0,
    )


def ahead(p: Program, release_ptr: I4) -> tuple[B1, B1]:
    """What may be played ahead, as far as structure tells.

    Parameters
    ----------
    p : Program
        Its structure is read.
    release_ptr : (n + 1,) or (1,) int32
        CSR of what each op's end gives back.

    Returns
    -------
    (n,) bool
        Ops without steps that neither hold nor give back anything.
    (n - 1,) bool
        Such ops whose end matters to the next one of the lane alone.
    """
    free = (p.steps == 1) & (p.peer < 0) & (p.follower < 0) & (p.hold_resource < 0)
    begins = free[1:]
    if release_ptr.size > 1:
        free = free & (np.diff(release_ptr) == 0)
    nobody_else = (p.succ_ptr[1:-1] == p.succ_ptr[:-2]) & (p.lane[1:] == p.lane[:-1])
    return free, free[:-1] & begins & nobody_else


def kinds(p: Program, free: B1, links: B1) -> I4:
    """`State.kind` of each op, where structure lets it be: see `ahead`, (n,) or a row a program."""
    kind: I4 = np.multiply(free & (p.work == 0.0), FIXED, dtype=np.int32)
    works = (p.work > 0.0) & (p.latency == 0.0)
    on = np.where(p.curve >= 0, p.curve_resource, np.int32(-1))
    # resources of a route as a number: one at most, or it is a route of its own
    lengths = np.diff(p.demand_ptr)
    where = np.where(lengths == 0, -1, -2 - np.arange(lengths.size)).astype(np.int32)
    one = lengths == 1
    where[one] = p.demand_resource[p.demand_ptr[:-1][one]]
    at = where.take(p.route)
    chained = links & (at[1:] == at[:-1]) & works[..., 1:] & (p.work[..., :-1] > 0.0)
    chained &= on[..., 1:] == on[..., :-1]
    kind[..., :-1][chained] = CHAINED
    return kind
