"""Versions of software: how they are read and compared, and the oldest that works."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from sim.data import table


def versions() -> dict[str, Any]:
    """Oldest software by architecture and feature."""
    return table("versions")


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
