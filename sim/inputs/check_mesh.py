"""Checks of the axes of a mesh: what a model, a batch and a machine can be cut into."""

from __future__ import annotations

import math

from sim.inputs import check_pipeline
from sim.inputs.dtypes import frozen_dtype
from sim.inputs.finding import Findings, fault, warning
from sim.inputs.modelling import ASYNC, PER_LINEAR, WIDE, experts, stacks_experts, tensor_style
from sim.inputs.strategy import not_modelled, strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.pipeline.schedules import SCHEDULES

#: mixers of which PyTorch's own scan is not modelled
_KERNELS_ALONE = {"kda": "Kimi Delta Attention", "lightning": "lightning attention"}


def workload_findings(workload: Workload) -> Findings:
    """What is wrong with the axes of a workload, on any machine."""
    yield from _mixers(workload)
    yield from _context(workload)
    yield from _tensor(workload)
    yield from check_pipeline.findings(workload)
    yield from _experts(workload)
    yield from _stacked(workload)


def pair_findings(topology: Topology, workload: Workload) -> Findings:
    """What is wrong with them on a machine."""
    p = workload.parallelism
    if p.tensor_parallel > topology.gpus_per_node:
        message = (
            f"{p.tensor_parallel} GPUs share every matrix, but a node has "
            f"{topology.gpus_per_node}: their exchanges cross the network in every layer"
        )
        hint = f"write {topology.gpus_per_node} or fewer"
        yield warning("tensor-network", "workload", "parallelism.tensor_parallel", message, hint)
    if tensor_style(workload) == ASYNC:
        where = "parallelism.tensor_parallel_style"
        yield from _copied(topology, p.tensor_parallel, where, "write dtensor")
    elif p.tp_comm_overlap and p.tensor_parallel > 1:
        where = "parallelism.tp_comm_overlap"
        yield from _copied(topology, p.tensor_parallel, where, "leave it out")


def _copied(topology: Topology, ranks: int, where: str, hint: str) -> Findings:
    """Copies into the memory of other GPUs need a node of them, joined by NVLink."""
    nodes = [group.node for group in topology.groups]
    joined = all(node.nvlink is not None for node in nodes)
    if joined and ranks <= topology.gpus_per_node:
        return
    lacks = f"{ranks} of them are in no node" if joined else f"{topology.name} has none"
    message = f"pieces are copied between GPUs of a node over NVLink, and {lacks}"
    yield fault("tensor-copies", "workload", where, message, hint)


def _mixers(w: Workload) -> Findings:
    """Axes that nobody's scans are modelled on."""
    p, m = w.parallelism, w.model
    if not m.mixers:
        return
    what = " and ".join(m.mixers)
    axes = {"tensor_parallel": "heads of a scan shared among GPUs",
            "context_parallel": "states of a scan handed from GPU to GPU"}  # fmt: skip
    for axis, lacks in axes.items():
        if getattr(p, axis) > 1:
            message = f"{lacks} are not modelled, and {m.name} has {what} layers"
            yield fault("mixer-axis", "workload", f"parallelism.{axis}", message, "write 1")
    rolls = w.post_training is not None and w.post_training.algorithm != "dpo"
    if rolls:
        message = f"generation with {what} layers is not modelled"
        yield fault("mixer-rollouts", "workload", "post_training", message, "write algorithm: dpo")
    own = next((title for word, title in _KERNELS_ALONE.items() if word in m.mixers), "")
    if own and w.mixer_kernels == "torch":
        message = f"PyTorch's own scan of {own} is not modelled, its kernels are"
        yield fault("mixer-kernels", "workload", "mixer_kernels", message, "write fused")
    if w.mixer_kernels == "torch" and w.compile:
        message = "PyTorch's own scans are modelled as they run one kernel after another"
        hint = "write compile: false, or mixer_kernels: fused"
        yield fault("mixer-compile", "workload", "mixer_kernels", message, hint)


def _context(w: Workload) -> Findings:
    p, m = w.parallelism, w.model
    if p.context_parallel == 1:
        return
    able = strategy_of(w).context_kinds
    if strategy_of(w).context_parallel and p.context_parallel_kind not in able:
        message = f"{strategy_of(w).title} splits sequences by {' or '.join(able)}, "
        message += f"not by {p.context_parallel_kind}"
        path = "parallelism.context_parallel_kind"
        yield fault("context-kind", "workload", path, message, f"write {able[0]}")
        return
    if p.context_parallel_kind == "ring":
        hint = "write context_parallel_kind: all-gather or ulysses"
        path = "parallelism.context_parallel_kind"
        if w.attention == "eager":
            message = "a ring passes between calls of a fused kernel, which eager attention has not"
            yield fault("ring", "workload", path, message, f"{hint}, or attention: sdpa")
        if m.sliding_window and m.sliding_window < w.sequence_length:
            message = f"ring attention knows no windows, and {m.name} has"
            yield fault("ring", "workload", path, message, hint)
    if p.context_parallel_kind != "ulysses":
        return
    if m.heads % p.context_parallel == 0 and m.kv_heads % p.context_parallel:
        message = f"{m.kv_heads} key-value heads are repeated for {p.context_parallel} ranks"
        hint = "fewer ranks, or ring, send less"
        yield warning("ulysses", "workload", "parallelism.context_parallel", message, hint)


def _tensor(w: Workload) -> Findings:
    p, m = w.parallelism, w.model
    t, path = p.tensor_parallel, "parallelism.tensor_parallel"
    if t == 1:
        return
    if lacks := not_modelled(strategy_of(w), "tensor parallelism is", "tensor_parallel"):
        yield fault("tensor-strategy", "workload", path, lacks.message, lacks.hint)
        return
    divided = math.gcd(m.kv_heads, m.global_kv_heads)
    for heads, what in ((m.heads, "heads"), (divided, "key-value heads")):
        if heads % t:
            able = ", ".join(str(n) for n in range(1, heads + 1) if m.heads % n == divided % n == 0)
            message = f"{heads} {what} of {m.name} cannot be divided among {t} GPUs"
            yield fault("indivisible", "workload", path, message, f"write one of {able}")
            return
    if m.kv_lora_rank and not p.sequence_parallel:
        message = f"latent attention ({m.name}) is modelled with sequence parallelism alone"
        hint = "leave it out"
        yield fault("tensor-latent", "workload", "parallelism.sequence_parallel", message, hint)
    if w.method.frozen:
        message = f"tensor parallelism is modelled for full training, not for {w.method.kind}"
        yield fault("tensor-method", "workload", path, message, "write 1")
    if p.wrap == "linear":
        message = "tensor parallelism needs units of whole blocks"
        hint = "write block+root or torchtitan"
        yield fault("tensor-wrap", "workload", "parallelism.wrap", message, hint)
    local = w.sequence_length // p.context_parallel
    split = p.pipeline_parallel > 1 and SCHEDULES[p.pipeline_schedule].splits
    style = tensor_style(w)
    if style == PER_LINEAR and (m.kv_lora_rank or m.experts):
        message = f"linears that gather their own input are modelled of dense blocks, not {m.name}"
        where = "parallelism.tensor_parallel_style"
        yield fault("tensor-style", "workload", where, message, "write dtensor")
    if style == ASYNC:
        yield from _pieces(w)
    if p.tp_comm_overlap:
        yield from _userbuffers(w)
    if split and style not in ("dtensor", PER_LINEAR):
        message = f"linear layers of style {style} make the gradients of inputs and of "
        message += "weights in one call"
        path = "parallelism.pipeline_schedule"
        yield fault("tensor-split", "workload", path, message, "write 1f1b or interleaved-1f1b")
    if p.sequence_parallel and local % t:
        message = f"{local} tokens of a sequence cannot be divided among {t} GPUs"
        hint = "write a multiple, or parallelism.sequence_parallel: false"
        yield fault("indivisible", "workload", "sequence_length", message, hint)


def _pieces(w: Workload) -> Findings:
    """What a compiler needs to cut products into pieces beside their exchanges."""
    p, m, path = w.parallelism, w.model, "parallelism.tensor_parallel_style"
    if strategy_of(w).tensor_style != "dtensor":
        message = f"{strategy_of(w).title} is not compiled, and a compiler cuts products"
        yield fault("tensor-style", "workload", path, message, "write megatron, or strategy: fsdp2")
    elif not w.compile:
        message = "a compiler cuts products into pieces, and nothing is compiled"
        yield fault("tensor-compile", "workload", path, message, "write compile: true")
    if m.kv_lora_rank or m.experts:
        message = f"products in pieces are modelled of dense blocks, not {m.name}"
        yield fault("tensor-style", "workload", path, message, "write dtensor")
    if not p.sequence_parallel:
        message = "only gathers and reductions of a stream split by positions are cut into pieces"
        key = "parallelism.sequence_parallel"
        yield fault("tensor-pieces", "workload", key, message, "leave it out, or write dtensor")
    if m.hidden_size < WIDE:
        message = f"a compiler cuts nothing of {m.hidden_size} columns; it does from {WIDE} on"
        yield warning("tensor-narrow", "workload", path, message, "write dtensor")


def _userbuffers(w: Workload) -> Findings:
    """What Transformer Engine needs to exchange beside products, and of what that is modelled."""
    p, m, path = w.parallelism, w.model, "parallelism.tp_comm_overlap"
    style, lacks = tensor_style(w), ""
    if not p.sequence_parallel:
        lacks = "Megatron-LM asks for sequence_parallel beside it"
    elif style != strategy_of(w).tensor_style:
        lacks = f"it is of Transformer Engine's linear layers, not of style {style}"
    elif m.kv_lora_rank or m.experts:
        lacks = f"exchanges beside products are modelled of dense blocks, not {m.name}"
    if lacks:
        yield fault("tensor-style", "workload", path, lacks, "leave it out")


def _experts(w: Workload) -> Findings:
    p, m, share = w.parallelism, w.model, w.routing.imbalance
    e, path = p.expert_parallel, "parallelism.expert_parallel"
    most = m.experts / m.experts_per_token if m.experts and m.experts_per_token else 1.0
    if share > most:
        message = f"an expert of {m.name} can have at most {most:g} times the mean's tokens"
        yield fault("imbalance", "workload", "routing.imbalance", message, "write less")
    if e == 1:
        idle = {"routing.imbalance": share > 1.0,
                "parallelism.expert_dispatch": p.expert_dispatch != "all-to-all"}  # fmt: skip
        for key in (key for key, said in idle.items() if said):
            message = f"{key} changes nothing where every rank has all experts"
            hint = "set parallelism.expert_parallel"
            yield warning("experts-alone", "workload", key, message, hint)
        return
    if lacks := not_modelled(strategy_of(w), "expert parallelism is", "expert_parallel"):
        yield fault("expert-strategy", "workload", path, lacks.message, lacks.hint)
        return
    if not m.experts:
        message = f"{m.name} has no experts to share among {e} GPUs"
        yield fault("indivisible", "workload", path, message, "leave it out")
        return
    if m.experts % e:
        able = ", ".join(str(n) for n in range(1, m.experts + 1) if m.experts % n == 0)
        message = f"{m.experts} experts of {m.name} cannot be divided among {e} GPUs"
        yield fault("indivisible", "workload", path, message, f"write one of {able}")
        return
    if p.tensor_parallel > 1 and not p.sequence_parallel:
        message = "experts on other ranks need tokens split among tensor-parallel ranks"
        hint = "leave it out"
        yield fault("expert-tokens", "workload", "parallelism.sequence_parallel", message, hint)
    if w.method.frozen:
        message = f"expert parallelism is modelled for full training, not for {w.method.kind}"
        yield fault("expert-method", "workload", path, message, "write 1")
    if experts(w) in ("eager", "all"):
        message = "a loop over the experts, or all of them at once, needs all on every rank"
        yield fault("expert-loop", "workload", "experts", message, "write experts: grouped")
    if p.wrap == "linear":
        message = "expert parallelism needs units of whole blocks"
        hint = "write block+root or torchtitan"
        yield fault("expert-wrap", "workload", "parallelism.wrap", message, hint)
    if p.offload != "none":
        message = "offloading is not modelled with expert parallelism"
        yield fault("expert-offload", "workload", "parallelism.offload", message, "leave it out")
    if not isinstance(p.reshard_after_forward, bool):
        message = "experts are sharded over other ranks than the rest of a block"
        hint = "write true or false"
        where = "parallelism.reshard_after_forward"
        yield fault("expert-reshard", "workload", where, message, hint)


def _stacked(w: Workload) -> Findings:
    """Experts in one parameter, which libraries that look for linear layers do not find."""
    if not (stacks_experts(w) and w.method.frozen):
        return
    if w.method.quantization == "nf4":
        message = (
            f"the {w.model.experts} experts of a block are one parameter of a kind and no linear"
            f" layers: bitsandbytes leaves them in {frozen_dtype(w)}"
        )
        hint = (
            "no release of transformers has them in 4 bits"
            if w.model.stacked_experts
            else "stack.transformers below 5 (experts: eager) has them in 4 bits"
        )
        yield warning("stacked-experts", "workload", "method.quantization", message, hint)
    if {"gate", "up", "down"} & set(w.method.targets):
        message = (
            "experts are one parameter of a kind, which PEFT reaches as target_parameters:"
            " adapters on each of them are counted, as its newest releases make of these targets"
        )
        hint = "write targets: [q, k, v, o] for releases that do not"
        yield warning("stacked-experts", "workload", "method.targets", message, hint)
