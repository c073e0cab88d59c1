"""1: what to do: a sentence, the figures with their ranges, what was asked in full."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from sim.page.model import Case, Dossier, PageSection, Piece, Tile, Tiles
from sim.page.sections.answers import lead_of, pieces_of
from sim.page.sections.money import fitting
from sim.quantities import count, duration, gib, percent, usd
from sim.report.run import fit_lines, fixes_table
from sim.report.view import Figures, Lines, Remarks
from sim.result.result import Interval, Result, Uncertainty


def section(dossier: Dossier) -> PageSection:
    """The decision."""
    case = dossier.first
    view = dossier.view
    parts: list[Piece] = []
    lead = ""
    if case is not None:
        result = case.result
        lead = lead_of(view.document) or sentence(result)
        if len(dossier.cases) == 1:
            parts += [Tiles(list(headline(result))), Tiles(list(further(result)), small=True)]
        if warned := [f"{w.message}. {w.hint}".strip() for w in result.warnings]:
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


def sentence(result: Result) -> str:
    """The answer in a sentence."""
    memory, job, cost = result.memory, result.job, result.cost
    verdict = {"fits": "It fits", "at risk": "It may run out of memory"}.get(memory.verdict)
    if verdict is None:
        return f"It does not fit on {result.topology.title}; times are as if it just ran."
    said = f"{verdict} on {result.topology.title}"
    if job is not None and job.steps and job.wall_clock_s < float("inf"):
        said += f" and is done in {duration(job.wall_clock_s)}"
        said += f" for {usd(cost.total_usd)}" if cost is not None else ""
    else:
        said += f", a step in {duration(result.step.time_s)}"
    return f"{said}; {result.bottleneck.explanation}."


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
    paid, rate = cost.compute_usd, cost.price_per_gpu_hour_usd
    theirs, their_rate = other.cost.compute_usd, other.cost.price_per_gpu_hour_usd
    said = f"The best offer elsewhere is {other.name} with {usd(other.cost.total_usd)}"
    if other.cost.total_usd < cost.total_usd:
        tie = rate * (other.cost.total_usd - (cost.total_usd - paid)) / paid
        return f"{said}: this one wins at less than {usd(tie)} for a GPU-hour ({usd(rate)} now)."
    tie = their_rate * (cost.total_usd - (other.cost.total_usd - theirs)) / theirs
    return f"{said}: it wins at less than {usd(tie)} for a GPU-hour ({usd(their_rate)} now)."


def headline(result: Result) -> Iterator[Tile]:
    """Time, money and memory with their ranges."""
    band, job, cost, memory = result.uncertainty, result.job, result.cost, result.memory
    if job is not None and job.wall_clock_s < float("inf"):
        yield Tile(
            "Whole job", duration(job.wall_clock_s),
            _range(band, "wall_clock_s", duration), job.wall_clock_s, "s",
        )  # fmt: skip
    else:
        yield Tile(
            "Tokens a second", count(result.throughput.tokens_per_s),
            _range(band, "tokens_per_s", count), result.throughput.tokens_per_s, "1/s",
        )  # fmt: skip
    if cost is not None and cost.total_usd < float("inf"):
        yield Tile("Cost", usd(cost.total_usd), _range(band, "total_usd", usd),
                   cost.total_usd, "USD")  # fmt: skip
    yield Tile(
        "Step", duration(result.step.time_s), _range(band, "step_time_s", duration),
        result.step.time_s, "s",
    )  # fmt: skip
    yield Tile(
        "Memory of a GPU", gib(memory.needed_bytes),
        f"of {gib(memory.capacity_bytes)}; {percent(memory.fit_probability, 0)} likely to run",
        memory.needed_bytes, "B",
    )  # fmt: skip


def further(result: Result) -> Iterator[Tile]:
    """Rates, and what they cost."""
    rates, step = result.throughput, result.step
    yield Tile(
        "Tokens/s of a GPU", count(rates.tokens_per_s_per_gpu),
        f"{count(rates.tokens_per_s)} in all", rates.tokens_per_s_per_gpu, "1/s",
    )  # fmt: skip
    yield Tile("MFU", percent(rates.mfu), f"of the {rates.peak_dtype} dense peak", rates.mfu)
    yield Tile("HFU", percent(rates.hfu), "of what runs, recompute included", rates.hfu)
    yield Tile(
        "Exposed communication", percent(step.exposed_communication_s / step.time_s),
        f"{duration(step.exposed_communication_s)} of a step", step.exposed_communication_s, "s",
    )  # fmt: skip
    if result.job is not None:
        yield Tile("Goodput", percent(result.job.goodput), "of the wall-clock", result.job.goodput)
    if result.energy is not None:
        yield Tile("Energy", f"{result.energy.energy_j / 3.6e6:,.0f} kWh",
                   f"{result.energy.joule_per_token:.3g} J a token",
                   result.energy.energy_j, "J")  # fmt: skip


def _range(known: Uncertainty | None, name: str, show: Callable[[float], str]) -> str:
    """The band of a figure."""
    band: Interval | None = getattr(known, name, None)
    return "" if band is None else f"80 % band {show(band.low)} to {show(band.high)}"
