"""A spec written back as YAML that reads as the very same spec: keys that are not defaults."""

from __future__ import annotations

import json
import re
from typing import Any

from sim.inputs.base import Spec
from sim.inputs.catalogue import gpu
from sim.inputs.config import text_of
from sim.inputs.fields import plan_of
from sim.inputs.gpu import Gpu

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS = frozenset({"yes", "no", "on", "off", "true", "false", "null", "y", "n"})


def text(value: str) -> str:
    """Quote a YAML scalar where it needs it."""
    plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return value if plain else json.dumps(value)


def lines_of(
    spec: Spec, leave_out: frozenset[str] = frozenset(), given: frozenset[str] = frozenset()
) -> list[str]:
    """Lines of a block mapping; inner specs stand in braces on a line of their own.

    Parameters
    ----------
    spec : Spec
        Any.
    leave_out : frozenset of str
        Keys of it not to write.
    given : frozenset of str
        Dotted paths to write although they are defaults.
    """
    return [f"{key}: {value}" for key, value in _entries(spec, given) if key not in leave_out]


def _entries(spec: Spec, given: frozenset[str], above: str = "") -> list[tuple[str, str]]:
    plan = plan_of(type(spec))
    own = isinstance(spec, Gpu) and not spec.base  # nothing of such a one is supposed
    found = []
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        path = f"{above}{name}"
        default = not field.required and value == field.default
        if default and path not in given and (value == "" or not own):
            continue
        found.append((name, _value(plan[name].alternatives, value, given, path)))
    return found


def _value(alternatives: Any, value: Any, given: frozenset[str], path: str) -> str:
    if isinstance(value, Gpu):
        known = gpu(value.name)
        if known == value:
            return text(value.name)
    if isinstance(value, Spec):
        return "{" + ", ".join(f"{k}: {v}" for k, v in _entries(value, given, f"{path}.")) + "}"
    if isinstance(value, tuple):
        parts = (_value(alternatives, v, given, f"{path}[{i}]") for i, v in enumerate(value))
        return "[" + ", ".join(parts) + "]"
    if isinstance(value, str):
        return text(value)
    return text_of(alternatives, value)
