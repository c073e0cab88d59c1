"""The sections of a Result from what was simulated, walked and planned."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from sim.blocks.flops import token_flops
from sim.blocks.parameters import count_parameters
from sim.fabric import Fabric, compile_fabric
from sim.inputs.rows import with_kernels
from sim.inputs.shares import batch_of, batch_on
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.cost import Cost
from sim.job.energy import Energy
from sim.job.forecast import JobForecast
from sim.memory.band import COVERAGE
from sim.memory.report import MemoryReport
from sim.pipeline.schedules import SCHEDULES
from sim.result.figures import (
    CostSection,
    EnergySection,
    JobSection,
    Memory,
    RankGroup,
    Step,
    Throughput,
    TopologySection,
    WorkloadSection,
)
from sim.result.peak import peak_of
from sim.result.result import Interval
from sim.step.breakdown import Breakdown
from sim.step.waiting import WaitingGroup

NO_IDLE = 5e-4  # share of the time waiting for data that is none
TOLD = 1e-3  # share of the step that is worth a word


def topology_section(topology: Topology) -> TopologySection:
    """Name, size, GPU and price of a machine."""
    fabric = compile_fabric(topology)
    offer = topology.offer
    return TopologySection(
        name=topology.name,
        title=" + ".join(
            f"{nodes} {'node' if nodes == 1 else 'nodes'} x {what}"
            for what, nodes in _nodes(fabric).items()
        ),
        nodes=fabric.n_nodes,
        gpus=fabric.n_ranks,
        gpu=" + ".join(gpu.name for gpu in topology.gpu_counts),
        price_per_gpu_hour_usd=offer.price_per_gpu_hour if offer else None,
        provider=offer.provider if offer else None,
    )


def _nodes(fabric: Fabric) -> dict[str, int]:
    """How many nodes there are of each kind, such as ``8 h100-sxm-80gb``."""
    found: Counter[str] = Counter()
    for node in range(fabric.n_nodes):
        gpus = Counter(fabric.gpu(rank).name for rank in fabric.ranks_of(node))
        found[" and ".join(f"{n} {gpu}" for gpu, n in gpus.items())] += 1
    return dict(found)


def workload_section(workload: Workload, world: int, parameters: int) -> WorkloadSection:
    """Name, method, batch arithmetic of a job on `world` GPUs."""
    batch = batch_on(workload, world)
    method = workload.method
    how = f"{method.kind} r{method.rank}" if method.adapted else method.kind
    return WorkloadSection(
        name=workload.name,
        title=f"{workload.model.name} {how}",
        model=workload.model.name,
        parameters=parameters,
        method=method.kind,
        strategy=_strategy(workload),
        precision=_precision(workload),
        sequence_length=workload.sequence_length,
        micro_batch=workload.micro_batch,
        gradient_accumulation=workload.gradient_accumulation,
        data_parallel=batch.data_parallel,
        global_batch_sequences=batch.sequences,
        global_batch_tokens=batch.tokens,
    )


def title_of(topology: Topology, workload: Workload) -> str:
    """Job and machine in a line."""
    total = count_parameters(workload.model, workload.method).total
    job = workload_section(workload, topology.world_size, total)
    return f"{job.title} · {topology_section(topology).title}"


def _strategy(workload: Workload) -> str:
    p = workload.parallelism
    name = strategy_of(workload).title
    if p.replicate > 1:
        name = f"HSDP ({name}, {p.replicate} replicas)"
    if p.context_parallel > 1:
        name += f", context parallel {p.context_parallel}"
    if p.tensor_parallel > 1:
        name += f", tensor parallel {p.tensor_parallel}"
    if p.expert_parallel > 1:
        name += f", expert parallel {p.expert_parallel}"
    if p.pipeline_parallel > 1:
        title = SCHEDULES[p.pipeline_schedule].title
        name += f", pipeline parallel {p.pipeline_parallel} ({title})"
    if p.offload != "none":
        name += f", {p.offload} offloaded to {p.offload_device}"
    ac = workload.activation_checkpointing.kind
    return name if ac == "none" else f"{name}, {ac} checkpointing"


def _precision(workload: Workload) -> str:
    p = workload.precision
    if p.kind == "fp32" and p.tf32:
        return "fp32, products in tf32"
    return p.told


def step_section(b: Breakdown, algorithms: Mapping[str, tuple[str, ...]]) -> Step:
    """The step as the document shows it; `breakdown` adds up to the time."""
    return Step(
        time_s=b.time_s,
        compute_s=b.compute_s,
        communication_s=b.communication_s,
        exposed_communication_s=b.exposed_s,
        optimizer_s=b.kernels.get("optimizer", 0.0),
        host_s=b.host_s,
        overlap_slowdown_s=b.slowdown_s,
        overlap_slowdown=_falling(b.slowdown),
        overlap_slowdown_kernels=_falling(b.slowed),
        transfer_slowdown_s=sum(b.transfers.values()),
        transfer_slowdown=_falling(b.transfers),
        breakdown=b.parts,
        exposed=b.exposed,
        collectives=b.collectives,
        algorithms=dict(algorithms),
    )


def _falling(causes: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(causes.items(), key=lambda item: -item[1]))


def ranks_section(groups: Sequence[WaitingGroup], step_s: float) -> tuple[RankGroup, ...]:
    """Who waits for whom; nothing where all ranks are alike and none waits."""
    told = [g for g in groups if g.waiting_s + sum(g.slowed_for.values()) > TOLD * step_s]
    if len(groups) == 1 and not told:
        return ()
    names = [_runs(group.ranks) for group in groups]
    return tuple(
        RankGroup(
            ranks=name,
            count=len(group.ranks),
            gpu=group.role.gpu.name,
            stage=group.role.stage,
            speed=group.speed,
            compute_s=group.compute_s,
            waiting_s=group.waiting_s,
            communication_s=group.communication_s,
            idle_s=group.idle_s,
            waiting_for={names[i]: lost for i, lost in group.waiting_for.items() if lost > 0.0},
            slowed_for={names[i]: lost for i, lost in group.slowed_for.items() if lost > 0.0},
        )
        for name, group in zip(names, groups, strict=True)
    )


def _runs(ranks: Sequence[int]) -> str:
    """Ranks as runs: ``0-7, 12``."""
    found: list[list[int]] = []
    for rank in ranks:
        if found and rank == found[-1][1] + 1:
            found[-1][1] = rank
        else:
            found.append([rank, rank])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def memory_section(report: MemoryReport) -> Memory:
    """Bytes per GPU as the document shows them."""
    return Memory(
        peak_allocated_bytes=report.peak_allocated_bytes,
        peak_reserved_bytes=report.peak_reserved_bytes,
        capacity_bytes=report.capacity_bytes,
        needed_bytes=report.needed_bytes,
        fits=report.fits,
        verdict=report.verdict.word,
        fit_probability=report.verdict.probability,
        risk=report.verdict.risk,
        peak_moment=report.peak_moment,
        by_category=report.terms,
        by_moment=report.by_moment,
        host_bytes_per_node=report.host_bytes,
        host_capacity_bytes=report.host_capacity_bytes,
        host_loading_bytes_per_node=report.host_loading_bytes,
        binding_gpu=report.binding_gpu,
    )


def throughput_section(topology: Topology, workload: Workload, step_s: float) -> Throughput:
    """Rates of the job on all its GPUs."""
    tokens = batch_of(topology, workload).tokens
    flops = token_flops(workload)
    run = token_flops(with_kernels(topology, workload), "run")
    masked = token_flops(workload, "causal")
    peak = peak_of(topology, workload)
    per_gpu = tokens / step_s / topology.world_size
    return Throughput(
        tokens_per_s=tokens / step_s,
        tokens_per_s_per_gpu=per_gpu,
        tflops_per_gpu=per_gpu * flops.model / 1e12,
        mfu=per_gpu * flops.model / peak.flops_per_s,
        mfu_causal=per_gpu * masked.model / peak.flops_per_s,
        hfu=per_gpu * run.hardware / peak.flops_per_s,
        peak_flops_per_s=peak.flops_per_s,
        peak_dtype=peak.dtype,
        model_flops_per_step=flops.model * tokens,
        hardware_flops_per_step=run.hardware * tokens,
    )


def job_section(job: JobForecast) -> JobSection:
    """The job as the document shows it, but for the odds of a deadline."""
    outcome, spec, expected = job.outcome, job.spec, job.expected
    rate = spec.interruption_rate
    return JobSection(
        steps=expected.steps,
        tokens=expected.tokens,
        wall_clock_s=expected.wall_s,
        wall_clock_p10_s=outcome.wall_p10_s,
        wall_clock_p90_s=outcome.wall_p90_s,
        wall_clock_mean_s=outcome.wall_mean_s,
        replicas=outcome.replicas,
        goodput=expected.goodput,
        shares=outcome.shares,
        failures=outcome.failures,
        preemptions=outcome.preemptions,
        checkpoints=outcome.checkpoints,
        mtbf_s=1.0 / spec.failure_rate if spec.failure_rate else math.inf,
        mean_uptime_s=1.0 / rate if rate else math.inf,
        pace_spread=spec.spread,
        step_with_data_s=job.stall.step_s,
        data_idle_share=job.stall.idle_share,
        data_workers=job.pipeline.workers,
        data_workers_needed=job.stall.workers_needed,
        evaluation_s=spec.evaluation_s,
        checkpoint_bytes=job.save.size_bytes,
        checkpoint_blocking_s=job.save.blocking_s,
        checkpoint_durable_s=job.save.write_s,
        checkpoint_interval_s=job.interval_s,
        checkpoint_interval_young_s=job.young_s,
        checkpoint_interval_daly_s=job.daly_s,
        checkpoint_interval_best_s=job.best_s,
        memory_copy_interval_s=spec.memory_interval_s if job.copy else None,
        memory_copy_blocking_s=job.copy.blocking_s if job.copy else None,
        storage_gb=expected.storage_gb,
        egress_gb=expected.egress_gb,
    )


def with_deadline(
    section: JobSection, job: JobForecast, deadline_s: float, step: Interval
) -> JobSection:
    """The job with the probability that it is done in time.

    Parameters
    ----------
    section, job
        As the document shows it, and as it was simulated.
    deadline_s : float
        From the start. [s]
    step : Interval
        Band of its step time, in units of the step time.
    """
    # where the pace is the loader's there is no band
    half_width = 0.0 if section.data_idle_share >= NO_IDLE else math.log(step.high)
    odds = job.outcome.done_by(deadline_s, half_width, COVERAGE)
    return replace(section, deadline_s=deadline_s, done_by_deadline=odds)


def cost_section(job: JobForecast, topology: Topology) -> CostSection | None:
    """The bill, and where the price is from; None without a price."""
    offer = topology.offer
    cost = job.expected.cost
    if cost is None or offer is None:
        return None
    return CostSection(
        **_fields(cost),
        provider=offer.provider,
        region=offer.region,
        price_date=offer.date,
        price_source=offer.source,
    )


def energy_section(job: JobForecast, model_flops_per_step: float) -> EnergySection:
    """Energy, per token and per useful FLOP.

    Parameters
    ----------
    job : JobForecast
        The job.
    model_flops_per_step : float
        Useful FLOPs of a step of all its GPUs.
    """
    expected = job.expected
    joules = expected.energy.energy_j
    return EnergySection(
        **_fields(expected.energy),
        joule_per_token=joules / expected.tokens,
        joule_per_model_flop=joules / (model_flops_per_step * expected.steps),
    )


def _fields(value: Cost | Energy) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}
