"""The nodes of a job: spares that step in, broken ones away for repair, how many are missing."""

from __future__ import annotations

import heapq

from sim.job.spec import JobSpec


class Nodes:
    """Nodes of a job and its spares, as time goes on.

    Parameters
    ----------
    spec : JobSpec
        Its `nodes`, `spares` and `least_nodes`.
    """

    def __init__(self, spec: JobSpec) -> None:
        self.least = spec.least_nodes or spec.nodes
        self.size, self.spares = spec.nodes, spec.spares
        self.away: list[float] = []  # when broken nodes come back, a heap

    @property
    def missing(self) -> int:
        """Nodes that the job lacks."""
        return max(0, -(self.spares or 0))

    @property
    def slowdown(self) -> float:
        """How much longer a step takes than on all nodes: they share the same batch."""
        return self.size / (self.size - self.missing) if self.missing else 1.0

    @property
    def next_back_s(self) -> float:
        """When the next of the missing nodes is there again. [s]"""
        return self.away[0]

    def lose(self, count: int, now_s: float, away_s: float) -> float:
        """Take spares for nodes that are away so long; how long the job has to wait. [s]

        Without a number of spares every node is replaced at once.
        """
        if self.spares is None:
            return 0.0
        for _ in range(count):
            heapq.heappush(self.away, now_s + away_s)
        self.spares -= count
        ready_s = now_s
        while self.away and (self.away[0] <= ready_s or self.size - self.missing < self.least):
            ready_s = max(ready_s, heapq.heappop(self.away))
            self.spares += 1
        return ready_s - now_s

    def regain(self, now_s: float) -> None:
        """Nodes that are back by now are the job's, or spares, again."""
        assert self.spares is not None
        while self.away and self.away[0] <= now_s:
            heapq.heappop(self.away)
            self.spares += 1
