"""Plans: nodes over time, and clusters side by side."""

from __future__ import annotations

import re

from sim.page.charts.axes import ChartAxis, Dots, axes, ceiling
from sim.page.charts.canvas import Chart, LegendKey
from sim.page.charts.gantt import JobBar, gantt
from sim.page.model import Piece
from sim.quantities import count, counted, duration, percent
from sim.study.cluster import Request
from sim.study.planned import PlanComparison, PlanReport

_MOST = 400  # bars: a page stays small
_COLOURS = 8


def planned(report: PlanReport) -> list[Piece]:
    """Which job held which nodes when."""
    begin = min((log.request.arrival_s for log in report.logs), default=0.0)
    alike = list(dict.fromkeys(sorted(_alike(log.request) for log in report.logs)))
    colours = {name: f"s{i % _COLOURS}" for i, name in enumerate(alike)}
    bars = [
        JobBar(log.request.name, hold.start_s - begin, hold.end_s - begin, hold.nodes,
            colours[_alike(log.request)] + ("" if log.on_time else " late"),
            f"{log.request.name}: {duration(hold.end_s - hold.start_s)} on "
            f"{counted(len(hold.nodes), 'node')}, {_kept(log.on_time)}")
        for log in report.logs
        for hold in log.holds
    ]  # fmt: skip
    if not bars:
        return []
    legend = [LegendKey(f"{colours[name]}-key", name) for name in alike[:_COLOURS]]
    if len(alike) > _COLOURS:
        legend = []  # as many colours as that tell nothing
    if any(not log.on_time for log in report.logs):
        legend.append(LegendKey("late-key", "late"))
    said = f"{counted(len(report.logs), 'job')} over {duration(report.span_s)}"
    more = f" The first {_MOST} of {len(bars)} bars are drawn." if len(bars) > _MOST else ""
    return [
        Chart(
            "jobs", "Nodes over time", said,
            lambda width: gantt(width, bars[:_MOST], report.nodes, report.span_s, said),
            report.records(), legend,
            note=f"Jobs hold GPUs {percent(report.utilisation)} of the time.{more}",
        )
    ]  # fmt: skip


def _alike(request: Request) -> str:
    """What several jobs of one entry are called together, or of one name but for its number."""
    return request.entry or re.sub(r"-\d+$", "", request.name)


def _kept(on_time: bool) -> str:
    return "in time" if on_time else "late"


def compared(found: PlanComparison) -> list[Piece]:
    """Deadlines met against cost, or against GPUs where there is no price."""
    done = [(s, s.report) for s in found.scenarios if s.report is not None]
    if len(done) < 2:
        return []
    priced = all(report.cost_usd is not None for _, report in done)
    points = [
        (float((report.cost_usd or 0.0) if priced else report.gpus), report.on_time)
        for _, report in done
    ]
    titles = [
        f"{' '.join(filter(None, (s.machine, s.changes, s.policy)))}, {s.growth:g} times the jobs, "
        f"{counted(report.nodes, 'node')}: {percent(report.on_time, 0)} of deadlines"
        for s, report in done
    ]
    best = {i for i in found.best if i >= 0}
    chosen = [i for i, (s, _) in enumerate(done) if found.scenarios.index(s) in best]
    high = ceiling(1.15 * max(p[0] for p in points))
    x = ChartAxis("cost" if priced else "GPUs", 0.0, high,
                  (lambda v: f"${count(v)}") if priced else (lambda v: f"{v:g}"))  # fmt: skip
    y = ChartAxis("deadlines met", 0.0, 1.0, lambda v: percent(v, 0))
    others = [i for i in range(len(done)) if i not in chosen]
    layers = [
        Dots([points[i] for i in others], "s0", [titles[i] for i in others]),
        Dots([points[i] for i in chosen], "chosen-dot", [titles[i] for i in chosen], (), 8.0),
    ]
    said = "; ".join(titles[:12])
    return [
        Chart("scenarios", "Deadlines against cost" if priced else "Deadlines against GPUs", said,
              lambda width: axes(width, x, y, layers, said, 0.4), found.records(),
              [LegendKey("chosen-key", "to take"), LegendKey("s0-key", "the others")])
    ]  # fmt: skip
