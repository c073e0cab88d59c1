"""Answers of a few lines for an assistant: each figure said to be measured, estimated or unknown.

At most some 200 tokens; what is left out is in the documents.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sim.quantities import count, duration, percent, usd
from sim.report.settings import settings
from sim.result.memory import MemoryAnswer
from sim.result.result import Result
from sim.study.compared import Comparison
from sim.study.sized import SizeReport
from sim.units import GIB

LONGEST = 700  # characters: fewer than 200 tokens


def run(result: Result) -> str:
    """A job on a machine."""
    memory, step = result.memory, result.step
    likely = result.uncertainty
    fits = "fits" if memory.fits else "DOES NOT FIT"
    lines = [
        f"{result.workload.title} on {result.topology.title}: {fits}, "
        f"{memory.needed_bytes / GIB:.1f} of {memory.capacity_bytes / GIB:.1f} GiB (estimated)",
        f"step {duration(step.time_s)}{_band(likely)}, "
        f"{count(result.throughput.tokens_per_s)} tokens/s, "
        f"MFU {percent(result.throughput.mfu)} (estimated)",
        result.bottleneck.explanation,
        _job(result),
    ]
    if likely is not None:
        rows = round(likely.comparable_rows)
        lines.append(f"measured: about {rows} published runs are like it" if rows
                     else "measured: unknown, no published run is like it")  # fmt: skip
    return _short(lines, [w.message for w in result.warnings])


def memory(answer: MemoryAnswer) -> str:
    """Bytes on a GPU."""
    report = answer.report
    fits = "fits" if report.fits else "DOES NOT FIT"
    lines = [
        f"{answer.title}: {fits}, {report.needed_bytes / GIB:.1f} of "
        f"{report.capacity_bytes / GIB:.1f} GiB a GPU (estimated)"
    ]
    for fix in answer.fixes[:3]:
        lines.append(f"{settings(fix.change)}: saves {fix.saved_bytes / GIB:.1f} GiB (estimated)")
    return _short(lines)


def size(report: SizeReport) -> str:
    """The cluster to take."""
    document = report.to_dict()
    plan, considered = document["winner"], document["considered"]
    if plan is None:
        return f"unknown: no plan meets the target ({considered} considered)"
    cost = "unknown" if plan["cost_usd"] is None else f"{usd(plan['cost_usd'])} (estimated)"
    return _short([
        f"{plan['nodes']} x {plan['gpus_per_node']} {plan['gpu']} ({plan['machine']}), "
        f"{plan['strategy']}, micro-batch {plan['micro_batch']} x {plan['gradient_accumulation']}",
        f"done in {duration(plan['wall_clock_s'])} (estimated), cost {cost}, "
        f"{plan['memory_bytes'] / GIB:.1f} of {plan['capacity_bytes'] / GIB:.1f} GiB (estimated)",
        *_unlike_the_file(report),
        f"chosen of {considered} plans",
    ])  # fmt: skip


def _unlike_the_file(report: SizeReport) -> list[str]:
    """What `run` is to be told to say the same of the plan, and the set-up that it leaves out."""
    assert report.winner is not None
    candidate = report.winner.candidate
    kept = candidate.workload.activation_checkpointing.kind
    chosen = [("activation_checkpointing", kept), *candidate.extra]
    lines = ["with " + ", ".join(f"{key}={value}" for key, value in chosen)]
    offer = candidate.topology.offer
    if offer is not None and offer.setup:
        lines.append(f"{duration(offer.setup)} of setting up are in that time and cost")
    return lines


def compare(found: Comparison) -> str:
    """Machines side by side."""
    lines = [
        f"{v.label}: step {duration(v.result.step.time_s)}, "
        f"{count(v.result.throughput.tokens_per_s)} tokens/s, "
        f"{'fits' if v.result.memory.fits else 'does not fit'} (estimated)"
        for v in found.variants[:6]
    ]
    return _short([*lines, *found.summary[:1]])


def _band(likely: Any) -> str:
    if likely is None:
        return ""
    low, high = likely.step_time_s.low, likely.step_time_s.high
    return f" (80 % {duration(low)} to {duration(high)})"


def _job(result: Result) -> str:
    if result.job is None:
        return "time and cost of the whole job: unknown, its length is not given"
    wall = f"whole job {duration(result.job.wall_clock_s)} (estimated)"
    if result.cost is None:
        return f"{wall}, cost unknown: no price"
    return f"{wall}, {usd(result.cost.total_usd)} (estimated)"


def _short(lines: Iterable[str], warnings: Iterable[str] = ()) -> str:
    """Lines while there is room, warnings last."""
    text = "\n".join(line for line in lines if line)[:LONGEST]
    for warning in warnings:
        more = f"{text}\n! {warning}"
        if len(more) <= LONGEST:
            text = more
    return text
