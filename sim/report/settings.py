"""Changes as a user would type them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any


def settings(change: Mapping[str, Any]) -> str:
    """Changes as a user would type them: ``--set key=value``, quoted for a shell."""
    return " ".join(
        f"--set {shlex.quote(f'{key}={_yaml(value)}')}" for key, value in change.items()
    )


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in value.items()) + "}"
    return str(value)
