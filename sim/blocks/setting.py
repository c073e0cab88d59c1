"""What a workload tells its blocks: nothing else of it can change their kernels or their memory."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from sim.inputs.base import fields_but
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.modelling import (
    ASYNC,
    PER_LINEAR,
    WIDE,
    adapter_dtype,
    autocast,
    casts_frozen,
    compute_dtype,
    copies_weights,
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
    tensor_style,
)
from sim.inputs.reference import REFERENCE
from sim.inputs.rows import Computed
from sim.inputs.shares import batch_on
from sim.inputs.trainer import trainer_of
from sim.inputs.versions import older, sdpa_since
from sim.inputs.workload import Workload
from sim.mesh.routing import busiest_load
from sim.records import dataclass
from sim.units import DTYPE_BYTES

FULL = Method.model_construct()
#: times a layer turns the mask into indices: Hugging Face once, llm-foundry for q, k and v each
UNPADS = {"none": 0, "unpad": 1, "unpad-each": 3}


@dataclass(frozen=True, slots=True)
class Setting:
    """Sizes of one rank's micro-batch, method and stack; equal settings have equal blocks.

    Attributes
    ----------
    model : Model
        Its shape, of one layer.
    method : Method
        Full, LoRA or QLoRA.
    tokens, sequences : int
        Tokens on this rank, of so many sequences.
    length, keys : int
        Of this rank's share of a sequence, and of the whole that its queries attend to.
    dtype : str
        Of activations, which linears of a recipe keep in bf16, and of the arithmetic outside them.
    tf32 : bool
        Products of fp32 run in TF32.
    recipe : str
        Of linears in 8 or 4 bits (`sim.inputs.recipes`), "" without.
    fp8_gather : bool
        Weights arrive in FP8.
    copies_weights : bool
        Transformer Engine casts weights in each pass, and its copies last until backward.
    keeps_weights : bool
        It casts them once a step, outside the blocks.
    keeps_fp8 : bool
        FP8 linears are Megatron's (`sim.inputs.modelling.keeps_fp8`).
    compiled : bool
        A compiler merges neighbouring element-wise kernels of the layers.
    complex_rope : bool
        RoPE multiplies complex numbers.
    copies_heads : str
        Copies of q, k and v that one product makes (`sim.inputs.modelling.Modelling`).
    fused_rope, fused_gate : bool
        RoPE is one kernel of q and k, and a gate is one: compiled or by hand (Liger, flash-attn).
    fused_norms : bool
        RMSNorm is one CUDA kernel: by hand, compiled, or PyTorch 2.9 and newer.
    adapters : str
        ``eager`` as PEFT runs them, or ``fused``.
    adapter_dtype : str
        Of adapters as forward reads them.
    unpacking : str
        Which kernels make GPTQ's weights whole: ``cuda-old | triton``.
    autocast : bool
        Products cast what they read to `dtype` (torch.autocast).
    casts_frozen : bool
        Products keep a copy in `dtype` of frozen weights, which are stored wider.
    upcast : bool
        Activations between products are fp32, as PEFT's `prepare_model_for_kbit_training` has them.
    mixer_kernels : str
        Of mixers in attention's place: ``fused`` by hand, or ``torch``.
    experts : str
        ``grouped`` into one kernel, ``eager``, one after another, or ``sorted``, whose products
        alone are.
    attention, loss : str
        Implementations.
    repeats_heads : bool
        Keys and values are copied to every query head before attention.
    unpads : int
        Times a layer finds out where the padding is and takes it out before attention.
    loss_chunks : int
        Of a loss in chunks.
    keeps_chunks : bool
        Whose logits are all there before the loss of the first.
    keeps_output, fp32_output : bool
        The model's output outlives the loss; its logits are fp32.
    metrics : int
        Times a trainer takes the loss once more, without gradient.
    checks_positions : bool
        The host looks at positions before each attention.
    keeps_inputs : bool
        4-bit linears keep their inputs, though only weights of theirs could need them.
    attended : float
        Tokens of a sample that attention stays in; 0: of the whole row.
    attended_share : float
        Of the tokens that reach attention: padding is taken out before it.
    context : int
        Ranks that share a sequence.
    context_kind, context_rotation : str
        How they exchange keys and values, and how those pass round a ring.
    context_balanced : bool
        Parts of a sequence are dealt out so that all have equal work.
    tensor : int
        Ranks that share the matrices of a block.
    sequence_parallel : bool
        They share the residual stream by positions too.
    loss_parallel : bool
        They compute the loss on their own columns of the logits.
    tensor_style : str
        How they exchange it (`sim.blocks.tensor`), "" where nothing is shared.
    tensor_overlap : bool
        Transformer Engine exchanges it beside products.
    expert : int
        Ranks that experts are spread over.
    load : float
        Tokens that the busiest of them gets, over the mean.
    dispatch : str
        How tokens get to them.
    """

    model: Model
    method: Method = FULL
    tokens: int = 1
    sequences: int = 1
    length: int = 1
    keys: int = 1
    dtype: str = "bf16"
    tf32: bool = False
    recipe: str = ""
    fp8_gather: bool = False
    copies_weights: bool = False
    keeps_weights: bool = False
    keeps_fp8: bool = False
    compiled: bool = False
    complex_rope: bool = False
    fuses_softmax: bool = False
    copies_heads: str = ""
    fused_rope: bool = False
    fused_gate: bool = False
    fused_norms: bool = False
    adapters: str = "eager"
    adapter_dtype: str = "bf16"
    unpacking: str = ""
    autocast: bool = False
    casts_frozen: bool = False
    upcast: bool = False
    mixer_kernels: str = "fused"
    experts: str = "grouped"
    attention: str = "flash2"
    repeats_heads: bool = False
    loss: str = "eager"
    loss_chunks: int = 1
    unpads: int = 0
    keeps_chunks: bool = False
    keeps_output: bool = False
    fp32_output: bool = False
    metrics: int = 0
    checks_positions: bool = False
    keeps_inputs: bool = False
    attended: float = 0.0
    attended_share: float = 1.0
    context: int = 1
    context_kind: str = ""
    context_rotation: str = ""
    context_balanced: bool = True
    tensor: int = 1
    sequence_parallel: bool = False
    loss_parallel: bool = False
    tensor_style: str = ""
    tensor_overlap: bool = False
    expert: int = 1
    load: float = 1.0
    dispatch: str = "all-to-all"

    def trains(self, part: str) -> Setting:
        """The same, where the method trains a part of a model that it freezes otherwise."""
        method = self.method
        if method.kind != "freeze" or part not in (*method.modules, *method.extra):
            return self
        return replace(self, method=FULL)

    @property
    def regathers(self) -> bool:
        """Whether inputs of shared matrices are kept in parts, and gathered again in backward."""
        return self.tensor_style == "megatron"

    @property
    def gathers_apart(self) -> bool:
        """Whether each matrix gathers what it reads, though several read the same."""
        return self.tensor_style == PER_LINEAR

    @property
    def pieces(self) -> int:
        """Runs of positions that a product beside an exchange is cut into; 1: none is."""
        cuts = self.tensor_style == ASYNC and self.model.hidden_size >= WIDE
        return self.tensor if cuts and self.splits_stream else 1

    @property
    def reduces_beside(self) -> bool:
        """Whether gradients of inputs are reduced beside the products of gradients of weights.

        Who does so lays the sequence outermost: no copy puts what was gathered in order.
        """
        return self.tensor_style in ("megatron", "nanotron")

    @property
    def splits_stream(self) -> bool:
        """Whether tensor-parallel ranks hold parts of the residual stream."""
        return self.tensor > 1 and self.sequence_parallel

    @property
    def stream_tokens(self) -> int:
        """Tokens of the residual stream on this rank, the longest part."""
        return -(-self.tokens // self.tensor) if self.sequence_parallel else self.tokens

    @property
    def whole(self) -> Setting:
        """The same block on one rank: its work is that of all who share it."""
        if self.tensor == self.expert == 1:
            return self
        return replace(
            self,
            tensor=1,
            sequence_parallel=False,
            loss_parallel=False,
            tensor_style="",
            tensor_overlap=False,
            expert=1,
            load=1.0,
        )

    @property
    def loss_columns(self) -> int:
        """Logits of a token that this rank's loss is computed on."""
        vocabulary = self.model.vocab_size
        return self.split(vocabulary) if self.loss_parallel else vocabulary

    def split(self, columns: int) -> int:
        """Columns (or heads) of this rank, the largest part."""
        return -(-columns // self.tensor)

    @property
    def element(self) -> float:
        """Size of an activation element. [B]"""
        return 4.0 if self.upcast else DTYPE_BYTES[self.dtype]

    @property
    def product(self) -> float:
        """Size of an element that a product outside FP8 or attention reads or writes. [B]"""
        return DTYPE_BYTES[self.dtype]

    @property
    def frozen(self) -> bool:
        """Whether the base is frozen."""
        return self.method.frozen

    @classmethod
    def of(cls, workload: Workload) -> Setting:
        """The setting of a workload; context parallelism splits each sequence."""
        return _setting(workload)


@lru_cache(maxsize=64)
def one_layer(model: Model) -> Model:
    """The model with one layer: depth changes no block."""
    return model.model_copy(update={"layers": 1})


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


#: no block depends on these
_JOB = frozenset({
    "name", "model", "global_batch", "gradient_accumulation", "tokens", "steps", "samples",
    "epochs", "optimizer", "optimizer_rank", "optimizer_implementation", "optimizer_paged",
    "checkpoint", "evaluation", "phases", "deadline", "sources", *REFERENCE,
})  # fmt: skip
_settings: dict[tuple[object, ...], Setting] = {}
_SETTINGS = 512  # that are kept


@lru_cache(maxsize=512)
def _setting(workload: Workload) -> Setting:
    """Shared by jobs whose blocks are alike."""
    depth = workload.model.layers if workload.parallelism.expert_parallel > 1 else 0  # see `_load`
    key = (type(workload), one_layer(workload.model), depth, *fields_but(workload, _JOB))
    found = _settings.get(key)
    if found is None:
        if len(_settings) >= _SETTINGS:
            _settings.clear()
        found = _settings[key] = _read(workload)
    return found


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
        attention=_attention(workload.attention, stack.torch),
        repeats_heads=repeats_heads(workload),
        unpads=UNPADS[workload.attention_padding],
        loss=workload.loss,
        loss_chunks=workload.loss_chunks,
        keeps_chunks=workload.loss == "chunked" and trainer_of(workload).keeps_chunks,
        keeps_output=output and trainer_of(workload).keeps_output,
        fp32_output=output and fp32_logits(stack),
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
