"""A machine's own best plan, why it has none, and what lies beside the winner's."""

from __future__ import annotations

import math
from dataclasses import field, replace

from sim.errors import InputError
from sim.inputs.loader import Prepared
from sim.inputs.topology import Offer
from sim.job.cost import break_even_price
from sim.job.energy import carbon_intensity
from sim.records import dataclass
from sim.step.step import memory_of
from sim.study.candidates import SAVING, Candidate, SoundJobs, Space, plans, refusal, variants
from sim.study.estimates import Estimate, Simulated
from sim.study.layouts import beside
from sim.study.machine_offers import A_PRICE, price_doubt
from sim.study.machines import Machine
from sim.study.race import Rank, Searching, promising
from sim.study.search import Counts, Searcher, Sought
from sim.study.sized import Beside, Contender
from sim.study.target import Target

#: 3.4 kB each at the most, as measured
MOST_PLANS = 500_000
_VARY = "--vary"


@dataclass(frozen=True, slots=True)
class Contest:
    """What is searched for, in which space, with what is known of it already."""

    search: Searcher
    space: Space
    target: Target
    #: plans by machine and number of GPUs
    _known: dict[tuple[str, int | None], list[Candidate]] = field(default_factory=dict)
    _sound: SoundJobs = field(default_factory=dict)
    _tallies: dict[str, Counts] = field(default_factory=dict)

    @property
    def tally(self) -> Counts:
        """What became of the plans of all machines that have contended."""
        return sum(self._tallies.values(), Counts())

    def candidates(
        self, machine: Machine, base: Prepared, gpus: int | None = None
    ) -> list[Candidate]:
        """Every plan of a machine, or of so many of its GPUs; some, once the search is to end.

        Raises
        ------
        InputError
            There are more than a search can hold.
        """
        space = self.space if gpus is None else replace(self.space, gpus=gpus)
        key = machine.name, space.gpus
        if key in self._known:
            return self._known[key]
        search, found = self.search, self._known.setdefault(key, [])
        pairs = variants(base, space, search.halted)
        for plan in plans(machine, pairs, space, self._sound, search.halted):
            found.append(plan)
            search.listed += gpus is None  # others are few, and not in the tally
            if search.listed > MOST_PLANS:
                message = f"more than {MOST_PLANS:,} plans in all; vary fewer values"
                raise InputError.single(_VARY, message)
        return found

    def contend(self, machine: Machine, base: Prepared) -> Searching[Contender]:
        """The best plan of a machine; where none meets the target, the one that misses it least."""
        target, search = self.target, self.search
        unjudged = _unjudged(machine, target)
        if unjudged:
            return Contender(machine, None, untried=unjudged)
        candidates = self.candidates(machine, base)
        if search.stopped:
            return Contender(machine, None, unfinished=True)
        if not candidates:
            refused = refusal(machine, variants(base, self.space, search.halted), self.space)
            return Contender(machine, None, untried=refused)
        doubted, tally = self.doubted(machine), self._tallies.setdefault(machine.name, Counts())
        sought = yield from promising(
            search.best(candidates, target.score, target.met, tally),
            lambda least: (0, doubted, least),
        )
        plan = sought.plan
        if sought.least is not None:
            return Contender(machine, plan, at_least=sought.least, unfinished=True)
        if plan is not None:
            score = target.score(plan.figures)
            smaller = yield from promising(
                self._smaller(plan, candidates), lambda _: (0, doubted, score)
            )
            return Contender(
                machine, smaller.plan or plan, cheaper=plan if smaller.plan else None,
                unfinished=smaller.least is not None,
            )  # fmt: skip
        again = Counts()
        sought = yield from promising(
            search.best(candidates, target.shortfall, _any, again),
            lambda least: (1, False, least),
        )
        if not search.stopped:  # the target alone ruled out what may not fit at all
            self._tallies[machine.name] = again
        if sought.least is not None:
            return Contender(machine, None, sought.plan, unfinished=True)
        return Contender(machine, None, sought.plan, None if sought.plan else least(candidates))

    def doubted(self, machine: Machine) -> bool:
        """Whether its plans are ranked after those of prices to rely on."""
        return self.target.objective == "cost" and bool(price_doubt(machine.topology.offer))

    def rank(self, contender: Contender) -> Rank:
        """What has a plan, at prices to rely on where these decide, and how good it is."""
        if contender.plan is not None:
            score = self.target.score(contender.plan.figures)
            return 0, self.doubted(contender.machine), score
        if contender.nearest is not None:
            return 1, False, self.target.shortfall(contender.nearest.figures)
        return 2, False, 0.0

    def _smaller(self, plan: Simulated, candidates: list[Candidate]) -> Searching[Sought]:
        """The plan of the fewest GPUs that is worse by no more than the slack."""
        if not self.target.slack:
            return Sought(None)
        limit = self.target.score(plan.figures) * (1.0 + self.target.slack)
        for gpus in sorted({c.gpus for c in candidates if c.gpus < plan.candidate.gpus}):
            few = [c for c in candidates if c.gpus == gpus]
            score, met = self.target.score, self.target.met
            sought = yield from self.search.best(few, score, met, Counts(), below=limit)
            if sought.plan is not None or sought.least is not None:
                return sought
        return Sought(None)

    def neighbour(self, winner: Simulated, base: Prepared, step: int) -> Searching[Sought]:
        """The best plan of the winner's machine with the next number of nodes that goes."""
        candidates = self.candidates(winner.candidate.machine, base)
        sizes = sorted({c.topology.nodes for c in candidates})
        at = sizes.index(winner.candidate.topology.nodes) + step
        if not 0 <= at < len(sizes):
            return Sought(None)
        chosen = [c for c in candidates if c.topology.nodes == sizes[at]]
        return (yield from self.search.best(chosen, self.target.score, _any, Counts()))

    def beside(self, winner: Simulated, base: Prepared) -> list[Beside]:
        """The best plan of every layout next to the winner's, on as many GPUs."""
        chosen = winner.candidate.workload.parallelism
        gpus = winner.candidate.gpus
        candidates = [
            c for c in self.candidates(winner.candidate.machine, base, gpus)
            if c.workload.parallelism.strategy == chosen.strategy
        ]  # fmt: skip
        if self.search.stopped:
            return []
        layouts = list(beside(chosen, [c.workload.parallelism for c in candidates]))
        several = [[candidates[i] for i in layout.members] for layout in layouts]
        ended = self.search.together(
            self.search.best(members, self.target.score, _any, Counts()) for members in several
        )
        found = []
        for layout, members, sought in zip(layouts, several, ended, strict=True):
            plan = sought and sought.plan
            if plan is not None:
                needed = plan.memory.needed_bytes
            elif sought is None or sought.least is not None:
                continue  # not known to be too large
            else:
                smallest = min(members, key=_size_order)
                needed = memory_of(smallest.topology, smallest.workload).needed_bytes
            found.append(Beside(layout.axis, layout.value, plan, needed))
        return found


def _unjudged(machine: Machine, target: Target) -> str:
    """What of a machine is not known that its plans are to be judged by; "" where all is."""
    asks_price = target.objective == "cost" or target.budget_usd is not None
    if asks_price and machine.price is None:
        without = "no --budget" if target.objective != "cost" else "--objective time"
        said = "has no price, and no provider that is wanted lists its kind"
        return f"{said}; add {A_PRICE}, or {without}"
    offer = machine.topology.offer or Offer()
    place = offer.provider, offer.region, offer.country
    if target.objective == "co2" and carbon_intensity(*place) is None:
        said = "has no region whose electricity is known"
        return f"{said}; write offer: {{country: DEU}}, or --objective energy"
    return ""


def broken_even(contender: Contender, winner: Simulated) -> Contender:
    """At which price a losing machine would cost as much as the winner."""
    plan = contender.plan
    if plan is None or plan is winner or plan.job.cost is None or contender.unfinished:
        return contender
    even = break_even_price(winner.figures.cost_usd, plan.job.cost)
    return replace(contender, break_even_usd=even)


def least(candidates: list[Candidate]) -> Candidate | None:
    """The plan that is likeliest to have room: of the largest cluster, with what saves most."""
    gpus = max((c.gpus for c in candidates), default=0)
    largest = [c for c in candidates if c.gpus == gpus]
    order = min(map(_size_order, largest), default=None)
    smallest = [c for c in largest if _size_order(c) == order]
    likely = [memory_of(c.topology, c.workload).verdict.probability for c in smallest]
    return smallest[likely.index(max(likely))] if smallest else None


def _any(figures: Estimate) -> bool:
    """Every plan that ends is allowed."""
    return math.isfinite(figures.wall_s)


def _size_order(candidate: Candidate) -> tuple[int, int]:
    """Candidates of one cut from the one that needs least memory."""
    w = candidate.workload
    kind = w.activation_checkpointing.kind
    return w.micro_batch, SAVING.index(kind) if kind in SAVING else 0
