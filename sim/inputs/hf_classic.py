"""Kinds of ``config.json`` of 2021 to 2024, before most shared Llama's block: their readers."""

from __future__ import annotations

from sim.inputs.hf_kinds import GPT, gpt2, llama
from sim.inputs.hf_parts import Fields, KindReader, biased, late_window, mixture, shared, turned
from sim.inputs.hf_reader import HfReader


def _opt(reader: HfReader, fields: Fields) -> Fields:
    width = fields["hidden_size"]
    if reader.count("word_embed_proj_dim", default=width) != width:
        reader.fault("word_embed_proj_dim", "embeddings of another width are not modelled")
    for key in ("do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine"):
        reader.refuse(key, f"without {key}", given=False)
    return {
        **GPT, "positions": "learned", "bias": True,
        "ffn_size": reader.count("ffn_dim", default=3072),
        "max_positions": fields["max_positions"] + 2,  # two rows before the first position
    }  # fmt: skip


def _gptj(reader: HfReader, fields: Fields) -> Fields:
    """Attention without biases beside an FFN with them, behind one norm."""
    head = max(1, fields["hidden_size"] // fields["heads"])
    columns = reader.count("rotary_dim", default=64)
    return {
        **GPT, "norm_bias": True, "norms_per_layer": 1, "parallel_block": True, "mlp_bias": True,
        "head_bias": True, "ffn_size": reader.count("n_inner", default=4 * fields["hidden_size"]),
        "rope_fraction": min(1.0, columns / head),
    }  # fmt: skip


def _stablelm(reader: HfReader, fields: Fields) -> Fields:
    reader.refuse("qk_layernorm", "with norms of each head of its own")
    aside = reader.flag("use_parallel_residual", False)
    return {
        "norm": "layernorm", "norm_bias": True,
        "qkv_bias": reader.flag("use_qkv_bias", False), "rope_fraction": turned(reader, 0.25),
        "parallel_block": aside, "norms_per_layer": 1 if aside else 2,
    }  # fmt: skip


def _olmo(reader: HfReader, fields: Fields) -> Fields:
    if reader.values.get("clip_qkv") is not None:
        reader.fault("clip_qkv", "olmo with clipped q, k and v is not modelled")
    note = "its norms have no parameters: counted with a weight for each column"
    return {**llama(reader, fields), "norm": "layernorm", "norm_bias": False, "notes": (note,)}


def _dbrx(reader: HfReader, fields: Fields) -> Fields:
    attention, ffn = reader.within("attn_config"), reader.within("ffn_config")
    clips = attention.has("clip_qkv")
    columns = ffn.count("ffn_hidden_size", default=3584)
    return {
        "norm": "layernorm", "norm_bias": False, "fused_qkv": True,
        "kv_heads": attention.count("kv_n_heads", default=1), "ffn_size": columns,
        "experts": ffn.count("moe_num_experts", default=4),
        "experts_per_token": ffn.count("moe_top_k", default=1), "expert_ffn_size": columns,
        "expert_loop": "chunked",
        "notes": ("q, k and v are clipped, which is not counted",) if clips else (),
    }  # fmt: skip


def _qwen2_moe(reader: HfReader, fields: Fields) -> Fields:
    """A shared expert several times as wide as a routed one, behind a gate of its own."""
    if reader.values.get("mlp_only_layers"):
        reader.fault("mlp_only_layers", "dense layers beside the regular ones are not modelled")
    columns = reader.count("moe_intermediate_size", default=1408)
    return {
        "qkv_bias": True, **late_window(reader, fields["layers"]),
        **mixture(reader, 60, 4, columns),
        **shared(reader, columns, 5632, "shared_expert_intermediate_size"),
        "shared_expert_gate": True,
        "mixture_every": reader.count("decoder_sparse_step", default=1),
    }  # fmt: skip


SQUARED = "squared ReLU is counted as GELU"


def _nemotron(reader: HfReader, fields: Fields) -> Fields:
    """Nemotron-4, Minitron: a FFN of two matrices, biased LayerNorms, half the columns turned."""
    bias = reader.flag("attention_bias", False)
    return {
        **GPT, "norm_bias": True, "qkv_bias": bias, "output_bias": bias,
        "mlp_bias": reader.flag("mlp_bias", False), "rope_fraction": turned(reader, 0.5),
        "notes": (SQUARED,),
    }  # fmt: skip


def _jais2(reader: HfReader, fields: Fields) -> Fields:
    """Llama with a FFN of two matrices, biased LayerNorms, and biases on everything."""
    return {
        **GPT, "norm_bias": True, **biased(reader, default=True),
        "mlp_bias": reader.flag("mlp_bias", True), "notes": (SQUARED,),
    }  # fmt: skip


CLASSIC: dict[str, KindReader] = {
    "opt": _opt,
    "bloom": lambda *_: {
        **GPT,
        "positions": "alibi",
        "bias": True,
        "embedding_norm": True,
        "fused_qkv": True,
    },
    "gptj": _gptj,
    "gpt_bigcode": lambda r, f: {
        **gpt2(r, f),
        "kv_heads": 1 if r.flag("multi_query", True) else f["heads"],
    },
    "stablelm": _stablelm,
    "olmo": _olmo,
    "dbrx": _dbrx,
    "qwen2_moe": _qwen2_moe,
    "nemotron": _nemotron,
    "jais2": _jais2,
    "arcee": lambda r, f: {**llama(r, f), "ffn": "gelu", "notes": (SQUARED,)},
}
