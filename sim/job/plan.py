"""From a step and two specs to the whole job: data, checkpoints, failures, cost, energy."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sim.job.checkpoints import (
    CheckpointCost,
    checkpoint_cost,
    daly_interval,
    young_interval,
)
from sim.job.cost import Cost, total_cost
from sim.job.energy import Energy, job_energy
from sim.job.pipeline import Pipeline, Stall, simulate_stall
from sim.job.run import JobOutcome, JobSpec, simulate_job
from sim.spec.topology import Topology
from sim.spec.workload import Workload

STATE_BYTES = {"adamw": 8.0, "adamw-bf16": 4.0, "adamw-8bit": 2.04, "adafactor": 0.02, "sgd": 0.0}


@cache
def reliability() -> dict[str, float]:
    """Failure and restart figures with their sources in ``data/constants/reliability.toml``."""
    path = Path(__file__).parents[1] / "data" / "constants" / "reliability.toml"
    with path.open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)
    return {key: float(value["value"]) for key, value in table.items()}


@dataclass(frozen=True, slots=True)
class JobReport:
    """The whole job."""

    steps: int
    tokens: float
    stall: Stall
    save: CheckpointCost
    outcome: JobOutcome
    mtbf_s: float
    young_s: float | None
    daly_s: float | None
    cost: Cost | None
    energy: Energy


def job_steps(workload: Workload, world: int) -> tuple[int, float] | None:
    """Optimizer steps and tokens of the whole job, or None if its length is not given."""
    ranks = world // workload.parallelism.context_parallel
    sequences = workload.micro_batch * workload.gradient_accumulation * ranks
    per_step = float(sequences * workload.sequence_length)
    if workload.steps:
        return workload.steps, workload.steps * per_step
    tokens = workload.tokens
    if tokens is None and workload.samples:
        tokens = float(workload.samples * workload.sequence_length) * workload.epochs
    if tokens is None:
        return None
    steps = max(1, math.ceil(tokens / per_step - 1e-9))
    return steps, tokens


def checkpoint_bytes(workload: Workload, trainable: int, total: int) -> float:
    """What a resumable checkpoint holds: master weights and optimizer state. [B]

    LoRA and QLoRA save adapters only; the base comes from its own file.
    """
    master = 4.0 if workload.precision.master == "fp32" else 2.0
    numel = total if workload.method.kind == "full" else trainable
    return numel * (master + STATE_BYTES[workload.optimizer])


def plan_job(
    topology: Topology,
    workload: Workload,
    step_s: float,
    breakdown: dict[str, float],
    trainable: int,
    total: int,
    *,
    network_bytes_per_s: float,
    host_link_bytes_per_s: float,
    power_limit_w: float,
    replicas: int = 16,
    seed: int = 0,
) -> JobReport | None:
    """Simulate the whole job.

    Parameters
    ----------
    topology, workload : specs
        Machine and job.
    step_s : float
        One step that never waits for data. [s]
    breakdown : dict of str to float
        The step by kind, for energy. [s]
    trainable, total : int
        Parameters.
    network_bytes_per_s : float
        Rate at which one rank can receive from all others (full checkpoints). [B/s]
    host_link_bytes_per_s : float
        Device to host, per GPU. [B/s]
    power_limit_w : float
        Of one GPU. [W]
    replicas, seed : int
        Of the failure simulation.

    Returns
    -------
    JobReport or None
        None if the workload states no length.
    """
    world = topology.world_size
    length = job_steps(workload, world)
    if length is None:
        return None
    steps, tokens = length
    node = topology.node
    gpus = node.gpus if node else max(1, world)
    nodes = max(1, world // gpus)
    read, write = (node.storage.read, node.storage.write) if node else (10e9, 5e9)
    rates = reliability()
    per_rank = (
        workload.micro_batch * workload.gradient_accumulation * workload.sequence_length
        / workload.parallelism.context_parallel
    )  # fmt: skip
    data = workload.data
    pipeline = Pipeline(
        data.workers, per_rank, data.preprocess_tokens_per_s_per_worker, data.bytes_per_token,
        read / gpus,
    )  # fmt: skip
    stall = simulate_stall(pipeline, step_s)
    save = checkpoint_cost(
        checkpoint_bytes(workload, trainable, total), nodes, gpus,
        sharded=workload.checkpoint.mode == "sharded",
        asynchronous=workload.checkpoint.asynchronous,
        host_link_bytes_per_s=host_link_bytes_per_s,
        storage_write_bytes_per_s=write, storage_read_bytes_per_s=read,
        gather_bytes_per_s=network_bytes_per_s,
    )  # fmt: skip
    mtbf_s = 86400.0 / (nodes * rates["node_failures_per_node_day"])
    interval = workload.checkpoint.interval
    spec = JobSpec(
        steps=steps,
        step_s=stall.step_s,
        stall_s=stall.stall_s,
        spread=rates["run_to_run_spread"],
        interval_s=interval if interval else math.inf,
        blocking_s=save.blocking_s,
        durable_s=save.write_s,
        mtbf_s=mtbf_s,
        detect_s=rates["detect_s"],
        restart_s=rates["restart_s"],
        load_s=save.read_s,
    )
    outcome = simulate_job(spec, replicas, seed)
    wall = outcome.wall_p50_s
    offer = topology.offer
    cost = None
    if offer is not None and offer.price_per_gpu_hour is not None:
        out_gb = save.size_bytes / 1e9
        cost = total_cost(
            offer.price_per_gpu_hour, world, wall, egress_gb=out_gb,
            egress_usd_per_gb=offer.egress_per_gb, tokens=tokens,
        )  # fmt: skip
    energy = job_energy(
        breakdown, power_limit_w, nodes=nodes, gpus_per_node=gpus, busy_s=steps * step_s,
        wall_s=wall, region=offer.region if offer else "",
    )  # fmt: skip
    finite = save.blocking_s > 0
    return JobReport(
        steps=steps,
        tokens=tokens,
        stall=stall,
        save=save,
        outcome=outcome,
        mtbf_s=mtbf_s,
        young_s=young_interval(save.blocking_s, mtbf_s) if finite else None,
        daly_s=daly_interval(save.blocking_s, mtbf_s) if finite else None,
        cost=cost,
        energy=energy,
    )
