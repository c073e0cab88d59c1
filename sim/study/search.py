"""Best plan of a machine, exactly: branch and bound over candidates.

Two lower bounds of a step, both of which no plan can beat:

1. its FLOPs (recompute included) at the dense peak of the dtype;
2. its matrix products, attention and norms as the cost model times them alone: the same kernels run
   on every rank whatever the number of nodes or the sharding, and collectives can only slow them.

Candidates are taken in order of their bound; the cheap bound is replaced by the better one when its
turn comes, then memory is checked, then the plan is simulated. The search ends when the next bound
is not better than the best plan found.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sim.blocks.flops import token_flops
from sim.documents import Section
from sim.errors import ScalingSimError
from sim.inputs.shares import batch_on
from sim.inputs.strategy import strategy_of
from sim.job.estimate import JobEstimate, estimate_job
from sim.job.forecast import job_steps, terms_of
from sim.memory.report import MemoryReport
from sim.result.peak import peak_of
from sim.step.breakdown import Breakdown
from sim.step.step import memory_of, step
from sim.study.candidates import Candidate
from sim.units import HOUR_S

#: kernels that every plan of a micro-batch and checkpointing runs alike
_ALIKE = ("gemm", "attention", "norm", "loss", "embedding")
#: rounding of the extrapolation in depth must not make a bound exceed what it bounds
_SAFETY = 0.999


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan is judged by; a bound is a set of figures that the real ones cannot beat.

    Attributes
    ----------
    wall_s : float
        Expected wall-clock of the job. [s]
    cost_usd : float
        Total; inf without a price. [USD]
    energy_j : float
        Of the site. [J]
    co2_kg : float
        inf where the region's mix is not known. [kg]
    tokens_per_s : float
        Of all GPUs. [1/s]
    """

    wall_s: float
    cost_usd: float
    energy_j: float
    co2_kg: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Simulated(Section):
    """A simulated candidate."""

    candidate: Candidate
    figures: Estimate
    step_s: float
    mfu: float
    memory: MemoryReport
    job: JobEstimate
    borrowed: tuple[str, ...]  # constants that are those of other hardware

    def content(self) -> dict[str, Any]:
        """Machine, layout and figures."""
        w, t, f = self.candidate.workload, self.candidate.topology, self.figures
        assert t.node is not None
        return {
            "machine": self.candidate.machine.name,
            "nodes": t.nodes,
            "gpus_per_node": t.node.gpus,
            "gpu": t.node.gpu.name,
            "strategy": w.parallelism.strategy,
            "replicate": w.parallelism.replicate,
            "reshard_after_forward": w.parallelism.reshard_after_forward,
            "offload": w.parallelism.offload,
            "micro_batch": w.micro_batch,
            "gradient_accumulation": w.gradient_accumulation,
            "activation_checkpointing": w.activation_checkpointing.kind,
            **dict(self.candidate.extra),
            "wall_clock_s": f.wall_s,
            "cost_usd": f.cost_usd,
            "energy_j": f.energy_j,
            "co2_kg": f.co2_kg,
            "tokens_per_s": f.tokens_per_s,
            "step_time_s": self.step_s,
            "mfu": self.mfu,
            "memory_bytes": self.memory.needed_bytes,
            "capacity_bytes": self.memory.capacity_bytes,
            "verdict": self.memory.verdict.word,
            "fit_probability": self.memory.verdict.probability,
            "borrowed": self.borrowed,
        }


Score = Callable[[Estimate], float]


@dataclass(slots=True)
class Counts:
    """What became of the candidates."""

    considered: int = 0
    simulated: int = 0
    too_large: int = 0
    ruled_out: int = 0


@dataclass(slots=True)
class Searcher:
    """Shares bounds between the machines of one search."""

    _kernels: dict[Any, dict[str, float]] = field(default_factory=dict)
    _peaks: dict[Any, float] = field(default_factory=dict)

    def best(
        self,
        candidates: Iterable[Candidate],
        score: Score,
        allowed: Callable[[Estimate], bool],
        tally: Counts,
        below: float = math.inf,
    ) -> Simulated | None:
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
        heap: list[tuple[float, int, bool, Candidate]] = []
        for candidate in candidates:
            tally.considered += 1
            bound = _rough(candidate, self._peak_s(candidate))
            if allowed(bound):
                heap.append((score(bound), next(order), False, candidate))
            else:
                tally.ruled_out += 1
        heapq.heapify(heap)
        best: Simulated | None = None
        lowest = below
        while heap:
            bounded, _, tight, candidate = heapq.heappop(heap)
            if bounded >= lowest:
                tally.ruled_out += len(heap) + 1
                break
            if not tight:
                bound = self.bound(candidate, self._kernels_of(candidate))
                if allowed(bound):
                    item = (max(bounded, score(bound)), next(order), True, candidate)
                    heapq.heappush(heap, item)
                else:
                    tally.ruled_out += 1
                continue
            if not self.fits(candidate):
                tally.too_large += 1
                continue
            plan = self.plan(candidate)
            tally.simulated += 1
            if allowed(plan.figures) and score(plan.figures) < lowest:
                best, lowest = plan, score(plan.figures)
        return best

    def fits(self, candidate: Candidate) -> bool:
        """Whether a candidate fits in memory.

        Where one sequence at a time is too much, more are: that is asked first.
        """
        w = candidate.workload
        if w.micro_batch > 1 and w.gradient_accumulation > 1:
            steps = batch_on(w).sequences_per_rank
            least = w.model_copy(update={"micro_batch": 1, "gradient_accumulation": steps})
            if not memory_of(candidate.topology, least).fits:
                return False
        return memory_of(candidate.topology, w).fits

    def bound(self, candidate: Candidate, kernels: dict[str, float]) -> Estimate:
        """Figures that a candidate cannot beat if its step runs at least these kernels. [s]

        A step draws at least the power of its kernels while they run.
        """
        step_s = sum(kernels.values())
        least = Breakdown(time_s=step_s, kernels=kernels)
        job = estimate_job(candidate.topology, candidate.workload, least)
        if job is None:
            message = "the workload states no length (tokens, steps or samples)"
            raise ScalingSimError(message)
        return _figures(candidate, job, step_s)

    def nearest(self, candidates: Iterable[Candidate], shortfall: Score) -> Simulated | None:
        """The plan that fits and by its bound misses a target least; not searched for exactly."""
        bounds = sorted(
            ((shortfall(_rough(c, self._peak_s(c))), i, c) for i, c in enumerate(candidates)),
            key=lambda item: item[:2],
        )
        return next((self.plan(c) for _, _, c in bounds if self.fits(c)), None)

    def plan(self, candidate: Candidate) -> Simulated:
        """Simulate a candidate."""
        topology, workload = candidate.topology, candidate.workload
        found = step(topology, workload)
        step_s, report = found.time_s, found.memory
        job = estimate_job(topology, workload, found.breakdown)
        if job is None:
            message = "the workload states no length (tokens, steps or samples)"
            raise ScalingSimError(message)
        flops = token_flops(workload)
        rate = _tokens(candidate) / step_s / candidate.gpus
        return Simulated(
            candidate, _figures(candidate, job, step_s), step_s,
            rate * flops.model / peak_of(topology, workload).flops_per_s,
            report, job, found.fallbacks,
        )  # fmt: skip

    # --- what is remembered ----------------------------------------------------------------------

    def _peak_s(self, candidate: Candidate) -> float:
        """Bound 1. [s]"""
        workload = candidate.workload
        policy = workload.activation_checkpointing
        key = (candidate.topology.first_gpu.name, candidate.extra, policy)
        if key not in self._peaks:
            # of one token alone: attention's share depends on what a kernel skips under the mask
            flops = token_flops(workload.model_copy(update={"sequence_length": 1}))
            single = candidate.topology.model_copy(update={"nodes": 1})
            self._peaks[key] = _SAFETY * flops.hardware / peak_of(single, workload).flops_per_s
        return self._peaks[key] * _tokens(candidate) / candidate.gpus

    def _kernels_of(self, candidate: Candidate) -> dict[str, float]:
        """Bound 2: kernels that every plan runs, by kind. [s]"""
        workload = candidate.workload
        node = candidate.topology.node
        assert node is not None
        # the more ranks, the slower the slowest of them: one node of the same size bounds them all
        key = (
            node.gpu, node.gpus, node.cpu, candidate.extra, workload.micro_batch,
            workload.activation_checkpointing, workload.parallelism.context_parallel,
        )  # fmt: skip
        if key not in self._kernels:
            p = workload.parallelism
            plain = p.model_copy(update={"replicate": 1, "shard": None, "offload": "none"})
            if not strategy_of(workload).blocks_alike:
                plain = type(p)(context_parallel=p.context_parallel)
            one = workload.model_copy(
                update={"parallelism": plain, "gradient_accumulation": 1, "global_batch": None}
            )
            single = candidate.topology.model_copy(update={"nodes": 1})
            b = step(single, one).breakdown
            alike = {kind: b.kernels.get(kind, 0.0) for kind in _ALIKE}
            total = sum(alike.values())
            # what collectives cost these kernels is not theirs
            share = _SAFETY * max(0.0, total - b.slowdown_s) / total
            self._kernels[key] = {kind: share * seconds for kind, seconds in alike.items()}
        steps = workload.gradient_accumulation
        return {kind: steps * seconds for kind, seconds in self._kernels[key].items()}


def _tokens(candidate: Candidate) -> int:
    return batch_on(candidate.workload, candidate.gpus).tokens


def _rough(candidate: Candidate, step_s: float) -> Estimate:
    """Figures without failures, checkpoints, setup, egress and energy, quick to get."""
    length = job_steps(candidate.workload, candidate.gpus)
    terms = terms_of(candidate.topology.offer)
    wall = step_s * length[0] if length else 0.0
    price = terms.price_per_gpu_hour_usd if terms else math.inf
    rate = _tokens(candidate) / step_s
    return Estimate(wall, price * candidate.gpus * wall / HOUR_S, 0.0, 0.0, rate)


def _figures(candidate: Candidate, job: JobEstimate, step_s: float) -> Estimate:
    co2 = job.energy.co2_kg
    return Estimate(
        wall_s=job.wall_s,
        cost_usd=job.cost.total_usd if job.cost else math.inf,
        energy_j=job.energy.energy_j,
        co2_kg=math.inf if co2 is None else co2,
        tokens_per_s=_tokens(candidate) / step_s,
    )
