"""The Result of a simulation: a versioned document in SI units with stable keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar

from sim.documents import SCHEMAS, Document, Headline, Section
from sim.inputs.notes import Message
from sim.job.cost import Cost
from sim.job.energy import Energy
from sim.quantities import count, duration, gib, percent, usd
from sim.records import dataclass
from sim.step.variation import Spread


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


@dataclass(frozen=True, slots=True)
class Interval(Section):
    """Both ends of a band, in the unit of its figure."""

    low: float
    high: float

    def content(self) -> list[float]:
        """A pair."""
        return [self.low, self.high]


@dataclass(frozen=True, slots=True)
class Uncertainty(Section):
    """Bands that hold the measured figure with probability `coverage`.

    Figures are named as in the document; those of a job without length or price are None, and
    left out of the JSON.
    """

    coverage: float
    step_time_s: Interval
    tokens_per_s: Interval
    tokens_per_s_per_gpu: Interval
    tflops_per_gpu: Interval
    mfu: Interval
    hfu: Interval
    wall_clock_s: Interval | None
    total_usd: Interval | None
    energy_j: Interval | None
    peak_allocated_bytes: Interval
    peak_reserved_bytes: Interval
    comparable_rows: float  # effective number of published runs like this one
    beyond_data: tuple[str, ...]  # what no published run shows
    provenance: str

    def content(self) -> dict[str, Any]:
        """What is known."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Result(Document):
    """All that a simulation says.

    A section that does not apply is None, and an empty mapping in the JSON: `job` and `energy` of
    a job without length, `cost` also without a price, `uncertainty` before it is known,
    `variation` (``detail.variation``) where ranks are equal, and `strong_scaling` on one node.
    """

    schema: ClassVar[str] = SCHEMAS["result"]

    topology: TopologySection
    workload: WorkloadSection
    step: Step
    throughput: Throughput
    scaling: Scaling
    memory: Memory
    job: JobSection | None
    cost: CostSection | None
    energy: EnergySection | None
    bottleneck: Bottleneck
    uncertainty: Uncertainty | None
    warnings: tuple[Message, ...]
    assumptions: tuple[str, ...]
    provenance: dict[str, str]
    inputs_hash: str
    model_version: str
    variation: Spread | None = None
    ranks: tuple[RankGroup, ...] = ()  # where they differ
    strong_scaling: Scaling | None = None  # the same global batch; of several nodes, if asked for

    @property
    def borrowed(self) -> tuple[str, ...]:
        """Constants of a GPU that are another's."""
        return tuple(t for key, t in self.provenance.items() if key.startswith("fallback"))

    def tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Step, collectives, exposed parts, memory by moment, its peak, curve, changes, ranks."""
        s, m = self.step, self.memory
        return {
            "rows": self.records(),
            "step": [{"part": part, "seconds": t} for part, t in s.breakdown.items()],
            "collectives": [{"kind": kind, **row} for kind, row in s.collectives.items()],
            "exposed": [{"where": where, "seconds": t} for where, t in s.exposed.items()],
            "memory": [{"moment": moment, "bytes": size} for moment, size in m.by_moment.items()],
            "peak": [{"category": name, "bytes": size} for name, size in m.by_category.items()],
            "curve": [asdict(point) for point in self.scaling.curve],
            "changes": [asdict(fix) for fix in self.bottleneck.fixes],
            "ranks": [asdict(group) for group in self.ranks],
        }

    def sentence(self) -> str:
        """The answer in a sentence."""
        memory, job, cost = self.memory, self.job, self.cost
        verdict = {"fits": "It fits", "at risk": "It may run out of memory"}.get(memory.verdict)
        if verdict is None:
            return f"It does not fit on {self.topology.title}; times are as if it just ran."
        said = f"{verdict} on {self.topology.title}"
        if job is not None and job.steps and job.wall_clock_s < float("inf"):
            said += f" and is done in {duration(job.wall_clock_s)}"
            said += f" for {usd(cost.total_usd)}" if cost is not None else ""
        else:
            said += f", a step in {duration(self.step.time_s)}"
        return f"{said}; {self.bottleneck.explanation}."

    def headline(self) -> Sequence[Headline]:
        """Time, money and memory with their ranges."""
        job, cost, m, rates = self.job, self.cost, self.memory, self.throughput
        found = []
        if job is not None and job.wall_clock_s < float("inf"):
            found.append(self._banded("Whole job", "wall_clock_s", duration, job.wall_clock_s, "s"))
        else:
            rate = rates.tokens_per_s
            found.append(self._banded("Tokens a second", "tokens_per_s", count, rate, "1/s"))
        if cost is not None and cost.total_usd < float("inf"):
            found.append(self._banded("Cost", "total_usd", usd, cost.total_usd, "USD"))
        found.append(self._banded("Step", "step_time_s", duration, self.step.time_s, "s"))
        room = f"of {gib(m.capacity_bytes)}; {percent(m.fit_probability, 0)} likely to run"
        return [*found, Headline("Memory of a GPU", gib(m.needed_bytes), room, m.needed_bytes, "B")]

    def _banded(
        self, label: str, name: str, show: Callable[[float], str], value: float, unit: str
    ) -> Headline:
        """A figure with its band."""
        band: Interval | None = getattr(self.uncertainty, name, None)
        said = "" if band is None else f"80 % band {show(band.low)} to {show(band.high)}"
        return Headline(label, show(value), said, value, unit)

    def content(self) -> dict[str, Any]:
        """The sections, what was computed from what first."""
        first = ("inputs_hash", "model_version")
        last = ("variation", "ranks", "strong_scaling")
        names = [f.name for f in fields(self) if f.name not in (*first, *last)]
        found = {name: getattr(self, name) for name in (*first, *names)}
        found["detail"] = {} if self.variation is None else {"variation": self.variation}
        found["ranks"] = self.ranks
        found["strong_scaling"] = self.strong_scaling
        return {name: {} if value is None else value for name, value in found.items()}
