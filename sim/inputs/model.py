"""A decoder-only transformer, as inline mapping, catalogue entry or Hugging Face config."""

from __future__ import annotations

from typing import Literal

from sim.inputs.base import Spec


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
    positions: Literal["rope", "learned", "alibi"] = "rope"
    bias: bool = False  # on every linear and LayerNorm (GPT-2, MPT with biases)
    qkv_bias: bool = False  # on q, k, v alone (Qwen2)
    output_bias: bool = False  # on the attention output projection, beside qkv_bias
    mlp_bias: bool = (
        False  # on the FFN matrices alone (Llama's switch), or on all experts' (gpt-oss)
    )
    router_bias: bool = False  # trained, on a mixture's router (gpt-oss)
    attention_sinks: bool = False  # a trained logit a head that takes part of softmax (gpt-oss)
    norm_bias: bool | None = None  # None: as `bias`
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
    embedding_norm: bool = False
    head_bias: bool = False
    fused_qkv: bool = False  # one c_attn / Wqkv matrix (GPT-2, GPT-NeoX, MPT, Phi-3)
    fused_gate_up: bool = False  # Phi-3
    experts: int = 0  # 0: dense
    experts_per_token: int = 0
    shared_experts: int = 0
    expert_ffn_size: int = 0
    dense_layers: int = 0  # leading dense layers of a mixture
    mixture_every: int = 1  # every n-th layer behind them is a mixture; the others are dense
    kv_lora_rank: int = 0  # latent attention (DeepSeek): columns of the keys' and values' latent
    q_lora_rank: int = 0  # of queries' latent; 0: projected at once
    rope_head_dim: int = 0  # of head_dim, turned by RoPE and shared by all heads' keys
    v_head_dim: int = 0  # of a value, where latent attention makes it another than a key's
    source: str = ""
    notes: tuple[str, ...] = ()  # what reading a config left out

    def mixes(self, index: int) -> bool:
        """Whether a layer, the first one 0, is a mixture of experts."""
        behind = index >= self.dense_layers
        return bool(self.experts) and behind and not (index + 1) % self.mixture_every
