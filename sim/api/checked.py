"""Arguments of the face held against its annotations, before anything below meets them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from os import PathLike
from typing import Any

from sim.api.arguments import native
from sim.choices import CHOICES, LIMITS, SHARES, Field, beyond, share_of
from sim.errors import InputError
from sim.records import NamedTuple


class ArgumentKind(NamedTuple):
    """What an annotation takes, in words, and whether a value is that."""

    words: str
    takes: Callable[[Any], bool]


def _many(value: Any, element: Callable[[Any], bool]) -> bool:
    """A list, or another iterable whose elements cannot be looked at without using them up."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(element(x) for x in value)
    return isinstance(value, Iterable) and not isinstance(value, Mapping)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _file(value: Any) -> bool:
    return isinstance(value, str | PathLike)


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _share(value: Any) -> bool:
    if not _text(value):
        return _number(value)
    try:
        share_of(value)
    except ValueError:
        return False
    return True


_A_SHARE = "a share such as 5% or 0.05"
#: annotations of the face; others are the checks' of whoever takes them (`ELSEWHERE`)
KINDS = {
    "None": ArgumentKind("None", lambda value: value is None),
    "bool": ArgumentKind("True or False", lambda value: isinstance(value, bool)),
    "int": ArgumentKind("a whole number", _whole),
    "float": ArgumentKind("a number", _number),
    "str": ArgumentKind("a text", _text),
    "WrittenShare": ArgumentKind(_A_SHARE, lambda value: _text(value) or _number(value)),
    "File": ArgumentKind("a path", _file),
    "Iterable[str]": ArgumentKind("a list of texts", lambda value: _many(value, _text)),
    "Iterable[File]": ArgumentKind(
        "a list of paths", lambda value: not _file(value) and _many(value, _file)
    ),
    "Sequence[str]": ArgumentKind("a list of texts", lambda value: _many(value, _text)),
    "Iterable[int]": ArgumentKind(
        "a list of whole numbers", lambda value: not _text(value) and _many(value, _whole)
    ),
    "Sequence[int]": ArgumentKind("a list of whole numbers", lambda value: _many(value, _whole)),
    "Sequence[float]": ArgumentKind("a list of numbers", lambda value: _many(value, _number)),
    "Mapping[str, Any]": ArgumentKind("a mapping", lambda value: isinstance(value, Mapping)),
    "Calibration": ArgumentKind(
        "a Calibration", lambda value: type(value).__name__ == "Calibration"
    ),
    "Progress": ArgumentKind("a function", callable),
    "Stop": ArgumentKind("a function", callable),
}  # fmt: skip
KINDS |= {
    name: ArgumentKind(_A_SHARE, _share) if name in SHARES else KINDS[kind.__name__]
    for name, (kind, _) in LIMITS.items()
}
KINDS |= {
    name: ArgumentKind(f"one of {', '.join(map(repr, words))}", words.__contains__)
    for name, words in CHOICES.items()
}
ELSEWHERE = frozenset({
    "Any", "Argument", "Document", "Iterable[BoundQuantity]", "Overrides", "Sequence[Argument]",
    "Sequence[Policy]", "Varied",
})  # fmt: skip
_BOUNDS = {"float": Field()} | {name: bounds for name, (_, bounds) in LIMITS.items()}
_LISTED = frozenset({"Iterable[str]", "Sequence[str]", "Sequence[Policy]"})


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, that says which argument is none of what it takes, and what that is."""
    signature = inspect.signature(function)
    kinds: dict[str, list[str]] = {}
    listed = []  # takes texts, of which one may stand alone
    for name, parameter in signature.parameters.items():
        parts = parts_of(parameter.annotation)
        if not ELSEWHERE.intersection(parts):
            kinds[name] = parts
        if _LISTED.intersection(parts) and "str" not in parts:
            listed.append(name)

    @functools.wraps(function)
    def called(*arguments: Any, **keys: Any) -> Any:
        try:
            bound = signature.bind(*arguments, **keys)
        except TypeError:  # one is missing or unknown: Python says it of the function itself
            unknown = [key for key in keys if key not in signature.parameters]
            if unknown and "overrides" in signature.parameters:
                key = unknown[0]
                said = f"{function.__name__}() takes no {key}; a key of the machine or the job is "
                said += f'set by overrides={{"{key}": ...}}'
                raise TypeError(said) from None
            return function(*arguments, **keys)
        given = bound.arguments
        for name, value in given.items():
            given[name] = native(value)
        for name, takes in kinds.items():
            if name in given:
                parameter = signature.parameters[name]
                values = (
                    given[name] if parameter.kind is parameter.VAR_POSITIONAL else [given[name]]
                )
                for value in values:
                    _check(function.__name__, name, value, takes)
        for name in listed:
            if isinstance(alone := given.get(name), str) and alone:
                given[name] = (alone,)  # a text is a sequence too: of its letters
        return function(*bound.args, **bound.kwargs)

    return called


def parts_of(annotation: str) -> list[str]:
    """Alternatives of an annotation, as it is written."""
    return annotation.split(" | ")


#: arguments with a unit, which people write as numbers, and what is mostly meant
_UNITS = {"budget": "USD", "deadline": "h"}


def _check(function: str, name: str, value: Any, parts: list[str]) -> None:
    fitting = [part for part in parts if KINDS[part].takes(value)]
    if not fitting:
        words = " or ".join(KINDS[part].words for part in parts if part != "None")
        if words.startswith("one of"):
            message = f"{value!r:.80} is not {words}"
        else:
            message = f"takes {words}, not {type(value).__name__} {value!r:.80}"
            if name in _UNITS and type(value) in (int, float):
                message += f'; with its unit, such as "{value:g} {_UNITS[name]}"'
    else:
        beyonds = [
            beyond(share_of(value) if part in SHARES else value, _BOUNDS[part])
            for part in fitting
            if part in _BOUNDS
        ]
        if not any(beyonds):
            return
        message = f"{value!r} is not {' or '.join(beyonds)}"
    source = f"sim.{function}"
    raise InputError.single(source, message, name)
