"""What blocks know of a workload: nothing else of it can change their kernels or their memory."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.modelling import ASYNC, PER_LINEAR, WIDE
from sim.records import dataclass
from sim.units import DTYPE_BYTES

FULL = Method.model_construct()


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
    bf16_ends : tuple of int
        Layers at either end that have no recipe (`in_16_bits`).
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
        ``grouped`` into one kernel, ``eager``, one after another, ``sorted``, whose products
        alone are, or ``all`` of them on every token.
    stacked : bool
        All experts' matrices of a kind are one parameter.
    expert_gradients : str
        How a loop over them makes its gradient (`sim.inputs.modelling.expert_gradients`).
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
    shifts_logits : bool
        The loss of a causal model is of a copy of them, a position shorter.
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
    bf16_ends: tuple[int, int] = (0, 0)
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
    stacked: bool = True
    expert_gradients: str = ""
    attention: str = "flash2"
    repeats_heads: bool = False
    loss: str = "eager"
    loss_chunks: int = 1
    unpads: int = 0
    keeps_chunks: bool = False
    keeps_output: bool = False
    fp32_output: bool = False
    shifts_logits: bool = False
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
    def in_16_bits(self) -> Setting:
        """The same without a recipe."""
        return replace(
            self, recipe="", fp8_gather=False, copies_weights=False, keeps_weights=False,
            keeps_fp8=False,
        )  # fmt: skip

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


@lru_cache(maxsize=64)
def one_layer(model: Model) -> Model:
    """The model with one layer: depth changes no block."""
    return model.model_copy(update={"layers": 1})
