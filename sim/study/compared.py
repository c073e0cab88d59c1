"""What a comparison answers: its variants, the parts of their steps, and the deltas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.blocks.kernels import STREAMED
from sim.documents import SCHEMAS, Document, Section
from sim.result.result import Result
from sim.study.price_pairs import PricePair

PARTS: dict[str, tuple[str, ...]] = {
    "GEMM": ("gemm",),
    "attention": ("attention", "scan"),
    "HBM-bound kernels": tuple(kind for kind in STREAMED if kind != "quantize"),
    "FP8 and 4-bit casts": ("quantize",),
    "optimizer": ("optimizer",),
    "exposed communication": ("exposed_communication",),
    "slowest rank": ("waiting",),
    "overhead": ("host", "copies"),
}  # fmt: skip

_A_STEP = 0.01  # of a job's tokens: steps are whole


@dataclass(frozen=True, slots=True)
class Variant(Section):
    """One column: what it is and what the simulation says."""

    label: str
    topology: str
    workload: str
    changes: tuple[str, ...]
    result: Result
    rates: dict[str, float]  # datasheet: peak [FLOP/s], HBM [B/s], NVLink, network [B/s] a GPU

    def content(self) -> dict[str, Any]:
        """The Result in full."""
        return {"label": self.label, "changes": self.changes, "result": self.result}


@dataclass(frozen=True, slots=True)
class PartDelta(Section):
    """One part of the step, in GPU-seconds per token."""

    name: str
    first_s: float
    second_s: float
    share: float  # (second - first) / the first's whole time: the parts add up to the delta

    @property
    def speedup(self) -> float | None:
        """How many times faster the part is; None where either is nothing."""
        return self.first_s / self.second_s if self.first_s > 0 and self.second_s > 0 else None

    def content(self) -> dict[str, Any]:
        """The part in both, and its share of the delta."""
        return {
            "name": self.name,
            "first_gpu_s_per_token": self.first_s,
            "gpu_s_per_token": self.second_s,
            "share_of_first": self.share,
        }


@dataclass(frozen=True, slots=True)
class Delta(Section):
    """A variant against the first. Ratios are variant / first."""

    label: str
    tokens_per_s_ratio: float
    per_gpu_ratio: float
    cost_ratio: float | None
    energy_ratio: float | None
    memory_ratio: float
    tie_price_usd: float | None  # hourly price per GPU at which it costs as the first
    parts: tuple[PartDelta, ...]
    reasons: tuple[str, ...]
    prices: tuple[PricePair, ...] = ()  # one provider's first, then each machine's own

    @property
    def ratios(self) -> dict[str, float | None]:
        """Headline figures over the first's."""
        return {
            "tokens_per_s": self.tokens_per_s_ratio,
            "tokens_per_s_per_GPU": self.per_gpu_ratio,
            "memory": self.memory_ratio,
            "cost": self.cost_ratio,
            "energy": self.energy_ratio,
        }

    def content(self) -> dict[str, Any]:
        """Ratios, parts, reasons."""
        return {
            "label": self.label,
            "tie_price_per_gpu_hour_usd": self.tie_price_usd,
            "ratios": self.ratios,
            "parts": self.parts,
            "reasons": self.reasons,
            "prices": self.prices,
        }


@dataclass(frozen=True, slots=True)
class Comparison(Document):
    """Variants, and the deltas of all but the first."""

    schema: ClassVar[str] = SCHEMAS["comparison"]

    variants: tuple[Variant, ...]
    deltas: tuple[Delta, ...]
    summary: tuple[str, ...]
    notes: tuple[str, ...] = ()  # prices that no file named
    asked: int = 0  # variants; there are fewer where it was stopped

    @property
    def stopped(self) -> bool:
        """Whether it ended before all variants were simulated."""
        return len(self.variants) < self.asked

    def content(self) -> dict[str, Any]:
        """Its variants, why they differ, what to choose."""
        return {
            "variants": self.variants,
            "deltas": self.deltas,
            "summary": self.summary,
            "notes": self.notes,
            "stopped": self.stopped,
        }

    @property
    def as_long(self) -> bool:
        """Whether all jobs train on as many tokens: else they are compared by the token."""
        return all(as_long(self.variants[0].result, v.result) for v in self.variants[1:])

    def sentence(self) -> str:
        """How the others compare with the first, and which is best."""
        return ". ".join(self.summary) + "."

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a variant: its headline figures, and the parts of the step per token."""
        return [_record(variant) for variant in self.variants]


def _record(variant: Variant) -> dict[str, Any]:
    r = variant.result
    wall, dollars, joules = whole_job(r)
    parts = {
        f"{part.lower().replace(' ', '_').replace('-', '_')}_gpu_s_per_token": seconds
        for part, seconds in part_times(r).items()
    }
    return {
        "label": variant.label,
        "topology": variant.topology,
        "workload": variant.workload,
        "changes": " ".join(variant.changes),
        "gpus": r.topology.gpus,
        "fits": r.memory.fits,
        "verdict": r.memory.verdict,
        "fit_probability": r.memory.fit_probability,
        "memory_bytes": r.memory.needed_bytes,
        "step_time_s": r.step.time_s,
        "tokens_per_s": r.throughput.tokens_per_s,
        "tokens_per_s_per_gpu": r.throughput.tokens_per_s_per_gpu,
        "mfu": r.throughput.mfu,
        "wall_clock_s": wall,
        "total_usd": dollars,
        "energy_j": joules,
        **parts,
    }


def part_times(result: Result) -> dict[str, float]:
    """GPU-seconds per token by part; they add up to GPUs x step time / tokens."""
    tokens = result.throughput.tokens_per_s_per_gpu * result.step.time_s
    breakdown = dict(result.step.breakdown)
    times = {
        name: sum(breakdown.pop(key, 0.0) for key in keys) / tokens for name, keys in PARTS.items()
    }
    times["overhead"] += sum(breakdown.values()) / tokens  # kinds that no part lists
    return times


def as_long(first: Result, other: Result) -> bool:
    """Whether two jobs train on as many tokens, to the last step; so do jobs without a length."""
    a, b = first.job, other.job
    return a is None or b is None or math.isclose(a.tokens, b.tokens, rel_tol=_A_STEP)


def whole_job(result: Result) -> tuple[float | None, float | None, float | None]:
    """Wall-clock, cost and energy. [s, USD, J]"""
    job, cost, energy = result.job, result.cost, result.energy
    return (
        job.wall_clock_s if job else None,
        cost.total_usd if cost else None,
        energy.energy_j if energy else None,
    )
