"""One job priced at every offer: cost, energy, CO2, and the price at which each would tie."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from sim.documents import SCHEMAS, Listing, Section, plain
from sim.errors import Fault, InputError
from sim.inputs.arguments import Argument
from sim.inputs.loader import load
from sim.inputs.notes import Message
from sim.inputs.offers import catalogue, newest
from sim.inputs.price import TERMS, PriceRow, today
from sim.inputs.topology import Offer, Topology
from sim.job.basis import terms_of
from sim.job.cost import Cost, Terms, break_even_price, break_even_tokens, total_cost
from sim.job.energy import carbon_intensity
from sim.result.predict import predict
from sim.result.result import Result
from sim.step.variation import Progress, silent
from sim.study.machine_offers import (
    CHEAPEST,
    matching,
    offer_settings,
    passed_over,
    pick_offer,
)
from sim.units import HOUR_S

ON_DEMAND, SPOT, *RESERVED = TERMS
OWNED = "owned"


def rented_at(
    topology: Argument,
    workload: Argument,
    overrides: Iterable[str],
    name: str | None,
    prices: Path | None,
) -> tuple[tuple[str, ...], tuple[Message, ...]]:
    """Overrides that rent a machine at the offer of that name, the cheapest where there is none.

    Beside them a warning, where that is no row of a price file of one's own.
    """
    machine = load(topology, workload, tuple(overrides)).topology
    taken = pick_offer(machine, name or CHEAPEST, newest(catalogue(prices)))
    said = passed_over(machine, prices, taken)
    warned = (Message("own-prices", "topology.offer", said),) if said else ()
    return offer_settings(machine, taken), warned


@dataclass(frozen=True, slots=True)
class PricedJob(Section):
    """A job on a machine, rented at one offer."""

    machine: str
    row: PriceRow
    terms: str  # of `sim.inputs.price.TERMS`, or owned
    fits: bool
    verdict: str
    wall_s: float
    energy_j: float
    co2_kg: float | None
    co2_region: str
    machine_co2_kg: float
    tokens: float
    cost: Cost
    tie_price_usd: float | None = None  # rate per GPU-hour at which it would cost as the cheapest
    tie_tokens: float | None = None  # job length at which it would

    @property
    def spot(self) -> bool:
        """Whether it can be taken away."""
        return self.terms == SPOT

    @property
    def name(self) -> str:
        """Offer, and its terms where it is not rented by the hour."""
        return self.row.name + ("" if self.terms == ON_DEMAND else f" {self.terms}")

    @property
    def doubt(self) -> str:
        """Why its price is not to be relied on; "" where it is."""
        return "" if self.terms == OWNED else self.row.doubt(today())

    def content(self) -> dict[str, Any]:
        """Offer, job and cost."""
        return {
            "offer": self.name,
            "machine": self.machine,
            "gpu": self.row.gpu,
            "region": self.row.region,
            "fits": self.fits,
            "verdict": self.verdict,
            "wall_clock_s": self.wall_s,
            "tokens": self.tokens,
            "energy_j": self.energy_j,
            "co2_kg": self.co2_kg,
            "co2_region": self.co2_region,
            "machine_co2_kg": self.machine_co2_kg,
            "terms": self.terms,
            "residency": self.row.residency,
            "price_doubt": self.doubt,
            "cost": self.cost,
            "tie_price_per_gpu_hour_usd": self.tie_price_usd,
            "tie_tokens": self.tie_tokens,
            "as_of": self.row.as_of,
            "source": self.row.source,
        }


@dataclass(frozen=True, slots=True)
class PricedJobs(Listing):
    """A job at every offer, the cheapest that fits first."""

    schema: ClassVar[str] = SCHEMAS["prices"]

    jobs: tuple[PricedJob, ...]

    def items(self) -> Sequence[PricedJob]:
        """The jobs, each with its cost."""
        return self.jobs

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row an offer, the parts of the cost last."""
        rows = [job.content() for job in self.jobs]
        costs = [plain(row.pop("cost")) for row in rows]
        return [{**row, **cost} for row, cost in zip(rows, costs, strict=True)]


def price_everywhere(
    topologies: Sequence[Argument],
    workload: Argument,
    rows: Iterable[PriceRow],
    *,
    overrides: Iterable[str] = (),
    spot: bool = False,
    setup_s: float | None = None,
    progress: Progress | None = None,
    elsewhere: Iterable[PriceRow] = (),
) -> PricedJobs:
    """Simulate the job on each machine and price it at every offer of the machine's GPU.

    Arguments and answer are those of `sim.prices_job`, these apart.

    Parameters
    ----------
    rows : iterable of PriceRow
        Offers; those of other GPUs are left out.
    setup_s : float, optional
        Paid before the first step; by default what the machine's own offer says. [s]
    elsewhere : iterable of PriceRow
        Offers of all places, named where `rows` has none of the machines.

    Raises
    ------
    InputError
        Faulty inputs, a job without length, or no offer of any of the machines' GPUs.
    """
    rows, priced = tuple(rows), []
    changes = tuple(overrides)
    kinds: list[Topology] = []
    if not topologies:
        raise InputError([Fault("prices", None, None, "topologies", "no topology given")])
    told, capacities = progress or silent, ("on-demand", "spot") if spot else ("on-demand",)
    done, most = itertools.count(1), len(topologies) * len(capacities)
    told(0, most)
    for argument in topologies:
        loaded = load(argument, workload, changes)
        topology = loaded.topology
        kinds.append(topology)
        fitting = matching(topology, rows)
        own = topology.offer or Offer()
        hours = ((own.setup or 0.0) if setup_s is None else setup_s) / HOUR_S
        for capacity in capacities:
            kept = [SPOT] if capacity == "spot" else [ON_DEMAND, *RESERVED]
            chosen = [(row, t) for row in fitting for t in kept if row.price(t) is not None]
            owned = own.own is not None and capacity == "on-demand"
            if chosen or owned:
                rented = own.model_copy(update={"capacity": capacity})
                machine = topology.model_copy(update={"offer": rented})
                result = predict(machine, loaded.workload, scaling=False, fixes=False)
                priced += [_priced(result, topology, row, terms, hours) for row, terms in chosen]
                if owned:
                    priced.append(_owned(result, topology, own, hours))
            told(next(done), most)
    if not priced:
        raise InputError([Fault("prices", None, None, "", _nobody(kinds, elsewhere))])
    return PricedJobs(_ranked(priced))


def _nobody(machines: Sequence[Topology], elsewhere: Iterable[PriceRow]) -> str:
    """That none of some machines is offered, and where else one is."""
    known = tuple(elsewhere)
    kinds = dict.fromkeys(f"{m.first_gpu.name} in nodes of {m.gpus_per_node}" for m in machines)
    places = sorted({row.place for m in machines for row in matching(m, known)})
    there = f" is of that provider, region and residency; there are {', '.join(places)}"
    return f"no offer of {' or '.join(kinds)}" + (there if places else "")


def cost_at(
    result: Result, row: PriceRow, *, terms: str = ON_DEMAND, setup_hours: float = 0.0
) -> Cost:
    """What a simulated job costs at an offer. [USD]

    A reserved hour costs what it does in the long run: that a year of them is paid for is not in
    it.

    Raises
    ------
    InputError
        The job has no length.
    """
    return _cost(result, Terms(
        price_per_gpu_hour_usd=row.price(terms) or row.usd_per_gpu_hour,
        kind=terms,
        setup_hours=setup_hours,
        storage_usd_per_gb_month=row.storage(),
        egress_usd_per_gb=row.egress(),
    ))  # fmt: skip


def _cost(result: Result, terms: Terms) -> Cost:
    job = result.job
    if job is None:
        message = "nothing says how long the job is; add tokens, steps or samples"
        raise InputError([Fault(result.workload.name, None, None, "tokens", message)])
    return total_cost(
        terms, result.topology.gpus, job.wall_clock_s,
        storage_gb=job.storage_gb, egress_gb=job.egress_gb,
        energy_j=result.energy.energy_j if result.energy else 0.0, tokens=job.tokens,
    )  # fmt: skip


def _owned(result: Result, topology: Topology, offer: Offer, setup_hours: float) -> PricedJob:
    """The job on a machine of one's own, electricity paid apart."""
    terms = terms_of(offer.model_copy(update={"capacity": "owned"}))
    assert terms is not None
    row = PriceRow(
        "own", topology.name, topology.first_gpu.name, topology.gpus_per_node,
        terms.price_per_gpu_hour_usd, None, "", "", "", "", offer.country,
    )  # fmt: skip
    cost = _cost(result, replace(terms, setup_hours=setup_hours))
    return _as_priced(result, topology, row, OWNED, cost)


def _priced(
    result: Result, topology: Topology, row: PriceRow, terms: str, setup_hours: float
) -> PricedJob:
    cost = cost_at(result, row, terms=terms, setup_hours=setup_hours)
    return _as_priced(result, topology, row, terms, cost)


def _as_priced(
    result: Result, topology: Topology, row: PriceRow, terms: str, cost: Cost
) -> PricedJob:
    job, energy = result.job, result.energy
    assert job is not None
    assert energy is not None
    found = carbon_intensity(row.provider, row.region, row.country)
    joules = energy.energy_j
    return PricedJob(
        machine=topology.name,
        row=row,
        terms=terms,
        fits=result.memory.fits,
        verdict=result.memory.verdict,
        wall_s=job.wall_clock_s,
        energy_j=joules,
        co2_kg=joules / 3.6e6 * found[1] / 1000.0 if found else None,
        co2_region=found[0] if found else "",
        machine_co2_kg=energy.machine_co2_kg,
        tokens=job.tokens,
        cost=cost,
    )


def _ranked(priced: list[PricedJob]) -> tuple[PricedJob, ...]:
    """Cheapest that fits first, at prices to rely on before others, each with where it ties."""
    ordered = sorted(priced, key=lambda p: (not p.fits, bool(p.doubt), p.cost.total_usd))
    best = ordered[0].cost
    return tuple(
        replace(
            p,
            tie_price_usd=break_even_price(best.total_usd, p.cost),
            tie_tokens=break_even_tokens(best, p.cost, p.tokens),
        )
        for p in ordered
    )
