"""Kinds of models with parts that no block here is: what those are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_STATE = "layers of a state-space model (Mamba)"
_DELTA = "layers of linear attention (gated delta rule)"
_CONVOLUTION = "layers of short convolutions"
_INDEXED = "sparse attention that an indexer chooses positions for"
#: parts by kind. Source: transformers 5.24, models/<kind>/modeling_<kind>.py
PARTS: dict[str, str] = {
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "jamba", "zamba", "zamba2"), _STATE),
    "olmo_hybrid": _DELTA,
    **dict.fromkeys(("bailing_hybrid",), _DELTA),
    "lfm3": _CONVOLUTION,
    "nanochat": "an FFN of squared ReLU, and logits that are capped",
    "deepseek_v4": "attention over compressed positions and several residual streams",
    "rwkv": "recurrent layers",
    "xlstm": "recurrent layers",
    "recurrent_gemma": "recurrent layers",
    "gemma3n_text": "an embedding for each layer (PLE), several residual streams (AltUp) with a"
    " path of low rank beside each (LAuReL), and keys and values that layers share",
    "gemma4_text": "layers of unlike heads, and keys and values that layers share",
    "afmoe": "attention whose output is gated",
    "mimo_v2_flash": "layers of unlike heads",
    "longcat_flash": "two attentions a layer and experts that compute nothing",
    "mllama_text_model": "layers of attention to images",
    "jetmoe": "mixtures of attention heads",
    "arctic": "a dense FFN beside each mixture",
    "bitnet": "weights of three values, and norms within its attention and FFN",
    "nemotron-nas": "layers of unlike shapes",
    "step3p5": "layers of unlike heads",
    "ernie4_5_vl_moe": "experts of text and of images, of unlike widths",
    "ernie4_5_moe_vl": "experts of text and of images, of unlike widths",
    "axk1": "a norm behind each mixture",
}
#: kinds by how names of their repositories start; a name that is of the catalogue is not asked here
_NAMED = {
    "gemma-3n": "gemma3n_text", "gemma-4": "gemma4_text",
    "llama-3.2-11b-vision": "mllama_text_model", "llama-3.2-90b-vision": "mllama_text_model",
    "llama-3_3-nemotron-super": "nemotron-nas", "longcat-flash": "longcat_flash",
    "mimo-v2-flash": "mimo_v2_flash", "ernie-4.5-vl": "ernie4_5_vl_moe", "trinity": "afmoe",
    "recurrentgemma": "recurrent_gemma", "jamba": "jamba", "zamba2": "zamba2",
    "ai21-jamba": "jamba", "falcon-mamba": "falcon_mamba", "mamba": "mamba2", "bitnet": "bitnet",
    "step-3.5": "step3p5",
}  # fmt: skip
#: parts by what their keys start with, for kinds that are named nowhere
_KEYS = (
    ("mamba", _STATE), ("ssm_", _STATE), ("linear_", "layers of linear attention"),
    ("conv_L_cache", _CONVOLUTION), ("index_", _INDEXED),
)  # fmt: skip


def strange_part(kind: str, values: Mapping[str, Any]) -> str:
    """What a kind has that no block here is; "" where nothing of it is known."""
    found = (part for start, part in _KEYS for key in values if str(key).startswith(start))
    return PARTS.get(kind) or next(found, "")


def named_part(name: str) -> str:
    """What a repository's model has that no block here is, by its name; "" where that says none."""
    bare = name.strip().rstrip("/").rpartition("/")[2].lower()
    return next(
        (PARTS.get(kind, "") for start, kind in _NAMED.items() if bare.startswith(start)), ""
    )


def refusal(what: str, part: str) -> str:
    """Why a model with a part that no block here is cannot be modelled."""
    return (
        f"{what} cannot be modelled: it has {part}; an inline `model` of as many parameters tells"
        " the memory of its weights and optimizer, no more"
    )
