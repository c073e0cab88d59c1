"""Kinds of models that a ``config.json`` names: what transformers has by default, and readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sim.inputs.hf_reader import HfReader

#: transformers class defaults: hidden, layers, heads, kv heads, ffn, vocabulary, positions, tied
DEFAULTS: dict[str, tuple[int, int, int, int | None, int | None, int, int, bool]] = {
    "llama": (4096, 32, 32, None, 11008, 32000, 2048, False),
    "mistral": (4096, 32, 32, 8, 14336, 32000, 131072, False),
    "mixtral": (4096, 32, 32, 8, 14336, 32000, 131072, False),
    "qwen2": (4096, 32, 32, 32, 22016, 151936, 32768, False),
    "qwen3": (4096, 32, 32, 32, 22016, 151936, 32768, False),
    "qwen3_moe": (2048, 24, 32, 4, 6144, 151936, 32768, False),
    "gpt_oss": (2880, 36, 64, 8, 2880, 201088, 131072, False),
    "deepseek_v2": (4096, 32, 32, None, 11008, 32000, 2048, False),
    "deepseek_v3": (7168, 61, 128, None, 18432, 129280, 4096, False),
    "gemma": (3072, 28, 16, 16, 24576, 256000, 8192, True),
    "gemma2": (2304, 26, 8, 4, 9216, 256000, 8192, True),
    "gemma3_text": (2304, 26, 8, 4, 9216, 262208, 131072, True),
    "gpt2": (768, 12, 12, None, None, 50257, 1024, True),
    "gpt_neox": (6144, 44, 64, None, 24576, 50432, 2048, False),
    "phi": (2048, 24, 32, None, 8192, 51200, 2048, False),
    "phi3": (3072, 32, 32, None, 8192, 32064, 4096, False),
    "mpt": (2048, 24, 16, None, None, 50368, 2048, True),
    "starcoder2": (3072, 30, 24, 2, 12288, 49152, 4096, True),
    "falcon": (4544, 32, 71, None, None, 65024, 2048, True),
    "qwen": (4096, 32, 32, None, 22016, 151936, 8192, False),
    "internlm": (4096, 32, 32, None, 11008, 103168, 2048, False),
    "olmo2": (4096, 32, 32, None, 11008, 50304, 2048, False),
    "olmo3": (4096, 32, 32, None, 11008, 50304, 2048, False),
    "granite": (4096, 32, 32, None, 11008, 32000, 2048, False),
    "granitemoe": (4096, 32, 32, None, 11008, 32000, 2048, False),
    "cohere": (8192, 40, 64, None, 22528, 256000, 8192, True),
    "cohere2": (8192, 40, 64, None, 22528, 256000, 8192, True),
    "smollm3": (2048, 36, 16, 4, 11008, 128256, 32768, True),
    "llama4_text": (5120, 48, 40, 8, 8192, 202048, 131072, False),
}
#: text decoders of multimodal models that are those of a plain kind
DECODER_OF = {"qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "qwen2_vl_text": "qwen2"}
DECODER_OF["qwen2_5_vl_text"] = "qwen2"
HEAD_DIM = {"qwen3": 128, "gpt_oss": 64, "gemma": 256, "gemma2": 256, "gemma3_text": 256}
HEAD_DIM["llama4_text"] = 128


def _window(reader: HfReader, default: int | None = None) -> dict[str, Any]:
    """Sliding window of kinds that slide in every layer, or as `layer_types` says."""
    window = reader.count("sliding_window", default=0 if default is None else default, least=1)
    if "sliding_window" in reader.values and reader.values["sliding_window"] is None:
        window = 0
    types = reader.values.get("layer_types")
    if not window:
        return {}
    if not isinstance(types, list) or not types:
        return {"sliding_window": window}
    sliding = [t == "sliding_attention" for t in types]
    if not any(sliding):
        return {}
    if all(sliding):
        return {"sliding_window": window}
    period = sliding.index(False) + 1
    if any(s != bool((i + 1) % period) for i, s in enumerate(sliding)):
        reader.fault("layer_types", "full attention does not come every n-th layer: not modelled")
    return {"sliding_window": window, "sliding_window_pattern": period}


def _rope_fraction(reader: HfReader, default: float = 1.0) -> float:
    nested = reader.values.get("rope_parameters")
    if isinstance(nested, Mapping) and "partial_rotary_factor" in nested:
        return HfReader(nested, reader.kind, reader.source).number(
            "partial_rotary_factor", default=default
        )
    return reader.number("partial_rotary_factor", "rotary_pct", default=default)


def _llama(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return {
        "ffn": "swiglu",
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": reader.flag("mlp_bias", False),
    }


def _mistral(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    return {"ffn": "swiglu", **_window(reader, 4096)}


def _mixtral(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "ffn": "swiglu",
        "experts": reader.count("num_local_experts", default=8),
        "experts_per_token": reader.count("num_experts_per_tok", default=2),
        "expert_ffn_size": fields["ffn_size"],
        **_window(reader),
    }


def _qwen_window(reader: HfReader, layers: int) -> dict[str, Any]:
    """Qwen slides in the layers from max_window_layers on, if at all."""
    if not reader.flag("use_sliding_window", False):
        return {}
    first = reader.count("max_window_layers", default=28, least=0)
    if first >= layers:
        return {}
    if first:
        reader.fault("max_window_layers", "a window in the last layers alone is not modelled")
    return {"sliding_window": reader.count("sliding_window", default=4096)}


def _qwen2(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    return {"ffn": "swiglu", "qkv_bias": True, **_qwen_window(reader, fields["layers"])}


def _qwen3(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    window = _qwen_window(reader, fields["layers"])
    return {"ffn": "swiglu", "qk_norm": True, "qkv_bias": bias, "output_bias": bias, **window}


def _qwen3_moe(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    if reader.count("decoder_sparse_step", default=1) != 1:
        reader.fault("decoder_sparse_step", "only mixtures in every layer are modelled")
    dense = reader.values.get("mlp_only_layers") or []
    if not isinstance(dense, list) or dense != list(range(len(dense))):
        reader.fault("mlp_only_layers", "dense layers are modelled only before all mixtures")
        dense = []
    return {
        **_qwen3(reader, fields),
        "experts": reader.count("num_experts", "num_local_experts", default=128),
        "experts_per_token": reader.count("num_experts_per_tok", default=8),
        "expert_ffn_size": reader.count("moe_intermediate_size", default=768),
        "dense_layers": len(dense),
    }


def _gpt_oss(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    window = _window(reader, 128)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = 2
    bias = reader.flag("attention_bias", True)
    return {
        "ffn": "swiglu", "qkv_bias": bias, "output_bias": bias, "mlp_bias": True,
        "router_bias": True, "attention_sinks": True,
        "experts": reader.count("num_local_experts", default=128),
        "experts_per_token": reader.count("num_experts_per_tok", "experts_per_token", default=4),
        "expert_ffn_size": fields["ffn_size"],
        **window,
    }  # fmt: skip


def _deepseek(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """Latent attention and routed experts of DeepSeek-V2 and V3."""
    new = reader.kind == "deepseek_v3"
    if reader.flag("attention_bias", False):
        reader.fault("attention_bias", "latent attention with biases is not modelled")
    if reader.count("moe_layer_freq", default=1) != 1:
        reader.fault("moe_layer_freq", "dense layers are modelled only before all mixtures")
    turned = reader.count("qk_rope_head_dim", default=64)
    direct = "q_lora_rank" in reader.values and reader.values["q_lora_rank"] is None
    return {
        "ffn": "swiglu",
        "kv_heads": fields["heads"],
        "head_dim": reader.count("qk_nope_head_dim", default=128) + turned,
        "rope_head_dim": turned,
        "v_head_dim": reader.count("v_head_dim", default=128),
        "kv_lora_rank": reader.count("kv_lora_rank", default=512),
        "q_lora_rank": 0 if direct else reader.count("q_lora_rank", default=1536),
        "experts": reader.count("n_routed_experts", default=256 if new else 64),
        "experts_per_token": reader.count("num_experts_per_tok", default=8 if new else None),
        "shared_experts": reader.count("n_shared_experts", default=1 if new else 2, least=0),
        "expert_ffn_size": reader.count("moe_intermediate_size", default=2048 if new else 1407),
        "dense_layers": reader.count("first_k_dense_replace", default=3 if new else 0, least=0),
    }


def _gemma(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return {"ffn": "geglu", "qkv_bias": bias, "output_bias": bias}


def _gemma2(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    window = _window(reader, 4096)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = 2
    return {**_gemma(reader, fields), "norms_per_layer": 4, **window}


def _gemma3(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    window = _window(reader, 4096)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = reader.count("sliding_window_pattern", default=6)
    return {**_gemma(reader, fields), "norms_per_layer": 4, "qk_norm": True, **window}


_GPT = {"ffn": "gelu", "norm": "layernorm"}


def _gpt2(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    inner = reader.count("n_inner", default=4 * fields["hidden_size"])
    return {**_GPT, "positions": "learned", "bias": True, "fused_qkv": True, "ffn_size": inner}


def _gpt_neox(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    if not reader.flag("attention_bias", True):
        reader.fault("attention_bias", "gpt_neox without attention biases is not modelled")
    return {
        **_GPT,
        "bias": True,
        "fused_qkv": True,
        "rope_fraction": _rope_fraction(reader, 0.25),
        "parallel_block": reader.flag("use_parallel_residual", True),
    }


def _phi(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    if reader.flag("qk_layernorm", False):
        reader.fault("qk_layernorm", "phi with qk_layernorm is not modelled")
    return {
        **_GPT,
        "bias": True,
        "head_bias": True,
        "norms_per_layer": 1,
        "parallel_block": True,
        "rope_fraction": _rope_fraction(reader, 0.5),
    }


def _phi3(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    fused = {"fused_qkv": True, "fused_gate_up": True}
    return {"ffn": "swiglu", **fused, "rope_fraction": _rope_fraction(reader), **_window(reader)}


def _mpt(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    attention = reader.values.get("attn_config")
    nested = HfReader(attention if isinstance(attention, Mapping) else {}, "mpt", reader.source)
    if nested.values.get("attn_type", "multihead_attention") not in (
        "multihead_attention",
        "grouped_query_attention",
        "multiquery_attention",
    ):
        reader.fault("attn_config.attn_type", f"{nested.values['attn_type']!r} is not modelled")
    if nested.flag("qk_ln", False):
        reader.fault("attn_config.qk_ln", "mpt with qk_ln is not modelled")
    positions = "alibi" if nested.flag("alibi", True) else "learned"
    if nested.flag("rope", False):
        positions = "rope"
    kv = fields["heads"]
    if nested.values.get("attn_type") == "multiquery_attention":
        kv = 1
    ratio = reader.number("expansion_ratio", default=4.0)
    if ratio * fields["hidden_size"] % 1:
        reader.fault("expansion_ratio", f"{ratio} times the width is not a whole number")
    reader.faults += nested.faults
    return {
        **_GPT,
        "positions": positions,
        "bias": not reader.flag("no_bias", True),
        "fused_qkv": True,
        "kv_heads": nested.count("kv_n_heads", default=kv),
        "ffn_size": int(ratio * fields["hidden_size"]),
    }


def _starcoder2(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    if reader.values.get("norm_type", "layer_norm") != "layer_norm":
        reader.fault("norm_type", f"{reader.values['norm_type']!r} is not modelled")
    if reader.values.get("mlp_type", "default") != "default":
        reader.fault("mlp_type", f"{reader.values['mlp_type']!r} is not modelled")
    bias = reader.flag("use_bias", True)
    return {**_GPT, "bias": bias, "norm_bias": True, **_window(reader)}


def _falcon(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    new = reader.flag("new_decoder_architecture", False)
    parallel = reader.flag("parallel_attn", True)
    kv = 1 if reader.flag("multi_query", True) else fields["heads"]
    if new:
        kv = reader.count("num_kv_heads", "n_head_kv", default=fields["heads"])
    norms = 1 if parallel and not new else 2
    if new:
        norms = reader.count("num_ln_in_parallel_attn", default=2)
    return {
        **_GPT,
        "positions": "alibi" if reader.flag("alibi", False) else "rope",
        "bias": reader.flag("bias", False),
        "norm_bias": True,
        "fused_qkv": True,
        "kv_heads": kv,
        "parallel_block": parallel or new,
        "norms_per_layer": norms,
        "ffn_size": reader.count("ffn_hidden_size", default=4 * fields["hidden_size"]),
    }


def _qwen(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """First-generation Qwen: intermediate_size counts the gate and up halves together."""
    if not reader.flag("no_bias", True):
        reader.fault("no_bias", "qwen with biases everywhere is not modelled")
    half = fields["ffn_size"] // 2
    return {"ffn": "swiglu", "qkv_bias": True, "fused_qkv": True, "ffn_size": half}


def _internlm(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("bias", True)
    return {"ffn": "swiglu", "qkv_bias": bias, "output_bias": bias}


def _olmo2(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """Norms behind attention and FFN instead of before them; q and k normed over all heads."""
    return {**_llama(reader, fields), "qk_norm_whole": True}


def _olmo3(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    return {**_olmo2(reader, fields), **_every_fourth(reader)}


def _every_fourth(reader: HfReader) -> dict[str, Any]:
    """A window of 4,096 in all but every fourth layer, unless the file says otherwise."""
    window = _window(reader, 4096)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = reader.count("sliding_window_pattern", default=4)
    return window


def _granitemoe(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return {
        "ffn": "swiglu", "qkv_bias": bias, "output_bias": bias,
        "experts": reader.count("num_local_experts", default=8),
        "experts_per_token": reader.count("num_experts_per_tok", default=2),
        "expert_ffn_size": fields["ffn_size"],
    }  # fmt: skip


def _cohere(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """One LayerNorm without bias before attention and FFN side by side."""
    if reader.flag("use_qk_norm", False):
        reader.fault("use_qk_norm", "cohere with norms of each head of its own is not modelled")
    bias = reader.flag("attention_bias", False)
    return {
        "ffn": "swiglu", "norm": "layernorm", "norm_bias": False, "norms_per_layer": 1,
        "parallel_block": True, "qkv_bias": bias, "output_bias": bias,
    }  # fmt: skip


def _cohere2(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    return {**_cohere(reader, fields), **_every_fourth(reader)}


def _smollm3(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    if reader.flag("use_sliding_window", False):
        reader.fault("use_sliding_window", "smollm3 with windows is not modelled")
    note = "layers without RoPE (every fourth, as released) are counted as if they had it"
    return {**_llama(reader, fields), "notes": (note,)}


def _llama4(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """A mixture with a shared expert in every layer (Scout)."""
    if reader.count("interleave_moe_layer_step", default=1) != 1:
        message = "only mixtures in every layer are modelled"
        reader.fault("interleave_moe_layer_step", message)
    chunk = reader.count("attention_chunk_size", default=8192)
    bias = reader.flag("attention_bias", False)
    return {
        "ffn": "swiglu", "qkv_bias": bias, "output_bias": bias,
        "experts": reader.count("num_local_experts", default=16),
        "experts_per_token": reader.count("num_experts_per_tok", default=1),
        "shared_experts": 1, "expert_ffn_size": fields["ffn_size"],
        "ffn_size": reader.count("intermediate_size_mlp", default=16384),
        "notes": (f"three of four layers attend within {chunk:,} tokens: counted in full",),
    }  # fmt: skip


KINDS: dict[str, Callable[[HfReader, dict[str, Any]], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "gpt_oss": _gpt_oss,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "phi": _phi,
    "phi3": _phi3,
    "mpt": _mpt,
    "starcoder2": _starcoder2,
    "falcon": _falcon,
    "qwen": _qwen,
    "internlm": _internlm,
    "olmo2": _olmo2,
    "olmo3": _olmo3,
    "granite": _llama,
    "granitemoe": _granitemoe,
    "cohere": _cohere,
    "cohere2": _cohere2,
    "smollm3": _smollm3,
    "llama4_text": _llama4,
}
