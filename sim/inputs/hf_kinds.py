"""Dense models that a ``config.json`` names: their readers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.inputs.hf_parts import every_fourth, late_window, turned, windowed
from sim.inputs.hf_reader import HfReader


def llama(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """Biases of attention and of the FFN, where the file has them."""
    bias = reader.flag("attention_bias", False)
    return {
        "ffn": "swiglu",
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": reader.flag("mlp_bias", False),
    }


def _mistral(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    return {"ffn": "swiglu", **windowed(reader, 4096)}


def _qwen2(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    return {"ffn": "swiglu", "qkv_bias": True, **late_window(reader, fields["layers"])}


def qwen3(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """Norms of each head."""
    bias = reader.flag("attention_bias", False)
    window = late_window(reader, fields["layers"])
    return {"ffn": "swiglu", "qk_norm": True, "qkv_bias": bias, "output_bias": bias, **window}


def _gemma(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return {"ffn": "geglu", "qkv_bias": bias, "output_bias": bias}


def _gemma2(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    window = windowed(reader, 4096)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = 2
    return {**_gemma(reader, fields), "norms_per_layer": 4, **window}


def _gemma3(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    window = windowed(reader, 4096)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = reader.count("sliding_window_pattern", default=6)
    return {**_gemma(reader, fields), "norms_per_layer": 4, "qk_norm": True, **window}


GPT = {"ffn": "gelu", "norm": "layernorm"}


def gpt2(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """Learned positions, biases everywhere, q, k and v from one matrix."""
    inner = reader.count("n_inner", default=4 * fields["hidden_size"])
    return {**GPT, "positions": "learned", "bias": True, "fused_qkv": True, "ffn_size": inner}


def _gpt_neox(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    if not reader.flag("attention_bias", True):
        reader.fault("attention_bias", "gpt_neox without attention biases is not modelled")
    return {
        **GPT,
        "bias": True,
        "fused_qkv": True,
        "rope_fraction": turned(reader, 0.25),
        "parallel_block": reader.flag("use_parallel_residual", True),
    }


def _phi(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    if reader.flag("qk_layernorm", False):
        reader.fault("qk_layernorm", "phi with qk_layernorm is not modelled")
    return {
        **GPT,
        "bias": True,
        "head_bias": True,
        "norms_per_layer": 1,
        "parallel_block": True,
        "rope_fraction": turned(reader, 0.5),
    }


def _phi3(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    fused = {"fused_qkv": True, "fused_gate_up": True}
    return {"ffn": "swiglu", **fused, "rope_fraction": turned(reader), **windowed(reader)}


def _mpt(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    nested = reader.within("attn_config")
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
    ratio = reader.number("expansion_ratio", default=4.0, most=1e3)
    if ratio * fields["hidden_size"] % 1 or not ratio:
        reader.fault("expansion_ratio", f"{ratio} times the width is no width")
    return {
        **GPT,
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
    return {**GPT, "bias": bias, "norm_bias": True, **windowed(reader)}


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
        **GPT,
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


def internlm(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """One key for the biases of attention."""
    bias = reader.flag("bias", True)
    return {"ffn": "swiglu", "qkv_bias": bias, "output_bias": bias}


def _olmo2(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """Norms behind attention and FFN instead of before them; q and k normed over all heads."""
    return {**llama(reader, fields), "qk_norm_whole": True}


def _olmo3(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    return {**_olmo2(reader, fields), **every_fourth(reader)}


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
    return {**_cohere(reader, fields), **every_fourth(reader)}


def _smollm3(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    if reader.flag("use_sliding_window", False):
        reader.fault("use_sliding_window", "smollm3 with windows is not modelled")
    note = "layers without RoPE (every fourth, as released) are counted as if they had it"
    return {**llama(reader, fields), "notes": (note,)}


def _seed_oss(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "ffn": "swiglu",
        "qkv_bias": reader.flag("attention_bias", True),
        "output_bias": reader.flag("attention_out_bias", False),
        "mlp_bias": reader.flag("mlp_bias", False),
    }


def _ernie4_5(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("use_bias", False)
    return {"ffn": "swiglu", "qkv_bias": bias, "output_bias": bias, "mlp_bias": bias}


def _hunyuan(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    norms = reader.flag("use_qk_norm", True)
    return {"ffn": "swiglu", "qk_norm": norms, "qkv_bias": bias, "output_bias": bias}


def exaone4(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """Norms of each head; windows in all but every fourth layer, which has no RoPE."""
    window = every_fourth(reader)
    note = "layers without RoPE (those without a window) are counted as if they had it"
    return {"ffn": "swiglu", "qk_norm": True, **window, "notes": (note,) if window else ()}


def _glm(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """Half the columns turned, gate and up in one; GLM-4-0414 has norms behind, too."""
    return {
        "ffn": "swiglu", "qkv_bias": reader.flag("attention_bias", True), "fused_gate_up": True,
        "norms_per_layer": 4 if reader.kind == "glm4" else 2, "rope_fraction": turned(reader, 0.5),
    }  # fmt: skip


def _ministral(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    return {"ffn": "swiglu", **windowed(reader, 4096 if reader.kind == "ministral" else None)}


def _granitemoehybrid(reader: HfReader, fields: dict[str, Any]) -> dict[str, Any]:
    """Those of attention alone and of one FFN a layer, gate and up in one."""
    types = reader.values.get("layer_types") or reader.values.get("layers_block_type")
    known = {"attention", "full_attention"}
    if not isinstance(types, list) or not types or {str(t) for t in types} - known:
        reader.fault("layer_types", "layers of Mamba-2 are not modelled, those of attention are")
    if reader.count("num_local_experts", default=8, least=0):
        message = "mixtures beside an FFN of another width are not modelled"
        reader.fault("num_local_experts", message)
    if reader.values.get("position_embedding_type") != "rope":
        reader.fault("position_embedding_type", "layers without positions are not modelled")
    width = reader.count("shared_intermediate_size", default=1024)
    return {**llama(reader, fields), "fused_gate_up": True, "ffn_size": width}


DENSE: dict[str, Callable[[HfReader, dict[str, Any]], dict[str, Any]]] = {
    "llama": llama,
    "mistral": _mistral,
    "ministral": _ministral,
    "ministral3": _ministral,
    "qwen2": _qwen2,
    "qwen3": qwen3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gpt2": gpt2,
    "gpt_neox": _gpt_neox,
    "phi": _phi,
    "phi3": _phi3,
    "mpt": _mpt,
    "starcoder2": _starcoder2,
    "falcon": _falcon,
    "qwen": _qwen,
    "internlm": internlm,
    "olmo2": _olmo2,
    "olmo3": _olmo3,
    "granite": llama,
    "granitemoehybrid": _granitemoehybrid,
    "cohere": _cohere,
    "cohere2": _cohere2,
    "smollm3": _smollm3,
    "seed_oss": _seed_oss,
    "ernie4_5": _ernie4_5,
    "hunyuan_v1_dense": _hunyuan,
    "exaone4": exaone4,
    "glm": _glm,
    "glm4": _glm,
    "helium": llama,
}
