"""Changes worth trying in how a job is spread: what ranks share, hold and say to each other."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import Any

from sim.inputs.checks import ONE_GPU
from sim.inputs.dtypes import reduce_dtype
from sim.inputs.modelling import ASYNC, WIDE, tensor_style
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.trainer import reduces_each, trainer_of
from sim.inputs.workload import Workload
from sim.memory.report import machine, memory
from sim.result.change import Change, Maker
from sim.strategies.pipeline_play import received_bytes

#: tokens of a sequence from which splitting it over GPUs is worth a try
LONG = 16384
#: share of a GPU that a pipeline's messages may take, both ways, before fewer are proposed
MESSAGES = 0.25


def spread(topology: Topology, workload: Workload) -> Iterator[Change]:
    """All of them that may apply to a job, unchecked."""
    yield from _communication(topology, workload)
    yield from _experts(topology, workload)
    yield from _paths(topology, workload)
    yield from _sharding(topology, workload)
    yield from _messages(topology, workload)


def _communication(topology: Topology, workload: Workload) -> Iterator[Change]:
    make, p = Maker(topology, workload), workload.parallelism
    strategy = strategy_of(workload)
    staged = p.pipeline_parallel > 1  # a stage gathers and reduces once a step, whatever is said
    if strategy.gathers_blocks:
        nodes = topology.node_count
        alike = nodes * topology.gpus_per_node == topology.world_size
        if nodes > 1 and alike and p.replicate == 1 and "replicate" in strategy.knobs:
            text = "HSDP: shard within a node, replicate across"
            yield make.parallel("faster", text, "waits", replicate=nodes)
        several = workload.gradient_accumulation > 1 and not staged
        if several and "gradient_sync" in strategy.knobs:
            if reduces_each(workload):
                text = "reduce gradients in the last micro-step only"
                yield make.parallel("faster", text, "waits", gradient_sync="last")
            else:
                text = "reduce gradients in every micro-step"
                yield make.parallel("smaller", text, gradient_sync="every")
        if "reduce_dtype" in strategy.knobs and reduce_dtype(workload) == "fp32":
            yield make.parallel("faster", "reduce gradients in bf16", "waits", reduce_dtype="bf16")
    if tensor_style(workload) == "dtensor" and workload.model.hidden_size >= WIDE:
        text = "products in pieces beside their exchanges"
        yield make.parallel("faster", text, "waits", tensor_parallel_style=ASYNC)
    if tensor_style(workload) and "tp_comm_overlap" in strategy.knobs and not p.tp_comm_overlap:
        text = "exchanges of tensor-parallel ranks beside products (userbuffers)"
        yield make.parallel("faster", text, "waits", tp_comm_overlap=True)
    if "peft" in strategy.wraps and p.wrap == "peft":
        text = "adapters in the unit of their block"
        one: dict[str, Any] = {} if p.use_orig_params else {"use_orig_params": True}
        yield make.parallel("faster", text, wrap="block+root", **one)
    elif "peft" in strategy.wraps and workload.method.adapted:
        text = "adapters in units of their own: frozen weights have no gradients"
        yield make.parallel("both", text, wrap="peft")
    if "reshard_after_forward" in strategy.knobs and not staged:
        if p.reshard_after_forward is True:
            text = "keep parameters gathered between passes"
            yield make.parallel("faster", text, "waits", reshard_after_forward=False)
        if not p.reshard_after_forward:
            yield make.parallel("smaller", "reshard after forward", reshard_after_forward=True)


def _experts(topology: Topology, workload: Workload) -> Iterator[Change]:
    """Where a mixture's experts are, and how tokens get there."""
    make, m, p = Maker(topology, workload), workload.model, workload.parallelism
    if not m.experts or not strategy_of(workload).expert_parallel:
        return
    if p.expert_parallel == 1:
        near = gcd(m.experts, topology.gpus_per_node)
        if near > 1:
            text = f"experts over {near} GPUs of a node"
            yield make.parallel("both", text, expert_parallel=near)
        return
    if p.expert_dispatch != "deepep":
        text = "DeepEP: a token once to each GPU that has experts of it"
        yield make.parallel("faster", text, "waits", expert_dispatch="deepep")
    if p.reduce_scatter_max_input_buffers == 1:
        text = "gradients of experts reduced beside those of the rest"
        yield make.parallel("faster", text, "waits", reduce_scatter_max_input_buffers=2)


def _paths(topology: Topology, workload: Workload) -> Iterator[Change]:
    """NCCL's paths through registered buffers, where a collective stays in a node; no checks."""
    if topology.world_size == 1:
        return
    make = Maker(topology, workload)
    if workload.stack.distributed_debug != "off":
        stack = workload.stack.model_copy(update={"distributed_debug": "off"})
        text = "collectives on which ranks do not agree first"
        yield make.spelt("faster", {"stack.distributed_debug": "off"}, text, stack=stack)
    for path, text in _NCCL_PATHS.items():
        if path != workload.stack.nccl_path:
            stack = workload.stack.model_copy(update={"nccl_path": path})
            yield make.spelt(
                "faster", {"stack.nccl_path": path}, text, shortens="waits", stack=stack
            )


_NCCL_PATHS = {
    "registered": "buffers registered with NCCL: NVLS on a few SMs",
    "symmetric": "NCCL's symmetric kernels",
    "copy-engine": "gathers by copy engines, no SM",
}


def _sharding(topology: Topology, workload: Workload) -> Iterator[Change]:
    make, p = Maker(topology, workload), workload.parallelism
    strategy = strategy_of(workload)
    if machine(topology)[1] == 1 and not strategy.spreads_as and p.offload == "none":
        text = "no strategy: on one GPU there is nothing to shard or exchange"
        yield make.spelt("faster", {"parallelism": "single"}, text, parallelism=ONE_GPU)
    apart = "torchtitan" in strategy.wraps and not workload.model.tied_embeddings
    if apart and p.wrap == "block+root":
        yield make.parallel(
            "smaller", "embedding and head in units of their own", wrap="torchtitan"
        )
    twice = 2 * p.context_parallel
    divides = machine(topology)[1] % twice == 0 and workload.sequence_length % twice == 0
    if strategy.context_parallel and divides and workload.sequence_length >= LONG:
        kinds = strategy.context_kinds
        lacks = p.context_parallel_kind not in kinds
        kind = {"context_parallel_kind": kinds[0]} if lacks else {}
        text = f"sequences over {twice} GPUs"
        yield make.parallel("smaller", text, context_parallel=twice, **kind)
    # DeepSpeed steps what is on the host by its own Adam, of 32 bits, and refuses others
    if workload.optimizer == "adamw" and not (strategy.deepspeed and p.offload != "none"):
        yield make.job("smaller", "8-bit AdamW", optimizer="adamw-8bit")
    able = strategy.steps_in_backward and trainer_of(workload).steps_in_backward
    if able and not workload.optimizer_in_backward and not workload.method.frozen:
        unclipped = {"parallelism.clip_gradients": False} if p.clip_gradients else {}
        yield make.spelt(
            "smaller", {"optimizer_in_backward": True, **unclipped},
            "optimizer within backward, its gradients freed", trains=p.clip_gradients,
            optimizer_in_backward=True, parallelism=p.model_copy(update={"clip_gradients": False}),
        )  # fmt: skip
    if other := strategy.shards_more:
        yield make.parallel("smaller", f"shard parameters ({other})", strategy=other)
    if p.offload == "none":
        if "optimizer" in strategy.offloads:
            yield make.parallel("smaller", "optimizer in host memory", offload="optimizer")
        if "all" in strategy.offloads:
            text = "parameters and optimizer in host memory"
            yield make.parallel("smaller", text, offload="all")
    else:
        default = {"offload_device": "cpu"} if p.offload_device != "cpu" else {}
        yield make.parallel("both", "nothing in host memory", offload="none", **default)
        if p.offload == "all" and "optimizer" in strategy.offloads:
            text = "the optimizer alone in host memory"
            yield make.parallel("both", text, offload="optimizer")
        moves = "nvme" in strategy.offload_devices and p.offload_device == "cpu"
        if moves and memory(topology, workload).verdict.host_decides:
            text = "what is offloaded on NVMe, not in host memory"
            yield make.parallel("smaller", text, offload_device="nvme")
    if _grows(topology, workload):
        nodes = 2 * topology.nodes
        more = topology.model_copy(update={"nodes": nodes})
        yield Change({"nodes": nodes}, "twice the nodes", more, workload, "smaller")


def _messages(topology: Topology, workload: Workload) -> Iterator[Change]:
    """Fewer micro-batches a pipeline, whose stages hold the messages of all until the step ends."""
    room = MESSAGES * min(gpu.memory for gpu in topology.gpu_counts)
    times, steps = 1, workload.gradient_accumulation
    while 2.0 * received_bytes(workload) / times > room and steps % (2 * times) == 0:
        times *= 2
    if times == 1:
        return
    make, fewer = Maker(topology, workload), steps // times
    update: dict[str, Any] = {"gradient_accumulation": fewer}
    if workload.global_batch is not None:
        update["global_batch"] = workload.global_batch // times
    text = f"{fewer:,} micro-batches a step in place of {steps:,}, a smaller global batch"
    yield make.spelt("smaller", update, text, trains=True, **update)
    if _grows(topology, workload):
        nodes = {"nodes": times * topology.nodes}
        job = workload.model_copy(update={"gradient_accumulation": fewer})
        text = f"{times} x the nodes, same global batch: {fewer:,} micro-batches a pipeline"
        settings = nodes | {"gradient_accumulation": fewer}
        yield Change(settings, text, topology.model_copy(update=nodes), job, "smaller")


def _grows(topology: Topology, workload: Workload) -> bool:
    """Whether a job runs as it is on more of the same nodes."""
    nics = topology.node.nics if topology.node is not None else None
    return nics is not None and nics.count > 0 and workload.parallelism.shard is None
