"""What the functions of the face take, as the packages below take it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.inputs.calibration import Calibration

File = str | PathLike[str]
Overrides = Iterable[str] | Mapping[str, Any]
Varied = Iterable[str] | Mapping[str, Iterable[Any]]
Progress = Callable[[int, int], None]


def settings(
    overrides: Overrides, calibration: File | Calibration | None = None
) -> tuple[str, ...]:
    """Overrides as ``key=value``; a calibration's come first, so that others win."""
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={_text(value)}" for key, value in overrides.items()]
    if calibration is None:
        return tuple(overrides)
    from sim.inputs.calibration import calibration_settings

    return (*calibration_settings(calibration), *overrides)


def axes(vary: Varied) -> tuple[str, ...]:
    """``key=a,b`` texts."""
    if isinstance(vary, Mapping):
        return tuple(f"{key}={','.join(map(_text, values))}" for key, values in vary.items())
    return tuple(vary)


def _text(value: Any) -> str:
    """A value as YAML on one line."""
    from sim.documents import dumps

    return value if isinstance(value, str) else dumps(value, None)


def several(given: Any) -> Sequence[Any]:
    """One or several arguments as a sequence."""
    return given if isinstance(given, list | tuple) else [given]


def path(file: File | None) -> Path | None:
    """A path, where there is one."""
    return None if file is None else Path(file)
