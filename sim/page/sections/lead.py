"""The answer of a verb's document in a sentence or two, for the top of its page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.calibration.diagnosis import Diagnosis
from sim.calibration.validation import Validation
from sim.documents import Document
from sim.interop.trace_diff import TraceDifference
from sim.page.sections.evidence import errors_of
from sim.quantities import counted, duration, percent, usd
from sim.report.diagnose import conclusion
from sim.report.trace_diff import sentence as traced
from sim.study.compared import Comparison
from sim.study.planned import PlanReport
from sim.study.question.answers import Answers
from sim.study.sized import SizeReport


def lead_of(document: Document) -> str:
    """The answer; empty where its first words are a table."""
    for kind, told in _LEADS.items():
        if isinstance(document, kind):
            return told(document)
    return ""


def _compared(found: Comparison) -> str:
    ties = [
        f"{d.label} costs as much as {found.variants[0].label} at {usd(d.tie_price_usd)} for a "
        "GPU-hour"
        for d in found.deltas
        if d.tie_price_usd is not None
    ]
    return " ".join([found.sentence(), *(f"{tie}." for tie in ties)])


def _planned(report: PlanReport) -> str:
    """Whether the jobs are done in time, and what the cluster costs."""
    bound, late = len(report.bound), len(report.missed)
    size = counted(report.nodes, "node")
    if not bound:
        said = f"{counted(len(report.logs), 'job')} on {size} take {duration(report.span_s)}"
    else:
        kept = "every deadline is met" if not late else f"{late} of {bound} deadlines are missed"
        said = f"On {size}, {report.policy}, {kept}"
    said += f"; nodes are in use {percent(report.utilisation, 0)} of the time"
    if report.cost_usd is not None and report.idle_usd is not None:
        said += f", and {usd(report.idle_usd)} of {usd(report.cost_usd)} pay for idle ones"
    return f"{said}."


def _traced(found: TraceDifference) -> str:
    said = traced(found)
    return f"{said[0].upper()}{said[1:]}."


def _explained(found: Diagnosis) -> str:
    return f"{conclusion(found)} The figures below are of the job as it was declared."


def _validated(found: Validation) -> str:
    said = [
        f"{part} ({counted(len(each), 'row')}): half within {percent(each[len(each) // 2])}, "
        f"four of five within {percent(each[4 * len(each) // 5])}"
        for part, each in errors_of(found).items()
    ]
    return f"Simulated against measured: {'; '.join(said)}." if said else ""


_LEADS: dict[type[Document], Callable[[Any], str]] = {
    Comparison: _compared,
    SizeReport: SizeReport.sentence,
    PlanReport: _planned,
    TraceDifference: _traced,
    Diagnosis: _explained,
    Validation: _validated,
    Answers: lambda found: " ".join(found.said[0][1].split()) if found.said else "",
}
