"""Hugging Face ``config.json`` to `Model`: exact, or refused by name.

A key that a config leaves out means the default of its class in transformers (4.5x and 5.x agree
on those used here), not a general one: Gemma ties its embeddings without saying so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError
from sim.files import hidden, is_file
from sim.inputs import check_model
from sim.inputs.hf_classic import CLASSIC
from sim.inputs.hf_defaults import DECODER_OF, DEFAULTS, HEAD_DIM, STACKED
from sim.inputs.hf_hybrids import HYBRIDS
from sim.inputs.hf_kinds import DENSE
from sim.inputs.hf_mixtures import MIXTURES
from sim.inputs.hf_reader import HfReader
from sim.inputs.hf_refused import refusal, strange_part
from sim.inputs.hf_remote import REMOTE
from sim.inputs.model import Model
from sim.inputs.tree import read_once, too_deep

#: keys whose value is a list of one entry a layer
_BY_LAYER = ("layer_types", "layers_block_type", "mlp_layer_types", "attn_type_list")
_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "quick_gelu")
KINDS = DENSE | MIXTURES | CLASSIC | REMOTE | HYBRIDS
#: names that models of other kinds were released under too, told apart by their class
_OF_SEVERAL = ("minimax",)
#: words of `layer_types` for attention that kinds' readers count in full, with a note
_IN_FULL = {
    "deepseek_v32": ("indexed_attention",), "glm_moe_dsa": ("indexed_attention",),
    "llama4_text": ("chunked_attention",),
}  # fmt: skip
#: where a model of several parts has its decoder, and what says that it has other parts
_DECODERS = ("text_config", "llm_config", "language_config", "thinker_config")
_TOWERS = ("vision_config", "audio_config", "visual", "embd_layer", "img_processor")
#: classes whose head is of labels or a reward, not of the vocabulary
_SCORES = re.compile(r"For\w*Classification$|ForQuestionAnswering$|RewardModel$")
NO_TOWERS = "only the text decoder is modelled; vision and audio towers are left out"
MAX_BYTES = 4 << 20  # the longest real config is below 200 kB


def read_config(path: Path) -> dict[str, Any]:
    """Parse a ``config.json``.

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
        raw = read_once(path, MAX_BYTES + 1)
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
    except ValueError as error:  # a number of more digits than Python reads
        raise InputError.single(source, f"not JSON: {error}") from None
    except RecursionError:
        raise too_deep(text, source) from None
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
    values = _decoder(config)
    if values is not config or any(config.get(key) for key in _TOWERS):
        notes.append(NO_TOWERS)
    kind = values.get("model_type", config.get("model_type"))
    if not isinstance(kind, str):
        kind = _by_class(values)
    if not kind:
        raise InputError.single(source, "required key is missing", "model_type")
    shown, kind = kind, DECODER_OF.get(kind, kind)
    if kind not in KINDS or kind in _OF_SEVERAL:
        kind = _by_class(values) or kind
    reader = HfReader(values, kind, source)
    _refuse(reader, shown, config)
    quantized = values.get("quantization_config", config.get("quantization_config"))
    if isinstance(quantized, Mapping):
        how = quantized.get("quant_method") or quantized.get("quant_algo") or "an unnamed method"
        notes.append(
            f"the file's weights are quantised ({how}); training takes the workload's precision"
        )
    fields = _common(reader)
    fields.update(KINDS[kind](reader, fields))
    if shown in STACKED and fields.get("experts"):
        fields["stacked_experts"] = True
    notes += fields.pop("notes", ())
    if more := reader.count("num_nextn_predict_layers", "num_mtp_modules", default=0, least=0):
        layers = "the layer that predicts" if more == 1 else f"{more} layers that predict"
        notes.append(f"{layers} tokens further on (MTP): left out, as by transformers")
    if scores := next((c for c in _classes(values) + _classes(config) if _SCORES.search(c)), ""):
        notes.append(
            f"{scores} has a head of a few scores: one of the vocabulary is counted, with its "
            "logits; loss: fused-linear has none of these whole"
        )
    _finish(reader, fields)
    name = values.get("_name_or_path") or config.get("_name_or_path")
    if not isinstance(name, str) or not name or name.startswith("/"):
        path = Path(source)
        name = (
            path.name.removesuffix(".json").removesuffix("config").rstrip("._-")
            or (path.resolve() if is_file(path) else path).parent.name
        )
    model = Model(name=name or shown, source=source, notes=tuple(notes), **fields)
    if wrong := [finding.at(source) for finding in check_model.findings(model) if finding.error]:
        raise InputError(wrong)
    return model


def _decoder(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values of the text decoder: the file's own, or those of a part of it."""
    inner = next((config[k] for k in _DECODERS if isinstance(config.get(k), Mapping)), None)
    if inner is None:
        return config
    values = dict(_decoder(inner))
    if "tie_word_embeddings" not in values and "tie_word_embeddings" in config:
        values["tie_word_embeddings"] = config["tie_word_embeddings"]
    return values


def _by_class(values: Mapping[str, Any]) -> str:
    """The kind of the class that a file names, where its `model_type` is none that is known.

    MiniMax-M2 was released as "minimax", which its predecessors are; decoders of some models of
    several parts have no kind at all.
    """
    bare = next(iter(_classes(values)), "").removesuffix("ForCausalLM").lower()
    return next((kind for kind in KINDS if kind.replace("_", "") == bare), "")


def _classes(values: Mapping[str, Any]) -> list[str]:
    """Classes that a file names."""
    named = values.get("architectures")
    return [str(name) for name in named] if isinstance(named, list) else []


def _refuse(reader: HfReader, shown: str, config: Mapping[str, Any]) -> None:
    """Raise on what could only be approximated."""
    if config.get("is_encoder_decoder"):
        message = f"{shown!r} is an encoder-decoder; only decoders are modelled"
        raise InputError.single(reader.source, message, "is_encoder_decoder")
    if reader.kind not in KINDS and (part := strange_part(reader.kind, reader.values)):
        message = refusal(f"a model of kind {shown!r}", part)
        raise InputError.single(reader.source, message, "model_type")
    layer_types = reader.values.get("layer_types")
    if isinstance(layer_types, list) and reader.kind not in HYBRIDS:
        known = {"full_attention", "sliding_attention", "attention", *_IN_FULL.get(reader.kind, ())}
        strange = sorted({str(t) for t in layer_types} - known)
        if strange:
            message = f"{shown!r} mixes attention with {', '.join(strange)}, which is not modelled"
            raise InputError.single(reader.source, message, "layer_types")
    if reader.kind not in KINDS:
        from difflib import get_close_matches

        near = get_close_matches(reader.kind, list(KINDS), n=1)
        hint = f"; nearest known kind {near[0]!r}" if near else ""
        known_kinds = ", ".join(sorted(KINDS))
        message = f"a model of kind {shown!r} cannot be modelled{hint} (known: {known_kinds})"
        raise InputError.single(reader.source, message, "model_type")


def _common(reader: HfReader) -> dict[str, Any]:
    hidden, layers, heads, kv, ffn, vocabulary, positions, tied = DEFAULTS[reader.kind]
    d = reader.count("hidden_size", "n_embd", "n_embed", "d_model", default=hidden)
    h = reader.count("num_attention_heads", "n_head", "n_heads", default=heads)
    same_heads = "num_key_value_heads" in reader.values  # an explicit null means: as many as heads
    kv_heads = reader.count("num_key_value_heads", default=h if kv is None or same_heads else kv)
    return {
        "ffn": "swiglu",
        "layers": reader.count(
            "num_hidden_layers", "n_layer", "n_layers", "num_layers", default=layers
        ),
        "hidden_size": d,
        "heads": h,
        "kv_heads": kv_heads,
        "head_dim": reader.count("head_dim", default=HEAD_DIM.get(reader.kind, max(1, d // h))),
        "ffn_size": reader.count("intermediate_size", default=4 * d if ffn is None else ffn),
        "vocab_size": reader.count("vocab_size", "padded_vocab_size", default=vocabulary),
        "max_positions": reader.count(
            "max_position_embeddings", "n_positions", "max_seq_len", default=positions
        ),
        "tied_embeddings": reader.flag("tie_word_embeddings", tied),
    }


def _finish(reader: HfReader, fields: dict[str, Any]) -> None:
    reader.done()  # cross-checks on values that stand in for faulty ones would mislead
    heads, kv = fields["heads"], fields["kv_heads"]
    if heads % kv:
        reader.fault("num_key_value_heads", f"{kv} does not divide the {heads} attention heads")
    own = reader.kind in HEAD_DIM or reader.has("head_dim") or "kv_lora_rank" in fields
    if not own and fields["hidden_size"] % heads:
        width = fields["hidden_size"]
        reader.fault("num_attention_heads", f"{heads} does not divide hidden_size {width}")
    for key in _BY_LAYER:
        types = reader.values.get(key)
        if types is not None and not isinstance(types, list):
            reader.fault(key, f"{types!r} is no list of one type a layer")
        elif types and len(types) != fields["layers"]:
            reader.fault(key, f"has {len(types)} entries, and the model {fields['layers']} layers")
    act = reader.values.get("hidden_act") or reader.values.get("activation_function")
    if act is not None and fields.get("ffn") == "swiglu" and act not in ("silu", "swish"):
        if reader.kind != "llama" or act not in _GELU:
            reader.fault("hidden_act", f"{act!r} is not modelled for {reader.kind!r}")
        else:
            fields["ffn"] = "geglu"
    reader.done()
