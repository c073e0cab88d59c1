"""A PlanReport for people, and as a document."""

from __future__ import annotations

import csv
import io

from sim import units
from sim.documents import plain
from sim.study.plan import PlanReport
from sim.study.schedule import JobLog

SHOWN = 40


def text(report: PlanReport, heading: str = "") -> str:
    """Verdict, totals, and the jobs: those that missed their deadline first."""
    bound = [log for log in report.logs if log.request.deadline_s is not None]
    met = len(bound) - len(report.missed)
    lines = [heading] if heading else []
    lines.append(
        f"{report.name}: {len(report.logs)} jobs on {report.nodes} nodes ({report.gpus} GPUs), "
        f"{report.policy}, {units.show(report.span_s, 's')}"
    )
    if bound:
        lines.append(f"  deadlines   {met} of {len(bound)} met ({report.on_time:.1%})")
    lines.append(
        f"  queue       {units.show(report.waiting_mean_s, 's')} on average, "
        f"95 % wait {units.show(report.waiting_p95_s, 's')} or less"
    )
    lines.append(
        f"  nodes       {report.utilisation:.1%} in use; {report.useful:.1%} would do if jobs "
        "neither shared uplinks nor restarted"
    )
    if report.cost_usd is not None and report.idle_usd is not None:
        lines.append(
            f"  cost        ${report.cost_usd:,.0f}, of which ${report.idle_usd:,.0f} idle"
        )
    shown = sorted(report.logs, key=lambda log: (log.on_time, log.request.arrival_s))[:SHOWN]
    rows = [["job", "nodes", "arrives", "waits", "holds", "pace", "preempted", "deadline"]]
    rows += [_cells(log) for log in shown]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines.append("")
    for row in rows:
        cells = [
            c.ljust(widths[i]) if i in (0, 7) else c.rjust(widths[i]) for i, c in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    if len(report.logs) > SHOWN:
        lines.append(f"... and {len(report.logs) - SHOWN} more (--format csv)")
    return "\n".join(lines)


def _cells(log: JobLog) -> list[str]:
    r = log.request
    deadline = "-"
    if r.deadline_s is not None:
        margin = r.deadline_s - log.finish_s
        word = "to spare" if log.on_time else "late"
        deadline = f"{units.show(abs(margin), 's')} {word}"
    waited = units.show(max(0.0, log.waiting_s), "s")
    return [
        r.name, str(r.nodes), units.show(r.arrival_s, "s"), waited, units.show(log.held_s, "s"),
        f"x{log.slowdown:.2f}", str(log.preemptions), deadline,
    ]  # fmt: skip


def formatted(report: PlanReport, form: str, heading: str = "") -> str:
    """``table | json | csv | md``."""
    if form == "json":
        return report.to_json()
    if form == "csv":
        out = io.StringIO()
        rows = plain(report.records())
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().rstrip("\n")
    body = text(report, heading)
    return f"```\n{body}\n```" if form == "md" else body
