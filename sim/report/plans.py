"""Clusters, policies and growths side by side for the same jobs."""

from __future__ import annotations

from sim.quantities import counted, duration, percent, usd
from sim.report.view import Cell, Column, Lines, Row, Table, View, left, so_far
from sim.study.planned import PlanComparison, Scenario


def view(found: PlanComparison) -> View:
    """What `scaling-sim plan` says of several scenarios."""
    growths = found.growths
    heads = [
        left("cluster"), left("policy"), *([Column("jobs")] if len(growths) > 1 else []),
        *map(Column, ("nodes", "deadlines", "waits", "95 % wait", "in use", "done", "cost")),
        left(),
    ]  # fmt: skip
    rows = [_cells(s, i in found.best, len(growths) > 1) for i, s in enumerate(found.scenarios)]
    lines = [_said(found, i, g) for i, g in zip(found.best, growths, strict=True)]
    if found.stopped:
        lines.append(so_far(len(found.scenarios), found.asked, "scenario"))
    return View(
        lines[0], [Lines(lines[1:], indent=0, apart=False), Table(heads, rows, indent=0)], found
    )


def _said(found: PlanComparison, index: int, growth: float) -> str:
    """Which scenario to take."""
    jobs = "" if growth == 1.0 else f"with {growth:g} times the jobs, "
    share = percent(found.share, 0)
    if index < 0:
        return f"{jobs}none of these meets {share} of deadlines"
    taken = found.scenarios[index]
    assert taken.report is not None
    cost, priced = taken.report.cost_usd, found.priced(growth)
    price = "" if cost is None else f" for {usd(cost)}"
    by = "the cheapest" if priced else "the one of the fewest GPUs"
    name = " with ".join(filter(None, (taken.machine, taken.changes)))
    return (
        f"{jobs}{by} that meets {share} of deadlines: {name}, "
        f"{counted(taken.report.nodes, 'node')}, {taken.policy}{price}"
    )


def _cells(s: Scenario, best: bool, grows: bool) -> Row:
    changed = (c.rpartition(".")[2] for c in s.changes.split(", ") if c)  # without its section
    name = " ".join((s.machine, *changed))
    growth = [Cell(f"x{s.growth:g}", s.growth)] if grows else []
    r = s.report
    if r is None:
        return [name, s.policy, *growth, *["-"] * 7, s.reason]
    cost = Cell("-" if r.cost_usd is None else usd(r.cost_usd), r.cost_usd, "USD")
    return [
        name, s.policy, *growth, Cell(str(r.nodes), r.nodes),
        Cell(percent(r.on_time, 0), r.on_time), _time(r.waiting_mean_s), _time(r.waiting_p95_s),
        Cell(percent(r.utilisation, 0), r.utilisation), _time(r.span_s), cost,
        "take" if best else "",
    ]  # fmt: skip


def _time(seconds: float) -> Cell:
    return Cell(duration(seconds), seconds, "s")
