"""Megatron-LM's arguments, as the launch scripts of its examples have them.

Defaults and what follows from what as megatron/training/arguments.py has them.
"""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.interop.trainers import megatron_model, megatron_stages, words
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import Keys

_COUNTS = (
    ("model.layers", "num-layers"),
    ("model.hidden_size", "hidden-size"),
    ("model.heads", "num-attention-heads"),
    ("model.max_positions", "max-position-embeddings"),
    ("model.vocab_size", "vocab-size"),
    ("sequence_length", "seq-length"),
    ("micro_batch", "micro-batch-size"),
    ("global_batch", "global-batch-size"),
    ("steps", "train-iters"),
    ("samples", "train-samples"),
    ("parallelism.tensor_parallel", "tensor-model-parallel-size"),
    ("parallelism.pipeline_parallel", "pipeline-model-parallel-size"),
    ("parallelism.context_parallel", "context-parallel-size"),
)
_FLAGS = (
    ("parallelism.use_distributed_optimizer", "use-distributed-optimizer"),
    ("parallelism.overlap_grad_reduce", "overlap-grad-reduce"),
    ("parallelism.overlap_param_gather", "overlap-param-gather"),
    ("parallelism.sequence_parallel", "sequence-parallel"),
    ("model.qkv_bias", "add-qkv-bias"),
    ("model.qk_norm", "qk-layernorm"),
)


def recognises(source: Source) -> bool:
    """Its names of sizes."""
    return {"num-layers", "hidden-size"} <= source.keys or bool(
        {"tensor-model-parallel-size", "pipeline-model-parallel-size"} & source.keys
    )


def read(source: Source, job: Translation) -> None:
    """Read the arguments."""
    keys = Keys.of(source, job, "Megatron's default")
    for ours, theirs in _COUNTS:
        keys.put_count(ours, theirs)
    job.take("parallelism.strategy", "megatron", keys.branch.place, "pretrain script")
    for ours, theirs in _FLAGS:
        keys.put_flag(ours, theirs, default=False if ours.startswith("parallelism.") else None)
    _overlap(keys)
    megatron_model.read(keys)
    _pipeline(keys)
    _context(keys)
    _numbers(keys)
    _kernels(keys)
    _recompute(keys)
    job.suppose("method.kind", "full", "Megatron trains in full")
    job.suppose("data.packing", True, "Megatron's data sets fill rows")
    keys.settle("megatron")
    for name in [n for n in keys.branch.entries if n not in keys.seen]:
        if (
            "parallel" in name
            or "overlap" in name
            or name.startswith(("use-", "moe-", "fp8-", "fp4-"))
        ):
            keys.matters("this reader of Megatron's arguments does not follow it", name)
    keys.rest("Megatron")


def _overlap(keys: Keys) -> None:
    """Exchanges of tensor-parallel ranks beside products, all of them or none."""
    if not keys.flag("tp-comm-overlap"):
        return
    if (keys.count("tensor-model-parallel-size") or 1) == 1:
        keys.leave("no ranks share matrices", "tp-comm-overlap")
        return
    keys.put("parallelism.tp_comm_overlap", True, "tp-comm-overlap")
    why = "of its exchanges all are overlapped as Transformer Engine does if nobody says other"
    for name in (
        "tp-comm-overlap-cfg", "tp-comm-overlap-rs-dgrad", "disable-tp-comm-overlap-ag",
        "disable-tp-comm-overlap-rs", "disable-tp-comm-split-ag", "disable-tp-comm-split-rs",
        "disable-tp-comm-bulk-dgrad", "disable-tp-comm-bulk-wgrad",
    ):  # fmt: skip
        if keys.has(name):
            keys.matters(why, name)


def _pipeline(keys: Keys) -> None:
    """Virtual stages, by layers of each or by their number."""
    stages = keys.count("pipeline-model-parallel-size") or 1
    layers = keys.count("num-layers") or 0
    each = keys.count("num-layers-per-virtual-pipeline-stage")
    virtual = keys.count("num-virtual-stages-per-pipeline-rank")
    if each:
        virtual = megatron_stages.of_a_rank(keys, layers, stages) // each
    if stages > 1 and virtual and virtual > 1:
        said = ("num-layers-per-virtual-pipeline-stage", "num-virtual-stages-per-pipeline-rank")
        keys.put("parallelism.pipeline_schedule", "interleaved-1f1b", *said)
        keys.put("parallelism.virtual_stages", virtual, *said)
    elif stages > 1:
        keys.suppose("parallelism.pipeline_schedule", "1f1b")
    if stages > 1:
        megatron_stages.read(keys, layers, stages, virtual or 1)


def _context(keys: Keys) -> None:
    """How Transformer Engine exchanges keys and values (`--cp-comm-type`)."""
    if (keys.count("context-parallel-size") or 1) == 1:
        return
    how = keys.text("cp-comm-type").lower()
    kinds = words.inverted(words.MEGATRON_EXCHANGE)
    if how in kinds:
        keys.put("parallelism.context_parallel_kind", kinds[how], "cp-comm-type")
    elif how:
        keys.matters(f"of {', '.join(kinds)} none; taken as p2p", "cp-comm-type")
    keys.suppose("parallelism.context_parallel_kind", "ring")
    if how not in ("all_gather", "a2a"):
        why = "its ring passes them from rank to rank"
        keys.job.suppose("parallelism.context_parallel_rotation", "all-to-all", why)


def _numbers(keys: Keys) -> None:
    kind = "bf16" if keys.flag("bf16") else "fp16" if keys.flag("fp16") else "fp32"
    if keys.has("fp4-format"):
        keys.put("precision.kind", "fp4", "fp4-format")
        words.recipe(keys, words.MEGATRON_FP4, "fp4-recipe", "fp4-format")
    elif keys.has("fp8-format"):
        keys.put("precision.kind", "fp8", "fp8-format")
        _fp8_recipe(keys)
        keys.put_on("precision.all_gather", "fp8-param-gather", value="fp8")
    else:
        megatron_model.put(keys, "precision.kind", kind, kind)
    _bf16_ends(keys)
    words.optimizer(keys, "optimizer")
    if keys.number("clip-grad") == 0:
        keys.put("parallelism.clip_gradients", False, "clip-grad")


def _kernels(keys: Keys) -> None:
    """Attention and kernels by hand; what no argument says is as its layers have it."""
    local = keys.text("transformer-impl").lower() == "local"  # without Transformer Engine
    backend = words.inverted(words.MEGATRON_ATTENTION).get(keys.text("attention-backend").lower())
    if keys.has("attention-backend") and not backend:
        known = ", ".join(sorted({*words.MEGATRON_ATTENTION.values()}))
        keys.matters(f"of {known} none; taken as auto", "attention-backend")
    elif backend:
        keys.put("attention", backend, "attention-backend")
    elif local:
        flash = keys.flag("use-flash-attn")
        keys.put("attention", "flash2" if flash else "eager", "transformer-impl", "use-flash-attn")
    if local and keys.text("normalization").lower() == "rmsnorm":
        why = "PyTorch's RMSNorm of its layers is taken as Transformer Engine's fused kernel"
        keys.matters(why, "transformer-impl")
    if keys.flag("no-rope-fusion"):
        keys.put("fused_kernels", "norm", "no-rope-fusion")
        if keys.flag("swiglu") and not keys.flag("no-bias-swiglu-fusion"):
            keys.matters("without it the gate is taken as plain kernels too", "no-rope-fusion")
    else:
        keys.put_on("fused_kernels", "no-bias-swiglu-fusion", value="norm+rope")
    keys.leave("said above", "no-bias-swiglu-fusion")
    fused = "parallelism.gradient_accumulation_fusion"
    keys.put_on(fused, "no-gradient-accumulation-fusion", value=False)
    if keys.flag("cross-entropy-loss-fusion"):
        if keys.text("cross-entropy-fusion-impl").lower() == "te":
            keys.put("loss", "fused", "cross-entropy-loss-fusion")
        else:
            why = "Megatron-LM's own fewer kernels of the loss are not modelled, taken as plain"
            keys.matters(why, "cross-entropy-loss-fusion")
        keys.leave("said above", "cross-entropy-fusion-impl")


def _bf16_ends(keys: Keys) -> None:
    """Layers at either end that no recipe multiplies, one and one unless said."""
    option, counts = "first-last-layers-bf16", ("at-start", "at-end")
    names = [f"num-layers-{place}-in-bf16" for place in counts]
    if keys.has("fp4-format", "fp8-format") and keys.flag(option):
        for ours, name in zip(("bf16_first", "bf16_last"), names, strict=True):
            said = keys.count(name)
            keys.put(f"precision.{ours}", 1 if said is None else said, name, option)
    else:
        keys.leave(f"without --{option} and a recipe it changes nothing", [option, *names])


def _fp8_recipe(keys: Keys) -> None:
    asked = keys.text("fp8-recipe").lower()
    recipes = words.inverted(words.TE_RECIPES)
    if asked in recipes:
        words.recipe(keys, recipes[asked], "fp8-recipe")
        return
    if asked:
        keys.matters(f"of {', '.join(recipes)} none; taken as delayed", "fp8-recipe")
    keys.suppose("precision.recipe", "te-delayed")


def _recompute(keys: Keys) -> None:
    how = keys.text("recompute-granularity").lower()
    if keys.flag("recompute-activations") or how == "selective":
        more = [m for m in keys.text("recompute-modules").split() if m != "core_attn"]
        why = "attention alone is recomputed: a fused kernel saves as much; taken as none"
        if more:
            why = (
                f"recompute of {', '.join(more)} is not modelled: none, with more kept and no time"
            )
        keys.matters(why, "recompute-granularity", "recompute-activations")
        keys.leave("said above", "recompute-modules")
    elif how == "full":
        keys.put("activation_checkpointing.kind", "full", "recompute-granularity")
        if keys.text("recompute-method").lower() == "block":
            keys.matters("taken as every layer", "recompute-method", "recompute-num-layers")
        else:
            keys.leave("each layer by itself", "recompute-method")
    elif how:
        keys.fault(f'"{how}" is neither full nor selective', "recompute-granularity")


FORMATS.register(TrainerFormat("megatron", "Megatron-LM's arguments", recognises, read))
