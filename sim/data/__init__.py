"""Data files that ship with the package: catalogue, constants, published rows, with sources."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent


@cache
def table(name: str) -> dict[str, Any]:
    """A TOML file by its name below this folder (``constants/links``), read once; shared."""
    return tomllib.loads((DATA / f"{name}.toml").read_text(encoding="utf-8"))


@cache
def recording(name: str) -> dict[str, Any]:
    """A recording of the host side of real code by its name below ``host/``, read once; shared.

    Returns
    -------
    dict
        ``command`` that made it, ``versions`` of the libraries that ran, ``meaning`` of the keys of
        a row, ``rows``. See docs/recordings.md.
    """
    document: dict[str, Any] = json.loads(
        (DATA / "host" / f"{name}.json").read_text(encoding="utf-8")
    )
    return document
