"""Data files that ship with the package: catalogue, constants, published rows, with sources."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent


@cache
def table(name: str) -> dict[str, Any]:
    """A TOML file by its name below this folder (``constants/links``), read once; shared."""
    return tomllib.loads((DATA / f"{name}.toml").read_text(encoding="utf-8"))
