"""Mixtures of experts and latent attention that a ``config.json`` names: their readers."""

from __future__ import annotations

from sim.inputs.hf_kinds import exaone4, hunyuan, llama, qwen3
from sim.inputs.hf_parts import (
    Fields,
    KindReader,
    alike,
    biased,
    capped,
    leading_dense,
    mixture,
    shared,
    turned,
    windowed,
)
from sim.inputs.hf_reader import HfReader

#: Granite's loop
SORTED = {"expert_loop": "sorted"}


def qwen3_moe(reader: HfReader, fields: Fields) -> Fields:
    """Norms of each head, and routed experts behind the leading dense layers."""
    dense = reader.values.get("mlp_only_layers") or []
    if not isinstance(dense, list) or dense != list(range(len(dense))):
        reader.fault("mlp_only_layers", "dense layers are modelled only before all mixtures")
        dense = []
    return {
        **qwen3(reader, fields),
        **mixture(reader, 128, 8, reader.count("moe_intermediate_size", default=768)),
        "dense_layers": len(dense),
        "mixture_every": reader.count("decoder_sparse_step", default=1),
    }


def _gpt_oss(reader: HfReader, fields: Fields) -> Fields:
    window = windowed(reader, 128)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = 2
    biases = {**biased(reader, default=True), "mlp_bias": True, "router_bias": True}
    experts = mixture(reader, 128, 4, fields["ffn_size"])
    return {**biases, "attention_sinks": True, **experts, **window}


#: latent attention's columns (direct, turned and value of a head, latents of k and v and of q) and
#: routed experts (how many, of a token, shared, columns, dense layers before them)
LATENT = {
    "deepseek": (0, 0, 0, 0, 0, None, None, 0, 1407, 0),
    "deepseek_v2": (128, 64, 128, 512, 1536, 64, None, 2, 1407, 0),
    "deepseek_v3": (128, 64, 128, 512, 1536, 256, 8, 1, 2048, 3),
    "deepseek_v32": (128, 64, 128, 512, 1536, 256, 8, 1, 2048, 3),
    "glm_moe_dsa": (192, 64, 256, 512, 2048, 256, 8, 1, 2048, 3),
    "kimi_linear": (128, 64, 128, 512, 0, 256, 8, 1, 1024, 1),
    "glm4_moe_lite": (192, 64, 256, 512, 768, 64, 4, 1, 1536, 1),
    "mistral4": (64, 64, 128, 256, 1024, 128, 4, 1, 2048, 0),
    "youtu": (128, 64, 128, 512, 1536, 0, 0, 0, 0, 0),
    "minicpm3": (64, 32, 64, 256, 768, 0, 0, 0, 0, 0),
}


def latent(reader: HfReader, fields: Fields) -> Fields:
    """Latent attention (DeepSeek-V2 and V3, and kinds that took it over) and a dense FFN."""
    reader.refuse("attention_bias", "with biases of its latent attention")
    direct, turned, value, kv, q, *_ = LATENT[reader.kind]
    turned = reader.count("qk_rope_head_dim", default=turned)
    at_once = "q_lora_rank" in reader.values and reader.values["q_lora_rank"] is None
    return {
        "kv_heads": fields["heads"],
        "head_dim": reader.count("qk_nope_head_dim", default=direct) + turned,
        "rope_head_dim": turned,
        "v_head_dim": reader.count("v_head_dim", default=value),
        "kv_lora_rank": reader.count("kv_lora_rank", default=kv),
        "q_lora_rank": 0 if at_once else reader.count("q_lora_rank", default=q, least=min(q, 1)),
    }


def _deepseek(reader: HfReader, fields: Fields) -> Fields:
    """Latent attention (plain, where the file says so) and routed experts."""
    if reader.count("moe_layer_freq", default=1) != 1:
        reader.fault("moe_layer_freq", "dense layers are modelled only before all mixtures")
    attention = latent if reader.flag("use_mla", reader.kind != "deepseek") else llama
    return {**attention(reader, fields), **routed(reader, *LATENT[reader.kind][5:])}


def _indexed(reader: HfReader, fields: Fields) -> Fields:
    """DeepSeek-V3.2 and GLM-5: an indexer chooses the positions that a query attends to."""
    most = reader.count("index_topk", default=2048)
    note = f"attention to {most:,} positions that an indexer chooses is counted in full, without it"
    found = _deepseek(reader, fields)
    heads = reader.count("index_n_heads", default=32 if reader.kind == "glm_moe_dsa" else 64)
    width, d = reader.count("index_head_dim", default=128), fields["hidden_size"]
    # queries from their latent, keys, a LayerNorm of them, and a weight of each head
    own = heads * width * found["q_lora_rank"] + d * width + 2 * width + d * heads
    left_out = f" ({own * fields['layers']:,} parameters)"
    return {**found, "notes": (note + left_out,)}


def routed(
    reader: HfReader, experts: int | None, of_token: int | None, shared: int, columns: int | None,
    dense: int,
) -> Fields:  # fmt: skip
    """Routed and shared experts of one width behind dense layers, with what each is by default."""
    return {
        "experts": reader.count("n_routed_experts", "num_experts", default=experts),
        "experts_per_token": reader.count(
            "num_experts_per_tok", "num_experts_per_token", default=of_token
        ),
        "shared_experts": reader.count(
            "n_shared_experts", "num_shared_experts", default=shared, least=0
        ),
        "expert_ffn_size": reader.count("moe_intermediate_size", default=columns),
        "dense_layers": leading_dense(reader, dense),
    }


def _llama4(reader: HfReader, fields: Fields) -> Fields:
    """A mixture with a shared expert in every layer (Scout) or every second one (Maverick)."""
    step = reader.count("interleave_moe_layer_step", default=1)
    mixtures = reader.values.get("moe_layers")
    if mixtures is not None and mixtures != list(range(step - 1, fields["layers"], step)):
        reader.fault("moe_layers", f"mixtures that are not every {step} layers are not modelled")
    chunk = reader.count("attention_chunk_size", default=8192)
    return {
        **biased(reader), **mixture(reader, 16, 1, fields["ffn_size"]), "shared_experts": 1,
        "ffn_size": reader.count("intermediate_size_mlp", default=16384), "mixture_every": step,
        "notes": (f"three of four layers attend within {chunk:,} tokens: counted in full",),
        "expert_loop": "all",
    }  # fmt: skip


def _gemma4(reader: HfReader, fields: Fields) -> Fields:
    """Gemma 3's layers, of which those without a window have fewer and wider heads.

    Beside a mixture stands the dense FFN, which is its shared expert here.
    """
    unified = reader.kind == "gemma4_unified_text"
    if reader.count("hidden_size_per_layer_input", default=0 if unified else 256, least=0):
        reader.fault("hidden_size_per_layer_input", "an embedding for each layer is not modelled")
    if reader.count("num_kv_shared_layers", default=0, least=0):
        reader.fault("num_kv_shared_layers", "keys and values that layers share are not modelled")
    window = windowed(reader, 1024 if unified else 512)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = 6
    one, wide = reader.flag("attention_k_eq_v", False), fields["ffn_size"]
    notes = [
        "norms of values, which have no weights, are left out",
        "FlashAttention takes heads of up to 256 columns: wider ones are counted at its pace",
    ]
    found = {
        "ffn": "geglu", **biased(reader), "norms_per_layer": 4, "qk_norm": True, **window,
        **capped(reader), "values_are_keys": one,
        "global_head_dim": reader.count("global_head_dim", default=512),
    }  # fmt: skip
    if one:
        usual = fields["kv_heads"]
        found["global_kv_heads"] = reader.count("num_global_key_value_heads", default=usual)
    if reader.flag("enable_moe_block", False):
        columns = reader.count("moe_intermediate_size")
        if wide % columns:
            message = f"{wide} is no multiple of the {columns} columns of an expert: not modelled"
            reader.fault("intermediate_size", message)
        experts, d = reader.count("num_experts"), fields["hidden_size"]
        found |= mixture(reader, None, None, columns) | {"shared_experts": wide // columns}
        own = fields["layers"] * (3 * d + d + experts)
        notes.append(
            "a mixture's own norms, and scales of its router's input and choice, are left out "
            f"({own:,} parameters)"
        )
    return {**found, "notes": tuple(notes)}


def _afmoe(reader: HfReader, fields: Fields) -> Fields:
    """Attention behind a gate, norms behind attention and FFN, windows in three of four layers."""
    window = windowed(reader, 1024)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = reader.count("global_attn_every_n_layers", default=4)
    note = "layers without RoPE (those without a window) are counted as if they had it"
    return {
        "qk_norm": True, "norms_per_layer": 4, "attention_gate": True, **biased(reader), **window,
        **routed(reader, 64, 6, 2, 1408, 0), "notes": (note,),
        "dense_layers": reader.count("num_dense_layers", default=1, least=0),
    }  # fmt: skip


def _glm4_moe(reader: HfReader, fields: Fields) -> Fields:
    return {
        "qkv_bias": reader.flag("attention_bias", False),
        "qk_norm": reader.flag("use_qk_norm", False),
        "rope_fraction": turned(reader, 0.5),
        **routed(reader, 128, 8, 1, 1408, 1),
    }


def _sarvam(reader: HfReader, fields: Fields) -> Fields:
    """GLM 4.5's layers with RoPE on whole heads; its repository's keys, too."""
    return {
        "qkv_bias": reader.flag("attention_bias", reader.flag("use_qkv_bias", False)),
        "qk_norm": reader.flag("use_qk_norm", True), "rope_fraction": turned(reader),
        **routed(reader, 128, 6, 1, 1024, 1),
    }  # fmt: skip


def _dots1(reader: HfReader, fields: Fields) -> Fields:
    slides, window = reader.values.get("sliding_window", 4096) is not None, {}
    if "layer_types" in reader.values:
        window = windowed(reader, 4096)
    elif slides and reader.count("max_window_layers", default=62, least=0) < fields["layers"]:
        reader.fault("max_window_layers", "a window in the last layers alone is not modelled")
    experts = routed(reader, None, None, 0, 1408, 0)
    return {"qk_norm": True, **biased(reader), **window, **experts}


def _hy_v3(reader: HfReader, fields: Fields) -> Fields:
    experts = routed(reader, 192, 8, 1, 1536, 1)
    note = "routed and shared experts are summed in the compute dtype, not in fp32"
    notes = (note,) if reader.flag("enable_moe_fp32_combine", True) else ()
    return {**llama(reader, fields), "qk_norm": True, "notes": notes, **experts}


def _hunyuan_v1_moe(reader: HfReader, fields: Fields) -> Fields:
    """One shared expert beside the routed ones in every layer; its file gives a value a layer."""
    reader = alike(reader)
    for key in ("use_cla", "use_mla"):
        reader.refuse(key, "with attention shared by layers or latent")
    return {
        **hunyuan(reader, fields),
        "experts": reader.count("num_experts", default=1),
        "experts_per_token": reader.count("moe_topk", "num_experts_per_tok", default=1),
        "shared_experts": reader.count("num_shared_expert", default=1, least=0),
        "expert_ffn_size": reader.count("moe_intermediate_size", default=fields["ffn_size"]),
    }  # fmt: skip


def _ernie4_5_moe(reader: HfReader, fields: Fields) -> Fields:
    reader.refuse("use_bias", "with biases")
    layers = fields["layers"]
    last = reader.values.get("moe_layer_end_index", -1)
    if last not in (-1, None, layers - 1):
        reader.fault("moe_layer_end_index", "dense layers are modelled only before all mixtures")
    return {
        "experts": reader.count("moe_num_experts", "num_experts", default=64),
        "experts_per_token": reader.count("moe_k", "num_experts_per_tok", default=6),
        "shared_experts": reader.count("moe_num_shared_experts", default=2, least=0),
        "expert_ffn_size": reader.count("moe_intermediate_size", default=1536),
        "dense_layers": reader.count("moe_layer_start_index", default=1, least=0),
        "mixture_every": reader.count("moe_layer_interval", default=1),
    }


def _minimax_m2(reader: HfReader, fields: Fields) -> Fields:
    types = reader.values.get("attn_type_list")
    if isinstance(types, list) and any(t != 1 for t in types):
        reader.fault("attn_type_list", "layers without softmax attention (0) are not modelled")
    if reader.count("shared_intermediate_size", default=0, least=0):
        reader.fault("shared_intermediate_size", "minimax_m2 with shared experts is not modelled")
    head = fields["head_dim"]
    columns = reader.count("rotary_dim", default=head)
    return {
        "qk_norm_whole": True,
        "rope_fraction": turned(reader, min(1.0, columns / head)),
        **mixture(reader, 256, 8, fields["ffn_size"]),
    }


def _olmoe(reader: HfReader, fields: Fields) -> Fields:
    """Mixtures in every layer, q and k normed over all heads; FlexOlmo's norms stand behind."""
    if reader.values.get("clip_qkv") is not None:
        reader.fault("clip_qkv", f"{reader.kind} with clipped q, k and v is not modelled")
    usual = (7, 5) if reader.kind == "flex_olmo" else (64, 8)
    return {**biased(reader), "qk_norm_whole": True, **mixture(reader, *usual, fields["ffn_size"])}


def _phimoe(reader: HfReader, fields: Fields) -> Fields:
    note = "its router's sparse mixer is counted as a softmax over the experts"
    return {
        "norm": "layernorm", "norm_bias": True, **biased(reader),
        "head_bias": reader.flag("lm_head_bias", False), **windowed(reader),
        **mixture(reader, 16, 2, fields["ffn_size"]), "notes": (note,),
    }  # fmt: skip


MIXTURES: dict[str, KindReader] = {
    "mixtral": lambda r, f: {**mixture(r, 8, 2, f["ffn_size"]), **windowed(r)},
    "qwen3_moe": qwen3_moe,
    "gpt_oss": _gpt_oss,
    "deepseek": _deepseek,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "deepseek_v32": _indexed,
    "glm_moe_dsa": _indexed,
    "glm4_moe_lite": _deepseek,
    "mistral4": _deepseek,
    "youtu": latent,
    "granitemoe": lambda r, f: {**biased(r), **mixture(r, 8, 2, f["ffn_size"]), **SORTED},
    "llama4_text": _llama4,
    "gemma4_text": _gemma4,
    "gemma4_unified_text": _gemma4,
    "afmoe": _afmoe,
    "glm4_moe": _glm4_moe,
    "sarvam_moe": _sarvam,
    "granitemoeshared": lambda r, f: {
        **biased(r),
        **mixture(r, 8, 2, f["ffn_size"]),
        **shared(r, f["ffn_size"], 0, "shared_intermediate_size"),
        **SORTED,
    },
    "solar_open": lambda r, _: {
        "qkv_bias": r.flag("attention_bias", False),
        "rope_fraction": turned(r),
        **routed(r, 128, 8, 1, 1280, 0),
    },
    "dots1": _dots1,
    "exaone_moe": lambda r, f: {**exaone4(r, f), **routed(r, 64, 8, 1, 1024, 1)},
    "hy_v3": _hy_v3,
    "hunyuan_v1_moe": _hunyuan_v1_moe,
    "ernie4_5_moe": _ernie4_5_moe,
    "minimax_m2": _minimax_m2,
    "olmoe": _olmoe,
    "flex_olmo": _olmoe,
    "phimoe": _phimoe,
}
