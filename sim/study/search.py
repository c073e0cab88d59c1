"""Best plan of a machine, exactly: branch and bound over candidates.

Candidates are taken in order of their bound (`sim.study.bounds`); the cheap bound is replaced by
better ones when its turn comes, then memory is checked, then the plan is simulated. The search
ends when the next bound is not better than the best plan found.

Pipelines are dear to simulate and their bounds wide: gathers, reductions and messages lie open at
both ends of a step. These are much the same in all plans of one cut, and more where there are fewer
micro-batches, so that from the second on a machine's plan counts as so far above its bound as the
closest yet of its cut with as many micro-batches or more, on any machine.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import astuple, field
from typing import Any

from sim.blocks.flops import token_flops
from sim.job.basis import no_length
from sim.job.estimate import estimate_job
from sim.records import NamedTuple, dataclass
from sim.result.peak import peak_of
from sim.step.breakdown import Breakdown
from sim.step.shares import shares
from sim.step.step import steps
from sim.step.variation import Stop, never
from sim.study.bounds import Bounds, peak_alike
from sim.study.candidates import Candidate
from sim.study.estimates import Estimate, Simulated, figures, rough, tokens
from sim.study.layouts import cut_of
from sim.study.race import Need, Race, Rank, Searching, T
from sim.study.room import RISK, Rooms

#: what a candidate's place in the search rests on: its FLOPs, its kernels, what its parameters take
#: too, exchanges within its blocks too, a job of so long steps with failures and energy, what plans
#: of its cut take beyond that
_ROUGH, _KERNELS, _ALONE, _STEP, _TIGHT, _EXPECTED = range(6)
#: part of what one plan of a cut takes beyond its bound that another of the cut surely does
_LIKENESS = 0.8

#: growth of the least score of what is left, at which a search says so
_TOLD = 0.01
#: candidates next in order whose micro-steps are simulated together with one that is needed
_AHEAD = 6
#: candidates that are bounded before it is asked again whether to end
_TOGETHER = 256
#: bound, place, what the bound rests on, candidate
_Entry = tuple[float, int, int, Candidate]

Score = Callable[[Estimate], float]


class Sought(NamedTuple):
    """What a search has found.

    Attributes
    ----------
    plan : Simulated or None
        The best plan; None where there is none.
    least : float or None
        Where the search was told to end: score that no plan is below. None where `plan` is known
        to be the best.
    """

    plan: Simulated | None
    least: float | None = None


@dataclass(slots=True)
class Counts:
    """What became of the candidates."""

    considered: int = 0
    simulated: int = 0
    too_large: int = 0
    at_risk: int = 0
    ruled_out: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Those of two searches."""
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def decided(self) -> int:
        """Candidates of which it is known what became of them."""
        return self.simulated + self.too_large + self.at_risk + self.ruled_out


def unheard() -> None:
    """A search moves on that nobody watches."""


@dataclass(slots=True)
class Searcher:
    """Shares bounds between the machines of one search.

    Attributes
    ----------
    risk : float
        Probability of running out of memory that a plan may have. [1]
    stop : callable
        Whether to end with what was found; asked between plans.
    stopped : bool
        Whether it was to be ended.
    moved : callable
        Called whenever it is asked whether to end.
    listed : int
        Plans that were listed.
    """

    risk: float = RISK
    bounds: Bounds = field(default_factory=Bounds)
    stop: Stop = never
    stopped: bool = False
    moved: Callable[[], None] = unheard
    listed: int = 0
    #: of a cut, what its steps take at least beyond their bounds, by machine and micro-batches [s]
    _beyond_s: dict[Any, dict[tuple[Hashable, int], float]] = field(default_factory=dict)
    _rooms: Rooms = field(init=False)

    def __post_init__(self) -> None:
        self._rooms = Rooms(self.risk)

    def race(
        self, searches: Iterable[Searching[T]], rank: Callable[[T], Rank] | None = None
    ) -> Race[T]:
        """Searches to be run side by side."""
        return Race(list(searches), self.bounds, self.halted, rank)

    def halted(self) -> bool:
        """Whether to end with what was found."""
        self.moved()
        self.stopped = self.stopped or self.stop()
        return self.stopped

    def together(self, searches: Iterable[Searching[T]]) -> list[T | None]:
        """Run searches side by side to their ends: what each has found.

        When it is to stop, those that have begun end with what they have, others have None.
        """
        race = self.race(searches)
        race.finish()
        return [race.found.get(i) for i in range(len(race.searches))]

    def best(
        self,
        candidates: Iterable[Candidate],
        score: Score,
        allowed: Callable[[Estimate], bool],
        tally: Counts,
        below: float = math.inf,
    ) -> Searching[Sought]:
        """The allowed plan of the lowest score; None if none is allowed, fits and is low enough.

        Parameters
        ----------
        candidates : iterable of Candidate
            All plans.
        score : callable
            Figures to what is minimised; must not fall as wall-clock rises.
        allowed : callable
            Whether figures meet the constraints; if it refuses a bound it refuses the plan.
        tally : Counts
            Counted up.
        below : float
            Only scores below this are of interest.
        """
        order = itertools.count()
        heap: list[_Entry] = []
        scores: dict[Hashable, float | None] = {}  # of bounds that are alike, if allowed
        for candidate in candidates:
            tally.considered += 1
            if tally.considered % _TOGETHER == 0 and self.halted():
                return Sought(None, 0.0)
            alike = peak_alike(candidate)
            if alike not in scores:
                bound = rough(candidate, self.bounds.peak_s(candidate))
                scores[alike] = score(bound) if allowed(bound) else None
            first = scores[alike]
            if first is None:
                tally.ruled_out += 1
            else:
                heap.append((first, next(order), _ROUGH, candidate))
        heapq.heapify(heap)
        best: Simulated | None = None
        lowest, said = below, -math.inf
        while heap:
            bounded, _, how, candidate = heapq.heappop(heap)
            if bounded >= lowest:
                tally.ruled_out += len(heap) + 1
                break
            if bounded > said and how != _KERNELS:  # parameters are soon asked
                said = bounded + _TOLD * abs(bounded)
                if (yield Need(least=bounded)):
                    return Sought(best, min(bounded, lowest))
            hopeless = {_ROUGH: self._rooms.exceeds, _ALONE: self._rooms.hopeless}.get(how)
            if hopeless is not None and hopeless(candidate):
                tally.too_large += 1
                continue
            if how == _ALONE and not self.bounds.known(candidate):
                near = [one[-1] for one in heapq.nsmallest(_AHEAD, heap) if one[2] == _ALONE]
                if (yield Need(bounds=(candidate, *near), least=bounded)):
                    return Sought(best, min(bounded, lowest))
            better = self._better(candidate, how)
            if better is not None:
                if allowed(better):
                    item = (max(bounded, score(better)), next(order), how + 1, candidate)
                    heapq.heappush(heap, item)
                else:
                    tally.ruled_out += 1
                continue
            room = self._rooms.room(candidate)
            if room != "fits":
                tally.at_risk += room == "at risk"
                tally.too_large += room == "too large"
                continue
            if (yield Need(plans=(candidate,), least=bounded)):
                return Sought(best, min(bounded, lowest))
            plan = self.plan(candidate)
            tally.simulated += 1
            self._learn(plan)
            if allowed(plan.figures) and score(plan.figures) < lowest:
                best, lowest = plan, score(plan.figures)
        return Sought(best)

    def _better(self, candidate: Candidate, how: int) -> Estimate | None:
        """A bound that rests on more than `how`; None where there is none."""
        if how < _STEP:
            least = self.bounds.of(
                candidate, exchanges=how == _ALONE, parameters=how > _ROUGH, to_play=False
            )
            return rough(candidate, least.step_s)
        if how == _STEP:
            return self.bound(candidate)
        return self._like_others(candidate) if how == _TIGHT else None

    def _like_others(self, candidate: Candidate) -> Estimate | None:
        """What follows from plans of its cut with as many micro-batches, or more.

        Less stands still in theirs. None where none of them was on its machine.
        """
        several = candidate.workload.gradient_accumulation
        like = [
            (kind, beyond)
            for (kind, micro), beyond in self._beyond_s.get(cut_of(candidate.workload), {}).items()
            if micro >= several
        ]
        if all(kind != candidate.machine.kind for kind, _ in like):
            return None
        return self.bound(candidate, min(beyond for _, beyond in like))

    def _learn(self, plan: Simulated) -> None:
        """How far steps of a pipeline are above their bound, at the least."""
        if plan.candidate.workload.parallelism.pipeline_parallel == 1:
            return
        known = self._beyond_s.setdefault(cut_of(plan.candidate.workload), {})
        beyond = _LIKENESS * (plan.step_s - self.bounds.of(plan.candidate).step_s)
        key = plan.candidate.machine.kind, plan.candidate.workload.gradient_accumulation
        known[key] = min(beyond, known.get(key, math.inf))

    def bound(self, candidate: Candidate, beyond_s: float = 0.0) -> Estimate:
        """Figures that a candidate cannot beat whose step is so far above its bound.

        A step draws at least the power of its kernels while they run.
        """
        step_s, kernels = self.bounds.of(candidate)
        step_s += beyond_s
        least = Breakdown(time_s=step_s, kernels=kernels)
        job = estimate_job(candidate.topology, candidate.workload, least)
        if job is None:
            raise no_length(candidate.workload.name)
        return figures(candidate, job, step_s)

    def plan(self, candidate: Candidate) -> Simulated:
        """Simulate a candidate."""
        topology, workload = candidate.topology, candidate.workload
        [found] = steps([(topology, workload)], causes=False)
        step_s, report = found.time_s, found.memory
        job = estimate_job(topology, workload, found.breakdown)
        if job is None:
            raise no_length(candidate.workload.name)
        flops = token_flops(workload)
        rate = tokens(candidate) / step_s / candidate.gpus
        return Simulated(
            candidate, figures(candidate, job, step_s), step_s,
            rate * flops.model / peak_of(topology, workload).flops_per_s,
            report, job, found.fallbacks, shares(found.breakdown, found.ranks),
        )  # fmt: skip
