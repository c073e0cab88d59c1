"""What a cross-check finds, and the tables that checks read."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sim.inputs.notes import Message

Side = Literal["topology", "workload"]


class Finding(NamedTuple):
    """An error or a warning about a key of one side."""

    error: bool
    code: str
    side: Side
    path: str
    message: str
    hint: str = ""

    def notice(self) -> Message:
        """The finding as a warning of the result."""
        return Message(self.code, f"{self.side}.{self.path}", self.message, self.hint)


def fault(code: str, side: Side, path: str, message: str, hint: str = "") -> Finding:
    """An error."""
    return Finding(True, code, side, path, message, hint)


def warning(code: str, side: Side, path: str, message: str, hint: str = "") -> Finding:
    """A warning."""
    return Finding(False, code, side, path, message, hint)


@cache
def versions() -> dict[str, Any]:
    """Oldest software by architecture and feature."""
    path = Path(__file__).parents[1] / "data" / "versions.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


@cache
def version(text: str) -> tuple[int, ...]:
    """``"12.4"`` as (12, 4); what follows the numbers (``+cu124``, ``rc1``) is dropped."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", text.strip())
    return tuple(int(p) for p in match[1].split(".")) if match else ()


@cache
def older(have: str, need: str) -> bool:
    """Whether a version is older than another; unreadable texts are not."""
    left, right = version(have), version(need)
    length = max(len(left), len(right))
    return bool(left) and left + (0,) * (length - len(left)) < right + (0,) * (length - len(right))
