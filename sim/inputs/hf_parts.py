"""Parts that several kinds of ``config.json`` share: windows, turned columns, values a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sim.inputs.hf_reader import HfReader

#: keys of `Model` so far, and those that a kind adds; its FFN is SwiGLU unless it says otherwise
Fields = dict[str, Any]
KindReader = Callable[[HfReader, Fields], Fields]


def biased(reader: HfReader, key: str = "attention_bias", *, default: bool = False) -> Fields:
    """One key for the biases of attention."""
    bias = reader.flag(key, default)
    return {"qkv_bias": bias, "output_bias": bias}


def capped(reader: HfReader, *, default: bool = False) -> Fields:
    """Softcaps of attention's scores and of the logits; `default`: where the file has no key."""
    keys = {"scores": "attn_logit_softcapping", "logits": "final_logit_softcapping"}
    has = {what: reader.values.get(key, default or None) for what, key in keys.items()}
    return {"softcaps": tuple(what for what, cap in has.items() if cap is not None)}


def mixture(reader: HfReader, experts: int | None, of_token: int | None, columns: int) -> Fields:
    """Routed experts: how many by default, how many of a token, columns of each."""
    return {
        "experts": reader.count("num_local_experts", "num_experts", default=experts),
        "experts_per_token": reader.count(
            "num_experts_per_tok", "experts_per_token", "top_k_experts", default=of_token
        ),
        "expert_ffn_size": columns,
    }


def shared(reader: HfReader, columns: int, default: int, key: str) -> Fields:
    """Shared experts of so many columns together, in terms of a routed one."""
    found = reader.count(key, default=default, least=0)
    if found % columns:
        message = f"{found} is no multiple of the {columns} columns of an expert: not modelled"
        reader.fault(key, message)
    return {"shared_experts": found // columns}


def windowed(reader: HfReader, default: int | None = None) -> Fields:
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
    full = [i for i, slides in enumerate(sliding) if not slides]
    period = full[1] - full[0] if len(full) > 1 else full[0] + 1
    # whichever of n is full (Cwm's first), as many are
    regular = full == list(range(full[0], len(types), period))
    if not regular or len(full) != len(types) // period:
        reader.fault("layer_types", "full attention does not come every n-th layer: not modelled")
    return {"sliding_window": window, "sliding_window_pattern": period}


def turned(reader: HfReader, default: float = 1.0) -> float:
    """Share of a head's columns that RoPE turns."""
    nested = reader.values.get("rope_parameters")
    if isinstance(nested, Mapping) and "partial_rotary_factor" in nested:
        reader = reader.within("rope_parameters")
    return reader.number("partial_rotary_factor", "rotary_pct", default=default, most=1.0)


def late_window(reader: HfReader, layers: int) -> Fields:
    """Qwen slides in the layers from max_window_layers on, if at all."""
    if not reader.flag("use_sliding_window", False):
        return {}
    first = reader.count("max_window_layers", default=28, least=0)
    if first >= layers:
        return {}
    if first:
        reader.fault("max_window_layers", "a window in the last layers alone is not modelled")
    return {"sliding_window": reader.count("sliding_window", default=4096)}


def every_fourth(reader: HfReader) -> Fields:
    """A window of 4,096 in all but every fourth layer, unless the file says otherwise."""
    window = windowed(reader, 4096)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = _period(reader)
    return window


def _period(reader: HfReader) -> int:
    """Every n-th layer is global, as a number or as letters (``LLLG``)."""
    letters = reader.values.get("sliding_window_pattern")
    if not isinstance(letters, str):
        return reader.count("sliding_window_pattern", default=4)
    if letters != "L" * (len(letters) - 1) + "G":
        message = f"{letters!r} is not windows (L) before one global layer (G): not modelled"
        reader.fault("sliding_window_pattern", message)
    return max(1, len(letters))


def leading_dense(reader: HfReader, default: int) -> int:
    """Dense layers of a mixture, all of them before its mixtures."""
    types = reader.values.get("mlp_layer_types")
    if not isinstance(types, list):
        return reader.count("first_k_dense_replace", default=default, least=0)
    first = types.index("sparse") if "sparse" in types else len(types)
    if types != ["dense"] * first + ["sparse"] * (len(types) - first):
        reader.fault("mlp_layer_types", "dense layers are modelled only before all mixtures")
    return first


def alike(reader: HfReader) -> HfReader:
    """The same values, of which a list of one number a layer, all equal, is that number."""
    values = {
        k: v[0] if isinstance(v, list) and v and all(x == v[0] for x in v) else v
        for k, v in reader.values.items()
    }
    found = HfReader(values, reader.kind, reader.source)
    found.faults = reader.faults
    return found
