"""What the functions of the face take, as the packages below take it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Number
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import InputError

if TYPE_CHECKING:
    from sim.files import File
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration
    from sim.inputs.loader import Loaded

Overrides = Iterable[str] | Mapping[str, Any]
Varied = Iterable[str] | Mapping[str, Iterable[Any]]

_OVERRIDES, _VARY = "overrides", "vary"
_DEEPEST = 128  # of mappings and lists; deeper ones are refused by who reads them


def settings(
    overrides: Overrides,
    calibration: File | Calibration | None = None,
    keys: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Overrides as ``key=value``: a calibration's come first, `keys` last, so that later ones win.

    Raises
    ------
    InputError
        Overrides that are neither texts nor a mapping, or values that no YAML can hold.
    """
    found = (*_sets(overrides), *_sets(keys or {}))
    if calibration is None:
        return found
    from sim.inputs.calibration import calibration_settings

    return (*calibration_settings(calibration), *found)


def read(
    topology: Argument,
    workload: Argument,
    overrides: Overrides,
    calibration: File | Calibration | None = None,
    keys: Mapping[str, Any] | None = None,
) -> Loaded:
    """Both inputs with their `settings`.

    Raises
    ------
    InputError
        All faults of both.
    """
    from sim.inputs.loader import load

    return load(topology, workload, settings(overrides, calibration, keys))


def native(value: Any, depth: int = 0) -> Any:
    """Numbers, arrays and columns of other libraries as Python's, within mappings and lists too.

    What has numpy's ``tolist`` (its scalars and arrays, pandas' columns, tensors) is what that
    gives, another number (a fraction, a decimal) an int or a float; all else is left as it is.
    """
    if type(value) in (str, bool, int, float) or depth > _DEEPEST:
        return value
    if hasattr(type(value), "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: native(inner, depth + 1) for key, inner in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(native(inner, depth + 1) for inner in value)
    if isinstance(value, bool) or not isinstance(value, Number):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if hasattr(value, "__float__") else value  # a complex number has none


def _sets(overrides: Overrides) -> tuple[str, ...]:
    if isinstance(overrides, Mapping):
        return tuple(
            f"{key}={_text(value, str(key), _OVERRIDES)}" for key, value in overrides.items()
        )
    return texts(_OVERRIDES, overrides, "['nodes=2'] or {'nodes': 2}")


def texts(name: str, given: Any, example: str) -> tuple[str, ...]:
    """An argument that is one text or several.

    Raises
    ------
    InputError
        It is something else.
    """
    if isinstance(given, str):
        return (given,)
    found = tuple(given) if isinstance(given, Iterable) else None
    if found is None or not all(isinstance(text, str) for text in found):
        kind = type(given).__name__
        message = f"{kind} {given!r} is no list of texts; write such as {example}"
        raise InputError.single(name, message)
    return found


def chosen(name: str, given: Any, among: Sequence[Any]) -> None:
    """Check an argument that is one of a few.

    Raises
    ------
    InputError
        It is none of them.
    """
    if given not in among:
        known = ", ".join(map(repr, among))
        raise InputError.single(name, f"{given!r} is not one of {known}")


def axes(vary: Varied) -> tuple[str, ...]:
    """``key=a,b`` texts."""
    if hasattr(type(vary), "columns"):  # a table of pandas or another library
        message = "a table's rows or all combinations of its columns? Write a mapping of lists"
        message += ", as its to_dict('list') is; with zipped=True a sweep takes it row by row"
        raise InputError.single(_VARY, message)
    if isinstance(vary, Mapping):
        for key, values in vary.items():
            if isinstance(values, str) or not isinstance(values, Iterable):
                message = f"{values!r} is no list of values; write such as [{values!r}]"
                raise InputError.single(_VARY, message, str(key))
        return tuple(
            f"{key}={','.join(_text(value, str(key), _VARY) for value in values)}"
            for key, values in vary.items()
        )
    return texts(_VARY, vary, "['nodes=1,2'] or {'nodes': [1, 2]}")


def _text(value: Any, key: str, argument: str) -> str:
    """A value of an argument as YAML on one line."""
    from sim.documents import dumps

    if isinstance(value, str):
        return value
    try:
        return dumps(native(value), None)  # an iterator's are met here first
    except (TypeError, ValueError):
        message = f"{type(value).__name__} {value!r} is no text, number, list or mapping"
        raise InputError.single(argument, message, key) from None


def several(given: Any) -> Sequence[Any]:
    """One or several arguments as a sequence; those of a set, which has no order, by name."""
    if isinstance(given, set | frozenset):
        return sorted(given, key=str)
    return given if isinstance(given, list | tuple) else [given]


def names(files: File | Iterable[File]) -> list[str]:
    """Names of one file or several."""
    return [str(file) for file in ((files,) if isinstance(files, str | PathLike) else files)]


def path(file: File | None) -> Path | None:
    """A path, where there is one."""
    return None if file is None else Path(file)
