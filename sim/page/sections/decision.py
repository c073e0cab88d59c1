"""1: what to do: a sentence, the figures with their ranges, what was asked in full."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sim.documents import Headline
from sim.job.cost import break_even_price
from sim.page.model import Case, Dossier, PageSection, Piece, Tiles
from sim.page.sections.answers import pieces_of
from sim.page.sections.lead import lead_of
from sim.page.sections.money import fitting
from sim.quantities import count, duration, percent, usd
from sim.report.run import fit_lines, fixes_table
from sim.report.view import Figures, Lines, Remarks
from sim.result.result import Result
from sim.study.sized import SizeReport
from sim.study.sweep import SweepOutcome

_TWICE = (
    "The search reckons failures in closed form and counts what passes before the first step; the "
    "figures above are of runs of its best plan that were simulated, from the first step on."
)


def section(dossier: Dossier) -> PageSection:
    """The decision."""
    case = dossier.first
    view = dossier.view
    parts: list[Piece] = []
    lead = lead_of(view.document)
    if case is not None:
        result = case.result
        lead = lead or result.sentence()
        if len(dossier.cases) == 1:
            parts += [Tiles(result.headline()), Tiles(list(further(result)), small=True)]
        if isinstance(view.document, SizeReport | SweepOutcome):
            parts.append(Lines([_TWICE]))
        if warned := [w.text for w in result.warnings]:
            parts.append(Remarks(warned))
    if case is not None and view.document is case.result:
        if not result.memory.fits:
            parts.append(Lines(fit_lines(result)))
        if said := runner_up(case):
            parts.append(Lines([said]))
        if result.bottleneck.fixes:
            parts.append(fixes_table(result))
    else:
        parts += pieces_of(view.document)
        parts += [part for part in view.filled if not isinstance(part, Figures)]
    return PageSection("decision", "Decision", lead, parts)


def runner_up(case: Case) -> str:
    """The next best offer of the same kind, and the price at which it, or this one, would win."""
    cost = case.result.cost
    if cost is None or not math.isfinite(cost.total_usd):
        return ""
    others = [
        job for job in fitting(case)
        if job.cost.price_kind == cost.price_kind and job.row.provider != cost.provider
    ]  # fmt: skip
    if not others:
        return ""
    other = others[0]
    said = f"The best offer elsewhere is {other.name} with {usd(other.cost.total_usd)}"
    loses = other.cost.total_usd < cost.total_usd
    least, dear = (other.cost, cost) if loses else (cost, other.cost)
    tie = break_even_price(least.total_usd, dear)
    if tie is None:
        return f"{said}."
    who, now = "this one" if loses else "it", usd(dear.price_per_gpu_hour_usd)
    return f"{said}: {who} wins at less than {usd(tie)} for a GPU-hour ({now} now)."


def further(result: Result) -> Iterator[Headline]:
    """Rates, and what they cost."""
    rates, step = result.throughput, result.step
    yield Headline(
        "Tokens/s of a GPU", count(rates.tokens_per_s_per_gpu),
        f"{count(rates.tokens_per_s)} in all", rates.tokens_per_s_per_gpu, "1/s",
    )  # fmt: skip
    yield Headline("MFU", percent(rates.mfu), f"of the {rates.peak_dtype} dense peak", rates.mfu)
    yield Headline("HFU", percent(rates.hfu), "of what runs, recompute included", rates.hfu)
    yield Headline(
        "Exposed communication", percent(step.exposed_communication_s / step.time_s),
        f"{duration(step.exposed_communication_s)} of a step", step.exposed_communication_s, "s",
    )  # fmt: skip
    if result.job is not None:
        yield Headline(
            "Goodput", percent(result.job.goodput), "of the wall-clock", result.job.goodput
        )
    if result.energy is not None:
        yield Headline("Energy", f"{result.energy.energy_j / 3.6e6:,.0f} kWh",
                   f"{result.energy.joule_per_token:.3g} J a token",
                   result.energy.energy_j, "J")  # fmt: skip
