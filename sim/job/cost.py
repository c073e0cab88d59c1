"""Total cost of compute: rate x wall-clock, setup, storage, egress; and where the answer flips."""

from __future__ import annotations

import math

from sim.inputs.topology import Ownership
from sim.records import dataclass
from sim.units import HOUR_S

HOURS_PER_MONTH = 730.0
HOURS_PER_YEAR = 8766.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What renting (or owning) a machine costs.

    Attributes
    ----------
    price_per_gpu_hour_usd : float
        Rate paid. [USD/h]
    kind : str
        ``on-demand``, ``spot``, ``committed`` or ``owned``.
    setup_hours : float
        Paid before the first step. [h]
    least_hours : float
        Paid for at the least (a commitment). [h]
    storage_usd_per_gb_month, egress_usd_per_gb : float
        Keeping data, and taking it out.
    energy_usd_per_kwh : float
        Where electricity is paid apart.
    """

    price_per_gpu_hour_usd: float
    kind: str = "on-demand"
    setup_hours: float = 0.0
    least_hours: float = 0.0
    storage_usd_per_gb_month: float = 0.0
    egress_usd_per_gb: float = 0.0
    energy_usd_per_kwh: float = 0.0


def owned_rate(own: Ownership) -> float:
    """What an hour of a GPU of one's own costs, electricity apart. [USD/h]

    Notes
    -----
    ((P - resale) / life + interest x (P + resale) / 2 + staff + space) / share in use, P the price:
    written off evenly, so half of what is lost in value is tied up on average.
    """
    kept = own.price_per_gpu * own.resale
    rate = (own.price_per_gpu - kept) / (own.lifetime / HOUR_S)
    rate += own.interest * (own.price_per_gpu + kept) / 2.0 / HOURS_PER_YEAR
    rate += own.staff_per_gpu_year / HOURS_PER_YEAR + own.space_per_gpu_month / HOURS_PER_MONTH
    return rate / own.in_use


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job costs. [USD]"""

    total_usd: float
    compute_usd: float
    setup_usd: float
    storage_usd: float
    egress_usd: float
    energy_usd: float
    unused_commitment_usd: float
    price_per_gpu_hour_usd: float
    price_kind: str
    gpu_hours: float
    usd_per_million_tokens: float | None

    @property
    def fixed_usd(self) -> float:
        """The part that does not depend on the hourly price."""
        return self.storage_usd + self.egress_usd + self.energy_usd


def total_cost(
    terms: Terms,
    gpus: int,
    wall_s: float,
    *,
    storage_gb: float = 0.0,
    egress_gb: float = 0.0,
    energy_j: float = 0.0,
    tokens: float | None = None,
) -> Cost:
    """Total cost of compute.

    Parameters
    ----------
    terms : Terms
        Rates.
    gpus : int
        GPUs rented.
    wall_s : float
        Wall-clock of the job. [s]
    storage_gb : float
        Checkpoints and data kept while the job runs. [GB]
    egress_gb : float
        What leaves the provider at the end. [GB]
    energy_j : float
        Of the site; matters where electricity is paid apart. [J]
    tokens : float, optional
        For the price per million tokens.
    """
    hours = wall_s / HOUR_S
    rate = terms.price_per_gpu_hour_usd * gpus
    compute, setup = rate * hours if rate else 0.0, rate * terms.setup_hours
    unused = rate * max(0.0, terms.least_hours - hours - terms.setup_hours)
    months = (hours + terms.setup_hours) / HOURS_PER_MONTH
    # a job that never ends costs without bound, but nothing for what is free
    stored = storage_gb * terms.storage_usd_per_gb_month
    storage = stored * months if stored else 0.0
    egress = egress_gb * terms.egress_usd_per_gb
    electricity = terms.energy_usd_per_kwh / 3.6e6
    energy = energy_j * electricity if electricity else 0.0
    total = compute + setup + unused + storage + egress + energy
    return Cost(
        total_usd=total,
        compute_usd=compute,
        setup_usd=setup,
        storage_usd=storage,
        egress_usd=egress,
        energy_usd=energy,
        unused_commitment_usd=unused,
        price_per_gpu_hour_usd=terms.price_per_gpu_hour_usd,
        price_kind=terms.kind,
        gpu_hours=gpus * (hours + terms.setup_hours),
        usd_per_million_tokens=total / tokens * 1e6 if tokens else None,
    )


def break_even_price(own_total_usd: float, other: Cost) -> float | None:
    """Price per GPU-hour at which the other machine costs as much; None if no price does. [USD]

    The other's total is linear in its price: fixed parts (storage, egress, energy) and the rest.
    """
    if not math.isfinite(own_total_usd + other.total_usd):
        return None
    variable = other.total_usd - other.fixed_usd
    if variable <= 0.0 or own_total_usd <= other.fixed_usd:
        return None
    return other.price_per_gpu_hour_usd * (own_total_usd - other.fixed_usd) / variable


def break_even_tokens(first: Cost, other: Cost, tokens: float) -> float | None:
    """Tokens from which the cheaper rate per token wins over the cheaper start.

    Both costs are of a job of `tokens`. What is paid once (setup, egress) is set against what
    grows with the tokens.

    Returns
    -------
    float or None
        None if one of the two is cheaper at any length.
    """
    once_first = first.setup_usd + first.egress_usd
    once_other = other.setup_usd + other.egress_usd
    per_first = (first.total_usd - once_first) / tokens
    per_other = (other.total_usd - once_other) / tokens
    if (once_first - once_other) * (per_first - per_other) >= 0.0:
        return None
    return (once_other - once_first) / (per_first - per_other)
