"""Kinds of ``config.json`` whose code comes with their weights: their readers.

What such a class takes for a key that is left out is known by its repository alone, so that the
shape has to be in the file (`hf_defaults`, None).
"""

from __future__ import annotations

from sim.inputs.hf_kinds import llama
from sim.inputs.hf_mixtures import latent, routed
from sim.inputs.hf_parts import Fields, KindReader, biased, turned
from sim.inputs.hf_reader import HfReader


def _internlm3(reader: HfReader, fields: Fields) -> Fields:
    bias = reader.flag("bias", False)
    qkv = reader.flag("qkv_bias", False)
    return {"qkv_bias": qkv, "output_bias": bias, "mlp_bias": bias}


def _chatglm(reader: HfReader, fields: Fields) -> Fields:
    """ChatGLM2, ChatGLM3 and GLM-4 as first released: its own names of keys."""
    for key, expected in (("rmsnorm", True), ("post_layer_norm", True), ("add_bias_linear", False)):
        if reader.flag(key, expected) is not expected:
            reader.fault(key, f"chatglm with {key} {str(not expected).lower()} is not modelled")
    grouped = reader.flag("multi_query_attention", False)
    kv = reader.count("multi_query_group_num", default=1) if grouped else fields["heads"]
    return {
        "kv_heads": kv, "fused_qkv": True, "fused_gate_up": True,
        "qkv_bias": reader.flag("add_qkv_bias", False), "rope_fraction": 0.5,
        "head_dim": reader.count("kv_channels", default=128),
        "ffn_size": reader.count("ffn_hidden_size"),
        "max_positions": reader.count("seq_length", default=2048),
    }  # fmt: skip


def _baichuan(reader: HfReader, fields: Fields) -> Fields:
    """The larger one has ALiBi, and says so by its key for the length alone."""
    turns = reader.has("max_position_embeddings")
    length = reader.count("max_position_embeddings", "model_max_length", default=4096)
    positions = "rope" if turns else "alibi"
    return {"fused_qkv": True, "positions": positions, "max_positions": length}


def _minicpm(reader: HfReader, fields: Fields) -> Fields:
    if reader.count("num_experts", default=0, least=0):
        reader.fault("num_experts", "minicpm with experts is not modelled")
    sparse = reader.has("sparse_config")
    note = "attention to chosen blocks of keys (sparse_config) is counted in full"
    return {**llama(reader, fields), "notes": (note,) if sparse else ()}


def _minicpm3(reader: HfReader, fields: Fields) -> Fields:
    """Latent attention; a value is as wide as the model over its heads."""
    value = max(1, fields["hidden_size"] // fields["heads"])
    return {**latent(reader, fields), "v_head_dim": reader.count("v_head_dim", default=value)}


def _bailing(reader: HfReader, fields: Fields) -> Fields:
    """Ling: attention of one matrix and routed experts; the second version norms heads."""
    second = reader.kind == "bailing_moe_v2"
    bias = reader.flag("use_bias", False)
    return {
        "fused_qkv": True, "qk_norm": reader.flag("use_qk_norm", second),
        "qkv_bias": reader.flag("use_qkv_bias", False), "output_bias": bias,
        "rope_fraction": turned(reader, 0.5 if second else 1.0),
        **routed(reader, None, None, 0, None, 0),
    }  # fmt: skip


REMOTE: dict[str, KindReader] = {
    "internlm2": lambda r, _: {**biased(r, "bias", default=True), "fused_qkv": True},
    "internlm3": _internlm3,
    "exaone": lambda *_: {},
    "chatglm": _chatglm,
    "baichuan": _baichuan,
    "minicpm": _minicpm,
    "minicpm3": _minicpm3,
    "bailing_moe": _bailing,
    "bailing_moe_v2": _bailing,
}
