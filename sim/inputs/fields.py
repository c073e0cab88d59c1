"""What a field of a spec may hold: the marks of annotations, and what they come to.

The annotations of the spec classes are the schema. `sim.inputs.bind` reads files by it, `Spec`
checks what Python hands it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from sim import units
from sim.choices import Field
from sim.records import NamedTuple, dataclass

if TYPE_CHECKING:
    from sim.inputs.registry import Registry


@dataclass(frozen=True, slots=True)
class Quantity:
    """Marks a float that is written with a unit."""

    dimension: units.Dimension


@dataclass(frozen=True, slots=True)
class OneOf:
    """Marks a text that is one of some names, to which packages may add."""

    names: Registry[Any]


@dataclass(frozen=True, slots=True)
class Tally:
    """Marks a count that may be written as 1e9 or 1B."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Marks a length in tokens, of which 8k are 8,192 as the names of models have it."""


#: kinds of alternatives, most specific first
_ORDER = (
    "none", "bool", "spec", "tuple", "quantity", "tally", "int", "float", "literal", "str",
)  # fmt: skip
_SCALARS = {bool: "bool", int: "int", str: "str"}


class Alternative(NamedTuple):
    """One thing a field may hold."""

    kind: str  # bool | literal | quantity | tally | int | float | str | spec | tuple | none
    detail: Any = None  # values, dimension, spec class, or the alternatives of a tuple's items
    bounds: tuple[tuple[str, float], ...] = ()  # ("ge", 1.0), ...


class FieldPlan(NamedTuple):
    """How one field is read."""

    alternatives: tuple[Alternative, ...]
    required: bool
    default: Any


_plans: dict[type[Any], dict[str, FieldPlan]] = {}


def plan_of(cls: type[Any]) -> dict[str, FieldPlan]:
    """The plan of every field of a class of specs (`sim.inputs.base.Spec`)."""
    found = _plans.get(cls)
    if found is None:
        hints = typing.get_type_hints(cls, include_extras=True)
        found = _plans[cls] = {
            name: FieldPlan(_alternatives(hints[name], ()), field.required, field.default)
            for name, field in cls.model_fields.items()
        }
    return found


def _alternatives(annotation: Any, metadata: tuple[Any, ...]) -> tuple[Alternative, ...]:
    """What an annotation allows, most specific first."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        return _alternatives(inner, (*metadata, *more))
    if origin in (typing.Union, types.UnionType):
        found = [a for arg in typing.get_args(annotation) for a in _alternatives(arg, metadata)]
        return tuple(sorted(found, key=lambda a: _ORDER.index(a.kind)))
    if origin is Literal:
        return (Alternative("literal", typing.get_args(annotation)),)
    if origin is tuple:
        return (Alternative("tuple", _alternatives(typing.get_args(annotation)[0], ())),)
    if annotation is type(None):
        return (Alternative("none"),)
    bounds = tuple(_bounds_in(metadata))
    if annotation is float:
        for mark in metadata:
            if isinstance(mark, Quantity):
                return (Alternative("quantity", mark.dimension, bounds),)
        tally = any(isinstance(mark, Tally) for mark in metadata)
        return (Alternative("tally" if tally else "float", None, bounds),)
    if annotation not in _SCALARS:
        return (Alternative("spec", annotation),)
    for mark in metadata:
        if isinstance(mark, OneOf):
            return (Alternative("literal", mark.names),)
        if isinstance(mark, Tokens):
            return (Alternative("int", "tokens", bounds),)
    return (Alternative(_SCALARS[annotation], None, bounds),)


def _bounds_in(metadata: tuple[Any, ...]) -> Iterator[tuple[str, float]]:
    for mark in metadata:
        if isinstance(mark, Field):
            for name, limit in mark._asdict().items():
                if limit is not None:
                    yield name, limit


def wanted(alternatives: tuple[Alternative, ...]) -> str:
    """What a field takes, in words."""
    words: list[str] = []
    for kind, detail, _ in alternatives:
        if kind == "literal":
            words.extend(str(v) for v in detail)
        elif kind == "quantity":
            words.append(f'a quantity such as "{units.EXAMPLES[detail]}"')
        elif kind == "bool":
            words.append("true or false")
        elif kind != "none":
            plain = {
                "int": "a whole number",
                "float": "a number",
                "tally": "a number",
                "str": "a text",
            }
            words.append(plain.get(kind, kind))
    return either(words)


def either(words: Iterable[str]) -> str:
    """Alternatives, at least one, as a sentence has them: ``a, b or c``."""
    *rest, last = words
    return f"{', '.join(rest)} or {last}" if rest else last
