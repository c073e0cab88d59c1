"""The whole job in closed form: what `plan_job` simulates, for sweeps and searches.

Wall-clock is steps x the slower of step and input pipeline, divided by the goodput that failures
and checkpoints leave on average (`expected_goodput`); `plan_job` gives quantiles by simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.fabric import compile_fabric
from sim.job.checkpoints import checkpoint_cost, expected_goodput
from sim.job.cost import Cost, total_cost
from sim.job.energy import Energy, job_energy
from sim.job.pipeline import Pipeline
from sim.job.plan import checkpoint_bytes, job_steps, reliability
from sim.model.tree import count_parameters
from sim.spec.topology import Topology
from sim.spec.workload import Workload


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """Expected figures of a whole job.

    Attributes
    ----------
    steps, tokens
        Length of the job.
    pace_s : float
        A step with waiting for data. [s]
    wall_s : float
        Expected wall-clock. [s]
    goodput : float
        Share of it that is not spent on checkpoints, failures and lost work.
    checkpoint_blocking_s : float
        One save. [s]
    cost : Cost or None
        None without a price.
    energy : Energy
        Of all nodes.
    """

    steps: int
    tokens: float
    pace_s: float
    wall_s: float
    goodput: float
    checkpoint_blocking_s: float
    cost: Cost | None
    energy: Energy


def estimate_job(
    topology: Topology, workload: Workload, step_s: float, breakdown: dict[str, float]
) -> JobEstimate | None:
    """Expected wall-clock, cost and energy of a job.

    Parameters
    ----------
    topology, workload : specs
        Machine and job.
    step_s : float
        An optimizer step that never waits for data. [s]
    breakdown : dict of str to float
        Its parts, for the power model. [s]

    Returns
    -------
    JobEstimate or None
        None if the workload states no length.
    """
    fabric = compile_fabric(topology)
    world = topology.world_size
    length = job_steps(workload, world)
    if length is None:
        return None
    steps, tokens = length
    node = topology.node
    nodes = topology.node_count
    gpus = max(1, world // nodes)
    read, write = (node.storage.read, node.storage.write) if node else (10e9, 5e9)
    data = workload.data
    pipeline = Pipeline(
        data.workers,
        workload.micro_batch * workload.gradient_accumulation * workload.sequence_length
        / workload.parallelism.context_parallel,
        data.preprocess_tokens_per_s_per_worker, data.bytes_per_token, read / gpus,
    )  # fmt: skip
    pace = max(step_s, pipeline.bound_s())
    host = fabric.bandwidth(fabric.offload_route(0, "to-host"))
    network = fabric.bandwidth(fabric.route(fabric.n_ranks - 1, 0)) if nodes > 1 else host
    counts = count_parameters(workload.model, workload.method)
    save = checkpoint_cost(
        checkpoint_bytes(workload, counts.trainable, counts.total), nodes, gpus,
        sharded=workload.checkpoint.mode == "sharded",
        asynchronous=workload.checkpoint.asynchronous, host_link_bytes_per_s=host,
        storage_write_bytes_per_s=write, storage_read_bytes_per_s=read,
        gather_bytes_per_s=network,
    )  # fmt: skip
    rates = reliability()
    mtbf_s = 86400.0 / (nodes * rates["node_failures_per_node_day"])
    busy = steps * pace
    # a job shorter than the interval saves nothing and starts over after a failure
    interval = workload.checkpoint.interval or math.inf
    segment, blocking = (interval, save.blocking_s) if interval < busy else (busy, 0.0)
    restart = rates["detect_s"] + rates["restart_s"] + save.read_s
    goodput = expected_goodput(segment, blocking, restart, mtbf_s)
    wall = busy / goodput
    offer = topology.offer
    cost = None
    if offer is not None and offer.price_per_gpu_hour is not None:
        cost = total_cost(
            offer.price_per_gpu_hour, world, wall, egress_gb=save.size_bytes / 1e9,
            egress_usd_per_gb=offer.egress_per_gb, tokens=tokens,
        )  # fmt: skip
    energy = job_energy(
        breakdown, fabric.gpu(0).power_limit, nodes=nodes, gpus_per_node=gpus,
        busy_s=steps * step_s, wall_s=wall, region=offer.region if offer else "",
    )  # fmt: skip
    return JobEstimate(steps, tokens, pace, wall, goodput, save.blocking_s, cost, energy)
