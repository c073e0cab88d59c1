"""4: more nodes: throughput of a GPU against their number, with more work and with the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from sim.page.charts.axes import ChartAxis, ChartBand, ChartLine, Dots, Drawn, Limit, axes, ceiling
from sim.page.charts.canvas import Chart, LegendKey
from sim.page.model import Dossier, PageSection, Piece
from sim.quantities import count, counted, percent
from sim.report.run import scaling_table
from sim.result.bands import LikeRun
from sim.result.figures import Scaling
from sim.result.result import Result

_NOTES = {
    "weak": "Weak scaling: the batch grows with the number of GPUs.",
    "strong": "Strong scaling: the global batch stays as it is, so that each GPU has less of it.",
}


def section(dossier: Dossier) -> PageSection | None:
    """The curves, where there are any."""
    case = dossier.first
    if case is None or len(case.result.scaling.curve) < 2:
        return None
    weak = case.result.scaling
    last = weak.curve[-1]
    lead = (
        f"With the same work for each GPU, {counted(last.gpus, 'GPU')} keep "
        f"{percent(last.efficiency)} of the throughput that {weak.baseline_gpus} have each"
    )
    parts: list[Piece] = [scaling_chart(case.result, weak, case.like), scaling_table(weak)]
    if case.strong is not None:
        most = case.strong.curve[-1]
        lead += f"; with the same work in all, {most.gpus} keep {percent(most.efficiency)}"
        parts += [scaling_chart(case.result, case.strong), scaling_table(case.strong)]
    return PageSection("scaling", "More nodes", f"{lead}.", parts)


def scaling_chart(result: Result, scaling: Scaling, like: Sequence[LikeRun] = ()) -> Chart:
    """Tokens a second of a GPU over the number of GPUs.

    Parameters
    ----------
    result : Result
        Of the job; its band is drawn around the curve.
    scaling : Scaling
        The curve.
    like : sequence of LikeRun
        Measured runs that are shown beside it, by how far off the model was on them.
    """
    curve, known = scaling.curve, result.uncertainty
    each = [(float(p.gpus), p.tokens_per_s / p.gpus) for p in curve]
    free = [
        (float(p.gpus), p.ideal_efficiency / p.efficiency * p.tokens_per_s / p.gpus) for p in curve
    ]
    legend = [LegendKey("line-key", "simulated"), LegendKey("dash-key", "were communication free")]
    layers: list[Drawn] = []
    highest = max(v for _, v in (*each, *free))
    if known is not None:
        rates = known.tokens_per_s_per_gpu
        own = result.throughput.tokens_per_s_per_gpu
        upper = [(g, v * rates.high / own) for g, v in each]
        layers.append(ChartBand(upper, [(g, v * rates.low / own) for g, v in each], "band"))
        legend.append(LegendKey("band-key", "80 % band"))
        highest = max(highest, *(v for _, v in upper))
    layers.append(Limit(each[0][1], f"ideal {count(each[0][1])}", "ideal"))
    layers.append(ChartLine(free, "dash"))
    labels = [
        f"{counted(p.nodes, 'node')}, {counted(p.gpus, 'GPU')}: {count(p.tokens_per_s / p.gpus)}"
        for p in curve
    ]
    layers.append(ChartLine(each, "line", dots=True, labels=labels))
    misfits = [i for i, p in enumerate(curve) if not p.fits]
    if misfits:
        layers.append(Dots([each[i] for i in misfits], "bad-dot",
                           [f"{labels[i]}: does not fit" for i in misfits]))  # fmt: skip
        legend.append(LegendKey("bad-key", "does not fit"))
    note = _NOTES[scaling.kind]
    if measured := list(_measured(each, like)):
        layers.append(
            Dots([m[1] for m in measured], "s1 see", [m[0] for m in measured], radius=4.5)
        )
        legend.append(LegendKey("s1-key", "measured runs most like it"))
        note += " A measured run stands as far off the curve as the model was off it."
        highest = max(highest, *(m[1][1] for m in measured))
    x = ChartAxis("GPUs", each[0][0], each[-1][0], lambda v: f"{v:.0f}", logarithmic=True)
    y = ChartAxis("tokens/s of a GPU", 0.0, ceiling(1.05 * highest), count)
    rows = [
        {"nodes": p.nodes, "gpus": p.gpus, "tokens_per_s": p.tokens_per_s,
         "tokens_per_s_per_gpu": p.tokens_per_s / p.gpus, "efficiency": p.efficiency,
         "ideal_efficiency": p.ideal_efficiency, "step_time_s": p.step_time_s}
        for p in curve
    ]  # fmt: skip
    said = ", ".join(f"{counted(p.gpus, 'GPU')} {percent(p.efficiency)}" for p in curve)
    name = "scaling" if scaling.kind == "weak" else f"{scaling.kind}-scaling"
    title = "Throughput of a GPU as nodes are added"
    if scaling.kind == "strong":
        title = "The same global batch on more nodes"
    return Chart(
        name, title, f"Efficiency: {said}",
        lambda width: axes(width, x, y, layers, f"Efficiency: {said}", 0.36), rows, legend, note,
    )  # fmt: skip


def _measured(
    each: Sequence[tuple[float, float]], like: Sequence[LikeRun]
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Runs within the curve's numbers of GPUs, each as far off it as the model was off the run."""
    for run in like:
        if each[0][0] <= run.gpus <= each[-1][0]:
            rate = _between(each, run.gpus) * (1.0 + run.error)
            said = f"{run.id} ({run.model}, {counted(run.gpus, 'GPU')})"
            yield f"{said}: measured {percent(run.error, sign='+')} of the speed", (run.gpus, rate)


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    """A curve between its points, straight."""
    for (a, low), (b, high) in pairwise(points):
        if at <= b:
            return low + (high - low) * (at - a) / (b - a)
    return points[-1][1]
