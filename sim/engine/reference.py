"""The definition of what a Program means, written to be read: SimPy, one process a lane.

Nothing here is shared with the other engine beyond `program.py`. It is about a hundred times
slower; differential tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from functools import partial
from typing import Any, cast

import numpy as np
import simpy
from simpy.events import EventPriority

from sim.errors import EngineError
from sim.program import Program, Timeline, check_acyclic
from sim.records import NamedTuple

# SimPy's own priorities are 0 (urgent) and 1 (normal).
AFTER_EVERYTHING_NOW = cast(EventPriority, 2)


class Flow(NamedTuple):
    """What one op in its work asks of the shared resources."""

    bound: float
    weight: float
    demands: tuple[tuple[int, float], ...]  # (resource, amount per unit of work)


def max_min_rates(flows: list[Flow], capacity: list[float]) -> list[float]:
    """Rates by weighted max-min sharing (progressive filling).

    The water level rises for all flows at once; a flow's rate is its weight times the level. A
    flow stops where its bound is met or a resource it draws on is used up.

    Notes
    -----
    The level at which a resource is used up is ``free / sum(amount x weight)`` over the flows
    still rising. Quotients are compared as they are, without a tolerance, and the level never
    falls, so rounding can't make it.
    """
    if len(flows) == 1:
        (flow,) = flows
        return [min([flow.bound] + [capacity[r] / amount for r, amount in flow.demands])]
    rates = [0.0] * len(flows)
    free = {r: capacity[r] for flow in flows for r, _ in flow.demands}
    rising = list(range(len(flows)))
    level = 0.0
    while rising:
        pull: dict[int, float] = {}
        for i in rising:
            for r, amount in flows[i].demands:
                pull[r] = pull.get(r, 0.0) + amount * flows[i].weight
        fill = {r: free[r] / total for r, total in pull.items()}
        caps = {i: flows[i].bound / flows[i].weight for i in rising}
        level = max(level, min([*fill.values(), *caps.values()]))
        stopped = [
            i
            for i in rising
            if caps[i] <= level or any(fill[r] <= level for r, _ in flows[i].demands)
        ]
        for i in stopped:
            rates[i] = min(level * flows[i].weight, flows[i].bound)
            for r, amount in flows[i].demands:
                free[r] -= rates[i] * amount
        rising = [i for i in rising if i not in set(stopped)]
    return rates


class Sharing:
    """The ops in their work: how fast each goes, how much each has left."""

    def __init__(self, env: simpy.Environment, program: Program) -> None:
        self.env = env
        self.capacity = program.capacity.tolist()
        self.left = program.hold_capacity.tolist()
        self.curves = program.curves.tolist()
        self.bound, self.weight = program.bound.tolist(), program.weight.tolist()
        self.curve, self.reads = program.curve.tolist(), program.curve_resource.tolist()
        ptr = program.demand_ptr.tolist()
        pairs = list(
            zip(program.demand_resource.tolist(), program.demand_amount.tolist(), strict=True)
        )
        self.demands = [tuple(pairs[ptr[r] : ptr[r + 1]]) for r in program.route.tolist()]
        self.users: list[set[int]] = [set() for _ in self.capacity]
        self.finished: dict[int, simpy.Event] = {}  # of every op in its work
        self.remaining: dict[int, float] = {}
        self.rate: dict[int, float] = {}
        self.since: dict[int, float] = {}  # when `remaining` was right
        self.timer: dict[int, simpy.Event] = {}
        self.changed: set[int] = set()  # ops whose component must be solved
        self.settling = False
        self.events = 0
        self.solves = 0

    def take(self, resource: int, units: int) -> None:
        """Take units of a countable resource, or give them back where `units` is negative."""
        self.left[resource] -= units
        self._touch(op for op in self.finished if self.reads[op] == resource)

    def begin(self, op: int, work: float) -> simpy.Event:
        """Enter the work of an op; the event is its end."""
        self.finished[op] = self.env.event()
        self.remaining[op], self.rate[op], self.since[op] = work, 0.0, self.env.now
        for r, _ in self.demands[op]:
            self.users[r].add(op)
        self._touch([op])
        return self.finished[op]

    def _finish(self, op: int, timer: simpy.Event) -> None:
        if self.timer.get(op) is not timer:
            return  # the rate has changed since this timer was set
        self.events += 1
        for r, _ in self.demands[op]:
            self.users[r].discard(op)
        self._touch({user for r, _ in self.demands[op] for user in self.users[r]})
        del self.timer[op]
        self.finished.pop(op).succeed()

    def _touch(self, ops: Iterable[int]) -> None:
        """Solve again once everything that happens at this instant has happened."""
        self.changed.update(ops)
        if self.changed and not self.settling:
            self.settling = True
            event = self.env.event()
            event._ok, event._value = True, None
            event.callbacks.append(self._settle)
            self.env.schedule(event, priority=AFTER_EVERYTHING_NOW)

    def _settle(self, _: simpy.Event) -> None:
        self.settling = False
        todo = self.changed & self.finished.keys()
        self.changed = set()
        while todo:
            component = self._component(min(todo))
            todo -= component
            self._solve(sorted(component))

    def _component(self, seed: int) -> set[int]:
        """Every op linked to this one through shared resources."""
        component, todo = {seed}, [seed]
        while todo:
            for r, _ in self.demands[todo.pop()]:
                fresh = self.users[r] - component
                component |= fresh
                todo += fresh
        return component

    def _solve(self, ops: list[int]) -> None:
        self.solves += 1
        flows = [Flow(self._bound(op), self.weight[op], self.demands[op]) for op in ops]
        for op, rate in zip(ops, max_min_rates(flows, self.capacity), strict=True):
            if rate == self.rate[op]:
                continue  # its end stays where it was, to the bit
            if self.rate[op] > 0.0:
                moved = self.rate[op] * (self.env.now - self.since[op])
                self.remaining[op] = max(0.0, self.remaining[op] - moved)
            self.since[op], self.rate[op] = self.env.now, rate
            timer = self.timer[op] = self.env.timeout(self.remaining[op] / rate)
            timer.callbacks.append(partial(self._finish, op))

    def _bound(self, op: int) -> float:
        if self.curve[op] < 0:
            return float(self.bound[op])
        row = self.curves[self.curve[op]]
        return float(row[min(max(self.left[self.reads[op]], 0), len(row) - 1)])


class ReferenceRun:
    """One simulation."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.env = env = simpy.Environment()
        self.sharing = Sharing(env, program)
        n = program.lane.size
        self.start, self.end = [float("nan")] * n, [float("nan")] * n
        self.ended = [env.event() for _ in range(n)]
        self.steps, self.peer = program.steps.tolist(), program.peer.tolist()
        self.step_ended = {
            op: [env.event() for _ in range(self.steps[op])] for op in set(self.peer) - {-1}
        }
        self.latency, self.work = program.latency.tolist(), program.work.tolist()
        self.before: list[list[int]] = [[] for _ in range(n)]
        for op in range(n):
            for later in program.succ[program.succ_ptr[op] : program.succ_ptr[op + 1]].tolist():
                self.before[later].append(op)
        self.held: list[list[int]] = [[] for _ in range(n)]  # ops whose units this op's end frees
        for op in np.flatnonzero(program.hold_resource >= 0).tolist():
            self.held[int(program.hold_until[op])].append(op)

    def timeline(self) -> Timeline:
        """Run to the end."""
        lanes: dict[int, list[int]] = {}
        for op, lane in enumerate(self.program.lane.tolist()):
            lanes.setdefault(lane, []).append(op)
        for ops in lanes.values():
            self.env.process(self.lane(ops))
        self.env.run()
        if any(not event.triggered for event in self.ended):
            check_acyclic(self.program)
            message = f"stuck at {self.env.now} s without a cycle"
            raise EngineError(message)
        if float("inf") in self.end:
            message = f"op {self.end.index(float('inf'))}: its end is too far off for a float"
            raise EngineError(message)
        return Timeline(
            start=np.array(self.start, dtype=float),
            end=np.array(self.end, dtype=float),
            events=self.sharing.events,
            solves=self.sharing.solves,
        )

    def lane(self, ops: list[int]) -> Generator[simpy.Event, Any, None]:
        """Run a lane's ops one after the other."""
        for op in ops:
            for before in self.before[op]:
                yield self.ended[before]
            self.start[op] = self.env.now
            if self.program.hold_resource[op] >= 0:
                self.sharing.take(self.program.hold_resource[op], self.program.hold_units[op])
            yield from self.steps_of(op)
            self.end[op] = self.env.now
            for holder in self.held[op]:
                self.sharing.take(
                    self.program.hold_resource[holder], -self.program.hold_units[holder]
                )
            self.ended[op].succeed()

    def steps_of(self, op: int) -> Generator[simpy.Event, Any, None]:
        """Run an op's steps, each after its own and its peer's previous one."""
        peer = self.peer[op]
        for step in range(self.steps[op]):
            if step > 0 and peer >= 0:
                yield self.step_ended[peer][step - 1]
            if self.latency[op] > 0.0:
                yield self.env.timeout(self.latency[op])
                self.sharing.events += 1
            if self.work[op] > 0.0:
                yield self.sharing.begin(op, self.work[op])
            if op in self.step_ended:
                self.step_ended[op][step].succeed()
        if peer >= 0:
            yield self.step_ended[peer][-1]


def run(program: Program) -> Timeline:
    """Run a program; see `sim.program` for the rules.

    Raises
    ------
    EngineError
        If ops wait for each other.
    """
    return ReferenceRun(program).timeline()
