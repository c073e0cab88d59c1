"""Hugging Face ``config.json`` to `Model`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.spec.model import Model


def read_config(path: Path) -> dict[str, Any]:
    """Parse a config.json."""
    raise NotImplementedError(path)


def model_from_config(config: Mapping[str, Any], *, source: str = "config.json") -> Model:
    """Model of a Hugging Face config."""
    raise NotImplementedError(source)
