"""Models that a ``config.json`` names some of whose layers have no softmax attention: readers."""

from __future__ import annotations

from collections.abc import Mapping

from sim.inputs.hf_classic import SQUARED
from sim.inputs.hf_kinds import llama, qwen3
from sim.inputs.hf_mixtures import LATENT, SORTED, latent, qwen3_moe, routed
from sim.inputs.hf_parts import Fields, KindReader, mixture, shared, turned
from sim.inputs.hf_reader import HfReader

#: words of `layer_types` for softmax attention
_FULL = {"full_attention": "attention", "attention": "attention"}


def shortest(words: list[str]) -> tuple[str, ...]:
    """The first words of a list that make all of it, again and again; all where none do."""
    for period in range(1, len(words) // 2 + 1):
        if all(word == words[i % period] for i, word in enumerate(words)):
            return tuple(words[:period])
    return tuple(words)


def pattern(
    reader: HfReader, layers: int, words: Mapping[str, str], default: list[str], *keys: str
) -> tuple[str, ...]:
    """What mixes tokens in each layer, from the first of `keys` that lists it a word a layer.

    Parameters
    ----------
    reader, layers
        The file, and how many layers it has. [1]
    words : mapping
        Ours by the file's.
    default : list of str
        Of a file that has none of the keys, in our words.
    keys : str
        Default: ``layer_types``.
    """
    for key in keys or ("layer_types", "layers_block_type"):
        types = reader.values.get(key)
        if types is None:
            continue
        strange = {str(t) for t in types} - set(words) if isinstance(types, list) else {str(types)}
        if strange or not types:
            able, found = ", ".join(words), ", ".join(sorted(strange)) or "nothing"
            reader.fault(key, f"{found} is no list of one of {able} a layer")
        elif len(types) != layers:
            reader.fault(key, f"has {len(types)} entries, and the model {layers} layers")
        else:
            return shortest([words[str(t)] for t in types])
        return ("attention",)
    return shortest(default)


def _delta(reader: HfReader, layers: int) -> Fields:
    """Gated DeltaNet in all but every fourth layer, whose attention has a gate."""
    every = reader.count("full_attention_interval", default=4)
    usual = ["delta" if (i + 1) % every else "attention" for i in range(layers)]
    return {
        "attention_gate": True,
        "layer_pattern": pattern(reader, layers, {**_FULL, "linear_attention": "delta"}, usual),
        "mixer_heads": reader.count("linear_num_value_heads", default=32),
        "mixer_groups": reader.count("linear_num_key_heads", default=16),
        "mixer_key_dim": reader.count("linear_key_head_dim", default=128),
        "mixer_head_dim": reader.count("linear_value_head_dim", default=128),
        "mixer_conv": reader.count("linear_conv_kernel_dim", default=4),
        "rope_fraction": turned(reader, 0.25),
    }


def _delta_mixture(reader: HfReader, usual: tuple[int, int]) -> Fields:
    columns = reader.count("moe_intermediate_size", default=512)
    return {
        **mixture(reader, *usual, columns), "shared_expert_gate": True,
        **shared(reader, columns, 512, "shared_expert_intermediate_size"),
    }  # fmt: skip


def _qwen3_next(reader: HfReader, fields: Fields) -> Fields:
    return {
        **qwen3_moe(reader, fields), **_delta_mixture(reader, (512, 10)),
        **_delta(reader, fields["layers"]),
    }  # fmt: skip


def _qwen3_5(reader: HfReader, fields: Fields) -> Fields:
    """A matrix for each of what the mixer reads."""
    return {**qwen3(reader, fields), **_delta(reader, fields["layers"]), "mixer_split": True}


_TYPES = {**_FULL, "mamba": "mamba", "linear_attention": "mamba"}


def _state_space(reader: HfReader, inner: int) -> Fields:
    """Sizes of Mamba-2 layers with `inner` columns, as Bamba's file has them."""
    heads = reader.count("mamba_n_heads", default=128)
    auto = reader.values.get("mamba_d_head") in (None, "auto")
    size = max(1, inner // heads) if auto else reader.count("mamba_d_head", default=64)
    if heads * size != inner:
        message = f"{heads} heads of {size} columns are not the {inner} of its projections"
        reader.fault("mamba_n_heads", message)
    return {
        "mixer_heads": heads, "mixer_head_dim": size,
        "mixer_groups": reader.count("mamba_n_groups", default=1),
        "mixer_key_dim": reader.count("mamba_d_state", default=256),
        "mixer_conv": reader.count("mamba_d_conv", default=4),
        "mixer_chunk": reader.count("mamba_chunk_size", default=256),
        "mixer_conv_bias": reader.flag("mamba_conv_bias", True),
        "mixer_bias": reader.flag("mamba_proj_bias", False),
    }  # fmt: skip


def _expanded(reader: HfReader, fields: Fields) -> int:
    return reader.count("mamba_expand", default=2) * int(fields["hidden_size"])


def _granite(reader: HfReader, fields: Fields) -> Fields:
    """Granite 4: an FFN in every layer, or experts and shared ones; often without positions."""
    layers = fields["layers"]
    words = pattern(reader, layers, _TYPES, ["mamba"] * layers)
    mixers = _state_space(reader, _expanded(reader, fields)) if "mamba" in words else {}
    turns = reader.values.get("position_embedding_type") == "rope"
    wide = reader.count("shared_intermediate_size", default=1024)
    found = {
        **llama(reader, fields), "fused_gate_up": True, **mixers,
        "positions": "rope" if turns else "none",
        "layer_pattern": () if words == ("attention",) else words,
    }  # fmt: skip
    if not reader.count("num_local_experts", default=8, least=0):
        return {**found, "ffn_size": wide}
    columns = fields["ffn_size"]
    return {
        **found, **mixture(reader, 8, 2, columns), **SORTED,
        **shared(reader, columns, 1024, "shared_intermediate_size"),
    }  # fmt: skip


def _bamba(reader: HfReader, fields: Fields) -> Fields:
    """Mamba-2 in all layers but those of a list; half of attention's columns are turned."""
    at = reader.values.get("attn_layer_indices") or []
    if not isinstance(at, list) or any(type(i) is not int for i in at):
        reader.fault("attn_layer_indices", f"{at!r} is no list of numbers of layers")
        at = []
    usual = ["attention" if i in at else "mamba" for i in range(fields["layers"])]
    return {
        **llama(reader, fields), **_state_space(reader, _expanded(reader, fields)),
        "layer_pattern": pattern(reader, fields["layers"], _TYPES, usual),
        "rope_fraction": turned(reader, 0.5),
    }  # fmt: skip


def _falcon_h1(reader: HfReader, fields: Fields) -> Fields:
    """Mamba-2 and attention side by side in every layer."""
    inner = reader.count("mamba_d_ssm", default=1024)
    mixers = _state_space(reader, inner)
    if reader.flag("projectors_bias", False) is not mixers["mixer_bias"]:
        reader.fault("projectors_bias", "biases of the last projection alone are not modelled")
    note = "products with its multipliers (muP), one number each, are left out"
    return {
        **llama(reader, fields), **mixers, "layer_pattern": ("mamba+attention",),
        "mixer_norm": reader.flag("mamba_rms_norm", False), "notes": (note,),
    }  # fmt: skip


_LETTERS = {"M": "mamba", "*": "attention", "-": "ffn", "E": "moe"}
_BRANCHES = {**_TYPES, "mlp": "ffn", "moe": "moe"}


def _nemotron_h(reader: HfReader, fields: Fields) -> Fields:
    """A layer is Mamba-2, attention without positions, an FFN, or experts."""
    letters = reader.values.get("hybrid_override_pattern")
    listed = reader.values.get("layers_block_type", reader.values.get("layer_types"))
    usual = ["mamba", "moe", "attention", "ffn"]
    layers = len(listed) if isinstance(listed, list) else len(usual)
    if isinstance(letters, str) and listed is None:
        strange = sorted(set(letters) - set(_LETTERS))
        if strange or not letters:
            told = ", ".join(_LETTERS)
            what = f"{strange[0]!r} in it" if strange else "nothing"
            reader.fault("hybrid_override_pattern", f"{what} is no layer: {told}")
        usual = [_LETTERS.get(letter, "mamba") for letter in letters] or usual
        layers = len(usual)
        if reader.has("num_hidden_layers") and fields["layers"] != layers:
            message = f"has {layers} letters, and the model {fields['layers']} layers"
            reader.fault("hybrid_override_pattern", message)
    elif letters is not None and not isinstance(letters, str):
        reader.fault("hybrid_override_pattern", f"{letters!r} is no text of a letter a layer")
    words = pattern(reader, layers, _BRANCHES, usual, "layers_block_type", "layer_types")
    if {"ffn", "moe"} <= set(words):
        key = "layers_block_type" if listed else "hybrid_override_pattern"
        reader.fault(key, "dense layers beside mixtures of experts are not modelled")
    if reader.has("moe_latent_size"):
        reader.fault("moe_latent_size", "experts of a narrower latent are not modelled")
    heads = reader.count("mamba_num_heads", default=128)
    experts: Fields = {}
    if "moe" in words:
        columns = reader.count("moe_intermediate_size", default=7688)
        experts = {
            "experts": reader.count("n_routed_experts", "num_local_experts", default=8),
            "experts_per_token": reader.count("num_experts_per_tok", default=2),
            "expert_ffn_size": columns,
            **shared(reader, columns, 7688, "moe_shared_expert_intermediate_size"),
        }  # fmt: skip
    bias = reader.flag("use_bias", False)
    return {
        "layers": layers, "ffn": "gelu", "positions": "none", "one_branch": True,
        "layer_pattern": tuple("ffn" if word == "moe" else word for word in words),
        "mlp_bias": reader.flag("mlp_bias", False), "mixer_bias": bias, **experts,
        "mixer_heads": heads, "mixer_head_dim": reader.count("mamba_head_dim", default=64),
        "mixer_groups": reader.count("n_groups", "mamba_n_groups", default=8),
        "mixer_key_dim": reader.count("ssm_state_size", default=128),
        "mixer_conv": reader.count("conv_kernel", "mamba_d_conv", default=4),
        "mixer_chunk": reader.count("chunk_size", "mamba_chunk_size", default=128),
        "mixer_conv_bias": reader.flag("use_conv_bias", True), "notes": (SQUARED,),
    }  # fmt: skip


def _lfm2(reader: HfReader, fields: Fields) -> Fields:
    """Short convolutions in most layers; norms of each head in the others."""
    layers = fields["layers"]
    at = reader.values.get("full_attn_idxs")
    if at is not None and (not isinstance(at, list) or any(type(i) is not int for i in at)):
        reader.fault("full_attn_idxs", f"{at!r} is no list of numbers of layers")
        at = None
    usual = ["attention" if at is None or i in at else "conv" for i in range(layers)]
    words = pattern(reader, layers, {**_FULL, "conv": "conv"}, usual, "layer_types")
    return {
        "qk_norm": True, "layer_pattern": () if words == ("attention",) else words,
        "mixer_conv": reader.count("conv_L_cache", default=3),
        "mixer_bias": reader.flag("conv_bias", False),
        "mixer_conv_bias": reader.flag("conv_bias", False),
        "tied_embeddings": reader.flag("tie_embedding", fields["tied_embeddings"]),
    }  # fmt: skip


def _lfm2_dense(reader: HfReader, fields: Fields) -> Fields:
    """Columns of its FFN are two thirds of what the file says, in whole multiples."""
    wide = reader.count("block_ff_dim", default=fields["ffn_size"])
    if reader.flag("block_auto_adjust_ff_dim", True):
        times = reader.number("block_ffn_dim_multiplier", default=1.0, most=1e3)
        wide, each = int(times * int(2 * wide / 3)), reader.count("block_multiple_of", default=256)
        wide = max(1, -(-wide // each)) * each
    return {**_lfm2(reader, fields), "ffn_size": wide}


def _lfm2_moe(reader: HfReader, fields: Fields) -> Fields:
    return {
        **_lfm2(reader, fields),
        **mixture(reader, 32, 4, reader.count("moe_intermediate_size", default=1792)),
        "dense_layers": reader.count("num_dense_layers", default=2, least=0),
    }  # fmt: skip


def _kimi_linear(reader: HfReader, fields: Fields) -> Fields:
    """Kimi Delta Attention, and latent attention without positions in each fourth layer."""
    layers, own = fields["layers"], reader.within("linear_attn_config")
    usual = ["attention" if i and i % 4 == 0 else "kda" for i in range(layers)]
    at = own.values.get("full_attn_layers")
    if at is not None:
        if not isinstance(at, list) or any(type(i) is not int or not 0 < i <= layers for i in at):
            key = "linear_attn_config.full_attn_layers"
            reader.fault(key, f"{at!r} is no list of numbers of layers, the first one 1")
            at = []
        usual = ["attention" if i + 1 in at else "kda" for i in range(layers)]
    heads = own.count("num_heads", default=reader.count("linear_num_heads", default=32))
    size = own.count("head_dim", default=reader.count("linear_head_dim", default=128))
    wide = reader.count("linear_conv_kernel_dim", default=4)
    return {
        **latent(reader, fields), **routed(reader, *LATENT["kimi_linear"][5:]),
        "positions": "none",
        "layer_pattern": pattern(reader, layers, {**_FULL, "linear_attention": "kda"}, usual),
        "mixer_heads": heads, "mixer_groups": heads, "mixer_key_dim": size, "mixer_head_dim": size,
        "mixer_conv": own.count("short_conv_kernel_size", default=wide),
    }  # fmt: skip


def _minimax(reader: HfReader, fields: Fields) -> Fields:
    """Lightning attention (0 in a list of its own) and experts; MiniMax-M2 is of another kind."""
    layers, head = fields["layers"], fields["head_dim"]
    words = {**_FULL, "linear_attention": "lightning", "1": "attention", "0": "lightning"}
    usual = ["lightning" if i % 2 else "attention" for i in range(layers)]
    found = pattern(reader, layers, words, usual, "layer_types", "attn_type_list")
    if reader.count("shared_intermediate_size", default=0, least=0):
        reader.fault("shared_intermediate_size", "minimax with shared experts is not modelled")
    turns = min(1.0, reader.count("rotary_dim", default=head) / head)
    note = "factors of its residual sums, one number each, are left out"
    return {
        **mixture(reader, 8, 2, fields["ffn_size"]), "rope_fraction": turned(reader, turns),
        "layer_pattern": () if found == ("attention",) else found, "notes": (note,),
        "mixer_heads": fields["heads"], "mixer_groups": fields["heads"],
        "mixer_key_dim": head, "mixer_head_dim": head,
    }  # fmt: skip


HYBRIDS: dict[str, KindReader] = {
    "bamba": _bamba,
    "falcon_h1": _falcon_h1,
    "granitemoehybrid": _granite,
    "kimi_linear": _kimi_linear,
    "lfm2": _lfm2_dense,
    "lfm2_moe": _lfm2_moe,
    "minimax": _minimax,
    "nemotron_h": _nemotron_h,
    "qwen3_next": _qwen3_next,
    "qwen3_5_text": _qwen3_5,
    "qwen3_5_moe_text": lambda r, f: {**_qwen3_5(r, f), **_delta_mixture(r, (256, 8))},
}
