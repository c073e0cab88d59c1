"""Events of a Chrome trace: slices, names of threads, times to the nanosecond."""

from __future__ import annotations

from typing import Any

_MICRO, _DIGITS = 1e6, 3


def meta(kind: str, process: int, thread: int, **arguments: object) -> dict[str, Any]:
    """What a process or a thread is called, or where it stands."""
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": arguments}


def event(
    name: str, category: str, process: int, thread: int, start: float, end: float,
    arguments: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """A slice of a thread."""
    return {
        "ph": "X", "cat": category, "name": name, "pid": process, "tid": thread,
        **placed(start, end), "args": arguments,
    }  # fmt: skip


def placed(start: float, end: float) -> dict[str, float]:
    """Start and duration in whole nanoseconds, as Perfetto keeps them: neighbours only touch."""
    begin = instant(start)
    return {"ts": begin, "dur": round(instant(end) - begin, _DIGITS)}


def instant(time: float) -> float:
    """A time to the nanosecond. [us]"""
    return round(time * _MICRO, _DIGITS)
