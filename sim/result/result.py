"""The Result of a simulation: a versioned document in SI units with stable keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar

from sim.documents import SCHEMAS, Document, Headline, Section
from sim.inputs.notes import Message
from sim.quantities import count, duration, gib, percent, usd
from sim.records import dataclass
from sim.result.figures import (
    Bottleneck,
    CostSection,
    EnergySection,
    JobSection,
    Memory,
    RankGroup,
    Scaling,
    Step,
    Throughput,
    TopologySection,
    WorkloadSection,
)
from sim.step.variation import Spread


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
