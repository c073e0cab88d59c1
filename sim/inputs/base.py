"""The base of all specs, and the annotated quantity types they are made of.

In Python a spec holds SI floats.  In a file the same field carries a unit: the annotation says
which (`Rate` is read from "400 Gb/s"), and `sim.inputs.bind` does the reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

from sim.inputs.registry import STRATEGIES, Registry
from sim.units import Dimension


class Spec(BaseModel):
    """Frozen, strict, no unknown keys: what the user wrote, checked, in SI units."""

    # deferred: the loader checks by itself and never needs pydantic's validators, which cost 2 to
    # 5 ms a class to build; whoever constructs a spec in Python gets them on first use
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True
    )
    # specs are keys of caches: hashing one walks every field of every spec in it, so it is done
    # once; a slot, because copies take `__dict__` along, with fields changed
    __slots__ = ("_hash",)

    def __hash__(self) -> int:
        """Hash of all fields, remembered."""
        try:
            return cast(int, object.__getattribute__(self, "_hash"))
        except AttributeError:
            found = hash(tuple(map(self.__dict__.__getitem__, type(self).model_fields)))
            object.__setattr__(self, "_hash", found)
            return found

    def plain(self) -> dict[str, Any]:
        """All fields as JSON has them, without the serialiser that pydantic would have to build."""
        return {name: _plain(value) for name, value in self.__dict__.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.plain()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class Quantity:
    """Marks a float that is written with a unit."""

    dimension: Dimension


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


Bytes = Annotated[float, Quantity("B"), Field(ge=0)]
Memory = Annotated[float, Quantity("B"), Field(gt=0)]
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
