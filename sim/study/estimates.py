"""What a plan is judged by: its figures, as simulated, bounded or rough."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from sim.documents import Section
from sim.inputs.shares import batch_on
from sim.job.basis import job_length, terms_of
from sim.job.estimate import JobEstimate
from sim.memory.report import MemoryReport
from sim.records import dataclass
from sim.step.shares import Shares
from sim.study.candidates import Candidate
from sim.study.layouts import KEYS
from sim.units import HOUR_S


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan is judged by; a bound is a set of figures that the real ones cannot beat.

    Attributes
    ----------
    wall_s : float
        Expected wall-clock of the job, set-up included. [s]
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
    shares: Shares  # of the step, by what it is spent on

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
            **{axis: getattr(w.parallelism, axis) for axis in KEYS},
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
            "shares": asdict(self.shares),
            "borrowed": self.borrowed,
        }


def tokens(candidate: Candidate) -> int:
    """Of a step."""
    return batch_on(candidate.workload, candidate.gpus).tokens


def rough(candidate: Candidate, step_s: float) -> Estimate:
    """Figures without failures, checkpoints, egress and energy, quick to get."""
    gpus, per_step = candidate.gpus, tokens(candidate)
    length = job_length(candidate.workload, per_step)
    terms = terms_of(candidate.topology.offer)
    wall = _setup_s(candidate) + (step_s * length[0] if length else 0.0)
    price = terms.price_per_gpu_hour_usd if terms else math.inf
    return Estimate(wall, price * gpus * wall / HOUR_S, 0.0, 0.0, per_step / step_s)


def _setup_s(candidate: Candidate) -> float:
    """What passes, and is paid for, before the first step. [s]"""
    offer = candidate.topology.offer
    return (offer.setup or 0.0) if offer else 0.0


def figures(candidate: Candidate, job: JobEstimate, step_s: float) -> Estimate:
    """Figures of a whole job, its set-up included."""
    co2 = job.energy.co2_kg
    return Estimate(
        wall_s=job.wall_s + _setup_s(candidate),
        cost_usd=job.cost.total_usd if job.cost else math.inf,
        energy_j=job.energy.energy_j,
        co2_kg=math.inf if co2 is None else co2,
        tokens_per_s=tokens(candidate) / step_s,
    )
