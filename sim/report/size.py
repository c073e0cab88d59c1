"""The cluster for a job: the answer, the runners-up with why they lost, how it was searched."""

from __future__ import annotations

import math

from sim.inputs.topology import Topology
from sim.job.basis import terms_of
from sim.quantities import counted, duration, gib, percent, usd
from sim.report.size_layouts import layout, layout_of, layouts_beside, tuned
from sim.report.view import Cell, Column, Lines, Row, Table, View, ViewPart, borrowed, left
from sim.step.step import memory_of
from sim.study.estimates import Simulated
from sim.study.machines import Machine
from sim.study.phases import idle_cost
from sim.study.sized import Contender, SizeReport
from sim.study.target import Target

SHOWN = 12
_LEAST = {
    "cost": "cheapest",
    "time": "fastest",
    "co2": "greenest (CO2)",
    "energy": "least energy",
}


def _cluster(topology: Topology) -> str:
    """``2 nodes x 8 h100-sxm-80gb``."""
    assert topology.node is not None
    nodes = counted(topology.nodes, "node")
    return f"{nodes} x {topology.node.gpus} {topology.node.gpu.name}"


def _said(target: Target, value: float) -> str:
    """What is to be least, of some plan, in words."""
    if target.objective == "cost":
        return usd(value)
    if target.objective == "time":
        return duration(value)
    return f"{value:,.0f} kg of CO2" if target.objective == "co2" else f"{value / 3.6e6:,.0f} kWh"


def _goal(target: Target) -> str:
    """The target in words."""
    limits = []
    if target.deadline_s is not None:
        limits.append(f"within {duration(target.deadline_s)}")
    if target.budget_usd is not None:
        limits.append(f"for at most {usd(target.budget_usd)}")
    if target.tokens_per_s is not None:
        limits.append(f"at {target.tokens_per_s:,.0f} tokens/s or more")
    return f"{_LEAST[target.objective]} cluster" + "".join(f" {x}" for x in limits)


def view(report: SizeReport) -> View:
    """What `scaling-sim size` says."""
    t = report.tally
    batch = f"{report.global_batch} sequences a step"
    if report.assumed_on:
        on = counted(report.assumed_on, "GPU")
        batch += f" (assumed: the workload's batch on {on}; --global-batch)"
    title = f"{_goal(report.target).capitalize()} for {report.workload}, {batch}"
    offers = counted(len(report.contenders), "offer")
    searched = (
        f"Considered {counted(t.considered, 'plan')} on {offers}: {t.simulated:,} "
        f"simulated, {t.too_large:,} do not fit, {t.at_risk:,} are less than "
        f"{percent(1.0 - report.risk, 0)} likely to, {t.ruled_out:,} ruled out by lower bounds"
    )
    if report.stopped:
        searched += f". {_stopped(report)}"
    winner = report.winner
    found = _nothing(report) if winner is None else _found(report, winner)
    return View(title, [Lines([searched], indent=0, apart=False), *found], report, lead=2)


def _stopped(report: SizeReport) -> str:
    """How far a search had come that was stopped."""
    t, offers = report.tally, len(report.contenders) + report.not_begun
    ended = sum(not c.unfinished for c in report.contenders)
    known = "the best so far, others may be better"
    if report.decided and report.winner is not None:
        known = "the winner is known to be the best, of other offers others may be better"
    return (
        f"Stopped when {t.decided:,} of {t.considered:,} plans were decided and {ended} of "
        f"{counted(offers, 'offer')} searched to the end: {known}"
    )


def _found(report: SizeReport, winner: Simulated) -> list[ViewPart]:
    lost = [_why(c, report) for c in report.contenders if c.plan is None]
    notes = {f"{c.machine.name}: {c.machine.note}" for c in report.contenders if c.machine.note}
    left_out = [f"Left out: {len(report.left_out)} offers that are elsewhere or another kind"]
    shown, by_cost = _shown(report), report.target.objective == "cost"
    told = [*shown, *(c for c in report.contenders if c.plan is None and c.at_least and by_cost)]
    doubts = dict.fromkeys(c.doubt for c in told if c.doubt)
    asked = "ranked after prices that are" if by_cost else "so marked"
    doubted = [f"? {'; '.join(doubts)}: {asked}"] if doubts else []
    below = [
        Lines(_verdict(report, winner), indent=0, apart=False),
        Lines(_risks(report, winner), indent=0, apart=False),
        Lines(doubted, indent=0, apart=False),
        Lines(_set_up(winner), indent=0, apart=False),
        Lines(_open(report), indent=0, apart=False),
        Lines(tuned(report), indent=0, apart=False),
        Lines(_phases(report, winner), "Phases:", apart=False),
        Lines(lost, "Not chosen:", list=True, apart=False),
        Lines(sorted(notes), "Assumed:", list=True, apart=False),
        Lines(left_out if report.left_out else [], indent=0, apart=False),
    ]
    below = [lines for lines in below if lines.lines] or below[:1]
    table = _table(shown, winner)
    said = dict.fromkeys(x for c in report.contenders if c.plan for x in c.plan.borrowed)
    first, *others = below
    return [
        table, *layouts_beside(report, winner), first._replace(apart=True), *others,
        borrowed(said, indent=0),
    ]  # fmt: skip


def _shown(report: SizeReport) -> list[Contender]:
    """What has a row in the table."""
    return [c for c in report.contenders if c.plan][:SHOWN]


def _table(chosen: list[Contender], winner: Simulated) -> Table:
    columns = [
        *map(left, ("", "offer")),
        left("cluster", below=True),
        *map(Column, ("job", "cost", "", "MFU", "memory", "break-even")),
    ]
    rows: list[Row] = []
    for i, c in enumerate(chosen):
        plan = c.plan
        assert plan is not None
        f = plan.figures
        more = ""
        if plan is not winner and math.isfinite(winner.figures.cost_usd):
            more = percent(f.cost_usd / winner.figures.cost_usd - 1, 0, "+")
        fit = plan.memory.verdict
        even = "" if c.break_even_usd is None else usd(c.break_even_usd)
        doubt = " ?" * bool(c.doubt) + " ~" * c.unfinished
        rows.append([
            "->" if i == 0 else str(i + 1), c.machine.name,
            f"{_cluster(plan.candidate.topology)}: {layout(plan)}",
            Cell(duration(f.wall_s), f.wall_s, "s"),
            Cell(usd(f.cost_usd) + doubt, f.cost_usd, "USD"), more,
            Cell(percent(plan.mfu), plan.mfu),
            Cell(percent(fit.share, 0) + (" !" if fit.risk else ""), fit.needed_bytes, "B"),
            Cell(even, c.break_even_usd, "USD/h"),
        ])  # fmt: skip
    return Table(columns, rows, indent=0)


def _verdict(report: SizeReport, winner: Simulated) -> list[str]:
    """How the winner compares with fewer and more of its nodes."""
    target, here = report.target, winner.figures
    verdict = winner.memory.verdict
    risk = verdict.risk
    share = percent(verdict.share, 0)
    sure = f"{percent(verdict.probability, 0)} likely to run"
    lines = [f"Memory: {share} of a GPU, {verdict.word}: {risk or sure}"]
    cheaper = report.contenders[0].cheaper
    if cheaper is not None:
        less = 1.0 - target.score(cheaper.figures) / target.score(here)
        lines.append(
            f"Within {percent(target.slack, 0)} (--slack) the smaller cluster is taken: "
            f"{counted(cheaper.candidate.gpus, 'GPU')} for {duration(cheaper.figures.wall_s)}: "
            f"{percent(less, 1)} better"
        )
    for plan, word in ((report.more, "More"), (report.fewer, "Fewer")):
        size = winner.candidate.gpus if plan is None else plan.candidate.gpus
        if plan is None:
            known = report.exact_gpus is None and not report.stopped
            if word == "Fewer" and known and winner.candidate.topology.nodes > 1:
                lines.append(f"Fewer GPUs: fewer than {size} do not fit, whatever the layout")
            continue
        f = plan.figures
        cost = f.cost_usd / here.cost_usd - 1 if math.isfinite(here.cost_usd) else math.nan
        takes = "takes" if size == 1 else "take"
        said = f"{counted(size, 'GPU')} {takes} {duration(f.wall_s)}"
        if math.isfinite(cost):
            said += f" and {usd(f.cost_usd)} ({percent(cost, 1, '+')})"
        if target.shortfall(f) > 1.0:
            said += ", which misses the target"
        elif target.objective == "cost" and word == "More" and cost > target.slack:
            said += ": not worth it (--slack)"
        lines.append(f"{word} GPUs: {said}")
    return lines


def _set_up(winner: Simulated) -> list[str]:
    """What a job's time and cost hold that those of `run` do not."""
    offer = winner.candidate.topology.offer
    if offer is None or not offer.setup:
        return []
    said = f"Job and cost include {duration(offer.setup)} of set-up (--setup), which `run` leaves"
    return [f"{said} out unless offer.setup says it"]


def _open(report: SizeReport) -> list[str]:
    """What is known of offers that were not searched to their ends."""
    if report.stopped or not any(c.unfinished for c in report.contenders):
        return []
    said = "Offers that cannot rank before the winner were not searched to the end (--exhaustive)"
    if any(c.unfinished for c in _shown(report)):
        said += "; ~: the best plan seen, others may be better"
    return [said]


def _risks(report: SizeReport, winner: Simulated) -> list[str]:
    """What the mark beside the memory of a plan that did not win means."""
    plans = [c.plan for c in _shown(report) if c.plan]
    fits = [plan.memory.verdict for plan in plans if plan is not winner]
    odds = [fit.probability for fit in fits if fit.risk]
    if not odds:
        return []
    least, asked = percent(min(odds), 0), percent(1.0 - report.risk, 0)
    return [
        f"! near its capacity: at least {least} likely to run ({asked} asked for, --risk), with "
        "the allocator's retries in its time"
    ]


def _phases(report: SizeReport, winner: Simulated) -> list[str]:
    """Light phases on their own machines, and what it would cost to hold the cluster for them."""
    if not report.phases:
        return []
    lines = [
        f"{p.name} ({p.kind}) on {p.machine}, {p.detail}: {duration(p.wall_s)}, {usd(p.cost_usd)}"
        for p in report.phases
    ]
    f = winner.figures
    lines.append(f"train on the cluster above: {duration(f.wall_s)}, {usd(f.cost_usd)}")
    light = sum(p.cost_usd for p in report.phases)
    total = f"{usd(light + f.cost_usd)} in all"
    terms = terms_of(winner.candidate.topology.offer)
    if terms is not None:
        held = idle_cost(report.phases, terms.price_per_gpu_hour_usd * winner.candidate.gpus)
        total += f"; holding the cluster through the others would cost {usd(held - light)} more"
    return [*lines, total]


def _why(contender: Contender, report: SizeReport) -> str:
    name = contender.machine.name
    if contender.unfinished:
        least = contender.at_least
        if least is None or report.winner is None:
            return f"{name}: not searched to the end"
        more = percent(least / report.target.score(report.winner.figures) - 1, 0, "+")
        doubt = " ?" * (report.target.objective == "cost" and bool(contender.doubt))
        least_said = _said(report.target, least) + doubt
        return f"{name}: at least {least_said} ({more}), not searched further"
    if contender.nearest is not None:
        return f"{name}: {_miss(contender.nearest, report.target)}"
    if contender.untried:
        return f"{name}: {contender.untried}"
    found = contender.likeliest
    if found is None:
        return f"{name}: {_no_cluster(contender.machine, report)}"
    memory = memory_of(found.topology, found.workload)
    v = memory.verdict
    at = f"{_cluster(found.topology)} ({layout_of(found)})"
    if v.fits:
        likely = f"{percent(v.probability, 0)} likely to run"
        return f"{name}: {at} is {likely} at the best, --risk allows {percent(report.risk, 0)}"
    if not v.on_host:
        need, have = gib(v.host_bytes), gib(v.host_capacity_bytes)
        return f"{name}: does not fit, {at} needs {need} of a host's {have}"
    need, have = gib(v.needed_bytes), gib(v.capacity_bytes)
    return f"{name}: does not fit, {at} needs {need} of a GPU's {have}"


def _no_cluster(machine: Machine, report: SizeReport) -> str:
    """Why not one plan of a machine was listed."""
    if report.exact_gpus is None:
        return f"no cluster of {report.most_gpus} GPUs or fewer divides the batch"
    assert machine.topology.node is not None
    gpus, per_node = counted(report.exact_gpus, "GPU"), machine.topology.node.gpus
    if report.exact_gpus % per_node:
        return f"{gpus} (--gpus) cannot be cut into nodes of {per_node}"
    most = machine.most_nodes * per_node
    if report.exact_gpus > most:
        return f"{gpus} (--gpus): it has at most {counted(most, 'GPU')}"
    batch = counted(report.global_batch, "sequence")
    larger = -(-report.global_batch // report.exact_gpus) * report.exact_gpus
    said = f"{gpus} (--gpus) do not divide the batch of {batch}"
    return f"{said}: --global-batch {larger}, or --vary layout, which cuts the model too"


def _miss(plan: Simulated, target: Target) -> str:
    f = plan.figures
    parts = [f"{_cluster(plan.candidate.topology)} ({layout(plan)}) takes {duration(f.wall_s)}"]
    if math.isfinite(f.cost_usd):
        parts.append(f"costs {usd(f.cost_usd)}")
    if target.tokens_per_s is not None:
        parts.append(f"gives {f.tokens_per_s:,.0f} tokens/s")
    missed = target.shortfall(f) - 1
    return f"{', '.join(parts)}: misses by {percent(missed, 0 if missed >= 0.01 else 2)}"


def _nothing(report: SizeReport) -> list[ViewPart]:
    why = [_why(c, report) for c in report.contenders[:SHOWN]]
    nearest = report.nearest
    if report.stopped and nearest is None:
        said = "Nothing was found yet."
    elif not report.contenders:
        said = "Nothing to choose from: no offer is where and what is wanted."
        why = list(report.left_out[:SHOWN])
    elif nearest is None and all(c.likeliest is None for c in report.contenders):
        said = "No plan was tried on any of these machines."
    elif nearest is None:
        sure = percent(1.0 - report.risk, 0)
        some = any(c.untried for c in report.contenders)
        which = "the machines that were tried" if some else "these machines"
        said = f"Nothing fits in memory with {sure} certainty on any of {which}."
    else:
        miss = f"{nearest.candidate.machine.name}, {_miss(nearest, report.target)}"
        said = f"Nothing meets the target; the nearest miss is {miss}."
        why = [*filter(None, [report.cap()]), *why]
    return [Lines([said], indent=0, apart=False), Lines(why, list=True, apart=False)]
