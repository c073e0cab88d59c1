"""What two machines cost for a job, like for like first: one provider's prices, then each one's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sim.documents import Section
from sim.inputs.price import PriceRow, place_of, regions_differ, today
from sim.inputs.topology import Topology
from sim.result.figures import CostSection
from sim.result.result import Result
from sim.study.machine_offers import like_for_like, price_doubt
from sim.study.pricing import cost_at


@dataclass(frozen=True, slots=True)
class PricePair(Section):
    """The cost of a job on two machines at two prices.

    Attributes
    ----------
    first_place, other_place : str
        Provider and region of each price.
    first_rate_usd, other_rate_usd : float
        Of a GPU-hour.
    terms : str
        Of both, such as ``on-demand``; ``spot against on-demand`` where they differ.
    cost_ratio : float
        The other's cost over the first's.
    one_provider, one_region : bool
        Whether the prices are of the same provider, and of the same region.
    doubt : str
        Why a price is not to be relied on; empty where both are checked and dated.
    """

    first_place: str
    other_place: str
    first_rate_usd: float
    other_rate_usd: float
    terms: str
    cost_ratio: float
    one_provider: bool
    one_region: bool
    doubt: str = ""

    @property
    def alike(self) -> bool:
        """Whether it is one provider, one region and the same terms."""
        return self.one_provider and self.one_region and " against " not in self.terms

    @property
    def said(self) -> str:
        """At which prices it is."""
        rates = f"${self.first_rate_usd:.2f} and ${self.other_rate_usd:.2f} a GPU-hour"
        if self.one_provider and self.first_place == self.other_place:
            where = f"{self.first_place}'s prices"
        else:
            what = "one provider, two regions" if self.one_provider else "two providers"
            where = f"{what}, {self.first_place} and {self.other_place}"
        doubt = f"; {self.doubt}" if self.doubt else ""
        return f"{where}, {self.terms} ({rates}{doubt})"


def price_pairs(
    machines: tuple[Topology, Topology], results: tuple[Result, Result], rows: Iterable[PriceRow]
) -> tuple[PricePair, ...]:
    """One provider's prices where some provider has both machines, then each one's own.

    Parameters
    ----------
    machines : two Topology
        As they are priced: their own offers.
    results : two Result
        The job on each.
    rows : iterable of PriceRow
        The catalogue.

    Returns
    -------
    tuple of PricePair
        None of a job without a length. Where the machines' own prices are alike, these alone.
    """
    a, b = (result.cost for result in results)
    if a is None or b is None or not a.total_usd:
        return ()
    own = _own(a, b, machines)
    if own.alike or machines[0].gpu_counts == machines[1].gpu_counts:
        return (own,)
    first, other = like_for_like(*machines, rows)
    if first is None or other is None or first.provider != other.provider:
        return (own,)
    costs = cost_at(results[0], first), cost_at(results[1], other)
    apart = regions_differ(first.region, other.region)
    same = PricePair(
        first.place, other.place, first.usd_per_gpu_hour, other.usd_per_gpu_hour, "on-demand",
        costs[1].total_usd / costs[0].total_usd, True, not apart, _doubt((first, other)),
    )  # fmt: skip
    return (same, own)


def _own(a: CostSection, b: CostSection, machines: tuple[Topology, Topology]) -> PricePair:
    """At the prices that the machines have."""
    places = [place_of(c.provider, c.region) or "own price" for c in (a, b)]
    terms = " against ".join(dict.fromkeys((a.price_kind, b.price_kind)))
    doubts = [price_doubt(m.offer) for m in machines]
    return PricePair(
        places[0], places[1], a.price_per_gpu_hour_usd, b.price_per_gpu_hour_usd, terms,
        b.total_usd / a.total_usd, a.provider == b.provider, not regions_differ(a.region, b.region),
        "; ".join(dict.fromkeys(filter(None, doubts))),
    )  # fmt: skip


def _doubt(rows: Iterable[PriceRow]) -> str:
    day = today()
    return "; ".join(filter(None, dict.fromkeys(row.doubt(day) for row in rows)))
