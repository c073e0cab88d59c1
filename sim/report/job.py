"""The whole job: wall-clock, goodput, checkpoints, data, cost, energy."""

from __future__ import annotations

import math

from sim.job.run import HOPELESS
from sim.quantities import count, counted, duration, percent, usd
from sim.report.view import Fact, Facts, Lines
from sim.result.figures import CostSection, EnergySection, JobSection
from sim.result.result import Result
from sim.result.sections import NO_IDLE
from sim.study.machine_offers import A_PRICE

_PARTS = {
    "useful": "useful",
    "data_stall": "waiting for data",
    "checkpoint": "checkpoints",
    "evaluation": "evaluation",
    "lost_work": "lost work",
    "restart": "restarts",
    "waiting": "waiting for nodes",
    "fewer_nodes": "slower on fewer nodes",
    "setup": "reference before",
}


def job_section(result: Result) -> Facts | Lines:
    """The job section of `scaling-sim run`."""
    job = result.job
    if job is None:
        return Lines(["Job length not given (tokens:, steps: or samples:)"])
    head = f"The whole job: {count(job.tokens)} tokens, {counted(job.steps, 'step')}"
    if not math.isfinite(job.wall_clock_s):
        return Facts(_never(job, result.step.time_s), head, indent=4)
    rows = [
        Fact("wall-clock", _wall(job)),
        Fact("deadline", _deadline(job)),
        Fact("goodput", _goodput(job.shares)),
        Fact("data", _data(job)),
        Fact("failures", _failures(job)),
        Fact("checkpoints", _checkpoints(job)),
        Fact("cost", _cost(result.cost)),
        Fact("energy", _energy(result.energy)),
    ]
    return Facts([row for row in rows if row.text], head, indent=4)


def _never(job: JobSection, step_s: float) -> list[Fact]:
    work = duration(job.steps * step_s)
    pause = duration(job.mean_uptime_s)
    saves = "nothing is saved" if job.checkpoint_interval_s is None else "saves come too late"
    never = (
        f"{work} of work, an interruption every {pause}, and {saves}: "
        "a run of that length without one is not to be had"
    )
    return [Fact("never ends", never), Fact("checkpoints", _checkpoints(job))]


def _wall(job: JobSection) -> str:
    wall = duration(job.wall_clock_s)
    if not math.isfinite(job.wall_clock_p90_s):
        return f"{wall}  expected; a run may be given up: {HOPELESS:,} starts in a row save nothing"
    low, high = duration(job.wall_clock_p10_s), duration(job.wall_clock_p90_s)
    text = f"{wall}  (p10 {low}, p90 {high} of {job.replicas} runs"
    if job.wall_clock_s > job.wall_clock_p90_s:
        text += "; what interrupts few of them takes long and is in the mean"
    return f"{text}; paces spread by {100 * job.pace_spread:.2g} %)"


def _deadline(job: JobSection) -> str:
    if job.deadline_s is None or job.done_by_deadline is None:
        return ""
    odds = job.done_by_deadline
    shown = percent(odds, 0)
    if odds >= 0.995 or odds <= 0.005:  # no replica and no band says never or always
        shown = "more than 99 %" if odds > 0.5 else "less than 1 %"
    return f"done in {duration(job.deadline_s)} with a probability of {shown}"


def _goodput(shares: dict[str, float]) -> str:
    parts = [
        f"{name} {percent(shares[key])}" for key, name in _PARTS.items() if shares[key] >= 5e-4
    ]
    return " · ".join(parts)


def _data(job: JobSection) -> str:
    idle, needed, workers = job.data_idle_share, job.data_workers_needed, job.data_workers
    if idle < NO_IDLE:
        return ""
    text = f"GPUs wait {percent(idle)} of the time for data with {workers} workers per GPU; "
    if needed is None:
        return text + "storage is too slow, whatever their number"
    return text + f"{needed} would cure it"


def _number(value: float) -> str:
    """Two or three digits, thousands parted."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _failures(job: JobSection) -> str:
    mtbf = job.mtbf_s
    if not mtbf or mtbf == float("inf"):
        text = "none"
    elif not math.isfinite(job.failures):  # of runs that are given up
        text = f"one per {duration(mtbf)} on this machine"
    else:
        text = f"{_number(job.failures)} expected (one per {duration(mtbf)} on this machine)"
    if job.preemptions and math.isfinite(job.preemptions):
        text += f"; {_number(job.preemptions)} nodes reclaimed a run"
    return text


def _checkpoints(job: JobSection) -> str:
    size = f"{_number(job.checkpoint_bytes / 1e9)} GB"
    pause = duration(job.checkpoint_blocking_s)
    interval, best = job.checkpoint_interval_s, job.checkpoint_interval_best_s
    if interval is None:
        text = f"none; one would be {size} and block {pause}"
    else:
        text = f"every {duration(interval)}: {size}, blocks {pause}"
        if job.checkpoint_durable_s > job.checkpoint_blocking_s:
            text += f", durable after {duration(job.checkpoint_durable_s)}"
    if job.memory_copy_interval_s is not None:
        text += (
            f"; a copy in memory every {duration(job.memory_copy_interval_s)}, "
            f"blocks {duration(job.memory_copy_blocking_s or 0.0)}"
        )
    young, daly = job.checkpoint_interval_young_s, job.checkpoint_interval_daly_s
    if best and young and daly:
        text += (
            f"; best every {duration(best)} by simulation "
            f"(Young {duration(young)}, Daly {duration(daly)})"
        )
    elif young:
        text += f"; best every {duration(young)} by Young's formula"
    return text


def _cost(cost: CostSection | None) -> str:
    if cost is None:
        return f"no price: add --offer cheapest where a list has it, or {A_PRICE}"
    names = {
        "compute_usd": "compute", "setup_usd": "setup", "storage_usd": "storage",
        "egress_usd": "egress", "energy_usd": "electricity",
        "unused_commitment_usd": "unused commitment",
    }  # fmt: skip
    parts = [
        f"{name} {usd(paid)}"
        for key, name in names.items()
        if (paid := getattr(cost, key)) >= 0.005
    ]
    where = " ".join(text for text in (cost.provider, cost.region) if text)
    rate = f"{cost.price_kind} {usd(cost.price_per_gpu_hour_usd)} per GPU-hour"
    date = f", price of {cost.price_date}" if cost.price_date else ""
    text = f"{usd(cost.total_usd)} = {' + '.join(parts)}; {rate}"
    text += f" ({where}{date})" if where else ""
    if cost.usd_per_million_tokens is not None:
        text += f" · ${cost.usd_per_million_tokens:.3g} per million tokens"
    return text


def _energy(energy: EnergySection | None) -> str:
    if energy is None:
        return ""
    text = (
        f"{energy.energy_j / 3.6e6:,.0f} kWh · {energy.joule_per_token:.3g} J per token · "
        f"{energy.gpu_w:.0f} W a GPU while stepping · PUE {energy.pue:g}"
    )
    if energy.co2_kg is not None:
        text += (
            f" · {energy.co2_kg:,.0f} kg CO2e at {energy.g_co2_per_kwh:.0f} g/kWh "
            f"({' '.join(w for w in (energy.co2_region, energy.co2_year) if w)})"
        )
    if energy.machine_co2_kg >= 0.5:
        text += f", and {energy.machine_co2_kg:,.0f} kg for the hours' share of making the machine"
    return text
