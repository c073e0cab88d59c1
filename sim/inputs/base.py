"""The base of all specs, and the annotated quantity types they are made of.

In Python a spec holds SI floats.  In a file the same field carries a unit: the annotation says
which (`Rate` is read from "400 Gb/s"), and `sim.inputs.bind` does the reading.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Annotated, Any, ClassVar, Self, dataclass_transform

from sim.choices import BOUNDS, Field
from sim.errors import Fault, InputError
from sim.inputs.fields import (
    Alternative,
    FieldPlan,
    OneOf,
    Quantity,
    Tally,
    Tokens,
    plan_of,
    wanted,
)
from sim.inputs.registry import STRATEGIES
from sim.records import NamedTuple


class SpecField(NamedTuple):
    """A field of a spec class."""

    required: bool
    default: Any = None


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Spec:
    """Frozen, strict, no unknown keys: what the user wrote, checked, in SI units.

    Parameters
    ----------
    **values
        Fields by name. A number of a `float` field may be whole, an inner spec a mapping of its
        own fields; nothing else is converted.

    Raises
    ------
    InputError
        Unknown and missing fields, and values that their annotations do not allow.

    Notes
    -----
    The methods are those of a pydantic model. It is none: importing pydantic and making its classes
    takes 0.1 s, a seventh of a run, and what it would check of a file `bind` has checked.
    """

    # specs are keys of caches: hashing one walks every field of every spec in it, so it is done
    # once; slots, because copies take `__dict__` along, with fields changed
    __slots__ = ("_given", "_hash")
    _given: frozenset[str]
    _hash: int

    model_fields: ClassVar[dict[str, SpecField]] = {}
    _defaults: ClassVar[dict[str, Any]] = {}  # of all fields, None where there is none
    _required: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        fields = dict(cls.model_fields)
        own = vars(cls)
        for name, annotation in own.get("__annotations__", {}).items():
            if not str(annotation).startswith("ClassVar"):
                fields[name] = SpecField(name not in own, own.get(name))
        cls.model_fields = fields
        cls._defaults = {name: field.default for name, field in fields.items()}
        cls._required = tuple(name for name, field in fields.items() if field.required)

    def __init__(self, **values: Any) -> None:
        faults = list(_faults_in(type(self), values))
        if faults:
            raise InputError(faults)
        plan = plan_of(type(self))
        read = {name: _converted(plan[name].alternatives, v) for name, v in values.items()}
        self.__dict__.update({**self._defaults, **read})
        object.__setattr__(self, "_given", frozenset(values))

    @classmethod
    def model_construct(cls, **values: Any) -> Self:
        """A spec of values that are known to be right."""
        found = object.__new__(cls)
        fields = found.__dict__
        fields.update(cls._defaults)
        fields.update(values)
        if len(fields) > len(cls._defaults):
            unknown = ", ".join(name for name in values if name not in cls._defaults)
            message = f"{cls.__name__} has no field {unknown}"
            raise TypeError(message)
        for name in cls._required:
            if name not in values:
                del fields[name]
        object.__setattr__(found, "_given", frozenset(values))
        return found

    @classmethod
    def model_validate(cls, values: Mapping[str, Any]) -> Self:
        """A spec of a mapping of its fields, checked as the class checks its arguments."""
        return cls(**values)

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self:
        """The same with some fields changed, which are not checked."""
        found = object.__new__(type(self))
        fields = found.__dict__
        fields.update(self.__dict__)
        given = self.model_fields_set
        if update:
            fields.update(update)
            given = _joined(given, tuple(update))
        object.__setattr__(found, "_given", given)
        return found

    def model_dump(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """All fields, inner specs as mappings.

        Parameters
        ----------
        exclude_defaults : bool
            Leave out what has its default.
        """
        fields = self.model_fields
        return {
            name: _dumped(value, exclude_defaults)
            for name, value in self.__dict__.items()
            if not (
                exclude_defaults and not fields[name].required and value == fields[name].default
            )
        }

    @property
    def model_fields_set(self) -> frozenset[str]:
        """Fields that were given, others having their defaults."""
        return self._given

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Names and values of all fields."""
        return iter(self.__dict__.items())

    def __hash__(self) -> int:
        """Hash of all fields, remembered."""
        try:
            return self._hash
        except AttributeError:
            found = hash(tuple(self.__dict__.values()))
            object.__setattr__(self, "_hash", found)
            return found

    def __eq__(self, other: object) -> bool:
        """Equal specs are of one class and equal in every field."""
        if self is other:
            return True
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __setattr__(self, name: str, value: object) -> None:
        message = (
            f"{type(self).__name__} is frozen: model_copy(update={{{name!r}: ...}}) changes it"
        )
        raise AttributeError(message)

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"

    def __reduce__(self) -> tuple[Callable[..., Spec], tuple[Any, ...]]:
        """For copies and other processes, where texts have other hashes."""
        return _rebuilt, (type(self), self.__dict__, self.model_fields_set)


@lru_cache(maxsize=256)
def _joined(given: frozenset[str], more: tuple[str, ...]) -> frozenset[str]:
    """Both: one set for thousands of copies, each of which would have 1 kB of its own."""
    return given.union(more)


def _rebuilt(cls: type[Spec], fields: dict[str, Any], given: frozenset[str]) -> Spec:
    found = object.__new__(cls)
    found.__dict__.update(fields)
    object.__setattr__(found, "_given", given)
    return found


def _dumped(value: Any, exclude_defaults: bool) -> Any:
    if isinstance(value, Spec):
        return value.model_dump(exclude_defaults=exclude_defaults)
    if isinstance(value, tuple):
        return tuple(_dumped(v, exclude_defaults) for v in value)
    return value


def fields_but(spec: Spec, names: frozenset[str]) -> tuple[object, ...]:
    """All fields but those named: a key of what does not depend on these, and of nothing less."""
    kind: Any = type(spec)  # mypy takes its hash for that of its specs
    found: tuple[object, ...] = _all_but(kind, names)(spec.__dict__)
    return found


@lru_cache(maxsize=64)
def _all_but(kind: Any, names: frozenset[str]) -> itemgetter[Any]:
    return itemgetter(*[key for key in kind.model_fields if key not in names])


# --- what Python hands over ----------------------------------------------------------------------


def _faults_in(cls: type[Spec], values: Mapping[str, Any], above: str = "") -> Iterator[Fault]:
    plan = plan_of(cls)
    source = cls.__name__
    for name, field in plan.items():
        if name in values:
            yield from _faults_of(source, f"{above}{name}", field, values[name])
        elif field.required:
            yield Fault(source, None, None, f"{above}{name}", "is missing")
    for name in values:
        if name not in plan:
            message = f"is no field; there are {', '.join(plan)}"
            yield Fault(source, None, None, f"{above}{name}", message)


def _faults_of(source: str, path: str, field: FieldPlan, value: Any) -> Iterator[Fault]:
    for kind, detail, bounds in field.alternatives:
        if kind == "spec" and isinstance(value, Mapping):
            yield from _faults_in(detail, value, f"{path}.")
            return
        if kind == "tuple" and isinstance(value, tuple):
            inner = FieldPlan(detail, True, None)
            for i, item in enumerate(value):
                yield from _faults_of(source, f"{path}[{i}]", inner, item)
            return
        if _ACCEPTS[kind](value, detail):
            for name, limit in bounds:
                words, holds = BOUNDS[name]
                if not holds(value, limit):
                    message = f"{value!r} is not {words} {limit:g}"
                    yield Fault(source, None, None, path, message)
            return
    message = f"{value!r} is not {wanted(field.alternatives)}"
    yield Fault(source, None, None, path, message)


def _number(value: Any, _: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


#: what each kind of alternative takes, given its detail
_ACCEPTS: dict[str, Callable[[Any, Any], bool]] = {
    "none": lambda value, _: value is None,
    "bool": lambda value, _: isinstance(value, bool),
    "spec": lambda value, cls: isinstance(value, cls),
    "tuple": lambda _value, _: False,
    "quantity": _number,
    "tally": _number,
    "float": _number,
    "int": lambda value, _: isinstance(value, int) and not isinstance(value, bool),
    "literal": lambda value, names: isinstance(value, str) and value in names,
    "str": lambda value, _: isinstance(value, str),
}


def _converted(alternatives: tuple[Alternative, ...], value: Any) -> Any:
    """A value of a field as the spec keeps it."""
    for kind, detail, _ in alternatives:
        if kind == "spec" and isinstance(value, Mapping):
            return detail(**value)
        if kind == "tuple" and isinstance(value, tuple):
            return tuple(_converted(detail, item) for item in value)
        if kind in ("quantity", "tally", "float") and _number(value, None):
            return float(value)
    return value


MemorySize = Annotated[float, Quantity("B"), Field(gt=0)]
Rate = Annotated[float, Quantity("B/s"), Field(gt=0)]
Seconds = Annotated[float, Quantity("s"), Field(ge=0)]
Duration = Annotated[float, Quantity("s"), Field(gt=0)]
Watts = Annotated[float, Quantity("W"), Field(gt=0)]
Hertz = Annotated[float, Quantity("Hz"), Field(gt=0)]
Flops = Annotated[float, Quantity("FLOP/s"), Field(gt=0)]
Dollars = Annotated[float, Quantity("USD"), Field(ge=0)]
Fraction = Annotated[float, Quantity("1"), Field(ge=0, le=1)]

Count = Annotated[float, Tally(), Field(gt=0)]
CountOrZero = Annotated[float, Tally(), Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Length = Annotated[int, Tokens(), Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[float, Tally(), Field(ge=1)]
Factor = Annotated[float, Tally(), Field(ge=1e-3, le=1e3)]

StrategyName = Annotated[str, OneOf(STRATEGIES)]
