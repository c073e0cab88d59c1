"""4: more nodes: throughput of a GPU against their number."""

from __future__ import annotations

from sim.page.charts.axes import Axis, Band, Dots, Drawn, Limit, Line, axes, ceiling
from sim.page.charts.canvas import Chart, Key
from sim.page.model import Dossier, PageSection, Piece
from sim.quantities import count, counted, percent
from sim.report.run import scaling_table
from sim.result.result import Result


def section(dossier: Dossier) -> PageSection | None:
    """The curve, where there is one."""
    case = dossier.first
    if case is None or len(case.result.scaling.curve) < 2:
        return None
    result = case.result
    last = result.scaling.curve[-1]
    lead = (
        f"With the same work for each GPU, {last.gpus} GPUs keep {percent(last.efficiency)} of "
        f"the throughput that {result.scaling.baseline_gpus} have each."
    )
    parts: list[Piece] = [scaling_chart(result), scaling_table(result)]
    return PageSection("scaling", "More nodes", lead, parts)


def scaling_chart(result: Result) -> Chart:
    """Tokens a second of a GPU over the number of GPUs, weak scaling."""
    curve, known = result.scaling.curve, result.uncertainty
    each = [(float(p.gpus), p.tokens_per_s / p.gpus) for p in curve]
    free = [
        (float(p.gpus), p.ideal_efficiency / p.efficiency * p.tokens_per_s / p.gpus) for p in curve
    ]
    legend = [Key("line-key", "simulated"), Key("dash-key", "were communication free")]
    layers: list[Drawn] = []
    highest = max(v for _, v in (*each, *free))
    if known is not None:
        rates = known.tokens_per_s_per_gpu
        own = result.throughput.tokens_per_s_per_gpu
        upper = [(g, v * rates.high / own) for g, v in each]
        layers.append(Band(upper, [(g, v * rates.low / own) for g, v in each], "band"))
        legend.append(Key("band-key", "80 % band"))
        highest = max(highest, *(v for _, v in upper))
    layers.append(Limit(each[0][1], f"ideal {count(each[0][1])}", "ideal"))
    layers.append(Line(free, "dash"))
    labels = [
        f"{counted(p.nodes, 'node')}, {counted(p.gpus, 'GPU')}: {count(p.tokens_per_s / p.gpus)}"
        for p in curve
    ]
    layers.append(Line(each, "line", dots=True, labels=labels))
    misfits = [i for i, p in enumerate(curve) if not p.fits]
    if misfits:
        layers.append(Dots([each[i] for i in misfits], "bad-dot",
                           [f"{labels[i]}: does not fit" for i in misfits]))  # fmt: skip
        legend.append(Key("bad-key", "does not fit"))
    x = Axis("GPUs", each[0][0], each[-1][0], lambda v: f"{v:.0f}", logarithmic=True)
    y = Axis("tokens/s of a GPU", 0.0, ceiling(1.05 * highest), count)
    rows = [
        {"nodes": p.nodes, "gpus": p.gpus, "tokens_per_s": p.tokens_per_s,
         "tokens_per_s_per_gpu": p.tokens_per_s / p.gpus, "efficiency": p.efficiency,
         "ideal_efficiency": p.ideal_efficiency, "step_time_s": p.step_time_s}
        for p in curve
    ]  # fmt: skip
    said = ", ".join(f"{p.gpus} GPUs {percent(p.efficiency)}" for p in curve)
    note = "Weak scaling: the batch grows with the number of GPUs."
    return Chart(
        "scaling", "Throughput of a GPU as nodes are added", f"Efficiency: {said}",
        lambda width: axes(width, x, y, layers, f"Efficiency: {said}", 0.36), rows, legend, note,
    )  # fmt: skip
