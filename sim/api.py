"""`simulate(topology, workload) -> Result`: the whole road in one call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from os import PathLike

from sim import __version__
from sim.blocks.flops import token_flops
from sim.blocks.tree import count_parameters
from sim.fabric import compile_fabric
from sim.inputs.calibration import CONSTANTS, Calibration, calibration_settings
from sim.inputs.checks import check
from sim.inputs.loader import Argument, load
from sim.inputs.notes import Notes
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.plan import JobReport, plan_job
from sim.job.sections import cost_section, data_bottleneck, energy_section, job_section
from sim.memory.report import MemoryReport
from sim.memory.report import memory as memory_report
from sim.result.bands import uncertainty
from sim.result.bottleneck import classify, rank_fixes
from sim.result.describe import describe_topology, describe_workload, peak_of
from sim.result.result import Memory, Result, Scaling, ScalingPoint, Step, Throughput
from sim.step.breakdown import Breakdown
from sim.step.pressure import retry_warnings, with_retries
from sim.step.quick import quick_breakdown
from sim.step.run import run_replicas
from sim.step.variation import Variation, read_variation, spread

CURVE_NODES = (1, 2, 4, 8)


def simulate(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Iterable[str] = (),
    calibration: str | PathLike[str] | Calibration | None = None,
    engine: str = "auto",
    level: str | None = None,
    jitter: str = "0%",
    slow: Iterable[str] = (),
    seed: int = 0,
    replicas: int = 1,
    scaling: bool = True,
    fixes: bool = True,
) -> Result:
    """Predict one training job on one machine.

    Parameters
    ----------
    topology, workload : path, catalogue name, mapping of the YAML's keys, or spec
        Machine and job.
    overrides : iterable of str
        ``key=value`` as for ``--set``.
    calibration : path or Calibration, optional
        Corrections of this cluster, as ``scaling-sim calibrate`` writes them.
    engine : str
        ``auto | reference | python | compiled``; all give the same times.
    level : str, optional
        ``folded`` (equal ranks once), ``ranks`` or ``steps`` (every ring step of every rank);
        ``ranks`` where ranks differ by `jitter` or `slow`, else ``folded``.
    jitter : str
        Deviation of each rank's compute time, block by block, such as ``5%``.
    slow : iterable of str
        Slow GPUs and links: ``rank:3=0.9``, ``link:NAME=0.5``.
    seed, replicas : int
        Of the jitter's draws, and how many steps to draw; ``result.detail["variation"]`` has
        their distribution, and the step is the median one.
    scaling : bool
        Also simulate 1, 2, 4 and 8 nodes.
    fixes : bool
        Also simulate changes worth trying.

    Returns
    -------
    Result
        An infeasible job gets a full result with ``memory.fits`` false.

    Raises
    ------
    InputError
        All faults of both inputs.
    """
    known = calibration_settings(calibration) if calibration is not None else ()
    varied = read_variation(jitter, slow, seed, replicas)
    level = varied.level(level)
    loaded = load(topology, workload, (*known, *overrides))
    return assemble(
        loaded.topology, loaded.workload, loaded.notes, engine=engine, level=level,
        scaling=scaling, fixes=fixes, variation=varied,
    )  # fmt: skip


def assemble(
    topology: Topology,
    workload: Workload,
    notes: Notes | None = None,
    *,
    engine: str = "auto",
    level: str = "folded",
    scaling: bool = True,
    fixes: bool = True,
    variation: Variation | None = None,
) -> Result:
    """Simulate checked specs and put the Result together."""
    varied = variation or Variation()
    outcome, times = run_replicas(topology, workload, varied, engine=engine, level=level)
    needed = memory_report(topology, workload)
    memory = _memory(needed)
    breakdown = _pressed(outcome.breakdown, workload, memory)
    step = step_section(breakdown)
    bottleneck = classify(step, memory)
    throughput = throughput_section(topology, workload, step.time_s)
    if fixes:
        found = rank_fixes(
            topology,
            workload,
            memory.fits,
            step,
            1.0 / throughput.tokens_per_s,
            memory_section,
            _pace,
        )
        bottleneck = type(bottleneck)(
            bottleneck.kind, bottleneck.share, bottleneck.explanation, found
        )
    own = None if varied.needs_every_rank else breakdown  # the curve is of whole machines
    curve = _scaling(topology, workload, own, memory.fits, engine) if scaling else None
    counts = count_parameters(workload.model, workload.method)
    job = _job(topology, workload, step, counts.trainable, counts.total)
    bottleneck = data_bottleneck(job, bottleneck, memory.peak_reserved_bytes)
    gpu = peak_of(topology, workload)
    result = Result(
        topology=describe_topology(topology),
        workload=describe_workload(workload, topology.world_size, counts.total),
        step=step,
        throughput=throughput,
        scaling=curve or Scaling("weak", topology.world_size, 1.0, ()),
        memory=memory,
        job=job_section(job),
        cost=cost_section(job, topology),
        energy=energy_section(job, throughput.model_flops_per_step),
        bottleneck=bottleneck,
        uncertainty={},
        warnings=(
            *(notes.warnings if notes else ()),
            *needed.warnings,
            *retry_warnings(outcome.breakdown, breakdown),
        ),
        assumptions=notes.assumptions() if notes else (),
        provenance={
            "attention_flops": "counted in full (not halved for the causal mask)",
            "peak": f"{gpu.dtype} dense, {gpu.gpu} datasheet",
            **{f"fallback {i}": text for i, text in enumerate(outcome.priced.fallbacks)},
            **_calibrated(topology),
        },
        inputs_hash=inputs_hash(topology, workload),
        model_version=__version__,
        detail={"variation": spread(varied, level, times)} if varied.needs_every_rank else {},
    )
    return replace(result, uncertainty=uncertainty(topology, workload, result))


def _calibrated(topology: Topology) -> dict[str, str]:
    """What was corrected by the cluster's own measurements."""
    known = topology.calibration
    if known is None:
        return {}
    moved = [f"{n} x {getattr(known, n):.3g}" for n in CONSTANTS if getattr(known, n) != 1.0]
    return {"calibration": ", ".join(moved) or "none of its constants differs from 1"}


def inputs_hash(topology: Topology, workload: Workload) -> str:
    """SHA-256 of the two specs, resolved; equal inputs give equal hashes."""
    text = json.dumps(
        [topology.model_dump(mode="json"), workload.model_dump(mode="json")], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def step_section(b: Breakdown) -> Step:
    """The step as the document shows it; `breakdown` adds up to the time."""
    parts = {**b.kernels, "exposed_communication": b.exposed_s, "copies": b.copy_s}
    parts["host"] = b.time_s - sum(parts.values())
    return Step(
        time_s=b.time_s,
        compute_s=b.compute_s,
        communication_s=b.communication_s,
        exposed_communication_s=b.exposed_s,
        optimizer_s=b.kernels.get("optimizer", 0.0),
        host_s=b.host_s,
        overlap_slowdown_s=b.slowdown_s,
        breakdown=parts,
        exposed=b.exposed,
        collectives=b.collectives,
    )


def memory_section(topology: Topology, workload: Workload) -> Memory:
    """Bytes per GPU as the document shows them."""
    return _memory(memory_report(topology, workload))


def _memory(report: MemoryReport) -> Memory:
    return Memory(
        peak_allocated_bytes=report.peak_allocated_bytes,
        peak_reserved_bytes=report.peak_reserved_bytes,
        capacity_bytes=report.capacity_bytes,
        fits=report.fits,
        peak_moment=report.peak_moment,
        by_category=report.terms,
        by_moment=report.by_moment,
        host_bytes_per_node=report.host_bytes,
        host_capacity_bytes=report.host_capacity_bytes,
    )


def throughput_section(topology: Topology, workload: Workload, step_s: float) -> Throughput:
    """Rates of the job on all its GPUs."""
    world = topology.world_size
    tokens = tokens_per_step(topology, workload)
    flops = token_flops(
        workload.model, workload.sequence_length, workload.method,
        workload.activation_checkpointing,
    )  # fmt: skip
    peak = peak_of(topology, workload)
    per_gpu = tokens / step_s / world
    return Throughput(
        tokens_per_s=tokens / step_s,
        tokens_per_s_per_gpu=per_gpu,
        tflops_per_gpu=per_gpu * flops.model / 1e12,
        mfu=per_gpu * flops.model / peak.flops_per_s,
        hfu=per_gpu * flops.hardware / peak.flops_per_s,
        peak_flops_per_s=peak.flops_per_s,
        peak_dtype=peak.dtype,
        model_flops_per_step=flops.model * tokens,
        hardware_flops_per_step=flops.hardware * tokens,
    )


def tokens_per_step(topology: Topology, workload: Workload) -> float:
    """Tokens of the global batch."""
    ranks = topology.world_size // workload.parallelism.context_parallel
    per_rank = workload.micro_batch * workload.gradient_accumulation * workload.sequence_length
    return float(per_rank * ranks)


def at_nodes(
    topology: Topology, workload: Workload, nodes: int
) -> tuple[Topology, Workload] | None:
    """The same job per GPU on another number of nodes; None where it cannot be run there."""
    p = workload.parallelism
    moved = topology.model_copy(update={"nodes": nodes})
    world = moved.world_size
    replicate, shard = p.replicate, p.shard
    if shard is not None:
        replicate = world // shard
        if replicate * shard != world:
            return None
    elif replicate > 1:
        # groups keep their size, so there are more or fewer of them
        size = topology.world_size // replicate
        replicate = max(1, world // size)
    update = {"parallelism": p.model_copy(update={"replicate": replicate}), "global_batch": None}
    job = workload.model_copy(update=update)
    if any(finding.error for finding in check(moved, job)):  # no NICs, groups that do not divide
        return None
    return moved, job


def _pressed(breakdown: Breakdown, workload: Workload, memory: Memory) -> Breakdown:
    return with_retries(breakdown, workload, memory.peak_reserved_bytes, memory.capacity_bytes)


def _scaling(
    topology: Topology, workload: Workload, own: Breakdown | None, own_fits: bool, engine: str
) -> Scaling | None:
    if topology.graph is not None:
        return None
    points: dict[int, tuple[Topology, Workload, Breakdown, bool]] = {}
    for nodes in sorted({*CURVE_NODES, topology.nodes}):
        moved = at_nodes(topology, workload, nodes)
        if moved is None:
            continue
        if nodes == topology.nodes and own is not None:
            points[nodes] = (*moved, own, own_fits)
            continue
        memory = memory_section(*moved)
        breakdown = _pressed(quick_breakdown(*moved, engine=engine), moved[1], memory)
        points[nodes] = (*moved, breakdown, memory.fits)
    fitting = [n for n, point in points.items() if point[3]]
    base = min(fitting or points)
    base_top, base_job, base_step, _ = points[base]
    base_rate = tokens_per_step(base_top, base_job) / base_step.time_s / base_top.world_size
    curve = []
    for nodes, (top, job, b, fits) in points.items():
        tokens = tokens_per_step(top, job)
        rate = tokens / b.time_s / top.world_size
        free = tokens / (b.time_s - b.exposed_s) / top.world_size
        curve.append(
            ScalingPoint(
                nodes=nodes,
                gpus=top.world_size,
                step_time_s=b.time_s,
                tokens_per_s=tokens / b.time_s,
                efficiency=rate / base_rate,
                ideal_efficiency=free / base_rate,
                exposed_communication_s=b.exposed_s,
                fits=fits,
            )
        )
    mine = next(p.efficiency for p in curve if p.nodes == topology.nodes)
    return Scaling("weak", base_top.world_size, mine, tuple(curve))


def _pace(topology: Topology, workload: Workload, memory: Memory) -> float:
    """Seconds per token of a candidate."""
    step = _pressed(quick_breakdown(topology, workload, rough=True), workload, memory)
    return step.time_s / tokens_per_step(topology, workload)


def _job(
    topology: Topology, workload: Workload, step: Step, trainable: int, total: int
) -> JobReport | None:
    fabric = compile_fabric(topology)
    link = fabric.offload_route(0, "to-host")
    network = link
    if fabric.n_nodes > 1:
        network = fabric.route(fabric.n_ranks - 1, 0)
    flops = token_flops(
        workload.model, workload.sequence_length, workload.method,
        workload.activation_checkpointing,
    )  # fmt: skip
    return plan_job(
        topology, workload, step.time_s, step.breakdown, trainable, total,
        network_bytes_per_s=fabric.bandwidth(network),
        host_link_bytes_per_s=fabric.bandwidth(link),
        gpu=fabric.gpu(0),
        forward_share=flops.forward / flops.hardware,
    )  # fmt: skip
