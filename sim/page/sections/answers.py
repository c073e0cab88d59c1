"""What a verb's own document is drawn as: one function a kind, and a line in the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from sim.calibration.validation import Validation
from sim.documents import Document
from sim.interop.trace_diff import TraceDifference
from sim.page.charts.axes import ChartAxis, ChartLine, Dots, Drawn, axes, ceiling
from sim.page.charts.bars import BarRow, Slice, ranked, stacked
from sim.page.charts.canvas import Chart, LegendKey
from sim.page.model import Piece
from sim.page.sections.evidence import answered, validated
from sim.page.sections.plans import compared as plans_compared
from sim.page.sections.plans import planned
from sim.page.sections.traces import trace_pieces
from sim.quantities import count, counted, duration, gib, usd
from sim.report.memory import titles
from sim.result.memory import MemoryAnswer
from sim.study.compared import Comparison, whole_job
from sim.study.estimates import Estimate
from sim.study.pareto import pareto_front
from sim.study.planned import PlanComparison, PlanReport
from sim.study.question.answers import Answers
from sim.study.sized import SizeReport
from sim.study.sweep import SweepOutcome
from sim.units import GIB, HOUR_S, MIB

_SHOWN = 14


def pieces_of(document: Document) -> list[Piece]:
    """Its charts; nothing for a document that is words and tables alone."""
    for kind, draw in _DRAWN.items():
        if isinstance(document, kind):
            return list(draw(document))
    return []


def memory_pieces(answer: MemoryAnswer) -> list[Piece]:
    """Bytes by category at the peak of each moment."""
    report = answer.report
    words = titles(report)
    names = [
        name for name in words
        if max(found.get(name, 0.0) for found in report.categories_by_moment.values()) > MIB
    ]  # fmt: skip
    drawn = [
        (
            f"{moment}: {gib(report.by_moment[moment])}",
            [
                Slice(words[name], found.get(name, 0.0), f"s{i % 11}",
                      f"{words[name]}: {gib(found.get(name, 0.0))}")
                for i, name in enumerate(names)
            ],
        )
        for moment, found in report.categories_by_moment.items()
    ]  # fmt: skip
    peak = report.categories_by_moment[report.peak_moment]
    legend = [
        LegendKey(f"s{i % 11}-key", words[name], gib(peak.get(name, 0.0)))
        for i, name in enumerate(names)
    ]
    said = "Live bytes by moment: " + ", ".join(name for name, _ in drawn)
    return [
        Chart("memory-moments", "Highest of each moment", said,
              lambda width: stacked(width, drawn, said), answer.records(), legend,
              f"Figures are those of the peak, in {report.peak_moment}.")
    ]  # fmt: skip


def _compared(comparison: Comparison) -> list[Piece]:
    """Throughput and cost of every variant."""
    rows = [
        BarRow(v.label, 0.0, v.result.throughput.tokens_per_s_per_gpu,
            f"{count(v.result.throughput.tokens_per_s_per_gpu)}", f"s{i % 7}", i == 0)
        for i, v in enumerate(comparison.variants)
    ]  # fmt: skip
    said = "Tokens a second of a GPU: " + ", ".join(f"{r.label} {r.text}" for r in rows)
    high = max(r.end for r in rows)
    found: list[Piece] = [
        Chart("throughput", "Tokens a second of a GPU", said,
              lambda width: ranked(width, rows, said, 0.0, high), comparison.records())
    ]  # fmt: skip
    priced = [(v.label, *whole_job(v.result)[:2]) for v in comparison.variants]
    known = [
        (label, wall, paid)
        for label, wall, paid in priced
        if wall and paid and math.isfinite(wall + paid)
    ]
    if len(known) > 1:
        points = [(wall, paid) for _, wall, paid in known]
        found.append(_money([label for label, _, _ in known], points, [], comparison.records()))
    return found


def _sized(report: SizeReport) -> list[Piece]:
    """Wall-clock and cost of the best plan of every machine."""
    found = list(priced_plans(report))
    if not found:
        return []
    names = [name for name, _ in found]
    points = [(figures.wall_s, figures.cost_usd) for _, figures in found]
    return [
        _money(
            names, points, [points[i] for i in pareto_front(points, (True, True))], report.records()
        )
    ]


def priced_plans(report: SizeReport) -> Iterator[tuple[str, Estimate]]:
    """The best plan of every machine that has one and a price, with its name; the first few."""
    for c in [c for c in report.contenders if c.plan is not None][:_SHOWN]:
        if c.plan is not None and math.isfinite(c.plan.figures.cost_usd + c.plan.figures.wall_s):
            yield f"{c.machine.name}, {counted(c.plan.candidate.gpus, 'GPU')}", c.plan.figures


def _money(
    names: Sequence[str], points: Sequence[tuple[float, float]],
    front: Sequence[tuple[float, float]], rows: Sequence[Any],
) -> Chart:  # fmt: skip
    titles = [f"{n}: {duration(t)}, {usd(c)}" for n, (t, c) in zip(names, points, strict=True)]
    longest = ceiling(1.1 * max(t for t, _ in points) / HOUR_S) * HOUR_S
    x = ChartAxis("wall-clock, hours", 0.0, longest, lambda v: f"{v / HOUR_S:g}", unit=HOUR_S)
    y = ChartAxis("cost", 0.0, ceiling(1.15 * max(c for _, c in points)), lambda v: f"${count(v)}")
    layers: list[Drawn] = [ChartLine(front, "dash")] if len(front) > 1 else []
    layers += [
        Dots(points[1:], "s0", titles[1:], names[1:] if len(names) < 5 else ()),
        Dots(points[:1], "chosen-dot", titles[:1], names[:1], 8.0),
    ]
    said = "; ".join(titles)
    legend = [LegendKey("chosen-key", names[0]), LegendKey("s0-key", "the others")]
    if len(front) > 1:
        legend.append(LegendKey("dash-key", "nothing is both faster and cheaper"))
    return Chart("cost-time", "Cost against time", said,
                 lambda width: axes(width, x, y, layers, said, 0.4), rows, legend)  # fmt: skip


_MOST_DOTS = 4000  # a browser shows more slowly, and nobody tells more of them apart


def _swept(outcome: SweepOutcome) -> list[Piece]:
    """Two measures of every configuration: those of the front, or throughput and memory."""
    names = list(outcome.grid.pareto)[:2]
    if len(names) < 2:
        names = ["memory_bytes", "tokens_per_s"]
    each = -(-len(outcome.rows) // _MOST_DOTS)
    some = sorted({*range(0, len(outcome.rows), max(1, each)), *outcome.front})
    at, titles = {}, {}
    for i in some:
        row = outcome.rows[i]
        if row.status == "ok" and all(_number(row.measures.get(n)) for n in names):
            at[i] = tuple(float(row.measures[n]) for n in names)
            titles[i] = ", ".join(f"{k}={row.changes.get(k)}" for k in outcome.grid.keys)
    ok = [*at]
    if len(ok) < 2:
        return []
    x, y = (_axis(name, [point[k] for point in at.values()]) for k, name in enumerate(names))
    front = [i for i in outcome.front if i in at]
    layers: list[Drawn] = [
        Dots([cast("tuple[float, float]", at[i]) for i in ok], "s0 see", [titles[i] for i in ok])
    ]
    legend = [LegendKey("s0-key", "a configuration")]
    if front:
        line = sorted(cast("tuple[float, float]", at[i]) for i in front)
        layers += [ChartLine(line, "dash"),
                   Dots([cast("tuple[float, float]", at[i]) for i in front],
                        "s1", [titles[i] for i in front])]  # fmt: skip
        legend.append(LegendKey("s1-key", "Pareto front"))
    said = f"{len(ok)} configurations by {names[0]} and {names[1]}"
    records = outcome.records()
    if each > 1:
        front_too = " and those of the front" if front else ""
        said += f", one of every {each:,} of {len(outcome.rows):,}{front_too}"
        legend[0] = LegendKey("s0-key", f"a configuration, one of every {each:,}")
        records = [records[i] for i in some]
    return [Chart("sweep", f"{y.title} against {x.title}", said,
                  lambda width: axes(width, x, y, layers, said, 0.42), records,
                  legend)]  # fmt: skip


def _number(value: object) -> bool:
    return isinstance(value, int | float) and value == value and abs(value) < float("inf")


def _axis(name: str, values: Sequence[float]) -> ChartAxis:
    """An axis for a measure, in the unit that its name ends with."""
    high = max(values)
    if name.endswith("_bytes"):
        unit = GIB
        return ChartAxis(f"{name[:-6]}, GiB", 0.0, ceiling(high / unit) * unit,
                         lambda v: f"{v / unit:g}", unit=unit)  # fmt: skip
    if name.endswith("_s") and not name.endswith("per_s"):
        unit = HOUR_S if high > 2 * HOUR_S else 1.0
        word = "hours" if unit == HOUR_S else "seconds"
        return ChartAxis(f"{name[:-2].replace('_', ' ')}, {word}", 0.0, ceiling(high / unit) * unit,
                         lambda v: f"{v / unit:g}", unit=unit)  # fmt: skip
    return ChartAxis(name.replace("_", " "), 0.0, ceiling(high), count)


_DRAWN: dict[type[Document], Callable[[Any], list[Piece]]] = {
    MemoryAnswer: lambda answer: [],  # in the section on memory
    Comparison: _compared,
    SizeReport: _sized,
    SweepOutcome: _swept,
    PlanReport: planned,
    PlanComparison: plans_compared,
    TraceDifference: trace_pieces,
    Validation: validated,
    Answers: answered,
}
