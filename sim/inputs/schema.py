"""JSON Schema of the YAML files, for editors that complete and check them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim import units
from sim.documents import SCHEMAS, Document, dumps
from sim.inputs.base import Spec
from sim.inputs.fields import Alternative, FieldPlan, plan_of
from sim.inputs.form_node import LENT
from sim.inputs.recipes import SPOKEN
from sim.inputs.registry import STRATEGIES
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload

JsonSchema = dict[str, Any]
SIDES: dict[str, type[Spec]] = {"topology": Topology, "workload": Workload}


@dataclass(frozen=True, slots=True)
class FileSchema(Document):
    """The schema of one kind of file; its JSON is the schema itself."""

    schema = SCHEMAS["file-schema"]
    side: str
    keys: JsonSchema

    def to_dict(self) -> dict[str, Any]:
        """The schema."""
        return self.keys

    def to_json(self, indent: int | None = 2) -> str:
        """The schema."""
        return dumps(self.keys, indent)

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a top-level key: what it may be and its default."""
        properties = self.keys["definitions"][SIDES[self.side].__name__]["properties"]
        return [
            {"key": key, "type": _said(field), "default": field.get("default")}
            for key, field in properties.items()
        ]


def described(alternatives: tuple[Alternative, ...]) -> str:
    """What a key may be, in a few words."""
    return _said(_field(FieldPlan(alternatives, True, None), {}))


def _said(field: JsonSchema) -> str:
    """What a key may be, in a few words."""
    if "anyOf" in field:
        return " | ".join(dict.fromkeys(_said(option) for option in field["anyOf"]))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "examples" in field:
        return f"quantity such as {field['examples'][0]}"
    if field.get("type") == "array":
        return f"list of {_said(field['items'])}"
    return str(field["type"])


_FORMS: dict[str, JsonSchema] = {
    "Gpu": {"type": "string", "description": "a name of the catalogue"},
    "Model": {"type": "string", "description": "a catalogue name, or the path of a config.json"},
    "Method": {"enum": ["full", "lora", "qlora"]},
    "Precision": {"enum": ["bf16", "fp16", "fp32", "tf32", "fp8", "fp4", *SPOKEN]},
    "Checkpointing": {"enum": ["none", "full"]},
    "CheckpointSave": {"enum": ["none"]},
    "Parallelism": {"enum": list(STRATEGIES)},
    "NvLink": {"enum": ["none"]},
    "SampleLengths": {"type": "array", "items": {"type": "integer", "minimum": 1}},
}
_KINDS = {
    "Method": ("full", "lora", "qlora"),
    "Precision": ("bf16", "fp16", "fp32", "fp8", "fp4"),
    "Checkpointing": ("full", "selective"),
    "SampleLengths": ("histogram",),
}


def file_schema(side: str) -> FileSchema:
    """JSON schema (draft-07, which YAML language servers know) of a topology or workload file.

    Parameters
    ----------
    side : str
        ``"topology"`` or ``"workload"``.
    """
    cls = SIDES[side]
    definitions: dict[str, JsonSchema] = {}
    _define(cls, definitions)
    keys = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"scaling-sim {side}",
        "allOf": [{"$ref": f"#/definitions/{cls.__name__}"}],
        "definitions": dict(sorted(definitions.items())),
    }
    return FileSchema(side, keys)


def _define(cls: type[Spec], definitions: dict[str, JsonSchema]) -> None:
    if cls.__name__ in definitions:
        return
    table: JsonSchema = {"type": "object", "additionalProperties": False}
    definitions[cls.__name__] = table
    plan = plan_of(cls)
    table["description"] = (cls.__doc__ or "").strip().partition("\n")[0]
    table["properties"] = {name: _field(known, definitions) for name, known in plan.items()}
    lent = LENT.get(cls.__name__, ())
    required = [name for name, known in plan.items() if known.required and name not in lent]
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
        return {"$ref": f"#/definitions/{detail.__name__}"}
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
