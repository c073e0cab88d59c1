"""7: how far to trust it: published runs like it, what no run shows, defaults that matter."""

from __future__ import annotations

from collections.abc import Iterator

from sim.page.charts.axes import ChartAxis, ChartBand, Dots, Drawn, Limit, axes
from sim.page.charts.canvas import Chart, LegendKey
from sim.page.model import Case, Dossier, Folded, PageSection, Piece
from sim.quantities import counted, percent
from sim.report.settings import settings
from sim.report.support import like_table
from sim.report.view import Cell, Column, Lines, Remarks, Row, Table, borrowed, left
from sim.result.result import Result

_TELLS = 0.01  # of the time per token


def section(dossier: Dossier) -> PageSection | None:
    """Evidence, and the lack of it."""
    case = dossier.first
    if case is None:
        return None
    result = case.result
    known = result.uncertainty
    lead = f"{known.provenance}." if known is not None else "No band is known."
    parts: list[Piece] = []
    if known is not None and known.beyond_data:
        parts.append(Remarks([f"No published run shows {', '.join(known.beyond_data)}."]))
    if case.like:
        parts += [like_chart(case), like_table(case.like)]
    parts.append(borrowed(result.borrowed))
    if moving := list(_moving(result)):
        parts.append(
            Table([left("key"), left("as simulated"), Column("time per token"), left("with")],
                  moving, "Defaults that move the answer by more than 1 %")
        )  # fmt: skip
    if result.assumptions:
        head = f"{len(result.assumptions)} keys took defaults"
        parts.append(Folded(head, [Lines(result.assumptions, list=True)]))
    return PageSection("trust", "How far to trust it", lead, parts)


def like_chart(case: Case) -> Chart:
    """Errors on published runs like this one, against the band that is given."""
    result = case.result
    known = result.uncertainty
    sizes = [run.gpus for run in case.like] + [result.topology.gpus]
    low, high = min(sizes) / 1.5, max(sizes) * 1.5
    layers: list[Drawn] = []
    widest = max([abs(run.error) for run in case.like] + [0.05])
    legend = [LegendKey("s0-key", "a published run; larger: more alike")]
    if known is not None:
        t = result.step.time_s
        top, bottom = known.step_time_s.high / t - 1.0, known.step_time_s.low / t - 1.0
        layers.append(ChartBand([(low, top), (high, top)], [(low, bottom), (high, bottom)], "band"))
        legend.append(LegendKey("band-key", "80 % band of this answer"))
        widest = max(widest, top, -bottom)
    layers.append(Limit(0.0, "as measured", "ideal"))
    for run in case.like:
        title = (
            f"{run.id} ({run.model}, {counted(run.gpus, 'GPU')}): {percent(run.error, sign='+')}"
        )
        layers.append(Dots([(float(run.gpus), run.error)], "s0 see", [title],
                           radius=3.0 + 6.0 * run.likeness / case.like[0].likeness))  # fmt: skip
    x = ChartAxis("GPUs", low, high, lambda v: f"{v:.0f}", logarithmic=True)
    y = ChartAxis("simulated over measured", -1.15 * widest, 1.15 * widest,
                  lambda v: percent(v, 0, "+"))  # fmt: skip
    said = f"Errors on the {len(case.like)} published runs most like this one, " + ", ".join(
        percent(run.error, sign="+") for run in case.like
    )
    rows = [run._asdict() for run in case.like]
    return Chart(
        "like-runs", "Published runs like this one", said,
        lambda width: axes(width, x, y, layers, said, 0.3), rows, legend,
        "Each predicted by constants that had not seen its source.",
    )  # fmt: skip


def _moving(result: Result) -> Iterator[Row]:
    """Keys that took defaults and were simulated otherwise, with what that did."""
    taken = dict(text.split(" = ", 1) for text in result.assumptions if " = " in text)
    short = {key.split(".", 1)[-1]: value for key, value in taken.items()}
    for fix in result.bottleneck.fixes:
        keys = [key for key in fix.change if key in short]
        if keys and abs(fix.step_time_ratio - 1.0) > _TELLS:
            now = ", ".join(f"{key} = {short[key]}" for key in keys)
            yield [
                ", ".join(keys), now,
                Cell(percent(fix.step_time_ratio - 1.0, sign="+"), fix.step_time_ratio),
                settings(fix.change),
            ]  # fmt: skip
