"""At which price ratio two machines cost the same for a job, and what providers ask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sim.documents import Section
from sim.inputs.offers import newest, offers
from sim.inputs.price import PriceRow
from sim.published.lookup import speed
from sim.study.machine_offers import matching
from sim.study.question.contrast import MEASURED_RATIO, Contrasts
from sim.study.question.rows import RanCase, around, band_of
from sim.study.question.spec import BreakEven, StudyLine

Cheaper = Literal["first", "second", "undecided", ""]


@dataclass(frozen=True, slots=True)
class Offered(Section):
    """Both machines at one provider, in one region, at one date."""

    name: str
    first: PriceRow
    second: PriceRow

    @property
    def ratio(self) -> float:
        """Hourly price of a GPU of the first over one of the second."""
        return self.first.usd_per_gpu_hour / self.second.usd_per_gpu_hour

    def content(self) -> dict[str, Any]:
        """Where, when, both prices and their ratio."""
        return {
            "name": self.name,
            "as_of": self.first.as_of,
            "usd_per_gpu_hour": [self.first.usd_per_gpu_hour, self.second.usd_per_gpu_hour],
            "price_ratio": self.ratio,
            "sources": [self.first.source, self.second.source],
        }


@dataclass(frozen=True, slots=True)
class Tie(Section):
    """The price ratio at which a job costs the same on both machines."""

    key: str
    label: str
    ratio: float | None  # None: one does not fit
    band: tuple[float, float] | None
    offered: tuple[Offered, ...]

    def cheaper(self, price_ratio: float) -> Cheaper:
        """Which machine is the cheaper at a price ratio; undecided within the band."""
        if self.ratio is None:
            return ""
        low, high = self.band or (self.ratio, self.ratio)
        return "first" if price_ratio < low else "second" if price_ratio > high else "undecided"

    def content(self) -> dict[str, Any]:
        """The ratio, its band, and which machine is the cheaper at each offer."""
        return {
            "key": self.key,
            "label": self.label,
            "tie_price_ratio": self.ratio,
            "band": self.band,
            "offers": [{**o.content(), "cheaper": self.cheaper(o.ratio)} for o in self.offered],
        }


def tie_of(pair: BreakEven, ran: Mapping[str, RanCase], contrasts: Contrasts) -> Tie:
    """The break-even of two cases: GPU-hours of the second over those of the first.

    Of two published runs it is the measured ratio of speeds.
    """
    first, second = ran[pair.case], ran[pair.against]
    ratio: float | None = None
    band: tuple[float, float] | None = None
    measured = speed(first.measured) if first.measured and second.measured else None
    if measured is not None:
        ratio = measured / (speed(second.measured) or math.nan)
        band = around(ratio, MEASURED_RATIO)
    elif first.result.memory.fits and second.result.memory.fits:
        line = StudyLine(label=pair.label, case=pair.case, against=pair.against)
        hours = [
            r.result.throughput.tokens_per_s_per_gpu
            if r.result.job is None
            else r.result.job.tokens / r.result.job.wall_clock_s / r.result.topology.gpus
            for r in (first, second)
        ]
        ratio = hours[0] / hours[1]
        band, _ = band_of(line, ratio, ran, contrasts)
    machines = (first.loaded.topology, second.loaded.topology)
    rows = [newest(matching(machine, offers())) for machine in machines]
    return Tie(pair.key, pair.label, ratio, band, tuple(_pairs(*rows)))


def _pairs(first: Sequence[PriceRow], second: Sequence[PriceRow]) -> Iterator[Offered]:
    """Offers of one provider, region and date, of which both may say "any"."""
    for own in first:
        for other in second:
            here = (own.provider, own.region, own.as_of)
            if here == (other.provider, other.region, other.as_of):
                yield Offered(f"{own.place} {own.as_of}".rstrip(), own, other)
