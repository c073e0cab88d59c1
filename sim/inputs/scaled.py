"""The same job on another number of nodes: the same work a GPU, or the same in all."""

from __future__ import annotations

from sim.inputs.checks import check
from sim.inputs.shares import batch_of
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Workload


def spread(workload: Workload, world: int) -> Workload:
    """The job on some number of GPUs: under another strategy if its own is for one alone.

    It keeps its trainer, and so the code of its model and how experts run in it, whatever the other
    strategy mostly runs under.
    """
    other = strategy_of(workload).spreads_as
    if world < 2 or not other:
        return workload
    knobs = workload.parallelism.model_copy(update={"strategy": other})
    return workload.model_copy(update={"parallelism": knobs, "trainer": trainer_of(workload).name})


def at_nodes(
    topology: Topology, workload: Workload, nodes: int
) -> tuple[Topology, Workload] | None:
    """The same job per GPU on another number of nodes; None where it cannot be run there.

    An edited graph is the machine at its own number of nodes, the shorthand beside it at others.
    """
    p = workload.parallelism
    own = topology.graph if nodes == topology.nodes else None
    moved = topology.model_copy(update={"nodes": nodes, "graph": own})
    replicate = p.replicate
    if p.shard is not None or replicate > 1:
        # groups keep their size, so there are more or fewer of them
        replicate, rest = divmod(moved.world_size * replicate, topology.world_size)
        if p.shard is not None and rest:
            return None
        replicate = max(1, replicate)
    update = {"parallelism": p.model_copy(update={"replicate": replicate}), "global_batch": None}
    job = spread(workload.model_copy(update=update), moved.world_size)
    if any(finding.error for finding in check(moved, job)):  # no NICs, groups that do not divide
        return None
    return moved, job


def at_batch(
    topology: Topology, workload: Workload, nodes: int
) -> tuple[Topology, Workload] | None:
    """The same job with the same global batch on another number of nodes.

    Micro-batches are as large as they were where they divide the batch, else the largest smaller
    ones that do. None where there is not a sequence for every rank, or it cannot be run there.
    """
    moved = at_nodes(topology, workload, nodes)
    if moved is None:
        return None
    machine, job = moved
    each, rest = divmod(batch_of(topology, workload).sequences, batch_of(*moved).data_parallel)
    if rest or not each:
        return None
    size = max(n for n in range(1, min(workload.micro_batch, each) + 1) if each % n == 0)
    update = {"micro_batch": size, "gradient_accumulation": each // size}
    job = job.model_copy(update=update)
    return None if any(finding.error for finding in check(machine, job)) else (machine, job)
