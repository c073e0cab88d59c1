"""Several jobs on one cluster: verdict, totals, and the jobs, those that were late first."""

from __future__ import annotations

from sim.quantities import counted, duration, percent, usd
from sim.report.view import Cell, Column, Fact, Facts, Lines, Part, Row, Table, View, left
from sim.study.plan import PlanReport
from sim.study.schedule import JobLog

SHOWN = 40


def view(report: PlanReport, share: float | None = None) -> View:
    """What `scaling-sim plan` says; `share` of deadlines is what the smallest cluster must meet."""
    heading = ""
    if share is not None:
        met = percent(share, 0)
        fewest = "is the fewest" if report.nodes == 1 else "are the fewest"
        size = counted(report.nodes, "node")
        heading = f"{size} {fewest} on which {met} of deadlines are met"
    name = (
        f"{report.name}: {counted(len(report.logs), 'job')} on {counted(report.nodes, 'node')} "
        f"({counted(report.gpus, 'GPU')}), "
        f"{report.policy}, {duration(report.span_s)}"
    )
    columns = [
        left("job"), *map(Column, ("nodes", "arrives", "waits", "holds", "pace", "preempted")),
        left("deadline"),
    ]  # fmt: skip
    shown = sorted(report.logs, key=lambda log: (log.on_time, log.request.arrival_s))[:SHOWN]
    hidden = len(report.logs) - SHOWN
    more = [f"... and {hidden} more (--format csv)"] if hidden > 0 else []
    sections: list[Part] = [
        Lines([name] if heading else [], indent=0, apart=False),
        Facts(_totals(report), gap=3, apart=False),
        Table(columns, [_cells(log) for log in shown], indent=0),
        Lines([*more, *_risks(report)], indent=0, apart=False),
    ]
    return View(heading or name, sections, report)


def _risks(report: PlanReport) -> list[str]:
    """Jobs that memory may not hold, each risk once."""
    jobs: dict[str, list[str]] = {}
    for log in report.logs:
        if log.request.risk:
            jobs.setdefault(log.request.risk, []).append(log.request.name)
    return [f"at risk in memory: {', '.join(names)} ({risk})" for risk, names in jobs.items()]


def _totals(report: PlanReport) -> list[Fact]:
    bound = [log for log in report.logs if log.request.deadline_s is not None]
    met = len(bound) - len(report.missed)
    facts = []
    if bound:
        facts.append(Fact("deadlines", f"{met} of {len(bound)} met ({percent(report.on_time)})"))
    queue = (
        f"{duration(report.waiting_mean_s)} on average, "
        f"95 % wait {duration(report.waiting_p95_s)} or less"
    )
    nodes = (
        f"{percent(report.utilisation)} in use; {percent(report.useful)} would do if jobs "
        "neither shared uplinks nor restarted"
    )
    facts += [Fact("queue", queue), Fact("nodes", nodes)]
    if report.cost_usd is not None and report.idle_usd is not None:
        text = f"{usd(report.cost_usd)}, of which {usd(report.idle_usd)} idle"
        facts.append(Fact("cost", text))
    return facts


def _cells(log: JobLog) -> Row:
    r = log.request
    deadline = "-"
    if r.deadline_s is not None:
        word = "to spare" if log.on_time else "late"
        deadline = f"{duration(abs(r.deadline_s - log.finish_s))} {word}"
    return [
        r.name, Cell(str(r.nodes), r.nodes), _time(r.arrival_s), _time(max(0.0, log.waiting_s)),
        _time(log.held_s), Cell(f"x{log.slowdown:.2f}", log.slowdown),
        Cell(str(log.preemptions), log.preemptions), deadline,
    ]  # fmt: skip


def _time(seconds: float) -> Cell:
    return Cell(duration(seconds), seconds, "s")
