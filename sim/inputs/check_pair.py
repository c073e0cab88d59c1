"""Checks of a workload on a topology."""

from __future__ import annotations

from sim.data import table
from sim.inputs import check_mesh
from sim.inputs.architecture import facts_of, nvidia
from sim.inputs.check_rows import padding_said
from sim.inputs.check_workload import too_old
from sim.inputs.finding import Findings, fault, warning
from sim.inputs.gpu import Gpu
from sim.inputs.modelling import FLASH1_SINCE, FLASH_SINCE, stacks_experts
from sim.inputs.recipes import RECIPES
from sim.inputs.rows import with_kernels
from sim.inputs.shares import batch_of
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.versions import older, oldest_for
from sim.inputs.workload import Workload

_NO_EFFECT = "no-effect"  # of a key that changes nothing on this machine


def findings(topology: Topology, workload: Workload) -> Findings:
    """Every finding about a pair whose halves are sound."""
    for gpu in topology.gpu_counts:
        yield from _dtypes(gpu, workload)
        yield from _attention(gpu, workload)
        yield from _software(gpu, workload)
    yield from _groups_of_heads(topology, workload)
    yield from _alone(topology, workload)
    yield from _groups(topology, workload)
    yield from _batch(topology, workload)
    yield from padding_said(workload, topology.world_size)
    yield from _context(workload)
    yield from check_mesh.pair_findings(topology, workload)
    yield from _nvls(topology, workload)
    yield from _failures(topology, workload)


def _failures(t: Topology, w: Workload) -> Findings:
    nodes, peers, least = t.node_count, w.checkpoint.peers, t.reliability.least_nodes
    if peers >= nodes:
        message = f"{peers} other nodes are to hold copies, and there are {nodes - 1}"
        hint = "write fewer, or more nodes"
        yield fault("no-peers", "workload", "checkpoint.peers", message, hint)
    if least is not None and least > nodes:
        message = f"the job goes on with {least} nodes or more, and has {nodes}"
        hint = f"write {nodes} or less"
        yield fault("least-nodes", "topology", "reliability.least_nodes", message, hint)


def _dtypes(gpu: Gpu, w: Workload) -> Findings:
    kind = w.precision.kind
    if kind == "fp8" and gpu.peak_fp8 is None:
        message = f"{gpu.name} has no FP8"
        yield fault("no-fp8", "workload", "precision", message, "write bf16, or take Hopper or Ada")
    elif w.precision.recipe in RECIPES:
        yield from _recipe(gpu, w)
    if kind == "bf16" and gpu.peak_bf16 is None:
        message = f"{gpu.name} has no BF16"
        yield fault("no-bf16", "workload", "precision", message, "write fp16")
    if kind == "fp16" and gpu.peak_fp16 is None:
        yield fault("no-fp16", "workload", "precision", f"{gpu.name} has no FP16", "write bf16")
    if w.precision.tf32 and gpu.peak_tf32 is None:
        message = f"{gpu.name} has no TF32"
        yield fault("no-tf32", "workload", "precision.tf32", message, "leave it out")


def _recipe(gpu: Gpu, w: Workload) -> Findings:
    """A recipe whose kernels the GPU cannot run."""
    name, lacks = w.precision.recipe, ""
    recipe = RECIPES[name]
    first, end = recipe.capability
    if recipe.needs and not nvidia(gpu):
        lacks = f"its kernels are NVIDIA's, and {gpu.name} is not"
    elif not first <= gpu.compute_capability < end:
        lacks = f"{recipe.needs}; {gpu.name} has compute capability {gpu.compute_capability:g}"
    elif recipe.dtype == "fp4" and gpu.peak_fp4 is None:
        lacks = f"{gpu.name} states no peak_fp4"
    if lacks:
        message = f"{name} does not run on {gpu.name}: {lacks}"
        hint = "write bf16, or {fp8: {recipe: te-current}}" if gpu.peak_fp8 else "write bf16"
        yield fault("no-recipe", "workload", "precision", message, hint)


def _attention(gpu: Gpu, w: Workload) -> Findings:
    if w.precision.kind == "fp32" and w.attention in ("flash1", "flash2", "flash3", "cudnn", "te"):
        message = f"{w.attention} has no FP32"
        yield fault("attention-fp32", "workload", "attention", message, "write sdpa, or eager")
    if w.attention == "flash3" and "flash3" not in facts_of(gpu).attention:
        message = f"FlashAttention-3 runs on Hopper only, not on {gpu.name}"
        yield fault("flash3", "workload", "attention", message, "write flash2")
    if w.attention == "flash1" and gpu.compute_capability < FLASH1_SINCE:
        message = f"FlashAttention-1 needs Turing or newer, not {gpu.name}"
        yield fault("flash1", "workload", "attention", message, "write sdpa")
    if w.attention in ("flash2", "te") and gpu.compute_capability < FLASH_SINCE:
        message = f"FlashAttention-2 needs Ampere or newer, not {gpu.name}"
        yield fault("flash2", "workload", "attention", message, "write sdpa")
    if w.attention == "cudnn" and not (gpu.compute_capability >= 8.0 and nvidia(gpu)):
        message = f"cuDNN attention needs NVIDIA's Ampere or newer, not {gpu.name}"
        yield fault("cudnn", "workload", "attention", message, "write sdpa")


def _groups_of_heads(t: Topology, w: Workload) -> Findings:
    """PyTorch's own attention where it falls back on plain products."""
    if with_kernels(t, w).attention == w.attention:
        return
    old = [gpu.name for gpu in t.gpu_counts if gpu.compute_capability < FLASH_SINCE]
    why = f"FlashAttention does not run on {old[0]}" if old else "FlashAttention has no FP32"
    p = w.parallelism
    if p.context_parallel > 1 and p.context_parallel_kind == "ring":
        message = f"a ring needs a fused kernel, and sdpa asked for groups has none: {why}"
        hint = "write context_parallel_kind: all-gather or ulysses"
        yield fault("ring", "workload", "attention", message, hint)
        return
    message = (
        f"this code asks sdpa for groups of heads (enable_gqa), and {why}: products that keep all"
        f" {w.sequence_length} x {w.sequence_length} scores are taken, as eager has them"
    )
    hint = "code that repeats heads (stack.transformers: 4.53) has the memory-efficient kernel"
    yield warning("sdpa-groups", "workload", "attention", message, hint)


def _software(gpu: Gpu, w: Workload) -> Findings:
    minima = oldest_for(gpu)
    yield from too_old(w, gpu.name, minima, "write {need} or newer")
    dropped = minima.get("cuda_dropped")
    if dropped is not None and not older(w.stack.cuda, dropped):
        message = (
            f"CUDA {dropped} dropped {gpu.architecture} ({gpu.name}); stack says {w.stack.cuda}"
        )
        yield fault("too-new", "workload", "stack.cuda", message, "write 12.8 or older")


def _alone(t: Topology, w: Workload) -> Findings:
    strategy = strategy_of(w)
    if t.world_size == 1 and strategy.gathers_blocks and w.parallelism.offload == "none":
        message = (
            f"{strategy.title} shards nothing over one GPU: its copies and hooks are counted, which"
            " recipes of one GPU do without"
        )
        hint = "write parallelism: single, unless that is what runs"
        yield warning("shards-alone", "workload", "parallelism.strategy", message, hint)


def _groups(t: Topology, w: Workload) -> Findings:
    p, world = w.parallelism, t.world_size
    if world > 1 and (other := strategy_of(w).spreads_as):
        message = f"{p.strategy} trains on one GPU, and the machine has {world}"
        yield fault("one-gpu", "workload", "parallelism.strategy", message, f"write {other} or ddp")
        return
    taken = 1
    axes = ("replicate", "context_parallel", "tensor_parallel", "pipeline_parallel")
    for factor in axes:
        value = getattr(p, factor)
        taken *= value
        if world % taken == 0:
            continue
        beside = [f for f in axes[: axes.index(factor)] if getattr(p, f) > 1]
        product = "" if world % value else f" beside {' and '.join(beside)}"
        message = f"{value} does not divide {world} GPUs{product}"
        hint = f"divisors are {_divisors(world)}"
        yield fault("indivisible", "workload", f"parallelism.{factor}", message, hint)
        return
    world //= p.tensor_parallel * p.pipeline_parallel
    group = world // p.replicate
    if p.shard is not None and p.shard * p.replicate not in (world, world // p.context_parallel):
        message = f"shard {p.shard} x replicate {p.replicate} is not {world} GPUs"
        hint = f"write {group}, or leave it out"
        yield fault("shard", "workload", "parallelism.shard", message, hint)
    ranks = world // p.replicate * p.tensor_parallel
    if ranks % p.expert_parallel:
        message = f"{p.expert_parallel} does not divide the {ranks} GPUs of a replica and stage"
        hint = f"divisors are {_divisors(ranks)}"
        yield fault("indivisible", "workload", "parallelism.expert_parallel", message, hint)
    yield from _padding(w, group)
    reshard = p.reshard_after_forward
    if not isinstance(reshard, bool) and (reshard < 2 or group % reshard or reshard >= group):
        message = f"{reshard} does not divide the {group} GPUs of a shard group into smaller groups"
        hint = f"write true, false or one of {_divisors(group, proper=True) or 'none'}"
        yield fault("indivisible", "workload", "parallelism.reshard_after_forward", message, hint)
    hpz = p.zero_hpz_partition_size
    if t.world_size % hpz:
        message = f"{hpz} does not divide {t.world_size} GPUs"
        path = "parallelism.zero_hpz_partition_size"
        hint = f"divisors are {_divisors(t.world_size)}"
        yield fault("indivisible", "workload", path, message, hint)


def _padding(w: Workload, ranks: int) -> Findings:
    """Experts in one parameter are sharded by experts, and padded where ranks are more."""
    m, p = w.model, w.parallelism
    one = stacks_experts(w) and not w.method.frozen
    if not one or p.expert_parallel > 1 or strategy_of(w).fsdp_version != 2:
        return
    padded = -(-m.experts // ranks) * ranks
    if padded > m.experts:
        message = (
            f"{m.experts} experts sharded over {ranks} GPUs are padded to {padded}: each holds and "
            f"gathers {padded / m.experts:.3g} times their parameters"
        )
        hint = "set parallelism.expert_parallel, which shards within an expert"
        path = "parallelism.expert_parallel"
        yield warning("expert-padding", "workload", path, message, hint)


def _divisors(n: int, proper: bool = False) -> str:
    found = [
        d
        for d in range(2 if proper else 1, min(n, 4096) + 1)
        if n % d == 0 and d < n + (not proper)
    ]
    shown = found if len(found) <= 8 else [*found[:7], "..."]
    return ", ".join(map(str, shown))


def _batch(t: Topology, w: Workload) -> Findings:
    if w.global_batch is None:
        return
    batch = batch_of(t, w)
    ranks, micro_step = batch.data_parallel, batch.sequences_per_micro_step
    steps, rest = batch.accumulated(w.global_batch)
    if rest:
        message = (
            f"{w.global_batch} sequences cannot be divided into micro-batches of "
            f"{w.micro_batch} on {ranks} data-parallel ranks ({micro_step} a micro-step)"
        )
        below = w.global_batch - rest
        near = f"{below} or {below + micro_step}" if below else str(micro_step)
        yield fault("indivisible", "workload", "global_batch", message, f"write {near}")
    elif w.gradient_accumulation != steps:
        message = f"{w.gradient_accumulation} x {micro_step} sequences are not {w.global_batch}"
        hint = f"write {steps}, or leave it out"
        yield fault("batch", "workload", "gradient_accumulation", message, hint)


def _context(w: Workload) -> Findings:
    p = w.parallelism
    cp = p.context_parallel
    if cp == 1:
        return
    if w.sequence_length % cp:
        message = f"{w.sequence_length} tokens cannot be divided among {cp} GPUs"
        yield fault("indivisible", "workload", "sequence_length", message, "write a multiple")
    elif p.context_parallel_kind == "ring" and w.sequence_length % (2 * cp):
        message = (
            f"{w.sequence_length} tokens make no 2 x {cp} chunks, as balanced ring attention needs"
        )
        yield warning("ring-balance", "workload", "sequence_length", message, "write a multiple")
    if p.context_parallel_kind == "ulysses" and w.model.heads % cp:
        message = f"{w.model.heads} heads cannot be divided among {cp} GPUs"
        hint = "write a divisor of the heads, or context_parallel_kind: ring"
        yield fault("indivisible", "workload", "parallelism.context_parallel", message, hint)


def _nvls(t: Topology, w: Workload) -> Findings:
    link = t.node.nvlink if t.node is not None else None
    first: list[int] = table("constants/nccl_tuner")["algorithms"]["nvls"]["first_version"]
    need = ".".join(map(str, first))
    if link is not None and link.sharp and older(w.stack.nccl, need):
        message = f"NCCL {w.stack.nccl} does not reduce in the NVSwitch; {need} does"
        yield warning("no-nvls", "workload", "stack.nccl", message, f"write {need} or newer")
    yield from _nccl_path(t, w)
    if w.stack.distributed_debug != "off" and t.world_size == 1:
        message = "one GPU has no collectives to agree on"
        yield warning(_NO_EFFECT, "workload", "stack.distributed_debug", message, "leave it out")
    if w.stack.message_time and w.parallelism.pipeline_parallel == 1:
        message = "no stages send each other messages"
        yield warning(_NO_EFFECT, "workload", "stack.message_time", message, "leave it out")


def _nccl_path(t: Topology, w: Workload) -> Findings:
    """Registered buffers serve collectives of one node whose GPUs a switch joins."""
    path, key = w.stack.nccl_path, "stack.nccl_path"
    if path == "plain":
        return
    link, p = (t.node.nvlink if t.node is not None else None), w.parallelism
    if link is None or link.fabric != "nvswitch" or (path == "registered" and not link.sharp):
        need = "an NVSwitch that reduces" if path == "registered" else "an NVSwitch"
        message = f"{path} does nothing here: it needs {need}"
        yield warning(_NO_EFFECT, "workload", key, message, "leave it out")
    elif t.node_count > 1 and p.replicate == 1 and p.tensor_parallel == 1:
        message = f"{path} does nothing here: every collective crosses nodes, and it serves one"
        yield warning(_NO_EFFECT, "workload", key, message, "leave it out, or shard in a node")
