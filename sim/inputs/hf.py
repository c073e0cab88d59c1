"""Hugging Face ``config.json`` to `Model`: exact, or refused by name.

A key that a config leaves out means the default of its class in transformers (4.5x and 5.x agree
on those used here), not a general one: Gemma ties its embeddings without saying so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError
from sim.files import hidden
from sim.inputs.model import Model

MAX_BYTES = 4 << 20  # the longest real config is below 200 kB

#: transformers class defaults: hidden, layers, heads, kv heads, ffn, vocabulary, positions, tied
_DEFAULTS: dict[str, tuple[int, int, int, int | None, int | None, int, int, bool]] = {
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
}
#: text decoders of multimodal models that are those of a plain kind
_DECODER_OF = {"qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "qwen2_vl_text": "qwen2"}
_DECODER_OF["qwen2_5_vl_text"] = "qwen2"
_HEAD_DIM = {"qwen3": 128, "gpt_oss": 64, "gemma": 256, "gemma2": 256, "gemma3_text": 256}
_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "quick_gelu")


def read_config(path: Path) -> dict[str, Any]:
    """Parse a ``config.json``.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict
        Its keys, as written.

    Raises
    ------
    InputError
        Unreadable, not JSON (with line and column), a key twice, or not an object.
    """
    source = str(path)
    if hidden(path):
        raise InputError.single(source, "no such file")
    if path.is_dir():
        raise InputError.single(source, "a directory, not a file")
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError.single(source, f"cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise InputError.single(source, f"larger than {MAX_BYTES >> 20} MiB: not a model config")
    if not raw.strip():
        raise InputError.single(source, "the file is empty")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError.single(source, "not a text file") from None
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [k for k, _ in pairs]
        twice.extend(sorted({k for k in keys if keys.count(k) > 1}))
        return dict(pairs)

    try:
        config = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        fault = Fault(source, error.lineno, error.colno, "", f"not JSON: {error.msg}")
        raise InputError([fault]) from None
    except RecursionError:
        raise InputError.single(source, "not a model config: nested too deeply") from None
    if twice:
        raise InputError(Fault(source, None, None, key, "this key stands twice") for key in twice)
    if not isinstance(config, dict):
        raise InputError.single(source, f"a JSON object was expected, not {type(config).__name__}")
    return config


def model_from_config(config: Mapping[str, Any], *, source: str = "config.json") -> Model:
    """Model of a Hugging Face config.

    Parameters
    ----------
    config : mapping
        Parsed ``config.json``, of transformers 4 or 5.
    source : str
        File to name in faults.

    Returns
    -------
    Model
        Its exact shape; `Model.notes` says what was left out (a vision tower, quantisation).

    Raises
    ------
    InputError
        A kind that cannot be modelled exactly, by its name, or faulty values.
    """
    notes: list[str] = []
    inner = config.get("text_config")
    values = dict(config)
    if isinstance(inner, Mapping):
        values = dict(inner)
        if "tie_word_embeddings" not in inner and "tie_word_embeddings" in config:
            values["tie_word_embeddings"] = config["tie_word_embeddings"]
        notes.append("only the text decoder is modelled; vision and audio towers are left out")
    kind = values.get("model_type", config.get("model_type"))
    if not isinstance(kind, str):
        raise InputError.single(source, "required key is missing", "model_type")
    shown, kind = kind, _DECODER_OF.get(kind, kind)
    reader = _Reader(values, kind, source)
    _refuse(reader, shown, config)
    quantized = values.get("quantization_config", config.get("quantization_config"))
    if isinstance(quantized, Mapping):
        how = quantized.get("quant_method") or quantized.get("quant_algo") or "an unnamed method"
        notes.append(
            f"the file's weights are quantised ({how}); training takes the workload's precision"
        )
    fields = _common(reader)
    fields.update(_KINDS[kind](reader, fields))
    _finish(reader, fields)
    name = values.get("_name_or_path") or config.get("_name_or_path")
    if not isinstance(name, str) or not name or name.startswith("/"):
        path = Path(source)
        name = (
            path.name.removesuffix(".json").removesuffix("config").rstrip("._-") or path.parent.name
        )
    return Model(name=name or shown, source=source, notes=tuple(notes), **fields)


class _Reader:
    """Values of a config by type, its faults collected."""

    def __init__(self, values: Mapping[str, Any], kind: str, source: str) -> None:
        self.values, self.kind, self.source = values, kind, source
        self.faults: list[Fault] = []

    def fault(self, key: str, message: str) -> None:
        self.faults.append(Fault(self.source, None, None, key, message))

    def has(self, *keys: str) -> bool:
        return any(self.values.get(k) is not None for k in keys)

    def count(self, *keys: str, default: int | None = None, least: int = 1) -> int:
        """First present of `keys` as a whole number."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                self.fault(key, f"{value!r} is not a whole number")
            elif value < least:
                self.fault(key, f"{value} is not at least {least}")
            elif value > 10**9:
                self.fault(key, f"{value} is absurdly large")
            else:
                return value
            return least
        if default is None:
            self.fault(keys[0], "required key is missing")
            return least
        return default

    def number(self, *keys: str, default: float) -> float:
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                self.fault(key, f"{value!r} is not a number")
                return default
            return float(value)
        return default

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fault(key, f"{value!r} is not true or false")
            return default
        return value

    def done(self) -> None:
        if self.faults:
            raise InputError(self.faults)


def _refuse(reader: _Reader, shown: str, config: Mapping[str, Any]) -> None:
    """Raise on what could only be approximated."""
    layer_types = reader.values.get("layer_types")
    if isinstance(layer_types, list):
        strange = sorted({str(t) for t in layer_types} - {"full_attention", "sliding_attention"})
        if strange:
            message = f"{shown!r} mixes attention with {', '.join(strange)}, which is not modelled"
            raise InputError.single(reader.source, message, "layer_types")
    if reader.kind not in _KINDS:
        from difflib import get_close_matches

        near = get_close_matches(reader.kind, list(_KINDS), n=1)
        hint = f"; nearest known kind {near[0]!r}" if near else ""
        message = f"a model of kind {shown!r} cannot be modelled{hint} (known: {', '.join(_KINDS)})"
        raise InputError.single(reader.source, message, "model_type")
    if config.get("is_encoder_decoder"):
        message = f"{shown!r} is an encoder-decoder; only decoders are modelled"
        raise InputError.single(reader.source, message, "is_encoder_decoder")


def _common(reader: _Reader) -> dict[str, Any]:
    hidden, layers, heads, kv, ffn, vocabulary, positions, tied = _DEFAULTS[reader.kind]
    d = reader.count("hidden_size", "n_embd", "d_model", default=hidden)
    h = reader.count("num_attention_heads", "n_head", "n_heads", default=heads)
    same_heads = "num_key_value_heads" in reader.values  # an explicit null means: as many as heads
    kv_heads = reader.count("num_key_value_heads", default=h if kv is None or same_heads else kv)
    return {
        "layers": reader.count("num_hidden_layers", "n_layer", "n_layers", default=layers),
        "hidden_size": d,
        "heads": h,
        "kv_heads": kv_heads,
        "head_dim": reader.count("head_dim", default=_HEAD_DIM.get(reader.kind, max(1, d // h))),
        "ffn_size": reader.count("intermediate_size", default=4 * d if ffn is None else ffn),
        "vocab_size": reader.count("vocab_size", default=vocabulary),
        "max_positions": reader.count(
            "max_position_embeddings", "n_positions", "max_seq_len", default=positions
        ),
        "tied_embeddings": reader.flag("tie_word_embeddings", tied),
    }


def _finish(reader: _Reader, fields: dict[str, Any]) -> None:
    reader.done()  # cross-checks on values that stand in for faulty ones would mislead
    heads, kv = fields["heads"], fields["kv_heads"]
    if heads % kv:
        reader.fault("num_key_value_heads", f"{kv} does not divide the {heads} attention heads")
    if (
        reader.kind not in _HEAD_DIM
        and not reader.has("head_dim")
        and fields["hidden_size"] % heads
    ):
        width = fields["hidden_size"]
        reader.fault("num_attention_heads", f"{heads} does not divide hidden_size {width}")
    act = reader.values.get("hidden_act") or reader.values.get("activation_function")
    if act is not None and fields.get("ffn") == "swiglu" and act not in ("silu", "swish"):
        if reader.kind != "llama" or act not in _GELU:
            reader.fault("hidden_act", f"{act!r} is not modelled for {reader.kind!r}")
        else:
            fields["ffn"] = "geglu"
    reader.done()


def _window(reader: _Reader, default: int | None = None) -> dict[str, Any]:
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


def _rope_fraction(reader: _Reader, default: float = 1.0) -> float:
    nested = reader.values.get("rope_parameters")
    if isinstance(nested, Mapping) and "partial_rotary_factor" in nested:
        return _Reader(nested, reader.kind, reader.source).number(
            "partial_rotary_factor", default=default
        )
    return reader.number("partial_rotary_factor", "rotary_pct", default=default)


def _llama(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return {
        "ffn": "swiglu",
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": reader.flag("mlp_bias", False),
    }


def _mistral(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    return {"ffn": "swiglu", **_window(reader, 4096)}


def _mixtral(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "ffn": "swiglu",
        "experts": reader.count("num_local_experts", default=8),
        "experts_per_token": reader.count("num_experts_per_tok", default=2),
        "expert_ffn_size": fields["ffn_size"],
        **_window(reader),
    }


def _qwen_window(reader: _Reader, layers: int) -> dict[str, Any]:
    """Qwen slides in the layers from max_window_layers on, if at all."""
    if not reader.flag("use_sliding_window", False):
        return {}
    first = reader.count("max_window_layers", default=28, least=0)
    if first >= layers:
        return {}
    if first:
        reader.fault("max_window_layers", "a window in the last layers alone is not modelled")
    return {"sliding_window": reader.count("sliding_window", default=4096)}


def _qwen2(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    return {"ffn": "swiglu", "qkv_bias": True, **_qwen_window(reader, fields["layers"])}


def _qwen3(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    window = _qwen_window(reader, fields["layers"])
    return {"ffn": "swiglu", "qk_norm": True, "qkv_bias": bias, "output_bias": bias, **window}


def _qwen3_moe(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
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


def _gpt_oss(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
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


def _deepseek(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
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


def _gemma(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return {"ffn": "geglu", "qkv_bias": bias, "output_bias": bias}


def _gemma2(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    window = _window(reader, 4096)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = 2
    return {**_gemma(reader, fields), "norms_per_layer": 4, **window}


def _gemma3(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    window = _window(reader, 4096)
    if "layer_types" not in reader.values and window:
        window["sliding_window_pattern"] = reader.count("sliding_window_pattern", default=6)
    return {**_gemma(reader, fields), "norms_per_layer": 4, "qk_norm": True, **window}


_GPT = {"ffn": "gelu", "norm": "layernorm"}


def _gpt2(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    inner = reader.count("n_inner", default=4 * fields["hidden_size"])
    return {**_GPT, "positions": "learned", "bias": True, "fused_qkv": True, "ffn_size": inner}


def _gpt_neox(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    if not reader.flag("attention_bias", True):
        reader.fault("attention_bias", "gpt_neox without attention biases is not modelled")
    return {
        **_GPT,
        "bias": True,
        "fused_qkv": True,
        "rope_fraction": _rope_fraction(reader, 0.25),
        "parallel_block": reader.flag("use_parallel_residual", True),
    }


def _phi(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
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


def _phi3(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    fused = {"fused_qkv": True, "fused_gate_up": True}
    return {"ffn": "swiglu", **fused, "rope_fraction": _rope_fraction(reader), **_window(reader)}


def _mpt(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    attention = reader.values.get("attn_config")
    nested = _Reader(attention if isinstance(attention, Mapping) else {}, "mpt", reader.source)
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


def _starcoder2(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    if reader.values.get("norm_type", "layer_norm") != "layer_norm":
        reader.fault("norm_type", f"{reader.values['norm_type']!r} is not modelled")
    if reader.values.get("mlp_type", "default") != "default":
        reader.fault("mlp_type", f"{reader.values['mlp_type']!r} is not modelled")
    bias = reader.flag("use_bias", True)
    return {**_GPT, "bias": bias, "norm_bias": True, **_window(reader)}


def _falcon(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
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


def _qwen(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    """First-generation Qwen: intermediate_size counts the gate and up halves together."""
    if not reader.flag("no_bias", True):
        reader.fault("no_bias", "qwen with biases everywhere is not modelled")
    half = fields["ffn_size"] // 2
    return {"ffn": "swiglu", "qkv_bias": True, "fused_qkv": True, "ffn_size": half}


def _internlm(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("bias", True)
    return {"ffn": "swiglu", "qkv_bias": bias, "output_bias": bias}


_KINDS: dict[str, Callable[[_Reader, dict[str, Any]], dict[str, Any]]] = {
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
}
