"""6: what it costs: against time, at every offer, and what moves it most."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sim.page.charts.axes import ChartAxis, ChartLine, Dots, Drawn, axes, ceiling
from sim.page.charts.bars import BarRow, ranked
from sim.page.charts.canvas import Chart, LegendKey
from sim.page.model import Case, Dossier, PageSection, Piece
from sim.quantities import count, counted, duration, percent, usd
from sim.report.job import job_section
from sim.result.figures import CostSection, JobSection
from sim.study.pareto import pareto_front
from sim.study.pricing import PricedJob
from sim.units import HOUR_S

_MARKS = {"on-demand": "s0", "spot": "s2", "committed": "s3"}
_MOST = 14  # offers that are drawn
_TOLD = 0.002  # of the cost


def section(dossier: Dossier) -> PageSection | None:
    """The money, where the job has a length and a price."""
    case = dossier.first
    if case is None or case.result.job is None:
        return None
    job, cost = case.result.job, case.result.cost
    parts: list[Piece] = []
    ends = math.isfinite(job.wall_clock_s)
    if cost is None:
        lead = "No price is known for this machine."
    elif not ends:
        lead = "A job that never ends has no price."
    else:
        where = " ".join(x for x in (cost.provider, cost.region) if x)
        lead = (
            f"{usd(cost.total_usd)} at {usd(cost.price_per_gpu_hour_usd)} for a GPU-hour "
            f"({cost.price_kind}{', ' + where if where else ''})."
        )
        parts += [moved_by(case, job, cost)]
        if len(case.result.scaling.curve) > 1:
            parts.append(cost_chart(case, job, cost))
    if ends and (offers := _priced(case)):
        own = cost.provider if cost is not None else ""
        alike = tuple(job for job in offers if job.row.provider == own)
        if 1 < len(alike) < len(offers):
            parts.append(offers_chart(alike, own))
        parts.append(offers_chart(offers))
    parts.append(job_section(case.result))
    return PageSection("money", "Money", lead, parts)


def moved_by(case: Case, job: JobSection, cost: CostSection) -> Chart:
    """How far each thing that is not known moves the cost, the most first."""
    moves = sorted(_moves(case, job, cost), key=lambda m: m[1] - m[2])
    total = cost.total_usd
    low = min([total, *(a for _, a, _ in moves)])
    high = max([total, *(b for _, _, b in moves)])
    rows = [BarRow(name, a - total, b - total, f"{usd(a)} to {usd(b)}") for name, a, b in moves]
    said = "; ".join(f"{name}: {usd(a)} to {usd(b)}" for name, a, b in moves)
    return Chart(
        "tornado", f"What moves the {usd(total)} most", said,
        lambda width: ranked(width, rows, said, low - total - 1e-9, high - total + 1e-9),
        [{"cause": name, "low_usd": a, "high_usd": b} for name, a, b in moves],
        note="Each alone, all else as it is.",
    )  # fmt: skip


def _moves(case: Case, job: JobSection, cost: CostSection) -> Iterator[tuple[str, float, float]]:
    """Cause, cost at best and at worst. [USD]"""
    total, known = cost.total_usd, case.result.uncertainty
    if known is not None and known.total_usd is not None:
        yield "the model's 80 % band", known.total_usd.low, known.total_usd.high
    rented = [j.cost.total_usd for j in fitting(case) if j.cost.price_kind == cost.price_kind]
    if len(rented) > 1:
        yield f"price, {cost.price_kind} offers", min(*rented, total), max(*rented, total)
    spot = [j.cost.total_usd for j in fitting(case) if j.spot]
    if spot:
        yield "spot capacity instead", min(spot), total
    hourly = cost.compute_usd / job.wall_clock_s
    low, high = hourly * job.wall_clock_p10_s, hourly * job.wall_clock_p90_s
    rest = total - cost.compute_usd
    if high - low > _TOLD * total:
        yield "luck of a run, p10 to p90", rest + low, rest + high
    lost = cost.compute_usd * (1.0 - job.shares.get("useful", 1.0))
    if lost > _TOLD * total:
        yield "failures, checkpoints, waiting", total - lost, total
    kept = cost.storage_usd + cost.egress_usd
    if kept > _TOLD * total:
        yield "storage and egress", total - kept, total


def _priced(case: Case) -> tuple[PricedJob, ...]:
    """The offers at which the job ends."""
    jobs = case.offers.jobs if case.offers is not None else ()
    return tuple(job for job in jobs if math.isfinite(job.cost.total_usd))


def fitting(case: Case) -> list[PricedJob]:
    """The offers at which the job ends and fits, the cheapest first."""
    return [job for job in _priced(case) if job.fits]


def cost_chart(case: Case, job: JobSection, cost: CostSection) -> Chart:
    """Wall-clock against cost for other numbers of nodes, goodput and rate as they are."""
    own = case.result.throughput.tokens_per_s
    gpus = case.result.topology.gpus
    points = [
        (
            job.wall_clock_s * own / p.tokens_per_s,
            cost.total_usd * (p.gpus / gpus) * own / p.tokens_per_s,
        )
        for p in case.result.scaling.curve
    ]
    words = [counted(p.gpus, "GPU") for p in case.result.scaling.curve]
    titles = [f"{w}: {duration(t)}, {usd(c)}" for w, (t, c) in zip(words, points, strict=True)]
    mine = [i for i, p in enumerate(case.result.scaling.curve) if p.gpus == gpus]
    x = ChartAxis("wall-clock, hours", 0.0, ceiling(max(t for t, _ in points) / HOUR_S) * HOUR_S,
                  lambda v: f"{v / HOUR_S:g}", unit=HOUR_S)  # fmt: skip
    y = ChartAxis("cost", 0.0, ceiling(1.15 * max(c for _, c in points)), lambda v: f"${count(v)}")
    front = [points[i] for i in pareto_front(points, (True, True))]
    layers: list[Drawn] = [
        ChartLine(front, "dash"), Dots(points, "s0", titles, words),
        Dots([points[i] for i in mine], "chosen-dot", [titles[i] for i in mine], radius=8.0),
    ]  # fmt: skip
    said = "; ".join(titles)
    rows = [
        {"gpus": p.gpus, "wall_clock_s": t, "cost_usd": c}
        for p, (t, c) in zip(case.result.scaling.curve, points, strict=True)
    ]
    return Chart(
        "cost-time", "Cost against time", said,
        lambda width: axes(width, x, y, layers, said, 0.34), rows,
        [LegendKey("s0-key", "number of GPUs"), LegendKey("chosen-key", "as asked"),
         LegendKey("dash-key", "nothing is both faster and cheaper")],
        "The batch grows with the number of GPUs; goodput and the hourly rate stay as they are.",
    )  # fmt: skip


def offers_chart(jobs: tuple[PricedJob, ...], provider: str = "") -> Chart:
    """The job at every offer of the machine, or of one provider, the cheapest first."""
    shown = [job for job in jobs if job.fits][:_MOST] or list(jobs[:_MOST])
    rows = [
        BarRow(job.name, 0.0, job.cost.total_usd,
            f"{usd(job.cost.total_usd)} · {usd(job.cost.price_per_gpu_hour_usd)}/h",
            _MARKS.get(job.cost.price_kind, "s7"))
        for job in shown
    ]  # fmt: skip
    high = max(row.end for row in rows)
    kinds = dict.fromkeys(job.cost.price_kind for job in shown)
    legend = [LegendKey(f"{_MARKS.get(kind, 's7')}-key", kind) for kind in kinds]
    least = shown[0]
    said = f"The cheapest of {len(jobs)} offers is {least.name} with {usd(least.cost.total_usd)}"
    share = percent(shown[-1].cost.total_usd / least.cost.total_usd - 1.0, 0)
    whose = f"{provider}'s offers" if provider else "every offer"
    return Chart(
        "offers-alike" if provider else "offers", f"The job at {whose} of this GPU", said,
        lambda width: ranked(width, rows, said, 0.0, high),
        [
            {"offer": j.name, "region": j.row.region, "total_usd": j.cost.total_usd,
             "usd_per_gpu_hour": j.cost.price_per_gpu_hour_usd, "kind": j.cost.price_kind,
             "as_of": j.row.as_of, "source": j.row.source}
            for j in jobs
        ],
        legend, f"{said}; the dearest shown costs {share} more. Prices have dates: see the CSV.",
    )  # fmt: skip
