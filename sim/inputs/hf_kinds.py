"""Dense models that a ``config.json`` names: their readers."""

from __future__ import annotations

from sim.inputs.hf_parts import (
    Fields,
    KindReader,
    biased,
    capped,
    every_fourth,
    late_window,
    turned,
    windowed,
)
from sim.inputs.hf_reader import HfReader


def llama(reader: HfReader, fields: Fields) -> Fields:
    """Biases of attention and of the FFN, where the file has them."""
    return {**biased(reader), "mlp_bias": reader.flag("mlp_bias", False)}


def qwen3(reader: HfReader, fields: Fields) -> Fields:
    """Norms of each head."""
    return {"qk_norm": True, **biased(reader), **late_window(reader, fields["layers"])}


def _gemma2(reader: HfReader, fields: Fields) -> Fields:
    window = windowed(reader, 4096)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = 2
    caps = capped(reader, default=True)
    return {"ffn": "geglu", **biased(reader), "norms_per_layer": 4, **caps, **window}


def _vaultgemma(reader: HfReader, fields: Fields) -> Fields:
    """Gemma 2 without norms behind attention and FFN."""
    return {**_gemma2(reader, fields), "norms_per_layer": 2}


def _cwm(reader: HfReader, fields: Fields) -> Fields:
    """Windows in all but the first of four layers."""
    window = windowed(reader, 8192)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = 4
    return {**llama(reader, fields), **window}


def _gemma3(reader: HfReader, fields: Fields) -> Fields:
    window = windowed(reader, 4096)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = reader.count("sliding_window_pattern", default=6)
    return {
        "ffn": "geglu", **biased(reader), "norms_per_layer": 4, "qk_norm": True, **capped(reader),
        **window,
    }  # fmt: skip


GPT = {"ffn": "gelu", "norm": "layernorm"}


def gpt2(reader: HfReader, fields: Fields) -> Fields:
    """Learned positions, biases everywhere, q, k and v from one matrix."""
    inner = reader.count("n_inner", default=4 * fields["hidden_size"])
    return {**GPT, "positions": "learned", "bias": True, "fused_qkv": True, "ffn_size": inner}


def _gpt_neox(reader: HfReader, fields: Fields) -> Fields:
    reader.refuse("attention_bias", "without attention biases", given=False)
    aside = reader.flag("use_parallel_residual", True)
    turns = turned(reader, 0.25)
    return {**GPT, "bias": True, "fused_qkv": True, "rope_fraction": turns, "parallel_block": aside}


def _phi(reader: HfReader, fields: Fields) -> Fields:
    reader.refuse("qk_layernorm", "with qk_layernorm")
    return {
        **GPT, "bias": True, "head_bias": True, "norms_per_layer": 1, "parallel_block": True,
        "rope_fraction": turned(reader, 0.5),
    }  # fmt: skip


def _phi3(reader: HfReader, fields: Fields) -> Fields:
    fused = {"fused_qkv": True, "fused_gate_up": True}
    return {**fused, "rope_fraction": turned(reader), **windowed(reader)}


def _mpt(reader: HfReader, fields: Fields) -> Fields:
    nested = reader.within("attn_config")
    attention = nested.values.get("attn_type", "multihead_attention")
    shared = attention == "multiquery_attention"
    if not shared and attention not in ("multihead_attention", "grouped_query_attention"):
        reader.fault("attn_config.attn_type", f"{attention!r} is not modelled")
    if nested.flag("qk_ln", False):
        reader.fault("attn_config.qk_ln", "mpt with qk_ln is not modelled")
    positions = "alibi" if nested.flag("alibi", True) else "learned"
    if nested.flag("rope", False):
        positions = "rope"
    ratio = reader.number("expansion_ratio", default=4.0, most=1e3)
    if ratio * fields["hidden_size"] % 1 or not ratio:
        reader.fault("expansion_ratio", f"{ratio} times the width is no width")
    return {
        **GPT, "positions": positions, "bias": not reader.flag("no_bias", True), "fused_qkv": True,
        "kv_heads": nested.count("kv_n_heads", default=1 if shared else fields["heads"]),
        "ffn_size": int(ratio * fields["hidden_size"]),
    }  # fmt: skip


def _starcoder2(reader: HfReader, fields: Fields) -> Fields:
    for key, usual in (("norm_type", "layer_norm"), ("mlp_type", "default")):
        if (found := reader.values.get(key, usual)) != usual:
            reader.fault(key, f"{found!r} is not modelled")
    bias = reader.flag("use_bias", True)
    return {**GPT, "bias": bias, "norm_bias": True, **windowed(reader)}


def _falcon(reader: HfReader, fields: Fields) -> Fields:
    new = reader.flag("new_decoder_architecture", False)
    parallel = reader.flag("parallel_attn", True)
    kv, norms = 1 if reader.flag("multi_query", True) else fields["heads"], 1 if parallel else 2
    if new:
        kv = reader.count("num_kv_heads", "n_head_kv", default=fields["heads"])
        norms = reader.count("num_ln_in_parallel_attn", default=2)
    return {
        **GPT, "positions": "alibi" if reader.flag("alibi", False) else "rope",
        "bias": reader.flag("bias", False), "norm_bias": True, "fused_qkv": True, "kv_heads": kv,
        "parallel_block": parallel or new, "norms_per_layer": norms,
        "ffn_size": reader.count("ffn_hidden_size", default=4 * fields["hidden_size"]),
    }  # fmt: skip


def _qwen(reader: HfReader, fields: Fields) -> Fields:
    """First-generation Qwen: intermediate_size counts the gate and up halves together."""
    reader.refuse("no_bias", "with biases everywhere", given=False)
    return {"qkv_bias": True, "fused_qkv": True, "ffn_size": fields["ffn_size"] // 2}


def _olmo2(reader: HfReader, fields: Fields) -> Fields:
    """Norms behind attention and FFN instead of before them; q and k normed over all heads."""
    return {**llama(reader, fields), "qk_norm_whole": True}


def _cohere(reader: HfReader, fields: Fields) -> Fields:
    """One LayerNorm without bias before attention and FFN side by side."""
    norm = {"norm": "layernorm", "norm_bias": False, "norms_per_layer": 1}
    own = reader.flag("use_qk_norm", False)  # as many weights as one norm over all heads
    note = "norms of each head of q and k, with weights of its own, are counted as one over all"
    notes = {"qk_norm_whole": True, "notes": (note,)} if own else {}
    return {**norm, "parallel_block": True, **biased(reader), **notes}


def _smollm3(reader: HfReader, fields: Fields) -> Fields:
    reader.refuse("use_sliding_window", "with windows")
    note = "layers without RoPE (every fourth, as released) are counted as if they had it"
    return {**llama(reader, fields), "notes": (note,)}


def _seed_oss(reader: HfReader, fields: Fields) -> Fields:
    return {
        "qkv_bias": reader.flag("attention_bias", True),
        "output_bias": reader.flag("attention_out_bias", False),
        "mlp_bias": reader.flag("mlp_bias", False),
    }


def _ernie4_5(reader: HfReader, fields: Fields) -> Fields:
    bias = biased(reader, "use_bias")
    return {**bias, "mlp_bias": bias["qkv_bias"]}


def hunyuan(reader: HfReader, fields: Fields) -> Fields:
    """Norms of each head, unless the file says otherwise."""
    return {"qk_norm": reader.flag("use_qk_norm", True), **biased(reader)}


def exaone4(reader: HfReader, fields: Fields) -> Fields:
    """Norms of each head; windows in all but every fourth layer, which has no RoPE."""
    window = every_fourth(reader)
    note = "layers without RoPE (those without a window) are counted as if they had it"
    return {"qk_norm": True, **window, "notes": (note,) if window else ()}


def _glm(reader: HfReader, fields: Fields) -> Fields:
    """Half the columns turned, gate and up in one; GLM-4-0414 has norms behind, too."""
    return {
        "qkv_bias": reader.flag("attention_bias", True), "fused_gate_up": True,
        "norms_per_layer": 4 if reader.kind == "glm4" else 2, "rope_fraction": turned(reader, 0.5),
    }  # fmt: skip


def _apertus(reader: HfReader, fields: Fields) -> Fields:
    """Norms of each head, and a FFN of two matrices and an activation that is trained."""
    if (act := reader.values.get("hidden_act", "xielu")) != "xielu":
        reader.fault("hidden_act", f"{act!r} is not modelled for 'apertus'")
    return {"qk_norm": True, "ffn": "xielu", **biased(reader)}


DENSE: dict[str, KindReader] = {
    "llama": llama,
    "mistral": lambda r, _: windowed(r, 4096),
    "ministral": lambda r, _: windowed(r, 4096),
    "ministral3": lambda r, _: windowed(r),
    "qwen2": lambda r, f: {"qkv_bias": True, **late_window(r, f["layers"])},
    "qwen3": qwen3,
    "gemma": lambda r, _: {"ffn": "geglu", **biased(r)},
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
    "internlm": lambda r, _: biased(r, "bias", default=True),
    "olmo2": _olmo2,
    "olmo3": lambda r, f: {**_olmo2(r, f), **every_fourth(r)},
    "granite": llama,
    "cohere": _cohere,
    "cohere2": lambda r, f: {**_cohere(r, f), **every_fourth(r)},
    "smollm3": _smollm3,
    "seed_oss": _seed_oss,
    "ernie4_5": _ernie4_5,
    "hunyuan_v1_dense": hunyuan,
    "exaone4": exaone4,
    "glm": _glm,
    "glm4": _glm,
    "helium": llama,
    "apertus": _apertus,
    "vaultgemma": _vaultgemma,
    "cwm": _cwm,
    "iquestcoder": llama,
    # products with its multipliers are Granite's; norms stand behind attention and FFN, too
    "hyperclovax": lambda r, f: {
        **llama(r, f),
        "norms_per_layer": 4 if r.flag("use_post_norm", True) else 2,
    },
}
