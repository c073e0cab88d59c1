"""Topology and workload as the result names them."""

from __future__ import annotations

from typing import NamedTuple

from sim.blocks.tree import count_parameters
from sim.fabric import compile_fabric
from sim.inputs.shares import batch_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.result.result import TopologySection, WorkloadSection


class Peak(NamedTuple):
    """The dense peak that MFU refers to."""

    gpu: str
    dtype: str
    flops_per_s: float


def peak_of(topology: Topology, workload: Workload) -> Peak:
    """Dense datasheet peak of the job's dtype; FP8 jobs are held against the FP8 peak."""
    gpu = compile_fabric(topology).gpu(0)
    kind = workload.precision.kind
    chain = {
        "fp8": (("fp8", gpu.peak_fp8), ("bf16", gpu.peak_bf16)),
        "bf16": (("bf16", gpu.peak_bf16), ("fp16", gpu.peak_fp16)),
        "fp16": (("fp16", gpu.peak_fp16),),
        "fp32": (("tf32", gpu.peak_tf32),),
    }[kind]
    for dtype, peak in chain:
        if peak:
            return Peak(gpu.name, dtype, peak)
    return Peak(gpu.name, "fp32", gpu.peak_fp32)


def topology_section(topology: Topology) -> TopologySection:
    """Name, size, GPU and price of a machine."""
    fabric = compile_fabric(topology)
    gpu = fabric.gpu(0).name
    nodes = fabric.n_nodes
    per_node = len(fabric.ranks_of(0))
    offer = topology.offer
    return TopologySection(
        name=topology.name,
        title=f"{nodes} {'node' if nodes == 1 else 'nodes'} x {per_node} {gpu}",
        nodes=nodes,
        gpus=fabric.n_ranks,
        gpu=gpu,
        price_per_gpu_hour_usd=offer.price_per_gpu_hour if offer else None,
        provider=offer.provider if offer else None,
    )


def workload_section(workload: Workload, world: int, parameters: int) -> WorkloadSection:
    """Name, method, batch arithmetic of a job on `world` GPUs."""
    batch = batch_on(workload, world)
    method = workload.method
    how = "full" if method.kind == "full" else f"{method.kind} r{method.rank}"
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
    name = {"fsdp1": "FSDP1", "fsdp2": "FSDP2", "ddp": "DDP"}.get(
        p.strategy, f"ZeRO-{p.strategy[-1]}"
    )
    if p.replicate > 1:
        name = f"HSDP ({name}, {p.replicate} replicas)"
    if p.context_parallel > 1:
        name += f", context parallel {p.context_parallel}"
    if p.offload != "none":
        name += f", {p.offload} offloaded to {p.offload_device}"
    ac = workload.activation_checkpointing.kind
    return name if ac == "none" else f"{name}, {ac} checkpointing"


def _precision(workload: Workload) -> str:
    p = workload.precision
    return f"fp8 {p.recipe}" if p.kind == "fp8" else p.kind
