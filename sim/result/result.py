"""The Result of a simulation: a versioned document in SI units with stable keys."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from sim.documents import SCHEMAS, Document
from sim.inputs.notes import Message


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step of the representative rank. Times in seconds."""

    time_s: float
    compute_s: float  # compute lane busy
    communication_s: float  # union of the intervals with a collective in flight
    exposed_communication_s: float  # of which the compute lane is idle
    optimizer_s: float  # compute lane busy with the optimizer and clipping
    host_s: float  # compute lane idle with nothing in flight: waiting for launches or the host
    overlap_slowdown_s: float  # what kernels lost to collectives beside them
    breakdown: dict[str, float]  # adds up to time_s
    exposed: dict[str, float]  # adds up to exposed_communication_s, by collective and place
    collectives: dict[str, dict[str, float]]  # per kind: count, bytes, seconds in flight


@dataclass(frozen=True, slots=True)
class RankGroup:
    """Ranks of one GPU, host and speed: means, which add up to the step's time. Seconds."""

    ranks: str  # "0-7, 12"
    count: int
    gpu: str
    speed: float  # of kernels; below 1 where ranks were slowed
    compute_s: float
    waiting_s: float  # idle in a collective to which a later rank has not come
    communication_s: float  # idle while its data moves
    idle_s: float  # idle for the host, copies, or the end of the step
    waiting_for: dict[str, float]  # seconds by the ranks that came last


@dataclass(frozen=True, slots=True)
class Throughput:
    """Rates over the whole job's GPUs; MFU and HFU as fractions of the dense peak."""

    tokens_per_s: float
    tokens_per_s_per_gpu: float
    tflops_per_gpu: float  # model FLOPs, no recompute
    mfu: float
    hfu: float
    peak_flops_per_s: float  # of the dtype that MFU refers to
    peak_dtype: str
    model_flops_per_step: float
    hardware_flops_per_step: float


@dataclass(frozen=True, slots=True)
class ScalingPoint:
    """One point of the weak-scaling curve: same work per GPU, more nodes."""

    nodes: int
    gpus: int
    step_time_s: float
    tokens_per_s: float
    efficiency: float
    ideal_efficiency: float  # were communication free
    exposed_communication_s: float
    fits: bool


@dataclass(frozen=True, slots=True)
class Scaling:
    """Throughput(n) / (n / n0 x throughput(n0)); weak scaling."""

    kind: str
    baseline_gpus: int
    efficiency: float
    curve: tuple[ScalingPoint, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest GPU."""

    peak_allocated_bytes: float
    peak_reserved_bytes: float
    capacity_bytes: float
    fits: bool
    peak_moment: str
    by_category: dict[str, float]  # at the peak
    by_moment: dict[str, float]  # peak of each moment
    host_bytes_per_node: float = 0.0
    host_capacity_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Fix:
    """A change worth trying, simulated."""

    change: dict[str, Any]  # as for --set
    description: str
    step_time_ratio: float  # time per token with / without
    memory_bytes: float  # peak reserved with it
    fits: bool


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What holds the step back."""

    kind: str
    share: float
    explanation: str
    fixes: tuple[Fix, ...] = ()


@dataclass(frozen=True, slots=True)
class Result(Document):
    """All that a simulation says. Sections not computed are empty mappings."""

    schema: ClassVar[str] = SCHEMAS["result"]

    topology: dict[str, Any]
    workload: dict[str, Any]
    step: Step
    throughput: Throughput
    scaling: Scaling
    memory: Memory
    job: dict[str, Any]
    cost: dict[str, Any]
    energy: dict[str, Any]
    bottleneck: Bottleneck
    uncertainty: dict[str, Any]
    warnings: tuple[Message, ...]
    assumptions: tuple[str, ...]
    provenance: dict[str, str]
    inputs_hash: str
    model_version: str
    detail: dict[str, Any] = field(default_factory=dict)
    ranks: tuple[RankGroup, ...] = ()  # where they differ

    def content(self) -> dict[str, Any]:
        """The sections, what was computed from what first."""
        names = [f.name for f in fields(self)]
        first = ("inputs_hash", "model_version")
        return {n: getattr(self, n) for n in (*first, *(n for n in names if n not in first))}
