"""Batch arithmetic of a job on a machine, and the same job on another number of nodes."""

from __future__ import annotations

from sim.inputs.checks import check
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload


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
