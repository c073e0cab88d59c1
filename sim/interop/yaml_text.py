"""YAML of plain mappings, as people write it: enough for configurations, in a stable order."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z_./][\w ./+%-]*\Z")
_WORDS = {"yes", "no", "on", "off", "true", "false", "null", "y", "n", "none", "inf", "nan"}


def scalar(value: Any) -> str:
    """One scalar; texts that YAML would read as something else are quoted."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if _BARE.match(text) and text.lower() not in _WORDS and not text.endswith(" "):
        return text
    return json.dumps(text, ensure_ascii=False)


def dump(value: Mapping[str, Any], comment: str = "", indent: int = 0) -> str:
    """A mapping as block YAML; inner lists of scalars and small mappings stay on a line."""
    lines = [f"# {line}" for line in comment.splitlines()]
    pad = "  " * indent
    for key, item in value.items():
        if isinstance(item, Mapping):
            if not item:
                lines.append(f"{pad}{key}: {{}}")
            elif indent or len(flow(item)) < 88 - len(key):
                lines.append(f"{pad}{key}: {flow(item)}")
            else:
                lines.append(f"{pad}{key}:")
                lines.append(dump(item, indent=indent + 1).rstrip("\n"))
        elif isinstance(item, Sequence) and not isinstance(item, str):
            lines.append(f"{pad}{key}: {flow(item)}")
        else:
            lines.append(f"{pad}{key}: {scalar(item)}")
    return "\n".join(lines) + "\n"


def flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(flow(v) for v in value) + "]"
    return scalar(value)


def blocks(value: Mapping[str, Any], comment: str = "") -> str:
    """As `dump`, inner mappings always in blocks, as configuration files of other tools do."""
    lines = [f"# {line}" for line in comment.splitlines()]

    def walk(mapping: Mapping[str, Any], pad: str) -> None:
        for key, item in mapping.items():
            if isinstance(item, Mapping) and item:
                lines.append(f"{pad}{key}:")
                walk(item, pad + "  ")
            else:
                lines.append(f"{pad}{key}: {flow(item)}")

    walk(value, "")
    return "\n".join(lines) + "\n"
