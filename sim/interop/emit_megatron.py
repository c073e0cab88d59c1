"""A plan as a script that starts Megatron-LM's ``pretrain_gpt.py``.

Arguments are those of megatron/training/arguments.py and of the configurations of megatron-core
that it makes arguments of; `sim.interop.trainers.megatron` reads them again. What they cannot say
of a model or a schedule is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.errors import InputError
from sim.inputs.model import Model
from sim.inputs.modelling import experts, fused_kernels
from sim.inputs.pipeline import less_layers, shape_of
from sim.inputs.shares import batch_of, mesh_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.interop.emit_common import steps_said
from sim.interop.roundtrip import read_back
from sim.interop.trainers import megatron_stages, words

OPTION = "--emit megatron"
#: keys of a model in which its arguments may differ: names, and what the script cannot say that
#: changes neither time nor memory
_APART = frozenset({"name", "source", "notes", "max_positions", "fused_qkv", "fused_gate_up"})


def megatron_script(topology: Topology, workload: Workload) -> str:
    """The script, one argument a line; data and learning rate are its own arguments.

    Raises
    ------
    InputError
        What Megatron-LM's arguments have no words for.
    """
    _refuse(workload)
    found = [*_model(workload.model), *_training(topology, workload), *_layout(topology, workload)]
    arguments = "".join(
        f"  --{name} \\\n" if value is True else f"  --{name} {value} \\\n"
        for name, value in found
        if value is not None and value is not False
    )
    text = f"""\
#!/bin/bash
# {workload.name}, written by scaling-sim for {topology.name}; on every node, HEAD being the first
# and NODE_RANK its number, with data, tokenizer and learning rate: --data-path ... --lr ...
export CUDA_DEVICE_MAX_CONNECTIONS=1
torchrun --nnodes={topology.node_count} --nproc_per_node={topology.gpus_per_node} \\
  --node_rank="$NODE_RANK" --master_addr="$HEAD" --master_port=29500 \\
  pretrain_gpt.py \\
{arguments}  "$@"
"""
    _same_model(text, workload)
    return text


def _refuse(w: Workload) -> None:
    """What its arguments have no words for, or words that are not read back.

    Raises
    ------
    InputError
        The first of them.
    """
    p = w.parallelism
    first, last = less_layers(w)
    refused = {
        f"it has no {w.optimizer}": w.optimizer not in words.MEGATRON_OPTIMIZERS,
        f"it has no attention {w.attention}": w.attention not in words.MEGATRON_ATTENTION,
        f"its pipelines are 1f1b and interleaved-1f1b, not {p.pipeline_schedule}": (
            p.pipeline_parallel > 1 and p.pipeline_schedule not in ("1f1b", "interleaved-1f1b")
        ),
        "the embedding or the head stands for one layer": max(first, last) > 1,
        "its ring passes keys and values on (parallelism.context_parallel_rotation: all-to-all)": (
            p.context_parallel > 1
            and p.context_parallel_kind == "ring"
            and p.context_parallel_rotation != "all-to-all"
        ),
        f"it recomputes every layer or none, not {w.activation_checkpointing.kind}": (
            w.activation_checkpointing.kind not in ("none", "full")
        ),
        f"its FP8 is Transformer Engine's (precision.recipe: {', '.join(words.TE_RECIPES)})": (
            w.precision.kind == "fp8" and w.precision.recipe not in words.TE_RECIPES
        ),
        "its experts run in a group or one by one, not sorted": experts(w) == "sorted",
        f"experts are sent by an all-to-all here, not by {p.expert_dispatch}": (
            p.expert_parallel > 1 and p.expert_dispatch != "all-to-all"
        ),
    }
    for why, holds in refused.items():
        if holds:
            message = f"megatron cannot run this plan: {why}; emit yaml instead"
            raise InputError.single(OPTION, message)


def _model(m: Model) -> Iterator[tuple[str, Any]]:
    """Sizes and parts of the model."""
    yield "num-layers", m.layers
    yield "hidden-size", m.hidden_size
    yield "ffn-hidden-size", m.ffn_size
    yield "num-attention-heads", m.heads
    yield "kv-channels", m.head_dim
    yield "group-query-attention", m.kv_heads != m.heads
    yield "num-query-groups", m.kv_heads if m.kv_heads != m.heads else None
    yield "vocab-size", m.vocab_size
    yield "swiglu", m.ffn == "swiglu"
    yield "normalization", {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}.get(m.norm, m.norm)
    learned = "learned_absolute" if m.positions == "learned" else m.positions
    yield "position-embedding-type", learned
    yield "disable-bias-linear", not m.bias
    yield "add-qkv-bias", m.qkv_bias
    yield "qk-layernorm", m.qk_norm
    yield "untie-embeddings-and-output-weights", not m.tied_embeddings
    if m.experts:
        yield "num-experts", m.experts
        yield "moe-router-topk", m.experts_per_token
        yield "moe-ffn-hidden-size", m.expert_ffn_size
        shared = m.shared_experts * m.expert_ffn_size
        yield "moe-shared-expert-intermediate-size", shared or None
        yield "moe-token-dispatcher-type", "alltoall"


def _training(topology: Topology, w: Workload) -> Iterator[tuple[str, Any]]:
    """Batch, length, precision, optimizer, kernels, recompute."""
    yield "seq-length", w.sequence_length
    yield "max-position-embeddings", max(w.model.max_positions, w.sequence_length)
    yield "micro-batch-size", w.micro_batch
    yield "global-batch-size", batch_of(topology, w).sequences
    steps = steps_said(topology, w)
    yield "train-iters", steps
    yield "train-samples", round(w.samples * w.epochs) if w.samples and not steps else None
    yield "bf16", w.precision.activations == "bf16"
    yield "fp16", w.precision.kind == "fp16"
    if w.precision.kind == "fp8":
        recipe = words.TE_RECIPES[w.precision.recipe]
        # range matters less where scales are of blocks: Transformer Engine's defaults
        yield "fp8-format", "hybrid" if recipe in ("delayed", "tensorwise") else "e4m3"
        yield "fp8-recipe", recipe if recipe != "delayed" else None
    if w.precision.kind == "fp4":
        yield "fp4-format", "e2m1"
        yield "fp4-recipe", "nvfp4"
    first, last = w.precision.bf16_ends
    yield "first-last-layers-bf16", first + last > 0
    if first + last:
        yield "num-layers-at-start-in-bf16", first
        yield "num-layers-at-end-in-bf16", last
    yield "fp8-param-gather", w.precision.kind == "fp8" and w.precision.all_gather == "fp8"
    yield "optimizer", words.MEGATRON_OPTIMIZERS[w.optimizer]
    yield "clip-grad", 1.0 if w.parallelism.clip_gradients else 0.0
    yield "attention-backend", words.MEGATRON_ATTENTION[w.attention]
    kernels = fused_kernels(w)
    yield "no-rope-fusion", kernels in ("none", "norm") and w.model.positions == "rope"
    yield "no-bias-swiglu-fusion", kernels != "all" and w.model.ffn == "swiglu"
    yield "no-gradient-accumulation-fusion", not w.parallelism.gradient_accumulation_fusion
    yield "cross-entropy-loss-fusion", w.loss == "fused"
    yield "cross-entropy-fusion-impl", "te" if w.loss == "fused" else None
    full = w.activation_checkpointing.kind == "full"
    yield "recompute-granularity", "full" if full else None
    yield "recompute-method", "uniform" if full else None
    yield "recompute-num-layers", 1 if full else None
    yield "moe-grouped-gemm", bool(w.model.experts) and experts(w) == "grouped"


def _layout(topology: Topology, w: Workload) -> Iterator[tuple[str, Any]]:
    """How GPUs share it: what is left of the axes is data parallel."""
    p, mesh = w.parallelism, mesh_of(topology, w)
    yield "tensor-model-parallel-size", mesh.tp
    yield "sequence-parallel", mesh.tp > 1 and p.sequence_parallel
    yield "tp-comm-overlap", mesh.tp > 1 and p.tp_comm_overlap
    yield "pipeline-model-parallel-size", mesh.pp
    if mesh.pp > 1 and p.pipeline_layers:
        yield megatron_stages.LAYOUT, f"'{megatron_stages.written(p.pipeline_layers)}'"
    elif mesh.pp > 1:
        first, last = less_layers(w)
        yield megatron_stages.EMBEDDING, bool(first)
        yield megatron_stages.LOSS, bool(last)
        each = (w.model.layers + first + last) // shape_of(w).stages
        interleaved = p.pipeline_schedule == "interleaved-1f1b"
        yield "num-layers-per-virtual-pipeline-stage", each if interleaved else None
    yield "context-parallel-size", mesh.cp
    yield "cp-comm-type", words.MEGATRON_EXCHANGE[p.context_parallel_kind] if mesh.cp > 1 else None
    yield "expert-model-parallel-size", mesh.ep if w.model.experts else None
    yield "use-distributed-optimizer", p.use_distributed_optimizer
    yield "overlap-grad-reduce", p.overlap_grad_reduce
    yield "overlap-param-gather", p.overlap_param_gather


def _same_model(text: str, workload: Workload) -> None:
    """Read the script again and hold its model to the plan's.

    Raises
    ------
    InputError
        Keys of the model that its arguments cannot say.
    """
    read, planned = read_back({"megatron.sh": text}, workload)[0].model, workload.model
    apart = [
        f"model.{key} = {getattr(planned, key)} (it would be {getattr(read, key)})"
        for key in Model.model_fields
        if key not in _APART and getattr(read, key) != getattr(planned, key)
    ]
    if apart:
        message = f"megatron cannot say {', '.join(apart)}; emit yaml instead"
        raise InputError.single(OPTION, message)
