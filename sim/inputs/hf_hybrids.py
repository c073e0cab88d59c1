"""Models that a ``config.json`` names some of whose layers have no softmax attention: readers."""

from __future__ import annotations

from collections.abc import Mapping

from sim.inputs.hf_kinds import qwen3
from sim.inputs.hf_mixtures import qwen3_moe
from sim.inputs.hf_parts import Fields, KindReader, mixture, turned
from sim.inputs.hf_reader import HfReader

#: words of `layer_types` for softmax attention
_FULL = {"full_attention": "attention", "attention": "attention"}


def shortest(words: list[str]) -> tuple[str, ...]:
    """The first words of a list that make all of it, again and again."""
    for period in range(1, len(words)):
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


def _shared(reader: HfReader, columns: int, default: int, key: str) -> Fields:
    """Shared experts of so many columns together, in terms of a routed one."""
    shared = reader.count(key, default=default, least=0)
    if shared % columns:
        message = f"{shared} is no multiple of the {columns} columns of an expert: not modelled"
        reader.fault(key, message)
    return {"shared_experts": shared // columns}


def _delta_mixture(reader: HfReader, usual: tuple[int, int]) -> Fields:
    columns = reader.count("moe_intermediate_size", default=512)
    return {
        **mixture(reader, *usual, columns), "shared_expert_gate": True,
        **_shared(reader, columns, 512, "shared_expert_intermediate_size"),
    }  # fmt: skip


def _qwen3_next(reader: HfReader, fields: Fields) -> Fields:
    return {
        **qwen3_moe(reader, fields), **_delta_mixture(reader, (512, 10)),
        **_delta(reader, fields["layers"]),
    }  # fmt: skip


def _qwen3_5(reader: HfReader, fields: Fields) -> Fields:
    """A matrix for each of what the mixer reads."""
    return {**qwen3(reader, fields), **_delta(reader, fields["layers"]), "mixer_split": True}


HYBRIDS: dict[str, KindReader] = {
    "qwen3_next": _qwen3_next,
    "qwen3_5_text": _qwen3_5,
    "qwen3_5_moe_text": lambda r, f: {**_qwen3_5(r, f), **_delta_mixture(r, (256, 8))},
}
