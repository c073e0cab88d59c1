"""Specs as YAML of our own: what differs from the defaults, with units, read back to the same."""

from __future__ import annotations

from typing import Any

from sim import units
from sim.inputs.base import Spec
from sim.inputs.catalogue import gpu
from sim.inputs.fields import Alternative, plan_of
from sim.inputs.gpu import Gpu
from sim.inputs.model import Model
from sim.inputs.models import borrowed_shape, catalogue_model, repository, resolve_model
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.interop.yaml_text import dump


def topology_yaml(topology: Topology) -> str:
    """A topology as YAML that loads to an equal spec."""
    return dump(as_written(topology), f"{topology.name}, written by scaling-sim")


def workload_yaml(workload: Workload) -> str:
    """A workload as YAML that loads to an equal spec."""
    return dump(as_written(workload), f"{workload.name}, written by scaling-sim")


def as_written(spec: Spec) -> dict[str, Any]:
    """Keys of a spec that differ from their defaults, quantities as text."""
    out: dict[str, Any] = {}
    own = isinstance(spec, Gpu) and not spec.base  # nothing of such a one is supposed
    for name, field in plan_of(type(spec)).items():
        value = getattr(spec, name)
        if (own and value != "") or field.required or value != field.default:
            out[name] = _value(value, field.alternatives)
    if out and "kind" in type(spec).model_fields:  # a choice is named even where it is the default
        kind: Any = getattr(spec, "kind", None)
        out = {"kind": kind} | out
    return out


def _value(value: Any, alternatives: tuple[Alternative, ...]) -> Any:
    if isinstance(value, Gpu):
        return _named(value, gpu(value.base) if value.base else None, value.base)
    if isinstance(value, Model):
        if borrowed_shape(value):  # a repository's, by its own name
            named = repository(value)
            if resolve_model(named) == value:
                return named
        return _named(value, catalogue_model(value.name), value.name)
    if isinstance(value, Spec):
        return as_written(value)
    if isinstance(value, tuple):
        inner = tuple(a for alt in alternatives if alt.kind == "tuple" for a in alt.detail)
        return [_value(item, inner) for item in value]
    if isinstance(value, float):
        for alternative in alternatives:
            if alternative.kind == "quantity":
                return units.write(value, alternative.detail)
    return value


def _named(value: Spec, known: Spec | None, name: str) -> Any:
    """The name of a catalogue entry, with what differs from it."""
    if known is None:
        return as_written(value)
    if value == known:
        return name
    changed = {
        key: _value(getattr(value, key), field.alternatives)
        for key, field in plan_of(type(value)).items()
        if getattr(value, key) != getattr(known, key) and key != "base"
    }
    return {"base": name, **changed}
