"""2: where a step's time goes, and its timeline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sim.page.charts.axes import ChartAxis, ChartLine, Cursor, Drawn, axes, ceiling
from sim.page.charts.bars import Slice, stacked
from sim.page.charts.canvas import Chart, LegendKey
from sim.page.charts.timeline import COMPUTE, TITLES, mark_of, summed_rows, tracks
from sim.page.model import Case, Dossier, PageSection, Piece
from sim.quantities import brief, duration, percent, signed_duration
from sim.report.ranks import waiting
from sim.report.run import lost, overlap_cost
from sim.report.view import Cell, Column, Facts, Lines, Remarks, Row, Table, left
from sim.result.parts import parts_of
from sim.step.spans import StepTimeline

_MARKS = ("s0", "s1", "s2", "s3", "s6", "s5", "s7")
_LINES = ("line", "line-2", "line-3", "line-4")  # of the first case forward, backward, the second
_BESIDE = 2  # timelines that are drawn below each other


def section(dossier: Dossier) -> PageSection | None:
    """The step."""
    case = dossier.first
    if case is None:
        return None
    step = case.result.step
    exposed = percent(step.exposed_communication_s / step.time_s)
    lead = (
        f"A step takes {duration(step.time_s)}; {exposed} of it is communication that no kernel "
        "hides."
    )
    parts: list[Piece] = [parts_chart(dossier.cases)]
    if cost := overlap_cost(step):
        parts.append(Lines([f"Overlap is not free: it costs {cost}."]))
    if slowed := lost(step.transfer_slowdown, step.time_s):
        line = f"Collectives and copies were under way {slowed[0]} longer than alone: {slowed[1]}."
        parts.append(Lines([line]))
    drawn = [c for c in dossier.cases if c.timeline is not None][:_BESIDE]
    if drawn:
        lines = [(c.label, c.timeline) for c in drawn if c.timeline is not None]
        parts += [timeline_chart(lines), Remarks(list(_cut(drawn)))]
        if len(drawn) > 1:
            parts += [apart(lines), layers_chart(drawn)]
    if found := list(waiting(case.result)):
        parts.append(Facts(found, "Who waits for whom"))
    return PageSection("step", "Where the time goes", lead, parts)


def parts_chart(cases: Sequence[Case]) -> Chart:
    """Parts of each case's step; several as GPU-seconds per token, so that sizes compare."""
    several = len(cases) > 1
    rows, drawn = [], []
    for case in cases:
        r = case.result
        tokens = r.throughput.tokens_per_s_per_gpu * r.step.time_s if several else 1.0
        found = {name: seconds / tokens for name, seconds in parts_of(r.step).items()}
        rows += [
            {"case": case.label, "part": name, "gpu_s_per_token" if several else "seconds": value,
             "share": value / sum(found.values())}
            for name, value in found.items()
        ]  # fmt: skip
        drawn.append((case.label, [
            Slice(name, value, mark, f"{name}: {percent(value / sum(found.values()))}")
            for (name, value), mark in zip(found.items(), _MARKS, strict=True)
        ]))  # fmt: skip
    first = parts_of(cases[0].result.step)
    total = sum(first.values())
    legend = [
        LegendKey(
            f"{mark}-key", name, _figures(name, drawn, f"{duration(s)} · {percent(s / total)}")
        )
        for (name, s), mark in zip(first.items(), _MARKS, strict=True)
    ]
    title = "GPU time for each token" if several else "Parts of the step"
    said = ", ".join(f"{name} {percent(s / total, 0)}" for name, s in first.items())
    return Chart("step-parts", title, said, lambda width: stacked(width, drawn, said), rows,
                 legend)  # fmt: skip


def _figures(name: str, drawn: Sequence[tuple[str, Sequence[Slice]]], alone: str) -> str:
    """A part of each of several cases, or of the one there is in more detail."""
    if len(drawn) == 1:
        return alone
    each = ((label, next(p.value for p in pieces if p.label == name)) for label, pieces in drawn)
    return " · ".join(f"{label} {duration(value)}" for label, value in each)


def timeline_chart(drawn: Sequence[tuple[str, StepTimeline]]) -> Chart:
    """Steps by stream, each with its name."""
    present = {mark_of(span) for _, one in drawn for span in one.spans}
    legend = [LegendKey(f"{mark}-key", title) for mark, title in TITLES.items() if mark in present]
    legend += [
        LegendKey("exposed-key", "exposed communication"),
        LegendKey("critical-key", "critical path"),
    ]
    if len(drawn) > 1:
        legend.append(LegendKey("shift-key", "where a phase ends in the one and in the other"))
    streams = sum(len(one.tracks) for _, one in drawn)
    said = f"Timeline of one step on {streams} streams; exposed communication is hatched"
    rows = [{"case": name, **row} for name, one in drawn for row in summed_rows(one)]
    return Chart("timeline", "One step, stream by stream", said,
                 lambda width: tracks(width, drawn, said), rows, legend)  # fmt: skip


def apart(drawn: Sequence[tuple[str, StepTimeline]]) -> Table:
    """What fills the stream that computes in two steps; the differences add up to the ends'."""
    (a, first), (b, second) = drawn[:_BESIDE]
    theirs, ours = _filled(first), _filled(second)
    both = {
        name: (theirs.get(name, 0.0), ours.get(name, 0.0))
        for name in dict.fromkeys((*theirs, *ours))
    }
    rows: list[Row] = [
        [name, _time(one), _time(other), _later(other - one)]
        for name, (one, other) in sorted(both.items(), key=lambda at: -abs(at[1][1] - at[1][0]))
    ]
    rows.append(["what is drawn", _time(first.end_s), _time(second.end_s),
                 _later(second.end_s - first.end_s)])  # fmt: skip
    columns = [left("on the compute stream"), Column(a), Column(b), Column("difference")]
    return Table(columns, rows, f"Where they differ: {b} over {a}")


def _filled(one: StepTimeline) -> dict[str, float]:
    """Seconds of the stream that computes, by what it does and waits for; they fill the step."""
    found: dict[str, float] = {}
    for span in one.spans:
        if span.track == COMPUTE:
            name = TITLES[mark_of(span)]
            found[name] = found.get(name, 0.0) + span.end_s - span.start_s
    found["waits for communication"] = sum(end - start for start, end in one.exposed)
    found["other waits"] = max(0.0, one.end_s - sum(found.values()))
    return found


def _time(seconds: float) -> Cell:
    return Cell(duration(seconds), seconds, "s")


def _later(seconds: float) -> Cell:
    return Cell(signed_duration(seconds), seconds, "s")


def layers_chart(cases: Sequence[Case]) -> Chart:
    """What each layer takes in forward and backward of the first micro-step, case beside case.

    From its first kernel to the next layer's, waits included.
    """
    found = [(case.label, _per_layer(case.timeline)) for case in cases if case.timeline is not None]
    longest = max((s for _, each in found for s in each.values()), default=0.0)
    last = max((layer for _, each in found for _, layer in each), default=0)
    layers: list[Drawn] = []
    legend, rows = [], []
    for i, (name, each) in enumerate(found):
        for phase, dashed in (("forward", False), ("backward", True)):
            points = [(float(n), s) for (p, n), s in sorted(each.items()) if p == phase]
            mark = _LINES[2 * i + dashed]
            layers.append(ChartLine(points, mark))
            legend.append(LegendKey(f"{mark}-key", f"{name}, {phase}"))
            rows += [
                {"case": name, "phase": phase, "layer": int(n), "seconds": s} for n, s in points
            ]
    layers.append(Cursor([(float(n), _at(n, found)) for n in range(last + 1)]))
    x = ChartAxis("layer", 0.0, float(max(last, 1)), lambda v: f"{v:.0f}")
    y = ChartAxis("time", 0.0, ceiling(1.1 * longest), brief)
    said = "Time of each layer in forward and backward: " + " and ".join(name for name, _ in found)
    return Chart("layers", "Layer by layer", said,
                 lambda width: axes(width, x, y, layers, said, 0.3), rows, legend,
                 "From a layer's first kernel to the next layer's, waits included.")  # fmt: skip


def _at(layer: int, found: Sequence[tuple[str, dict[tuple[str, int], float]]]) -> str:
    """What a layer takes, case by case."""
    said = [
        f"{name} "
        + ", ".join(
            f"{phase} {brief(each[phase, layer])}"
            for phase in ("forward", "backward")
            if (phase, layer) in each
        )
        for name, each in found
    ]
    return f"layer {layer}: {'; '.join(said)}"


def _per_layer(line: StepTimeline) -> dict[tuple[str, int], float]:
    """Seconds between the starts of neighbouring layers, by phase and layer."""
    begun: dict[str, dict[int, float]] = {"forward": {}, "backward": {}}
    for span in line.spans:
        head, _, number = span.unit.rpartition(".")
        known = span.track == "compute" and span.micro_step == 0 and span.name in begun
        if known and head and number.isdigit():
            begun[span.name].setdefault(int(number), span.start_s)
    return {
        (phase, layer): after - start
        for phase, each in begun.items()
        for (layer, start), (_, after) in pairwise(sorted(each.items(), key=lambda item: item[1]))
    }


def _cut(cases: Sequence[Case]) -> list[str]:
    """What the drawing leaves out."""
    found = []
    for case in cases:
        one = case.timeline
        if one is not None and one.shown < one.micro_steps:
            name = f"{case.label}: " if case.label else ""
            found.append(
                f"{name}{one.shown} of {one.micro_steps} micro-steps are drawn; the one in the "
                f"middle stands for {one.micro_steps - one.shown + 1} that are alike."
            )
    return found
