"""Buy, commit or rent: how many nodes of a plan to keep, and how many to rent by the hour."""

from __future__ import annotations

import math
from collections import Counter

from sim.inputs.topology import Topology
from sim.job.basis import terms_of
from sim.job.energy import full_site_watts
from sim.study.planned import Capacity, PlanReport
from sim.units import HOUR_S


def capacity_of(report: PlanReport, topology: Topology) -> Capacity | None:
    """What to keep and what to rent, from how many nodes were in use when.

    Parameters
    ----------
    report : PlanReport
        Jobs with the nodes that they held.
    topology : Topology
        Its offer names a price by the hour, and what the machine costs kept: ``own``, or a
        ``commitment_discount``.

    Returns
    -------
    Capacity or None
        None where one of the two is not known.

    Notes
    -----
    The k-th node is in use while k or more are: it is worth keeping where the share of that time is
    more than the kept rate over the hourly one, less electricity. What is kept is paid for all the
    time and draws power while in use; hours are rented as they are used, power included.
    """
    offer = topology.offer
    if offer is None or (offer.own is None and not offer.commitment_discount):
        return None
    by_hour = {"own": None, "commitment_discount": 0.0, "commitment": 0.0}
    rented = terms_of(offer.model_copy(update=by_hour))
    base = terms_of(offer.model_copy(update={"capacity": "owned"}))
    if rented is None or base is None:
        return None
    hourly, kept = rented.price_per_gpu_hour_usd, base.price_per_gpu_hour_usd
    used_s = _in_use(report)
    per_node = report.gpus // report.nodes
    power = power_rate(topology)
    even = kept / (hourly - power) if hourly > power else math.inf
    worth = sum(seconds / report.span_s > even for seconds in used_s)
    all_h, used_h = report.span_s / HOUR_S * per_node, [s / HOUR_S * per_node for s in used_s]

    def cost(nodes: int) -> float:
        """With so many kept. [USD]"""
        own = nodes * kept * all_h + power * sum(used_h[:nodes])
        return own + hourly * sum(used_h[nodes:])

    return Capacity(
        base_kind=base.kind,
        hour_kind=rented.kind,
        base_rate_usd=kept,
        power_rate_usd=power,
        hour_rate_usd=hourly,
        peak_nodes=len(used_s),
        base_nodes=worth,
        kept_usd=cost(len(used_s)),
        rented_usd=cost(0),
        mixed_usd=cost(worth),
        even_share=even,
    )


def power_rate(topology: Topology) -> float:
    """Electricity of a GPU at its limit with its share of node and site. [USD/h]"""
    offer = topology.offer
    if offer is None or not offer.energy_per_kwh:
        return 0.0
    return offer.energy_per_kwh * full_site_watts(topology.first_gpu, offer.pue) / 1000.0


def _in_use(report: PlanReport) -> list[float]:
    """Time in which k or more nodes were in use, k from 1. [s]"""
    changes = sorted(
        (moment, change, node)
        for log in report.logs
        for hold in log.holds
        for node in hold.nodes
        for moment, change in ((hold.start_s, 1), (hold.end_s, -1))
    )
    held: Counter[int] = Counter()  # jobs on a node: several may share one
    level: dict[int, float] = {}  # time by how many nodes were in use [s]
    busy, before = 0, 0.0
    for moment, change, node in changes:
        level[busy] = level.get(busy, 0.0) + moment - before
        held[node] += change
        busy += change if held[node] == max(change, 0) else 0
        before = moment
    used, total = [], 0.0
    for k in range(max(level, default=0), 0, -1):
        total += level.get(k, 0.0)
        used.append(total)
    return used[::-1]
