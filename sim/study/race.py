"""Searches side by side: the most promising first, then the others as far as they are wanted.

A search says what it waits for, and how good what it finds can be at the best. Those go on that
promise more than the best found; when none does, that one is the best of all: searched so, it takes
no more than the plans that promise more than it is. What the others would find is searched after
that, one after another, as long as there are plans to spend on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import field
from functools import partial
from typing import Generic, TypeVar

from sim.records import NamedTuple, dataclass
from sim.step.step import steps
from sim.step.variation import Stop, never
from sim.study.bounds import Bounds
from sim.study.candidates import Candidate

T = TypeVar("T")

Rank = tuple[int, bool, float]
"""How good what was found is, the less the better; a promise is one that cannot be beaten."""

#: micro-batches of ranks of a pipeline that take as long as a step without one
_ACTIONS = 8
#: searches that go on together where there is an end to what may be spent; else all do: their steps
#: are simulated in one call of the engine
_FRONT = 4


class Need(NamedTuple):
    """What a search waits for.

    Attributes
    ----------
    plans : tuple of Candidate
        Whose steps are to be simulated.
    bounds : tuple of Candidate
        Whose bounds rest on micro-steps that are to be simulated.
    least : float
        Score that no plan is below which was not looked at yet.
    promise : Rank
        That what the search finds cannot beat.
    """

    plans: tuple[Candidate, ...] = ()
    bounds: tuple[Candidate, ...] = ()
    least: float = -math.inf
    promise: Rank = (0, False, -math.inf)

    @property
    def work(self) -> float:
        """What it takes, over what a step without a pipeline does. [1]"""
        return 1.0 + sum(map(_work, self.plans))


def _work(plan: Candidate) -> float:
    """Pipelines are played action by action."""
    workload = plan.workload
    actions = workload.parallelism.pipeline_parallel * workload.gradient_accumulation
    return actions / _ACTIONS if workload.parallelism.pipeline_parallel > 1 else 0.0


Searching = Generator[Need, bool, T]
"""A search under way: it is told whether to end with what it has found, which it returns."""


def promising(search: Searching[T], promise: Callable[[float], Rank]) -> Searching[T]:
    """A search whose promises follow from its scores."""
    try:
        need = next(search)
        while True:
            told = yield need._replace(promise=promise(need.least))
            need = search.send(told)
    except StopIteration as end:
        found: T = end.value
        return found


@dataclass(slots=True)
class Race(Generic[T]):
    """Searches under way.

    Attributes
    ----------
    searches : sequence of Searching
        In the order that decides between what is equally good.
    bounds : Bounds
        Told what searches wait for.
    stop : callable
        Whether to end all with what was found; those that did not begin then never do.
    rank : callable, optional
        How good what was found is; without it no search waits for another.
    found : dict of int to what was found
        By place in `searches`.
    """

    searches: Sequence[Searching[T]]
    bounds: Bounds
    stop: Stop = never
    rank: Callable[[T], Rank] | None = None
    found: dict[int, T] = field(default_factory=dict)
    _needs: dict[int, Need] = field(default_factory=dict)
    _leader: tuple[Rank, int] | None = None

    def __post_init__(self) -> None:
        for i, search in enumerate(self.searches):
            if self.stop():
                self._end()
                return
            self._hear(i, partial(next, search))

    def decide(self) -> T | None:
        """The best of all; None where nothing is searched, or nothing was found when stopped."""
        while self._needs:
            promises = [(need.promise, i) for i, need in self._needs.items()]
            ahead = [p for p in promises if self._leader is None or p < self._leader]
            if not ahead:
                break
            self._go_on([min(ahead)[1]])
        return None if self._leader is None else self.found[self._leader[1]]

    def finish(self, work: float = math.inf) -> None:
        """Go on with all others, the most promising first; after so much `Need.work` they end."""
        order = sorted(self._needs, key=lambda i: (self._needs[i].promise, i))
        together = _FRONT if math.isfinite(work) else len(order)
        while self._needs and work > 0.0:
            front = [i for i in order if i in self._needs][:together]
            work -= sum(self._needs[i].work for i in front)
            self._go_on(front)
        self._end()

    def _go_on(self, which: Sequence[int]) -> None:
        """Simulate what some wait for, and hear what they say then."""
        if not self.stop():
            needs = [self._needs[i] for i in which]
            self.bounds.ask(c for need in needs for c in need.bounds)
            steps([(c.topology, c.workload) for n in needs for c in n.plans], causes=False)
        for i in which:
            if self.stop():
                self._end()
                return
            self._hear(i, partial(self.searches[i].send, False))

    def _end(self) -> None:
        """Those under way end with what they have."""
        for i in list(self._needs):
            self._hear(i, partial(self.searches[i].send, True))

    def _hear(self, i: int, said: Callable[[], Need]) -> None:
        try:
            self._needs[i] = said()
        except StopIteration as end:
            self._needs.pop(i, None)
            self.found[i] = end.value
            if self.rank is not None:
                mine = self.rank(end.value), i
                self._leader = mine if self._leader is None else min(self._leader, mine)
