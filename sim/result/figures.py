"""What the sections of a Result say: figures in SI units."""

from __future__ import annotations

from typing import Any

from sim.job.cost import Cost
from sim.job.energy import Energy
from sim.records import dataclass


@dataclass(frozen=True, slots=True)
class TopologySection:
    """The machine: counts of nodes and GPUs, and its hourly price per GPU, if known. [USD/h]"""

    name: str
    title: str
    nodes: int
    gpus: int
    gpu: str
    price_per_gpu_hour_usd: float | None
    provider: str | None


@dataclass(frozen=True, slots=True)
class WorkloadSection:
    """The job and its batch; lengths in tokens, batches in sequences but where a name says so."""

    name: str
    title: str
    model: str
    parameters: int
    method: str
    strategy: str
    precision: str
    sequence_length: int
    micro_batch: int
    gradient_accumulation: int
    data_parallel: int  # ranks that work on different data
    global_batch_sequences: int
    global_batch_tokens: int


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step of the representative rank. Times in seconds."""

    time_s: float
    compute_s: float  # compute lane busy
    communication_s: float  # union of the intervals with a collective in flight
    exposed_communication_s: float  # of which the compute lane is idle
    optimizer_s: float  # compute lane busy with the optimizer and clipping
    host_s: float  # compute lane idle with nothing in flight: waiting for launches or the host
    overlap_slowdown_s: float  # what kernels lost to collectives and copies beside them
    overlap_slowdown: dict[str, float]  # adds up to it, by cause
    overlap_slowdown_kernels: dict[str, float]  # adds up to it, by kind of kernel
    transfer_slowdown_s: float  # by which collectives and copies were longer under way than alone
    transfer_slowdown: dict[str, float]  # adds up to it, by which and beside what
    breakdown: dict[str, float]  # adds up to time_s
    exposed: dict[str, float]  # adds up to exposed_communication_s, by collective and place
    collectives: dict[str, dict[str, float]]  # per kind: count, bytes, seconds in flight
    algorithms: dict[str, tuple[str, ...]]  # per kind: what NCCL takes, up to what size


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
    slowed_for: dict[str, float]  # of compute_s, lost beside collectives that waited, by the same
    stage: int = 0  # of a pipeline


@dataclass(frozen=True, slots=True)
class Throughput:
    """Rates over the whole job's GPUs; MFU and HFU as fractions of the dense peak."""

    tokens_per_s: float
    tokens_per_s_per_gpu: float
    tflops_per_gpu: float  # model FLOPs, no recompute
    mfu: float  # attention counted in full, as PaLM does
    mfu_causal: float  # attention without what the mask hides
    hfu: float  # what runs: recompute added, attention without what its kernel skips
    peak_flops_per_s: float  # of the dtype that MFU refers to
    peak_dtype: str
    model_flops_per_step: float
    hardware_flops_per_step: float


@dataclass(frozen=True, slots=True)
class ScalingPoint:
    """One point of a scaling curve."""

    nodes: int
    gpus: int
    step_time_s: float
    tokens_per_s: float
    efficiency: float
    ideal_efficiency: float  # were communication free
    exposed_communication_s: float
    fits: bool
    verdict: str
    strategy: str = ""  # which it takes there, where its own is for one GPU alone


@dataclass(frozen=True, slots=True)
class Scaling:
    """Throughput(n) / (n / n0 x throughput(n0)); weak (the same work a GPU) or strong."""

    kind: str
    baseline_gpus: int
    efficiency: float
    curve: tuple[ScalingPoint, ...]
    fewest_nodes: int | None = None  # on which the job fits unchanged, of weak scaling


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest GPU."""

    peak_allocated_bytes: float
    peak_reserved_bytes: float
    needed_bytes: float  # what must live, context and NCCL's buffers included
    capacity_bytes: float
    fits: bool  # more likely than not
    verdict: str  # fits, at risk, does not fit
    fit_probability: float  # that it runs, from the errors of published peaks
    risk: str  # in words, where it is at risk
    peak_moment: str
    by_category: dict[str, float]  # at the peak
    by_moment: dict[str, float]  # peak of each moment
    host_bytes_per_node: float = 0.0
    host_capacity_bytes: float = 0.0
    host_loading_bytes_per_node: float = 0.0  # while every rank builds a copy of the model
    binding_gpu: str = ""  # where GPUs differ: whose memory is the capacity


@dataclass(frozen=True, slots=True)
class Fix:
    """A change worth trying, simulated."""

    change: dict[str, Any]  # as for --set
    description: str
    step_time_ratio: float  # time per token with / without
    memory_bytes: float  # what must live with it, on a node's host where only that lacks room
    fits: bool
    verdict: str = "fits"
    changes_training: bool = False  # another method or precision: the trained model will differ

    @property
    def text(self) -> str:
        """In words, with what it is besides a change of how the job runs."""
        return (
            f"{self.description}, another training" if self.changes_training else self.description
        )


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What holds the step back."""

    kind: str
    share: float
    explanation: str
    fixes: tuple[Fix, ...] = ()


@dataclass(frozen=True, slots=True)
class JobSection:
    """Wall-clock, goodput broken down, data, checkpoints, failures of the whole job.

    Wall-clock, goodput, cost and energy are those expected, in closed form, as `sweep`, `size` and
    `compare` have them; quantiles, means and shares are over `replicas` simulated runs. A job that
    never ends has infinite times.
    """

    steps: int
    tokens: float
    wall_clock_s: float  # expected
    wall_clock_p10_s: float
    wall_clock_p90_s: float
    wall_clock_mean_s: float
    replicas: int
    goodput: float
    shares: dict[str, float]  # of the mean wall time; adds up to 1
    failures: float  # expected number in a run
    preemptions: float
    checkpoints: float
    mtbf_s: float
    mean_uptime_s: float  # between interruptions of any kind
    pace_spread: float  # relative standard deviation from run to run
    step_with_data_s: float
    data_idle_share: float
    data_workers: int  # per GPU
    data_workers_needed: int | None  # None: no number cures it
    evaluation_s: float
    checkpoint_bytes: float
    checkpoint_blocking_s: float
    checkpoint_durable_s: float
    checkpoint_interval_s: float | None
    checkpoint_interval_young_s: float | None
    checkpoint_interval_daly_s: float | None
    checkpoint_interval_best_s: float | None
    memory_copy_interval_s: float | None  # of copies in host memory; None: none
    memory_copy_blocking_s: float | None
    storage_gb: float
    egress_gb: float
    deadline_s: float | None = None
    done_by_deadline: float | None = None  # probability, by luck and the model's own band together


@dataclass(frozen=True, slots=True)
class CostSection(Cost):
    """What the job costs, and where the price is from. [USD]"""

    provider: str
    region: str
    price_date: str
    price_source: str


@dataclass(frozen=True, slots=True)
class EnergySection(Energy):
    """Energy of the job, per token and per useful FLOP, and CO2."""

    joule_per_token: float
    joule_per_model_flop: float
