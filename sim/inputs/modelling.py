"""What the modelling code of a job runs where its workload leaves the choice open.

Keys whose default is null (``experts``) follow from the library, the strategy and the method, as
dtypes do (`sim.inputs.dtypes`). Who needs to know asks here; results say what was taken.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from sim.inputs.dtypes import adapter_dtype, compute_dtype, reduce_dtype
from sim.inputs.model import Model
from sim.inputs.recipes import RECIPES
from sim.inputs.strategy import strategy_of
from sim.inputs.trainer import reduces_each, trainer_of
from sim.inputs.versions import older
from sim.inputs.workload import Stack, Workload
from sim.records import dataclass


@dataclass(frozen=True, slots=True)
class Modelling:
    """How a code base writes a transformer.

    Attributes
    ----------
    complex_rope : bool
        RoPE is a product of complex numbers, else of rotated halves.
    loops_experts : bool
        A mixture's experts run one after another.
    copies_heads : str
        Of q, k and v that one product makes: ``apart``, all are put apart, and k and v together
        again, by copies; ``values``, v alone is copied, since attention wants it in a row.
    fuses_matrices : bool
        One product makes q, k and v, and one makes gate and up, whatever the model's own code does.
    groups_since : str
        The PyTorch of whose time its releases ask ``sdpa`` for groups of heads; "": none does.
    keeps_fp8 : bool
        Its FP8 linears cast a weight once a step and keep it, and its norms write what they read.
    fuses_softmax : bool
        ``attention: eager`` has a kernel of its own from scores to probabilities, scale and mask
        among it, that keeps nothing in fp32.
    cuts_by_work : bool
        Its stages are of equal work, not of as many layers.
    padding : str
        What its flash attention does under a padding mask: ``attention_padding`` as it runs.
    fused : str
        Its kernels by hand: ``fused_kernels`` where nobody says other.
    attention : str
        Its fused attention, where nobody says other.
    own_loop : bool
        Its layers run in the trainer of its name alone, whose groups of ranks they ask for.
    """

    complex_rope: bool = False
    loops_experts: bool = True
    copies_heads: Literal["", "apart", "values"] = ""
    fuses_matrices: bool = False
    keeps_fp8: bool = False
    groups_since: str = ""
    fuses_softmax: bool = False
    cuts_by_work: bool = False
    padding: Literal["none", "unpad", "unpad-each"] = "none"
    fused: Literal["none", "norm", "norm+rope", "all"] = "none"
    attention: Literal["flash2", "te"] = "flash2"
    own_loop: bool = False


#: Source: transformers 4.45, models/llama and models/mixtral; torchtitan, models/llama3/model and
#: models/moe; llm-foundry, models/mpt (rotates halves; dMoE by megablocks); Megatron-LM,
#: core/transformer/moe/experts.py (``--moe-grouped-gemm``, as its recipes have it) and
#: core/parallel_state.py, core/fusions/fused_softmax.py, core/transformer/attention.py
#: (``linear_qkv``; Transformer Engine, attention.py, ``get_qkv_layout``: v, a view of it among
#: tensors that RoPE made, is made contiguous) and mlp.py (``linear_fc1``); nanotron,
#: models/llama.py, `CausalSelfAttention.forward` and parallel/context.py. Groups of heads:
#: transformers 4.54, integrations/sdpa_attention.py (4.55 came out with PyTorch 2.8); torchtitan,
#: models/attention.py, ``enable_gqa`` (end of 2025). Padding: transformers 4.45,
#: modeling_flash_attention_utils.py, `_upad_input`; llm-foundry, models/layers/attention.py,
#: `flash_attn_fn`. Kernels by hand: Megatron-LM, training/arguments.py (``--no-rope-fusion``,
#: ``--no-bias-swiglu-fusion``) and core/extensions/transformer_engine.py (``TENorm``); nanotron,
#: nn/layer_norm.py (`TritonRMSNorm`) and flash-attn's rotary embedding, its gate is PyTorch's.
#: Attention: Megatron-LM, training/arguments.py (``--attention-backend auto``)
MODELLING = {
    "huggingface": Modelling(groups_since="2.8", padding="unpad"),
    "torchtitan": Modelling(complex_rope=True, loops_experts=False, groups_since="2.10"),
    "composer": Modelling(loops_experts=False, padding="unpad-each"),
    "megatron": Modelling(
        loops_experts=False,
        copies_heads="values",
        fuses_matrices=True,
        keeps_fp8=True,
        fuses_softmax=True,
        fused="all",
        attention="te",
        own_loop=True,
    ),
    "nanotron": Modelling(
        loops_experts=False,
        copies_heads="apart",
        fuses_matrices=True,
        cuts_by_work=True,
        fused="norm+rope",
        own_loop=True,
    ),
}
#: attention kernels that read key and value heads without repeating them
NATIVE_GROUPS = ("flash2", "flash3", "cudnn", "te")


def modelling_name(workload: Workload) -> str:
    """Whose code a workload's model is: what it names, or what its trainer's models mostly are."""
    return workload.modelling or trainer_of(workload).modelling


def modelling_of(workload: Workload) -> Modelling:
    """How that code writes a transformer."""
    return MODELLING[modelling_name(workload)]


def model_of(workload: Workload) -> Model:
    """The model with the matrices that the code makes one of."""
    model = workload.model
    return _fused(model) if modelling_of(workload).fuses_matrices else model


@lru_cache(maxsize=64)
def _fused(model: Model) -> Model:
    heads = not (model.kv_lora_rank or model.attention_gate)
    return model.model_copy(update={"fused_qkv": heads or model.fused_qkv, "fused_gate_up": True})


def keeps_fp8(workload: Workload) -> bool:
    """Whether FP8 linears are Transformer Engine's as Megatron calls them.

    Weights are cast in the first micro-batch of a step and kept, with their transposes. A norm
    writes the FP8 input of the product behind it. What tensor-parallel ranks gather is FP8. One
    kernel a pass brings all scales up to date.

    Source: Megatron-LM, core/extensions/transformer_engine.py (``is_first_microbatch``);
    Transformer Engine 1.13, pytorch/module/base.py (``get_fp8_workspace``,
    ``grad_output_preprocess``), layernorm_linear.py, fp8.py (``reduce_and_update_fp8_tensors``).
    """
    recipe = RECIPES.get(workload.precision.recipe)
    return recipe is not None and recipe.delayed and modelling_of(workload).keeps_fp8


def copies_weights(workload: Workload) -> bool:
    """Whether Transformer Engine casts a weight anew in each pass and hands its copies to backward.

    So where nobody says which micro-batch is the first: FSDP shards the weight again, and not its
    copies. Weights that are 8-bit themselves have none.

    Source: Transformer Engine 2.8, pytorch/module/linear.py (``cache_name``; ``weightmat`` among
    what ``prepare_for_saving`` takes).
    """
    anew = workload.precision.all_gather != "fp8" and not modelling_of(workload).keeps_fp8
    return anew and _of_te(workload)


def keeps_weights(workload: Workload) -> bool:
    """Whether Transformer Engine's copies of weights are cast once a step and stay (Megatron)."""
    return modelling_of(workload).keeps_fp8 and _of_te(workload)


def _of_te(workload: Workload) -> bool:
    return workload.precision.low and RECIPES[workload.precision.recipe].library == "te"


def fused_kernels(workload: Workload) -> str:
    """Kernels by hand: as asked, or as the code has them."""
    return workload.fused_kernels or modelling_of(workload).fused


def gptq_kernels(workload: Workload) -> str:
    """Kernels that unpack GPTQ weights: AutoGPTQ's default, or Triton's for fused adapters."""
    method = workload.method
    if method.quantization != "gptq-int4":
        return ""
    return method.gptq_kernels or ("triton" if method.adapters == "fused" else "cuda-old")


def mixer_kernels(workload: Workload) -> Literal["fused", "torch"]:
    """Kernels of mixers in attention's place: by hand, where nobody says PyTorch's."""
    return workload.mixer_kernels or "fused"


def experts(workload: Workload) -> str:
    """How a mixture's experts run: ``grouped``, ``sorted``, ``all`` or, one by one, ``eager``.

    Source: transformers 5.0, modeling_utils.py, ``get_correct_experts_implementation``: a group
    from PyTorch 2.9 on. Of PyTorch's time it is where no version is said: it came with 2.10.
    PyTorch's kernel is of bf16, and so of GPUs that have it; else experts are multiplied one after
    another (aten/src/ATen/native/cuda/GroupedBlas.cpp, `_grouped_mm_cuda`; before Ampere
    transformers 5.24, integrations/moe.py, ``_can_use_grouped_mm``). Granite's loop (4.57,
    modeling_granitemoe.py, `GraniteMoeParallelExperts`) and Llama 4's, which takes no group (5.24,
    modeling_llama4.py, `Llama4TextMoe.forward`), are their own.
    """
    if not workload.model.experts:
        return "grouped"
    own, group, torch = workload.model.expert_loop, _groups(workload), workload.stack.torch
    ours = modelling_of(workload).loops_experts
    if workload.experts or not ours:
        return workload.experts or "grouped"
    if own == "all" or not group or older(torch, "2.9"):
        return "eager" if own in ("each", "chunked") else own
    return "grouped" if compute_dtype(workload) == "bf16" else "sorted"


def _groups(workload: Workload) -> bool:
    """Whether transformers is 5 or newer, which has experts in a group."""
    used, torch = workload.stack.transformers, workload.stack.torch
    return not older(torch, "2.10") if used is None else not older(used, "5")


def expert_gradients(workload: Workload) -> Literal["", "added", "joined"]:
    """How a loop over experts of one parameter makes its gradient, where that is trained.

    ``added``: it takes each by its index, and each one's gradient is a whole one. ``joined``: it
    cuts the parameter once, whose gradient is a concatenation. "": at once, or of each by itself.

    Source: transformers 4.57, ``self.gate_up_proj[expert_idx]`` in modeling_gpt_oss.py and
    modeling_qwen3_vl_moe.py, ``self.weight[i]`` in modeling_granitemoe.py, ``chunk`` in
    modeling_dbrx.py; 5.24, where all loops index and integrations/moe.py,
    ``_grouped_mm_fallback_bwd``, writes each product into its place.
    """
    how, own = experts(workload), workload.model.expert_loop
    if not stacks_experts(workload):
        return ""
    if _groups(workload):
        return "added" if how == "eager" else ""
    if how == "eager" and own == "chunked":
        return "joined"
    return "added" if how == "eager" or how == own == "sorted" else ""


def stacks_experts(workload: Workload) -> bool:
    """Whether all experts' matrices of a kind are one parameter, however they run.

    Source: transformers 5.24, where all are; 4.57, where those of gpt_oss, llama4, dbrx, granitemoe
    and its kin and qwen3_vl_moe are, and others a list of modules. Unsloth, whose adapters are
    fused, makes modules of those that it loops over (``gate_up_projs`` of gpt-oss in 4 bits).
    """
    model, used = workload.model, workload.stack.transformers
    if experts(workload) == "eager" and workload.method.adapters == "fused":
        return False
    since = model.stacked_experts or (used is not None and not older(used, "5"))
    return bool(model.experts) and (experts(workload) != "eager" or since)


#: style of tensor parallelism in which each linear declares an input split by positions
PER_LINEAR = "dtensor-per-linear"
#: one in which a compiler cuts products into pieces, beside which other pieces are copied
ASYNC = "dtensor-async"
#: columns of the residual stream from which the compiler cuts products
#: Source: torch/_inductor/fx_passes/micro_pipeline_tp.py, a last dimension below 1024 is left alone
WIDE = 1024


def tensor_style(workload: Workload) -> str:
    """How ranks that share matrices exchange activations; "" where none do."""
    p = workload.parallelism
    return (p.tensor_parallel_style or strategy_of(workload).tensor_style) * (p.tensor_parallel > 1)


def repeats_heads(workload: Workload) -> bool:
    """Whether keys and values are copied to every query head before attention.

    FlashAttention and cuDNN read groups of heads as they are; so does PyTorch's own where it is
    asked to.
    """
    return workload.attention not in NATIVE_GROUPS and not asks_groups(workload)


def asks_groups(workload: Workload) -> bool:
    """Whether the code asks PyTorch's own attention for groups of heads.

    ``enable_gqa``, without a mask; code of PyTorch's time does or does not where no version of
    transformers is said.
    """
    used, torch = workload.stack.transformers, workload.stack.torch
    since = modelling_of(workload).groups_since
    if used is not None:
        asks = not older(used, "4.54") and not older(torch, "2.5")
    else:
        asks = bool(since) and not older(torch, since)
    return asks and workload.attention == "sdpa" and workload.attention_padding == "none"


#: compute capability from which PyTorch has FlashAttention
FLASH_SINCE = 8.0
FLASH1_SINCE = 7.5


def keeps_scores(workload: Workload, capability: float) -> bool:
    """Whether PyTorch's own attention has every score in memory on such a GPU.

    Asked for groups of heads it has two kernels: FlashAttention, of 16-bit numbers and from Ampere
    on, and plain products, which `eager` is. The memory-efficient one takes no groups.

    Source: torch.nn.functional.scaled_dot_product_attention, ``enable_gqa``: "currently works only
    for Flash_attention and math kernel on CUDA tensor".
    """
    model = workload.model
    grouped = model.kv_heads < model.heads and not model.kv_lora_rank
    flash = capability >= FLASH_SINCE and compute_dtype(workload) != "fp32"
    return grouped and not flash and asks_groups(workload)


def taken(workload: Workload) -> dict[str, str]:
    """Choices left open and what was taken, by the path of the key."""
    method = workload.method
    found = {} if workload.modelling else {"modelling": modelling_name(workload)}
    if workload.fused_kernels is None:
        found["fused_kernels"] = fused_kernels(workload)
    if method.adapted and method.adapter_dtype is None:
        found["method.adapter_dtype"] = adapter_dtype(workload)
    if method.gptq_kernels is None and (kernels := gptq_kernels(workload)):
        found["method.gptq_kernels"] = kernels
    if (style := tensor_style(workload)) and workload.parallelism.tensor_parallel_style is None:
        found["parallelism.tensor_parallel_style"] = style
    p, several = workload.parallelism, workload.gradient_accumulation > 1
    left = p.gradient_sync is None and "gradient_sync" in strategy_of(workload).knobs
    if left and several and p.pipeline_parallel == 1:
        title = trainer_of(workload).title
        last = f"last ({title} accumulates under no_sync())"
        found["parallelism.gradient_sync"] = "every" if reduces_each(workload) else last
    if p.reduce_dtype == "auto" and "reduce_dtype" in strategy_of(workload).knobs:
        found["parallelism.reduce_dtype"] = reduce_dtype(workload)
    if workload.model.experts and workload.experts is None:
        found["experts"] = experts(workload)
    if workload.model.mixers and workload.mixer_kernels is None:
        found["mixer_kernels"] = mixer_kernels(workload)
    return found


def fp32_logits(stack: Stack) -> bool:
    """Whether a causal model of transformers returns fp32 logits: up to 4.45.

    Without a version it is one of PyTorch's time: 4.46 came out with PyTorch 2.5.1.
    """
    if stack.transformers is not None:
        return older(stack.transformers, "4.46")
    return older(stack.torch, "2.6")


def shifts_logits(stack: Stack) -> bool:
    """Whether the loss of its causal models copies the logits: up to 4.48, later it pads labels.

    Without a version it is one of PyTorch's time: 4.49 came out after 2.6 and before 2.7.

    Source: transformers 4.48.3 and 4.49.0, loss/loss_utils.py, `ForCausalLMLoss`.
    """
    if stack.transformers is not None:
        return older(stack.transformers, "4.49")
    return older(stack.torch, "2.7")
