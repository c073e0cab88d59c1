"""What became of a job of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sim.documents import Section
from sim.records import NamedTuple
from sim.study.cluster import Request


class Hold(NamedTuple):
    """Nodes that a job held, from one time to another. [s]"""

    start_s: float
    end_s: float
    nodes: tuple[int, ...]


@dataclass(slots=True)
class JobLog(Section):
    """What became of a job. Times from the start of the plan. [s]

    Attributes
    ----------
    request : Request
        What was asked; once it runs, in the form that it took.
    start_s, finish_s : float
        First start, end.
    held_s : float
        Time in which it held its nodes.
    preemptions : int
        How often it lost them.
    holds : list of Hold
        When, and which.
    odds : float or None
        Probability that it meets its deadline, failures and paces as they fall; None: not asked.
    """

    request: Request
    start_s: float = -1.0
    finish_s: float = -1.0
    held_s: float = 0.0
    preemptions: int = 0
    holds: list[Hold] = field(default_factory=list)
    odds: float | None = None

    @property
    def waiting_s(self) -> float:
        """Time without nodes, first wait and preemptions together. [s]"""
        return self.finish_s - self.request.arrival_s - self.held_s

    @property
    def slowdown(self) -> float:
        """Time with nodes over the time alone: neighbours, saves and restarts."""
        return self.held_s / self.request.alone_s

    @property
    def on_time(self) -> bool:
        """Whether it met its deadline; a job without one does."""
        deadline = self.request.deadline_s
        return deadline is None or self.finish_s <= deadline * (1 + 1e-9)

    @property
    def spare_s(self) -> float | None:
        """How long before its deadline it ends; negative: how late. None without one. [s]"""
        deadline = self.request.deadline_s
        return None if deadline is None else deadline - self.finish_s

    def content(self) -> dict[str, Any]:
        """The job as a flat mapping."""
        r = self.request
        return {
            "name": r.name,
            "nodes": r.nodes,
            "gpus": r.gpus or None,
            "priority": r.priority,
            "arrival_s": r.arrival_s,
            "start_s": self.start_s,
            "finish_s": self.finish_s,
            "waiting_s": max(0.0, self.waiting_s),
            "held_s": self.held_s,
            "alone_s": r.alone_s,
            "deadline_s": r.deadline_s,
            "preemptions": self.preemptions,
            "spare_s": self.spare_s,
            "on_time": self.on_time,
            "on_time_probability": self.odds,
        }
