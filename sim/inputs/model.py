"""A decoder-only transformer, as inline mapping, catalogue entry or Hugging Face config."""

from __future__ import annotations

from typing import Literal

from sim.inputs.base import Spec

#: linear layers of attention and of the FFN that methods name, and those of other mixers
LINEARS = ("q", "k", "v", "o", "gate", "up", "down", "in_proj", "out_proj")
#: names that code gives to parts of a delta rule's first projection: in two, or one each (Qwen3.5)
IN_PROJECTIONS = tuple(f"in_proj_{part}" for part in ("qkvz", "ba", "qkv", "z", "b", "a"))
#: what mixes tokens in a layer; ``ffn``: nothing, in a model of one branch a layer
Mixer = Literal["attention", "delta", "mamba", "mamba+attention", "conv", "kda", "lightning", "ffn"]


class Model(Spec):
    """Shape of a decoder-only transformer. Counts only, no units."""

    name: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_size: int
    ffn: Literal["swiglu", "geglu", "gelu", "xielu"] = "swiglu"  # two gated ones: three matrices
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    positions: Literal["rope", "learned", "alibi", "none"] = "rope"
    bias: bool = False  # on every linear and LayerNorm (GPT-2, MPT with biases)
    qkv_bias: bool = False  # on q, k, v alone (Qwen2)
    output_bias: bool = False  # on the attention output projection, beside qkv_bias
    mlp_bias: bool = (
        False  # on the FFN matrices alone (Llama's switch), or on all experts' (gpt-oss)
    )
    router_bias: bool = False  # trained, on a mixture's router (gpt-oss)
    attention_sinks: bool = False  # a trained logit a head that takes part of softmax (gpt-oss)
    norm_bias: bool | None = None  # None: as `bias`
    # c tanh(x / c) in eager code of attention's scores, of the logits (Gemma 2)
    softcaps: tuple[Literal["scores", "logits"], ...] = ()
    qk_norm: bool = False  # RMSNorm on q and k heads (Qwen3)
    qk_norm_whole: bool = False  # over all heads at once (OLMo 2)
    norms_per_layer: int = 2  # 4 in Gemma 2, 1 in GPT-J-like parallel blocks
    parallel_block: bool = False  # attention and FFN read the same norm's input (GPT-NeoX)
    tied_embeddings: bool = False
    vocab_size: int
    max_positions: int = 0
    rope_fraction: float = 1.0
    sliding_window: int | None = None
    sliding_window_pattern: int = 1  # every n-th layer is global; 1: all layers slide
    # of layers without a window, where these have other heads (Gemma 4); 0: as the others
    global_kv_heads: int = 0
    global_head_dim: int = 0
    values_are_keys: bool = False  # in layers without a window: no projection of values (Gemma 4)
    embedding_norm: bool = False
    head_bias: bool = False
    fused_qkv: bool = False  # one c_attn / Wqkv matrix (GPT-2, GPT-NeoX, MPT, Phi-3)
    fused_gate_up: bool = False  # Phi-3
    experts: int = 0  # 0: dense
    experts_per_token: int = 0
    shared_experts: int = 0
    stacked_experts: bool = False  # one parameter a kind, in releases before transformers 5 too
    # how a loop of transformers runs them, in place of one by one: of tokens that are sorted once
    # (Granite); of stacks that are cut once (DBRX); all on every token, in 5 too (Llama 4)
    expert_loop: Literal["each", "sorted", "chunked", "all"] = "each"
    expert_ffn_size: int = 0
    dense_layers: int = 0  # leading dense layers of a mixture
    mixture_every: int = 1  # every n-th layer behind them is a mixture; the others are dense
    kv_lora_rank: int = 0  # latent attention (DeepSeek): columns of the keys' and values' latent
    q_lora_rank: int = 0  # of queries' latent; 0: projected at once
    rope_head_dim: int = 0  # of head_dim, turned by RoPE and shared by all heads' keys
    v_head_dim: int = 0  # of a value, where latent attention makes it another than a key's
    attention_gate: bool = False  # a sigmoid on attention's output, from q of twice the columns
    shared_expert_gate: bool = False  # a sigmoid of one number a token on the shared experts
    # what mixes tokens in each layer, in turn from the first on, again and again; (): attention
    layer_pattern: tuple[Mixer, ...] = ()
    one_branch: bool = False  # a layer is a mixer or, as `ffn`, an FFN: not both (Nemotron-H)
    mixer_heads: int = 0  # heads of a delta rule's values or of a state-space model
    mixer_groups: int = 0  # heads of a delta rule's keys; groups of B and C
    mixer_key_dim: int = 0  # columns of a key, or of a state (B and C)
    mixer_head_dim: int = 0  # columns of a value
    mixer_conv: int = 4  # positions that the short convolution sees
    mixer_chunk: int = 64  # tokens of a chunk of the scan
    mixer_bias: bool = False  # on the mixer's own projections
    mixer_conv_bias: bool = False
    mixer_norm: bool = True  # before the last projection of a state-space model
    mixer_split: bool = False  # a matrix for each of qkv, gate, beta and decay (Qwen3.5)
    source: str = ""
    notes: tuple[str, ...] = ()  # what reading a config left out

    def mixer(self, index: int) -> Mixer:
        """What mixes tokens in a layer, the first one 0."""
        pattern = self.layer_pattern
        return pattern[index % len(pattern)] if pattern else "attention"

    def has_network(self, index: int) -> bool:
        """Whether a layer has an FFN."""
        return not self.one_branch or self.mixer(index) == "ffn"

    @property
    def mixers(self) -> tuple[str, ...]:
        """What mixes tokens in attention's place, each kind of it once."""
        words = (word for mixer in self.layer_pattern[: self.layers] for word in mixer.split("+"))
        return tuple(dict.fromkeys(word for word in words if word not in ("attention", "ffn")))

    @property
    def mixed_by(self) -> str:
        """Those in words; "" of a model that has none. Asked for by `sim/data/evidence.toml`."""
        return ", ".join(self.mixers)

    @property
    def linears(self) -> tuple[str, ...]:
        """Linear layers that it may have, as methods name them."""
        return LINEARS if self.mixers else LINEARS[:7]

    def key_heads(self, slides: bool) -> tuple[int, int]:
        """Heads of keys and values, and columns of a head, of layers with a window or without."""
        if slides:
            return self.kv_heads, self.head_dim
        return self.global_kv_heads or self.kv_heads, self.global_head_dim or self.head_dim

    def mixes(self, index: int) -> bool:
        """Whether a layer, the first one 0, is a mixture of experts."""
        behind = index >= self.dense_layers and self.has_network(index)
        return bool(self.experts) and behind and not (index + 1) % self.mixture_every
