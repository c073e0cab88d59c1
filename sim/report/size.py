"""A SizeReport for people, and as a document."""

from __future__ import annotations

import math

from sim import units
from sim.documents import plain
from sim.inputs.topology import Topology
from sim.job.plan import terms_of
from sim.study.phases import idle_cost
from sim.study.search import Plan
from sim.study.size import Contender, SizeReport, Target

SHOWN = 12
_LEAST = {
    "cost": "cheapest",
    "time": "fastest",
    "co2": "greenest (CO2)",
    "energy": "least energy",
}


def cluster(topology: Topology) -> str:
    """``2 x 8 h100-sxm-80gb``."""
    assert topology.node is not None
    return f"{topology.nodes} x {topology.node.gpus} {topology.node.gpu.name}"


def layout(plan: Plan) -> str:
    """Strategy, batch and checkpointing of a plan, in a few words."""
    w = plan.candidate.workload
    p = w.parallelism
    name = {"fsdp1": "FSDP1", "fsdp2": "FSDP2", "ddp": "DDP"}.get(p.strategy)
    name = name or f"ZeRO-{p.strategy[-1]}"
    if p.replicate > 1:
        name = f"HSDP x{p.replicate}"
    if p.reshard_after_forward is False:
        name += " kept"
    if p.offload != "none":
        name += f" offload {p.offload}"
    saving = {"none": "", "full": ", full AC", "selective-op": ", per-op AC"}
    kind = saving.get(w.activation_checkpointing.kind, f", {w.activation_checkpointing.kind} AC")
    extra = "".join(f", {k}={v}" for k, v in plan.candidate.extra)
    return f"{name}, {w.micro_batch} x {w.gradient_accumulation}{kind}{extra}"


def money(usd: float) -> str:
    """Dollars as people write them."""
    if not math.isfinite(usd):
        return "-"
    return f"${usd:,.0f}" if usd >= 1000 else f"${usd:,.2f}"


def goal(target: Target) -> str:
    """The target in words."""
    limits = []
    if target.deadline_s is not None:
        limits.append(f"within {units.show(target.deadline_s, 's')}")
    if target.budget_usd is not None:
        limits.append(f"for at most {money(target.budget_usd)}")
    if target.tokens_per_s is not None:
        limits.append(f"at {target.tokens_per_s:,.0f} tokens/s or more")
    return f"{_LEAST[target.objective]} cluster" + "".join(f" {x}" for x in limits)


def text(report: SizeReport) -> str:
    """The answer, the runners-up with why they lost, and how it was searched."""
    t = report.tally
    batch = f"{report.global_batch} sequences a step"
    if report.assumed_batch:
        batch += " (assumed: the workload's batch on 8 GPUs; --global-batch)"
    lines = [
        f"{goal(report.target).capitalize()} for {report.workload}, {batch}",
        f"Considered {t.considered:,} plans on {len(report.contenders)} offers: {t.simulated:,} "
        f"simulated, {t.too_large:,} do not fit, {t.ruled_out:,} ruled out by lower bounds; "
        f"{report.seconds:.1f} s",
    ]  # fmt: skip
    winner = report.winner
    if winner is None:
        return "\n".join([*lines, *_nothing(report)])
    lines.append("")
    lines.extend(_table([c for c in report.contenders if c.plan][:SHOWN], winner))
    lines.append("")
    lines.extend(_verdict(report, winner))
    lines.extend(_phases(report, winner))
    lost = [_why(c, report.target) for c in report.contenders if c.plan is None]
    if lost:
        lines.append("Not chosen:")
        lines.extend(f"  {line}" for line in lost)
    notes = {f"{c.machine.name}: {c.machine.note}" for c in report.contenders if c.machine.note}
    if notes:
        lines.append("Assumed:")
        lines.extend(f"  {note}" for note in sorted(notes))
    if report.left_out:
        lines.append(f"Left out: {len(report.left_out)} offers that are elsewhere or another kind")
    return "\n".join(lines)


def _table(chosen: list[Contender], winner: Plan) -> list[str]:
    head = ["", "offer", "cluster", "layout", "job", "cost", "", "MFU", "memory", "break-even"]
    rows = [head]
    for i, c in enumerate(chosen):
        plan = c.plan
        assert plan is not None
        f = plan.figures
        more = ""
        if plan is not winner and math.isfinite(winner.figures.cost_usd):
            more = f"{f.cost_usd / winner.figures.cost_usd - 1:+.0%}"
        share = plan.memory_bytes / plan.capacity_bytes
        even = f"${c.break_even_usd:.2f}" if c.break_even_usd is not None else ""
        rows.append([
            "->" if i == 0 else str(i + 1), c.machine.name, cluster(plan.candidate.topology),
            layout(plan), units.show(f.wall_s, "s"), money(f.cost_usd), more, f"{plan.mfu:.1%}",
            f"{share:.0%}", even,
        ])  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    right = {4, 5, 6, 7, 8, 9}
    return [
        "  ".join(
            cell.rjust(widths[i]) if i in right else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]


def _verdict(report: SizeReport, winner: Plan) -> list[str]:
    """How the winner compares with fewer and more of its nodes."""
    target, here = report.target, winner.figures
    lines = []
    for plan, word in ((report.more, "More"), (report.fewer, "Fewer")):
        size = winner.candidate.gpus if plan is None else plan.candidate.gpus
        if plan is None:
            if word == "Fewer" and winner.candidate.topology.nodes > 1:
                lines.append(f"Fewer GPUs: fewer than {size} do not fit, whatever the layout")
            continue
        f = plan.figures
        cost = f.cost_usd / here.cost_usd - 1 if math.isfinite(here.cost_usd) else math.nan
        said = f"{size} GPUs take {units.show(f.wall_s, 's')}"
        if math.isfinite(cost):
            said += f" and {money(f.cost_usd)} ({cost:+.1%})"
        if target.shortfall(f) > 1.0:
            said += ", which misses the target"
        elif target.objective == "cost" and word == "More":
            said += ": use fewer GPUs"
        lines.append(f"{word} GPUs: {said}")
    return lines


def _phases(report: SizeReport, winner: Plan) -> list[str]:
    """Light phases on their own machines, and what it would cost to hold the cluster for them."""
    if not report.phases:
        return []
    lines = ["Phases:"]
    for p in report.phases:
        took = f"{units.show(p.wall_s, 's')}, {money(p.cost_usd)}"
        lines.append(f"  {p.name} ({p.kind}) on {p.machine}, {p.detail}: {took}")
    f = winner.figures
    lines.append(f"  train on the cluster above: {units.show(f.wall_s, 's')}, {money(f.cost_usd)}")
    light = sum(p.cost_usd for p in report.phases)
    total = f"{money(light + f.cost_usd)} in all"
    terms = terms_of(winner.candidate.topology.offer)
    if terms is not None:
        held = idle_cost(report.phases, terms.price_per_gpu_hour_usd * winner.candidate.gpus)
        total += f"; holding the cluster through the others would cost {money(held - light)} more"
    return [*lines, f"  {total}"]


def _why(contender: Contender, target: Target) -> str:
    name = contender.machine.name
    if contender.nearest is None:
        if contender.machine.price is None and target.objective == "cost":
            return f"{name}: has no price"
        return f"{name}: nothing fits in its memory"
    return f"{name}: {_miss(contender.nearest, target)}"


def _miss(plan: Plan, target: Target) -> str:
    f = plan.figures
    parts = [
        f"{cluster(plan.candidate.topology)} ({layout(plan)}) takes {units.show(f.wall_s, 's')}"
    ]
    if math.isfinite(f.cost_usd):
        parts.append(f"costs {money(f.cost_usd)}")
    if target.tokens_per_s is not None:
        parts.append(f"gives {f.tokens_per_s:,.0f} tokens/s")
    return f"{', '.join(parts)}: misses by {target.shortfall(f) - 1:.0%}"


def _nothing(report: SizeReport) -> list[str]:
    if not report.contenders:
        lines = ["Nothing to choose from: no offer is where and what is wanted."]
        return [*lines, *(f"  {x}" for x in report.left_out[:SHOWN])]
    nearest = report.nearest
    if nearest is None:
        lines = ["Nothing fits in memory on any of these machines, at any size and layout."]
    else:
        name = nearest.candidate.machine.name
        miss = _miss(nearest, report.target)
        lines = [f"Nothing meets the target; the nearest miss is {name}, {miss}."]
    return [*lines, *(f"  {_why(c, report.target)}" for c in report.contenders[:SHOWN])]


def formatted(report: SizeReport, form: str) -> str:
    """``table | json | csv | md``."""
    if form == "json":
        return report.to_json()
    if form == "csv":
        import csv
        import io

        rows = plain(report.records())
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]) if rows else ["machine"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().rstrip("\n")
    body = text(report)
    return f"```\n{body}\n```" if form == "md" else body
