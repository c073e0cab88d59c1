"""What a workload tells its blocks: its `Setting`, one for all jobs whose blocks are alike."""

from __future__ import annotations

from functools import lru_cache

from sim.blocks.setting import Setting, one_layer
from sim.inputs.base import fields_but
from sim.inputs.dtypes import adapter_dtype, autocast, casts_frozen, compute_dtype
from sim.inputs.modelling import (
    copies_weights,
    expert_gradients,
    experts,
    fp32_logits,
    fused_kernels,
    gptq_kernels,
    keeps_fp8,
    keeps_weights,
    mixer_kernels,
    model_of,
    modelling_of,
    repeats_heads,
    shifts_logits,
    stacks_experts,
    tensor_style,
)
from sim.inputs.reference import REFERENCE
from sim.inputs.rows import Computed
from sim.inputs.shares import batch_on
from sim.inputs.trainer import trainer_of
from sim.inputs.versions import older, sdpa_since
from sim.inputs.workload import Workload
from sim.mesh.routing import busiest_load

#: times a layer turns the mask into indices: Hugging Face once, llm-foundry for q, k and v each
UNPADS = {"none": 0, "unpad": 1, "unpad-each": 3}
#: no block depends on these
_JOB = frozenset({
    "name", "model", "global_batch", "gradient_accumulation", "tokens", "steps", "samples",
    "epochs", "optimizer", "optimizer_rank", "optimizer_implementation", "optimizer_paged",
    "checkpoint", "evaluation", "phases", "deadline", "sources", *REFERENCE,
})  # fmt: skip
_settings: dict[tuple[object, ...], Setting] = {}
_SETTINGS = 512  # that are kept


@lru_cache(maxsize=512)
def setting_of(workload: Workload) -> Setting:
    """The setting of a workload; context parallelism splits each sequence."""
    depth = workload.model.layers if workload.parallelism.expert_parallel > 1 else 0  # see `_load`
    key = (type(workload), one_layer(workload.model), depth, *fields_but(workload, _JOB))
    found = _settings.get(key)
    if found is None:
        if len(_settings) >= _SETTINGS:
            _settings.clear()
        found = _settings[key] = _read(workload)
    return found


def early_stop(workload: Workload) -> bool:
    """Whether recompute ends with the last saved tensor (non-reentrant, PyTorch 2.1 and newer)."""
    asked = workload.activation_checkpointing.early_stop
    if asked is not None:
        return asked
    reentrant = workload.activation_checkpointing.reentrant
    return not reentrant and not older(workload.stack.torch, "2.1")


def _attention(asked: str, torch: str) -> str:
    """The implementation; of PyTorch's own, which may be several, since which release."""
    since = sdpa_since(torch) if asked == "sdpa" else ""
    return f"{asked}-{since}" if since else asked


def _checks_positions(workload: Workload) -> bool:
    """Whether transformers asks a tensor, before FlashAttention, if positions ascend.

    Source: transformers 4.44 and newer, modeling_flash_attention_utils.py,
    `_flash_attention_forward`: ``not (torch.diff(position_ids) >= 0).all()``; models with learned
    positions pass none (sim/data/host/modelling.json).
    """
    used, m = workload.stack.transformers, workload.model
    if used is None or older(used, "4.44") or workload.attention_padding != "none":
        return False
    return workload.attention.startswith("flash") and m.positions == "rope"


def _load(workload: Workload) -> float:
    m, p, routing = workload.model, workload.parallelism, workload.routing
    if p.expert_parallel == 1:
        return 1.0
    layers = sum(map(m.mixes, range(m.layers)))
    return busiest_load(m.experts, p.expert_parallel, routing.imbalance, routing.seed, layers)


def _read(workload: Workload) -> Setting:
    p, precision, stack = workload.parallelism, workload.precision, workload.stack
    batch = batch_on(workload)
    rows = workload if isinstance(workload, Computed) else None
    output = workload.loss in ("huggingface", "huggingface-fused")
    return Setting(
        model=one_layer(model_of(workload)),
        method=workload.method,
        tokens=batch.local_tokens,
        sequences=workload.micro_batch,
        length=batch.local_length,
        keys=workload.sequence_length,
        dtype=compute_dtype(workload),
        tf32=precision.tf32,
        recipe=precision.recipe if precision.low else "",
        bf16_ends=precision.bf16_ends,
        fp8_gather=precision.all_gather == "fp8",
        copies_weights=copies_weights(workload),
        keeps_weights=keeps_weights(workload),
        keeps_fp8=precision.low and keeps_fp8(workload),
        compiled=workload.compile,
        complex_rope=modelling_of(workload).complex_rope,
        fuses_softmax=modelling_of(workload).fuses_softmax,
        copies_heads=modelling_of(workload).copies_heads,
        fused_rope=workload.compile or fused_kernels(workload) in ("norm+rope", "all"),
        fused_gate=workload.compile or fused_kernels(workload) == "all",
        fused_norms=workload.compile
        or fused_kernels(workload) != "none"
        or not older(stack.torch, "2.9"),
        adapters=workload.method.adapters,
        adapter_dtype=adapter_dtype(workload),
        unpacking=gptq_kernels(workload),
        autocast=autocast(workload),
        casts_frozen=casts_frozen(workload),
        upcast=workload.method.prepare_kbit,
        mixer_kernels=mixer_kernels(workload),
        experts=experts(workload),
        stacked=stacks_experts(workload),
        expert_gradients=expert_gradients(workload),
        attention=_attention(workload.attention, stack.torch),
        repeats_heads=repeats_heads(workload),
        unpads=UNPADS[workload.attention_padding],
        loss=workload.loss,
        loss_chunks=workload.loss_chunks,
        keeps_chunks=workload.loss == "chunked" and trainer_of(workload).keeps_chunks,
        keeps_output=output and trainer_of(workload).keeps_output,
        fp32_output=output and fp32_logits(stack),
        shifts_logits=output and shifts_logits(stack),
        metrics=workload.train_metrics,
        checks_positions=_checks_positions(workload),
        # bitsandbytes/autograd/_functions.py, MatMul4Bit: ``ctx.tensors = (A, B)`` up to 0.43.1,
        # ``(None, B)`` from 0.43.2 on (release notes: activations of frozen weights)
        keeps_inputs=workload.method.quantization == "nf4" and older(stack.bitsandbytes, "0.43.2"),
        attended=rows.attended if rows else 0.0,
        attended_share=rows.attended_share if rows else 1.0,
        context=p.context_parallel,
        context_kind=p.context_parallel_kind,
        context_rotation=p.context_parallel_rotation,
        context_balanced=p.context_parallel_load_balance,
        tensor=p.tensor_parallel,
        sequence_parallel=p.tensor_parallel > 1 and p.sequence_parallel,
        loss_parallel=p.tensor_parallel > 1 and p.loss_parallel,
        tensor_style=tensor_style(workload),
        tensor_overlap=p.tensor_parallel > 1 and p.tp_comm_overlap,
        expert=p.expert_parallel,
        load=_load(workload),
        dispatch=p.expert_dispatch,
    )
