"""Start and end times of a plan under given durations: the rules of `sim.strategies.plan`.

No resources are shared and nothing is launched: an op takes exactly the duration it is given. This
is how a schedule is checked against recorded runs, independently of costs and engines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sim.strategies.plan import COLLECTIVE, HOST, Plan, PlanOp


class Replay(NamedTuple):
    """Times by op of the plan. [s]"""

    start: list[float]
    end: list[float]

    @property
    def makespan(self) -> float:
        """When the last op ends. [s]"""
        return max(self.end, default=0.0)


def replay(
    plan: Plan,
    duration: Callable[[PlanOp], float],
    communicator: Callable[[PlanOp], object] = lambda op: op.comm,
) -> Replay:
    """Run a plan on one rank.

    Parameters
    ----------
    plan : Plan
        What to run.
    duration : callable
        Seconds an op takes. [s]
    communicator : callable, optional
        What collectives of one value are serialised by; default the plan's `comm`.

    Returns
    -------
    Replay
        Start = max(previous of its stream, dependencies, communicator, CPU).
    """
    start: list[float] = []
    end: list[float] = []
    free: dict[object, float] = {}
    cpu = 0.0
    for op in plan.ops:
        if op.host_after >= 0:
            cpu = max(cpu, end[op.host_after])
        begin = max(cpu, free.get(op.stream, 0.0))
        for dep in op.deps:
            begin = max(begin, end[dep])
        if op.kind == COLLECTIVE:
            wire = ("wire", communicator(op))
            begin = max(begin, free.get(wire, 0.0))
        finish = begin + duration(op)
        start.append(begin)
        end.append(finish)
        free[op.stream] = finish
        if op.kind == COLLECTIVE:
            free[wire] = finish
        elif op.kind == HOST:
            cpu = finish
    return Replay(start, end)
