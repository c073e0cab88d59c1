"""How a job is cut over the GPUs of a machine: its mesh and its batch, from what the user wrote."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from math import gcd
from operator import mul

from sim.errors import InputError
from sim.inputs.rows import real_length
from sim.inputs.strategy import strategy_named
from sim.inputs.topology import Topology
from sim.inputs.workload import Parallelism, Workload
from sim.mesh import Batch, Mesh

_SOURCE = "workload"


def mesh_of(topology: Topology, workload: Workload) -> Mesh:
    """The mesh of a job on all GPUs of a machine (see `mesh_on`)."""
    return mesh_on(workload, topology.world_size, topology.gpus_per_node)


def mesh_on(workload: Workload, world: int, gpus_per_node: int | None = None) -> Mesh:
    """The mesh of a job on some number of GPUs.

    Parameters
    ----------
    workload : Workload
        ``parallelism`` is read. ``shard`` may count the ranks of a shard group with their
        context-parallel partners or without.
    world : int
        Ranks in all.
    gpus_per_node : int, optional
        GPUs of a node, or what divides all where nodes differ; None for a single node.

    Raises
    ------
    InputError
        If the sizes that the workload gives are not the world.
    """
    return _mesh(workload.parallelism, world, gpus_per_node)


@lru_cache(maxsize=512)
def _mesh(p: Parallelism, world: int, gpus_per_node: int | None) -> Mesh:
    cp, tp, replicate = p.context_parallel, p.tensor_parallel, p.replicate
    own = p.sharing
    if world % own:
        axes = ("context_parallel", "tensor_parallel", "pipeline_parallel")
        sizes = list(accumulate((getattr(p, axis) for axis in axes), mul))
        axis, size = next((a, n) for a, n in zip(axes, sizes, strict=True) if world % n)
        message = f"{world} ranks do not divide into groups of {size}"
        raise InputError.single(_SOURCE, message, f"parallelism.{axis}")
    if strategy_named(p.strategy).replicates(p):
        replicate, shard = world // own, 1
    elif p.shard is None:
        shard = world // replicate // own
    else:
        shard = p.shard if p.shard * replicate * own == world else p.shard // cp
    if shard * replicate * own != world:
        given = world // replicate if p.shard is None else p.shard
        message = f"{given} ranks a shard group x {replicate} replicas is not the world of {world}"
        raise InputError.single(_SOURCE, message, "parallelism.replicate")
    ep = p.expert_parallel
    if shard * cp * tp % ep:
        message = f"{shard * cp * tp} ranks of a replica cannot be divided among {ep} with experts"
        raise InputError.single(_SOURCE, message, "parallelism.expert_parallel")
    return Mesh(
        pp=p.pipeline_parallel, dp_replicate=replicate, dp_shard=shard, cp=cp, tp=tp, ep=ep,
        gpus_per_node=gcd(world, gpus_per_node) if gpus_per_node else None,
    )  # fmt: skip


def batch_of(topology: Topology, workload: Workload) -> Batch:
    """What a job computes in a step on all GPUs of a machine."""
    return batch_on(workload, topology.world_size)


def batch_on(workload: Workload, world: int = 1) -> Batch:
    """What a job computes in a step on some number of GPUs.

    Left-over GPUs that make no group of ranks that share sequences read nothing; fewer than one
    group are counted as one: without `world`, the batch is that of a single data-parallel rank.
    """
    p = workload.parallelism
    real = None if workload.data.packing is True else real_length(workload)
    return Batch(
        workload.sequence_length, workload.micro_batch, workload.gradient_accumulation,
        p.context_parallel, max(1, world // p.sharing), real,
        split=p.tensor_parallel * p.pipeline_parallel,
    )  # fmt: skip
