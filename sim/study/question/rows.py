"""Lines of a study measured: a figure, its band, what was published, whether the claim holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sim.blocks.kernels import STREAMED
from sim.documents import Section
from sim.errors import Fault, InputError
from sim.inputs.loader import Loaded
from sim.memory.band import kind_of, memory_half_width
from sim.published.lookup import speed
from sim.quantities import count, counted, duration, gib, percent, usd
from sim.records import NamedTuple
from sim.result.likeness import JobTraits, job_of
from sim.result.result import Result
from sim.study.deltas import reasons_between
from sim.study.question.contrast import FEW, MEASURED, MEASURED_RATIO, Contrasts
from sim.study.question.spec import StudyLine
from sim.units import DAY_S, GIB, HOUR_S

Holds = Literal["yes", "no", "undecided"]
#: measures that are proportional to the step time (1) or to its inverse (-1)
FOLLOWS = {
    "tokens_per_s_per_gpu": -1, "tokens_per_s": -1, "mfu": -1, "hours": 1, "days": 1,
    "cost_usd": 1, "usd_per_million_tokens": 1, "energy_kwh": 1,
}  # fmt: skip
SHARES = ("mfu", "exposed_share", "hbm_share")


class RanCase(NamedTuple):
    """A case, simulated."""

    loaded: Loaded
    result: Result
    measured: str = ""  # id of the published run that it is

    @property
    def job(self) -> JobTraits:
        """The features by which runs are comparable."""
        step = self.result.step
        return job_of(
            self.loaded.topology, self.loaded.workload, step.breakdown, step.overlap_slowdown_s
        )


@dataclass(frozen=True, slots=True)
class MeasuredLine(Section):
    """A measured line."""

    key: str
    label: str
    metric: str
    is_ratio: bool
    value: float | None  # None: a case does not fit
    band: tuple[float, float] | None
    band_from: str
    low: float | None
    high: float | None
    published: tuple[tuple[str, float], ...]
    note: str
    reasons: tuple[str, ...] = ()

    @property
    def judged(self) -> float | None:
        """What the claim is held against: the measurement where there is one, else our figure."""
        return self.published[0][1] if self.published else self.value

    @property
    def judged_band(self) -> tuple[float, float] | None:
        """What that may be off: the noise of measurements, or our band."""
        if self.published:
            width = MEASURED_RATIO if self.is_ratio else MEASURED
            return around(self.published[0][1], width)
        return self.band

    @property
    def holds(self) -> Holds | None:
        """Whether it is what the claim says; None where the claim says nothing of it.

        Undecided where only part of the band is in the range that is claimed.
        """
        if self.low is None and self.high is None:
            return None
        if self.judged is None:
            return "no"
        low, high = self.low or 0.0, math.inf if self.high is None else self.high
        least, most = self.judged_band or (self.judged, self.judged)
        if low <= least and most <= high:
            return "yes"
        return "no" if most < low or least > high else "undecided"

    def said(self, value: float | None) -> str:
        """A value of this measure as a reader would say it."""
        if value is None:
            return "does not fit"
        return f"{value:.2f} x" if self.is_ratio else said(value, self.metric)

    def content(self) -> dict[str, Any]:
        """The measure, the claim about it, and whether it holds."""
        return {
            "key": self.key,
            "label": self.label,
            "metric": self.metric,
            "ratio": self.is_ratio,
            "value": self.value,
            "band": self.band,
            "band_from": self.band_from,
            "claimed": [self.low, self.high],
            "holds": self.holds,
            "published": dict(self.published),
            "note": self.note,
            "reasons": self.reasons,
        }


def said(value: float, metric: str) -> str:
    """A value of a measure as a reader would say it."""
    if metric in SHARES:
        return percent(value)
    if metric in ("cost_usd", "usd_per_million_tokens"):
        return usd(value)
    if metric == "memory_gib":
        return gib(value * GIB)
    if metric in ("tokens_per_s", "tokens_per_s_per_gpu"):
        return count(value)
    if metric == "energy_kwh":
        return f"{value:,.0f} kWh" if value >= 100 else f"{value:.3g} kWh"
    return duration(value * (DAY_S if metric == "days" else HOUR_S))


def measure(result: Result, metric: str) -> float:
    """A measure of a result, in the unit that its name says."""
    step, rates, job, cost, energy = (
        result.step, result.throughput, result.job, result.cost, result.energy,
    )  # fmt: skip
    hbm = (*STREAMED, "optimizer")
    found: dict[str, float | None] = {
        "tokens_per_s_per_gpu": rates.tokens_per_s_per_gpu,
        "tokens_per_s": rates.tokens_per_s,
        "memory_gib": result.memory.needed_bytes / GIB,
        "hours": job.wall_clock_s / HOUR_S if job else None,
        "days": job.wall_clock_s / DAY_S if job else None,
        "cost_usd": cost.total_usd if cost else None,
        "usd_per_million_tokens": cost.usd_per_million_tokens if cost else None,
        "energy_kwh": energy.energy_j / 3.6e6 if energy else None,
        "mfu": rates.mfu,
        "exposed_share": step.exposed_communication_s / step.time_s,
        "hbm_share": sum(step.breakdown.get(k, 0.0) for k in hbm) / step.time_s,
    }
    value = found[metric]
    if value is None:
        message = f"{metric} needs a job length and a price (tokens:, offer:)"
        raise InputError([Fault(result.workload.name, None, None, metric, message)])
    return value


def row_of(line: StudyLine, ran: Mapping[str, RanCase], contrasts: Contrasts) -> MeasuredLine:
    """A line measured."""
    names = [line.case] + ([line.against] if line.against else [])
    unfit = [n for n in names if not ran[n].result.memory.fits]
    note = line.note
    value: float | None = None
    if unfit and line.metric != "memory_gib":
        verb = "does" if len(unfit) == 1 else "do"
        text = f"{' and '.join(unfit)} {verb} not fit"
        note = "; ".join(t for t in (text + (", as if it did" if line.as_if else ""), note) if t)
    if not unfit or line.as_if or line.metric == "memory_gib":
        value = measure(ran[line.case].result, line.metric)
        if line.against:
            value /= measure(ran[line.against].result, line.metric)
    reasons: tuple[str, ...] = ()
    if line.why and line.against:
        first, second = ran[line.against], ran[line.case]
        reasons = reasons_between(first.loaded, first.result, second.loaded, second.result)
    band, band_from = band_of(line, value, ran, contrasts)
    return MeasuredLine(
        key=line.key,
        label=line.label,
        metric=line.metric,
        is_ratio=bool(line.against),
        value=value,
        band=band,
        band_from=band_from,
        low=line.low,
        high=line.high,
        published=tuple((text, _published(text)) for text in _texts(line, ran)),
        note=note,
        reasons=reasons,
    )


def around(value: float, half_width: float) -> tuple[float, float]:
    """The ends of a band of a half-width in the logarithm."""
    return value * math.exp(-half_width), value * math.exp(half_width)


def band_of(
    line: StudyLine, value: float | None, ran: Mapping[str, RanCase], contrasts: Contrasts
) -> tuple[tuple[float, float] | None, str]:
    """The 80 % band of a line, and what it comes from.

    A ratio of two runs that measured pairs are like has the band of what those missed by;
    any other ratio that of two independent errors, which is cautious, since much of the model's
    error is common to both. Memory of two jobs of one kind is wrong by one and the same error.
    """
    if value is None:
        return None, ""
    if line.metric == "memory_gib":
        return _memory_band(line, value, ran)
    sign = FOLLOWS.get(line.metric)
    if sign is None:
        return None, ""
    apart = _independent(line, sign, ran)
    if line.against:
        found = contrasts.width(ran[line.against].job, ran[line.case].job)
        if found is not None:
            width = found.half_width
            if found.pairs < FEW and apart is not None:
                width = max(width, *apart)
            return around(value, width), counted(found.pairs, "measured pair")
    if apart is None:
        return None, ""
    ends = value * math.exp(-apart[0]), value * math.exp(apart[1])
    return ends, "both runs' own bands" if line.against else "runs like it"


def _independent(
    line: StudyLine, sign: int, ran: Mapping[str, RanCase]
) -> tuple[float, float] | None:
    """Distances in the logarithm to the ends of a band, errors of all cases being independent."""
    low = high = 0.0  # squares
    for name, way in ((line.case, sign), (line.against, -sign)):
        if not name:
            continue
        known, time_s = ran[name].result.uncertainty, ran[name].result.step.time_s
        if known is None:
            return None
        band = known.step_time_s
        down, up = math.log(time_s / band.low), math.log(band.high / time_s)
        if way < 0:
            down, up = up, down
        low, high = low + down * down, high + up * up
    return math.sqrt(low), math.sqrt(high)


def _memory_band(
    line: StudyLine, value: float, ran: Mapping[str, RanCase]
) -> tuple[tuple[float, float] | None, str]:
    kinds = [kind_of(ran[n].loaded.workload) for n in (line.case, line.against) if n]
    if len(set(kinds)) == 1 and line.against:
        return None, ""
    return around(value, math.hypot(*map(memory_half_width, kinds))), "peaks like it"


def _texts(line: StudyLine, ran: Mapping[str, RanCase]) -> tuple[str, ...]:
    """The line's measurements: those it names, or those of its own cases, if published runs."""
    ids = [ran[n].measured for n in (line.case, line.against) if n]
    if line.published or line.metric != "tokens_per_s_per_gpu" or not all(ids):
        return line.published
    return (" / ".join(ids),)


def _published(text: str) -> float:
    """Tokens/s per GPU of a published run, or the ratio of two."""
    first, slash, second = text.partition(" / ")
    return (speed(first) or math.nan) / ((speed(second) or math.nan) if slash else 1.0)
