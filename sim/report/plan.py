"""Several jobs on one cluster: verdict, totals, and the jobs, those that were late first."""

from __future__ import annotations

from collections.abc import Sequence

from sim.quantities import counted, duration, percent, usd
from sim.report.gantt import chart
from sim.report.view import (
    Cell,
    Column,
    Fact,
    Facts,
    Lines,
    Remarks,
    Row,
    Table,
    View,
    ViewPart,
    left,
)
from sim.study.joblog import JobLog
from sim.study.planned import Marginal, PlanReport

SHOWN = 40
_SLOWED = 1.005  # of its pace alone, which is said as more than 1.00


def view(report: PlanReport, share: float | None = None, drawn: bool = False) -> View:
    """What `scaling-sim plan` says.

    Parameters
    ----------
    report : PlanReport
        The plan.
    share : float, optional
        Of deadlines, where it is the smallest cluster that meets so many.
    drawn : bool
        With the jobs over time.
    """
    heading = ""
    if share is not None:
        met = percent(share, 0)
        fewest = "is the fewest" if report.nodes == 1 else "are the fewest"
        size = counted(report.nodes, "node")
        heading = f"{size} {fewest} on which {met} of deadlines are met"
        if report.undecided:
            heading = f"On {size} {percent(report.on_time, 0)} of deadlines are met"
    name = (
        f"{report.name}: {counted(len(report.logs), 'job')} on {counted(report.nodes, 'node')} "
        f"({counted(report.gpus, 'GPU')}), "
        f"{report.policy}, {duration(report.span_s)}"
    )
    likely = report.replicas > 0
    shown = sorted(report.logs, key=lambda log: (log.on_time, log.request.arrival_s))[:SHOWN]
    hidden = len(report.logs) - SHOWN
    more = [f"... and {hidden} more (--format csv)"] if hidden > 0 else []
    sections: list[ViewPart] = [
        Lines([name] if heading else [], indent=0, apart=False),
        Facts(_totals(report), gap=3, apart=False),
        Lines(chart(report) if drawn else [], indent=2, literal=True),
        _jobs(shown, likely),
        Lines([*more, *_risks(report)], indent=0, apart=False),
        Remarks([f"! {note}" for note in report.notes]),
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
    bound = report.bound
    met = len(bound) - len(report.missed)
    facts = []
    if bound:
        text = f"{met} of {len(bound)} met ({percent(report.on_time)})"
        if report.on_time_expected is not None:
            text += (
                f"; with failures and paces as they fall {percent(report.on_time_expected)} are "
                f"expected to be ({report.replicas} replicas)"
            )
        facts.append(Fact("deadlines", text))
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
    for other in report.marginal:
        word = "one node more" if other.nodes > report.nodes else "one node less"
        facts.append(Fact(word, _changed(report, other)))
    if report.capacity is not None:
        facts.append(Fact("keep or rent", _capacity(report)))
    return facts


def _changed(report: PlanReport, other: Marginal) -> str:
    """What another number of nodes would change."""
    parts = []
    if report.bound:
        now, then = (round(share * len(report.bound)) for share in (report.on_time, other.on_time))
        parts.append(f"{then} of {len(report.bound)} deadlines met" + _by(then - now))
    parts.append(f"{duration(other.waiting_mean_s)} in the queue on average")
    parts.append(f"done after {duration(other.span_s)}")
    if other.cost_usd is not None and report.cost_usd is not None:
        change = other.cost_usd - report.cost_usd
        parts.append(f"{usd(other.cost_usd)} ({'+' if change >= 0 else '-'}{usd(abs(change))})")
    return ", ".join(parts)


def _by(change: int) -> str:
    return f" ({change:+d})" if change else ""


def _capacity(report: PlanReport) -> str:
    c = report.capacity
    assert c is not None
    kept = {"owned": "bought", "committed": "committed to"}[c.base_kind]
    power = f" and ${c.power_rate_usd:.2f} of electricity" if c.power_rate_usd else ""
    return (
        f"keep {c.base_nodes} of the {counted(c.peak_nodes, 'node')} in use at the most, rent the "
        f"rest by the hour: {usd(c.mixed_usd)}; all {kept} {usd(c.kept_usd)}, all rented "
        f"{usd(c.rented_usd)} (a GPU-hour {kept} ${c.base_rate_usd:.2f}{power}, {c.hour_kind} "
        f"${c.hour_rate_usd:.2f}: a node is worth keeping from {percent(c.even_share, 0)} in use)"
    )


def _jobs(logs: Sequence[JobLog], likely: bool) -> Table:
    """A row each; a pace and what was lost only where some are slowed or lost something."""
    columns = [left("job"), *map(Column, ("nodes", "arrives", "waits", "holds"))]
    slowed = any(log.slowdown >= _SLOWED for log in logs)
    lost = any(log.preemptions for log in logs)
    more = {"pace": slowed, "lost": lost, "to spare": True, "in time": likely}
    columns += [Column(head) for head, told in more.items() if told]
    rows: list[Row] = []
    for log in logs:
        r = log.request
        size = counted(r.gpus, "GPU") if r.gpus else str(r.nodes)
        last = {
            "pace": Cell(f"x{log.slowdown:.2f}", log.slowdown),
            "lost": Cell(str(log.preemptions), log.preemptions),
            "to spare": _spare(log),
            "in time": Cell("-" if log.odds is None else percent(log.odds, 0), log.odds),
        }
        rows.append([
            r.name, Cell(size, r.nodes), _time(r.arrival_s), _time(max(0.0, log.waiting_s)),
            _time(log.held_s), *(last[column.head] for column in columns[5:]),
        ])  # fmt: skip
    return Table(columns, rows, indent=0)


def _spare(log: JobLog) -> Cell:
    if log.spare_s is None:
        return Cell("-", None)
    return Cell(("" if log.on_time else "-") + duration(abs(log.spare_s)), log.spare_s, "s")


def _time(seconds: float) -> Cell:
    return Cell(duration(seconds), seconds, "s")
