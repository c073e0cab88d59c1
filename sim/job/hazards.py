"""What may happen to a job on a machine: failures, domains, reclaimed nodes, paces that differ."""

from __future__ import annotations

import math
from functools import cache

from sim.data import table
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.checkpoints import CheckpointCost
from sim.job.pipeline import Stall
from sim.job.spec import Domain, JobSpec
from sim.step.breakdown import Breakdown
from sim.step.variation import usual_ranks


@cache
def reliability() -> dict[str, float]:
    """Failure and restart figures with their sources in ``data/constants/reliability.toml``."""
    rows = table("constants/reliability")
    return {key: float(value["value"]) for key, value in rows.items()}


def mean_time_between_failures(topology: Topology) -> float:
    """Of the whole machine, failure domains apart; inf where failures are switched off. [s]

    Failures of GPUs and of nodes add up: 1/M = GPUs / M_gpu + nodes / M_node.
    """
    r, known = topology.reliability, reliability()
    if not r.failures:
        return math.inf
    gpus, nodes = max(1, topology.world_size), max(1, topology.node_count)
    rate = gpus / (r.gpu_mtbf or known["gpu_mtbf_s"]) + nodes / (
        r.node_mtbf or known["node_mtbf_s"]
    )
    return 1.0 / rate


def domains_of(topology: Topology) -> tuple[Domain, ...]:
    """Racks, switches and the like that take their nodes down with them.

    As many of a kind as the job's nodes fill; the last may hold fewer of them, and counts whole.
    """
    r, nodes = topology.reliability, max(1, topology.node_count)
    if not r.failures:
        return ()
    return tuple(
        Domain(
            d.name, min(d.nodes, nodes), d.mtbf / math.ceil(nodes / d.nodes),
            _given(d.repair if d.repair is not None else r.repair, "repair_s"),
        )
        for d in r.domains
    )  # fmt: skip


def _given(value: float | None, default: str) -> float:
    return reliability()[default] if value is None else value


def pace_spread(topology: Topology, step: Breakdown) -> float:
    """Relative standard deviation of a job's mean pace from run to run.

    Notes
    -----
    Each run gets other boards and hosts, and goes as the slowest of them: half the way from the
    16th to the 84th percentile of its kernels, beside what equal machines still differ by.
    """
    ranks = usual_ranks(step, max(topology.gpu_counts.values()))
    own = step.compute_s - step.waiting_s
    slowest = 0.5 * (ranks.slowdown_at(0.8413) - ranks.slowdown_at(0.1587)) * own / step.time_s
    return math.hypot(reliability()["run_to_run_spread"], slowest)


def job_spec(
    topology: Topology,
    workload: Workload,
    steps: int,
    stall: Stall,
    save: CheckpointCost,
    copy: CheckpointCost | None,
    evaluation_s: float,
    setup_s: float,
    step: Breakdown,
) -> JobSpec:
    """What the simulation of the whole job needs, from keys and their defaults."""
    r, offer, known = topology.reliability, topology.offer, reliability()
    preemption_s, wait_s, notice_s = math.inf, 0.0, 0.0
    if offer is not None and offer.capacity == "spot":
        per_node = offer.preemption_mtbf or known["preemption_mtbf_s"]
        preemption_s = per_node / max(1, topology.node_count)
        wait_s = _given(offer.preemption_wait, "preemption_wait_s")
        notice_s = offer.preemption_notice
    interval, between = workload.checkpoint.interval, workload.checkpoint.memory_interval
    spares = r.spare_nodes
    if spares is None and r.least_nodes is not None:
        spares = 0  # who goes on with fewer nodes does not get others at once
    return JobSpec(
        steps=steps,
        step_s=stall.step_s,
        stall_s=stall.stall_s,
        spread=pace_spread(topology, step) if r.pace_spread is None else r.pace_spread,
        interval_s=interval if interval else math.inf,
        blocking_s=save.blocking_s,
        durable_s=save.write_s,
        memory_interval_s=between if copy and between else math.inf,
        memory_blocking_s=copy.blocking_s if copy else 0.0,
        memory_durable_s=copy.write_s if copy else 0.0,
        memory_load_s=copy.read_s if copy else 0.0,
        peers=workload.checkpoint.peers,
        nodes=max(1, topology.node_count),
        mtbf_s=mean_time_between_failures(topology),
        detect_s=_given(r.detect, "detect_s"),
        restart_s=_given(r.restart, "restart_s"),
        load_s=save.read_s,
        warm_restart_s=r.warm_restart,
        repair_s=_given(r.repair, "repair_s"),
        repair_share=known["repair_share"],
        domains=domains_of(topology),
        spares=spares,
        least_nodes=r.least_nodes or 0,
        preemption_s=preemption_s,
        preemption_wait_s=wait_s,
        preemption_notice_s=notice_s,
        evaluation_every=workload.evaluation.every if evaluation_s > 0.0 else 0,
        evaluation_s=evaluation_s,
        setup_s=setup_s,
    )
