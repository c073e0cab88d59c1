"""The model that Megatron-LM's arguments describe: its shape, latent attention, experts.

Defaults as megatron/training/arguments.py has them.
"""

from __future__ import annotations

import re
from typing import Any

from sim.interop.trainers.keys import Keys

#: leading dense layers, then mixtures: ``([0]*3+[1]*58)``
_LEADING = re.compile(r"\(?\[0\]\*(\d+)\+\[1\]\*(\d+)\)?")


def read(keys: Keys) -> None:
    """Put the model's keys."""
    _model(keys)
    _attention(keys)
    _experts(keys)


def put(keys: Keys, key: str, value: Any, *names: str) -> None:
    """Take what an argument makes of a key of ours, or the default where the script has none."""
    if keys.has(*names):
        keys.put(key, value, *names)
    else:
        keys.suppose(key, value)


def _model(keys: Keys) -> None:
    gated = bool(keys.flag("swiglu"))
    hidden, heads = keys.count("hidden-size"), keys.count("num-attention-heads")
    if hidden and heads:
        keys.job.suppose("model.name", "megatron", "the script names none")
        if not keys.flag("multi-latent-attention"):
            keys.put_count("model.head_dim", "kv-channels")
            keys.suppose("model.head_dim", hidden // heads)
        wide = hidden * 8 // 3 // 64 * 64 if gated else 4 * hidden
        keys.put_count("model.ffn_size", "ffn-hidden-size")
        keys.suppose("model.ffn_size", wide)
        grouped = keys.count("num-query-groups") if keys.flag("group-query-attention") else None
        if grouped:
            keys.put("model.kv_heads", grouped, "num-query-groups")
        keys.suppose("model.kv_heads", heads)
        put(keys, "model.ffn", "swiglu" if gated else "gelu", "swiglu")
        norm = keys.text("normalization").lower() or "layernorm"
        put(keys, "model.norm", norm, "normalization")
        plain = bool(keys.flag("disable-bias-linear"))
        put(keys, "model.bias", not plain, "disable-bias-linear")
        turned = keys.flag("use-rotary-position-embeddings")
        kind = "rope" if turned else keys.text("position-embedding-type").lower()
        kind = {"": "learned", "learned_absolute": "learned"}.get(kind, kind)
        said = ("use-rotary-position-embeddings", "position-embedding-type")
        put(keys, "model.positions", kind, *said)
        apart = bool(keys.flag("untie-embeddings-and-output-weights"))
        put(keys, "model.tied_embeddings", not apart, "untie-embeddings-and-output-weights")


def _attention(keys: Keys) -> None:
    """Latent attention (`MLATransformerConfig`), windows, what RoPE turns."""
    if keys.flag("multi-latent-attention"):
        plain, turned = (
            keys.count(n) or d for n, d in (("qk-head-dim", 128), ("qk-pos-emb-head-dim", 64))
        )
        keys.put("model.head_dim", plain + turned, "qk-head-dim", "multi-latent-attention")
        keys.put("model.rope_head_dim", turned, "qk-pos-emb-head-dim", "multi-latent-attention")
        keys.put_count("model.kv_lora_rank", "kv-lora-rank", default=32)
        keys.put_count("model.q_lora_rank", "q-lora-rank")
        keys.put_count("model.v_head_dim", "v-head-dim", default=128)
        keys.leave("said by its ranks", "multi-latent-attention kv-channels")
    share = keys.number("rotary-percent")
    if share is not None and share != 1:
        keys.put("model.rope_fraction", share, "rotary-percent")
    window = re.fullmatch(r"\(?(\d+),\s*0\)?", keys.text("window-size").replace(" ", ""))
    if window:
        keys.put("model.sliding_window", int(window[1]) + 1, "window-size")
        keys.put_count("model.sliding_window_pattern", "window-attn-skip-freq")
    elif keys.has("window-size"):
        keys.matters("of windows those of so many tokens before are followed", "window-size")
    if keys.text("softmax-type").lower() == "learnable":
        keys.put("model.attention_sinks", True, "softmax-type")
    keys.put_on("model.attention_gate", "attention-output-gate")


def _experts(keys: Keys) -> None:
    if not keys.count("num-experts"):
        return
    keys.put_count("model.experts", "num-experts")
    keys.put_count("model.experts_per_token", "moe-router-topk")
    keys.suppose("model.experts_per_token", 2)
    wide = ("moe-ffn-hidden-size", "ffn-hidden-size")
    width = keys.count(*wide)
    if width:
        keys.put("model.expert_ffn_size", width, *wide)
        shared = keys.count("moe-shared-expert-intermediate-size")
        if shared:
            keys.put("model.shared_experts", shared // width, "moe-shared-expert-intermediate-size")
        keys.put_on("model.shared_expert_gate", "moe-shared-expert-gate")
    _where(keys)
    keys.put_count("parallelism.expert_parallel", "expert-model-parallel-size")
    dispatcher = keys.text("moe-token-dispatcher-type").lower()
    if dispatcher in ("", "alltoall"):
        keys.leave("the default here", "moe-token-dispatcher-type")
    how = "grouped" if keys.flag("moe-grouped-gemm") else "eager"
    put(keys, "experts", how, "moe-grouped-gemm")


def _where(keys: Keys) -> None:
    """Which layers are mixtures (`moe_layer_freq`): the i-th is where n divides i, or by a list."""
    name = "moe-layer-freq"
    every = keys.text(name).replace(" ", "")
    leading = _LEADING.fullmatch(every)
    if leading:
        keys.put("model.dense_layers", int(leading[1]), name)
    elif every.isdecimal() and int(every) > 1:
        keys.put("model.mixture_every", int(every), name)
        if (keys.count("num-layers") or 0) % int(every):
            keys.matters("its first layer is a mixture, here its n-th: one mixture less", name)
    elif every not in ("", "1"):
        keys.matters("of lists ([0]*3+[1]*58) is read: all layers are mixtures", name)
