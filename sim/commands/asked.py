"""Options that ask what a function of the face takes: kind, bounds and default as it has them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sim.api.checked import parts_of
from sim.choices import CHOICES, LIMITS, SHARES, share_of

F = TypeVar("F", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A number in a range, which has an end on either side."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; a usage error where it is none, out of range, not finite."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not finite", param, ctx)
        return found


class ShareRange(FiniteRange):
    """A share in a range, as ``0.95`` or ``95%``."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The share as a number; a usage error where it is none or out of range."""
        try:
            share = share_of(value)
        except ValueError:
            self.fail(f"{value!r} is no share; write 95% or 0.95", param, ctx)
        return super().convert(share, param, ctx)


def asks(function: Callable[..., Any]) -> Callable[..., Callable[[F], F]]:
    """`click.option` for parameters of a function, by their names.

    Parameters
    ----------
    function : callable
        Of the face. The option that is returned takes a parameter's name, options where they are
        not ``--the-name``, and what else `click.option` takes, which outdoes the signature.
    """
    parameters = inspect.signature(function).parameters

    def option(name: str, *flags: str, **more: Any) -> Callable[[F], F]:
        flags = flags or (f"--{name.replace('_', '-')}",)
        found: Callable[[F], F] = click.option(*flags, name, **_taken(parameters[name]) | more)
        return found

    return option


def _taken(parameter: inspect.Parameter) -> dict[str, Any]:
    """What the signature says of an option; a default is shown."""
    default = parameter.default
    if default is False:
        return {"is_flag": True}
    if default == ():
        return {"multiple": True}
    kinds = [_kind(part) for part in parts_of(parameter.annotation)]
    found: dict[str, Any] = {"type": next((kind for kind in kinds if kind is not None), None)}
    if default is not None and default is not parameter.empty:
        found |= {"default": default, "show_default": default != ""}
    return found


def _kind(name: str) -> click.ParamType[Any] | None:
    """What click has for a type of the face; None leaves it the text."""
    if name == "File":
        return click.Path(path_type=Path)
    if name in CHOICES:
        return click.Choice(CHOICES[name])
    if name in LIMITS:
        kind, bounds = LIMITS[name]
        number: Any = click.IntRange if kind is int else FiniteRange
        if name in SHARES:
            number = ShareRange
        above = bounds.gt is not None
        found: click.ParamType[Any] = number(
            bounds.gt if above else bounds.ge, bounds.le, min_open=above
        )
        return found
    return click.INT if name == "int" else None
