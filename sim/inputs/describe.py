"""The resolved configuration with the source of each value, and JSON schemas of the YAML files.

`resolved` is what ``--show-config`` prints; `schema` is for editors that complete YAML.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sim import units
from sim.inputs.base import Spec
from sim.inputs.bind import Alternative, FieldPlan, plan_of
from sim.inputs.loader import Loaded
from sim.inputs.notes import Origin
from sim.inputs.registry import STRATEGIES
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload

JsonSchema = dict[str, Any]


class KeyLine(NamedTuple):
    """One key of the resolved configuration."""

    path: str  # workload.parallelism.wrap
    value: str  # as the YAML would have it, with its unit
    origin: Origin


def resolved(loaded: Loaded) -> list[KeyLine]:
    """Every key of both files with its value and where that came from."""
    lines: list[KeyLine] = []
    for side, spec in (("topology", loaded.topology), ("workload", loaded.workload)):
        lines.extend(_lines(loaded, spec, side))
    return lines


def _lines(loaded: Loaded, spec: Spec, path: str) -> Iterator[KeyLine]:
    plan = plan_of(type(spec))
    for name, value in spec:
        yield from _value(loaded, plan[name].alternatives, value, f"{path}.{name}")


def _value(
    loaded: Loaded, alternatives: tuple[Alternative, ...], value: Any, path: str
) -> Iterator[KeyLine]:
    if isinstance(value, Spec):
        yield from _lines(loaded, value, path)
    elif isinstance(value, tuple) and value and isinstance(value[0], Spec):
        for index, item in enumerate(value):
            yield from _lines(loaded, item, f"{path}[{index}]")
    else:
        yield KeyLine(path, text_of(alternatives, value), _origin(loaded, path))


def _origin(loaded: Loaded, path: str) -> Origin:
    """The origin of a key: its own, or that of the name which a catalogue expanded."""
    own = loaded.notes.given.get(path)
    if own is not None:
        return loaded.notes.origin(path)
    above = path.rpartition(".")[0]
    short = above.rpartition(".")[2] in ("gpu", "model")
    if short and above in loaded.notes.given:
        return Origin("catalogue", loaded.notes.origin(above).place)
    return Origin("default", "")


def text_of(alternatives: tuple[Alternative, ...], value: Any) -> str:
    """A value as the YAML would have it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(str(v) for v in value) + "]"
    if isinstance(value, float):
        for kind, detail, _ in alternatives:
            if kind == "quantity":
                return units.write(value, detail)
        return f"{value:.12g}"
    return str(value) if value != "" else '""'


def as_mapping(spec: Spec) -> dict[str, Any]:
    """A spec as plain JSON values, SI units: the result's record of its inputs."""
    return spec.model_dump(mode="json")


# --- JSON schema ---------------------------------------------------------------------------------

_FORMS: dict[str, JsonSchema] = {
    "Gpu": {"type": "string", "description": "a name of the catalogue"},
    "Model": {"type": "string", "description": "a catalogue name, or the path of a config.json"},
    "Method": {"enum": ["full", "lora", "qlora"]},
    "Precision": {"enum": ["bf16", "fp16", "fp32", "fp8"]},
    "Checkpointing": {"enum": ["none", "full"]},
    "CheckpointSave": {"enum": ["none"]},
    "Parallelism": {"enum": list(STRATEGIES)},
    "NvLink": {"enum": ["none"]},
}
_KINDS = {
    "Method": ("full", "lora", "qlora"),
    "Precision": ("bf16", "fp16", "fp32", "fp8"),
    "Checkpointing": ("full", "selective"),
}


def schema(side: str) -> JsonSchema:
    """JSON schema (draft 2020-12) of a topology or workload file.

    Parameters
    ----------
    side : str
        ``"topology"`` or ``"workload"``.
    """
    classes: dict[str, type[Spec]] = {"topology": Topology, "workload": Workload}
    cls = classes[side]
    definitions: dict[str, JsonSchema] = {}
    _define(cls, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"scaling-sim {side}",
        "$ref": f"#/$defs/{cls.__name__}",
        "$defs": dict(sorted(definitions.items())),
    }


def _define(cls: type[Spec], definitions: dict[str, JsonSchema]) -> None:
    if cls.__name__ in definitions:
        return
    table: JsonSchema = {"type": "object", "additionalProperties": False}
    definitions[cls.__name__] = table
    plan = plan_of(cls)
    table["description"] = (cls.__doc__ or "").strip().partition("\n")[0]
    table["properties"] = {name: _field(known, definitions) for name, known in plan.items()}
    required = [name for name, known in plan.items() if known.required]
    forms: list[JsonSchema] = []
    if cls.__name__ in ("Gpu", "Model"):
        table["properties"]["base"] = {"type": "string"}
        required = []
    if kinds := _KINDS.get(cls.__name__):
        free: JsonSchema = {"type": ["object", "string", "number", "boolean"]}
        table["properties"] |= dict.fromkeys(kinds, free)
        if cls.__name__ == "Precision":
            table["properties"]["kind"] = {"enum": list(kinds)}
    if required:
        table["required"] = required
    if cls.__name__ == "Model":  # a Hugging Face config written out has keys of its own
        table["additionalProperties"] = True
    if cls.__name__ in _FORMS:
        forms = [_FORMS[cls.__name__], table]
        definitions[cls.__name__] = {"anyOf": forms}


def _field(known: FieldPlan, definitions: dict[str, JsonSchema]) -> JsonSchema:
    options = [_option(a, definitions) for a in known.alternatives]
    out = options[0] if len(options) == 1 else {"anyOf": options}
    if isinstance(known.default, (bool, int, str)):
        out = {**out, "default": known.default}
    return out


_BOUND_WORDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}


def _option(alternative: Alternative, definitions: dict[str, JsonSchema]) -> JsonSchema:
    kind, detail, bounds = alternative
    limits = {_BOUND_WORDS[name]: limit for name, limit in bounds}
    if kind == "spec":
        _define(detail, definitions)
        return {"$ref": f"#/$defs/{detail.__name__}"}
    if kind == "tuple":
        return {"type": "array", "items": _field(FieldPlan(detail, True, None), definitions)}
    if kind == "literal":
        return {"enum": list(detail)}
    if kind == "quantity":
        return {"type": ["string", "number"], "examples": [units.EXAMPLES[detail]]}
    if kind in ("int", "tally", "float"):
        number: JsonSchema = {"type": "integer" if kind == "int" else "number", **limits}
        return number if kind == "int" else {"anyOf": [number, {"type": "string"}]}
    return {"type": {"bool": "boolean", "str": "string", "none": "null"}[kind]}
