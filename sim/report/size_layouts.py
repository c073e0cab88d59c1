"""Layouts of a plan in words, and why the winner's beats those next to it."""

from __future__ import annotations

from sim.inputs.strategy import strategy_of
from sim.quantities import counted, duration, gib, percent
from sim.report.view import Cell, Column, Row, Table, ViewPart, left
from sim.step.shares import Shares
from sim.study.candidates import IMPLEMENTATION, Candidate
from sim.study.estimates import Simulated
from sim.study.layouts import AXIS_TITLES, cut_in_words
from sim.study.sized import Beside, SizeReport

#: what a difference is called, by part of the step
_PARTS = {
    "compute": "kernels", "bubble": "bubble", "tensor": "exposed TP", "context": "exposed CP",
    "expert": "exposed EP", "exchange": "other exposed communication",
    "other": "host, copies and stragglers",
}  # fmt: skip
_TOLD = 0.01  # share of the step that a difference is worth a word


def layout(plan: Simulated) -> str:
    """Strategy, batch and checkpointing of a plan, in a few words."""
    return layout_of(plan.candidate)


def layout_of(candidate: Candidate) -> str:
    """The same of a plan that was not simulated."""
    w = candidate.workload
    p = w.parallelism
    name = strategy_of(w).title
    if p.replicate > 1:
        name = f"HSDP x{p.replicate}"
    if p.reshard_after_forward is False:
        name += " kept"
    if p.offload != "none":
        name += f" offload {p.offload}"
    if cut := cut_in_words(p):
        name += f", {cut}"
    saving = {"none": "", "full": ", full AC", "selective-op": ", per-op AC"}
    kind = saving.get(w.activation_checkpointing.kind, f", {w.activation_checkpointing.kind} AC")
    own = [(k, v) for k, v in candidate.extra if k not in IMPLEMENTATION]
    extra = "".join(f", {k}={v}" for k, v in own)
    if len(own) < len(candidate.extra):
        extra += ", tuned"
    steps = counted(w.gradient_accumulation, "micro-batch")
    return f"{name}, {steps} of {w.micro_batch}{kind}{extra}"


def tuned(report: SizeReport) -> list[str]:
    """What "tuned" stands for, machine by machine where they differ."""
    found: dict[str, list[str]] = {}
    for c in report.contenders:
        plan = c.plan or c.nearest
        settings = plan.candidate.extra if plan else ()
        text = ", ".join(f"{k}={v}" for k, v in settings if k in IMPLEMENTATION)
        if text:
            found.setdefault(text, []).append(
                plan.candidate.topology.first_gpu.name if plan else ""
            )
    lines = []
    for text, gpus in found.items():
        where = f" on {', '.join(dict.fromkeys(gpus))}" if len(found) > 1 else ""
        lines.append(f"tuned: {text}{where}: faster, and trains the same (--as-written: without)")
    return lines


def layouts_beside(report: SizeReport, winner: Simulated) -> list[ViewPart]:
    """The winner's layout and those next to it, each at its best, and what they lose by."""
    if not report.beside:
        return []
    columns = [
        left(""), left("best plan", below=True),
        *map(Column, ("step", "", "bubble", "exposed TP", "other exposed", "memory")),
        left("because", below=True),
    ]  # fmt: skip
    rows = [_row("", winner, winner)]
    rows += [_row(f"{AXIS_TITLES[b.axis]} {b.value}", b.plan, winner, b) for b in report.beside]
    return [Table(columns, rows, "The winner's layout, and those beside it", indent=0)]


def _row(name: str, plan: Simulated | None, winner: Simulated, at: Beside | None = None) -> Row:
    if plan is None:
        need, have = at.needed_bytes if at else 0.0, winner.memory.capacity_bytes
        said = f"does not fit: {gib(need)} of {gib(have)} at the least"
        return [name, "", "", "", "", "", "", Cell(gib(need), need, "B"), said]
    parts, step_s = plan.shares, plan.step_s
    within = sum(parts.within_s.values())
    more = step_s / winner.step_s - 1.0
    shares = (parts.bubble_s, within, parts.exchange_s)
    return [
        name or "->", layout(plan), Cell(duration(step_s), step_s, "s"),
        "" if plan is winner else Cell(percent(more, 0, "+"), more),
        *(Cell(percent(part / step_s, 0), part / step_s) for part in shares),
        Cell(gib(plan.memory.needed_bytes), plan.memory.needed_bytes, "B"),
        "" if plan is winner else because(plan, winner),
    ]  # fmt: skip


def because(plan: Simulated, winner: Simulated) -> str:
    """What a plan loses to another by, the largest part of the step first, and what it gains."""
    mine, theirs = parts_of(plan.shares), parts_of(winner.shares)
    moved = {key: mine.get(key, 0.0) - theirs.get(key, 0.0) for key in _PARTS}
    told = [key for key in moved if abs(moved[key]) > _TOLD * winner.step_s]
    told.sort(key=lambda key: -moved[key])
    return ", ".join(
        f"{_PARTS[key]} {'+' if moved[key] > 0 else '-'}{duration(abs(moved[key]))}" for key in told
    )


def parts_of(parts: Shares) -> dict[str, float]:
    """Parts of a step by the keys of `_PARTS`. [s]"""
    return parts.within_s | {
        "compute": parts.compute_s,
        "bubble": parts.bubble_s,
        "exchange": parts.exchange_s,
        "other": parts.other_s,
    }
