"""Rows of the document behind a view, numbers in full."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sim.report.view import View


def render(view: View) -> Iterator[str]:
    """Comma-separated values: a line of keys, then a line a row, what the notes say last."""
    rows = view.noted(view.document.records())
    if not view.heads:
        yield csv_of(rows).rstrip("\n")
        return
    yield _line(view.heads)
    for row in rows:
        found = flat(row)
        yield "\n" + _line([found.pop(name, "") for name in view.heads])
        if found:
            message = f"heads of {type(view.document).__name__} lack {', '.join(found)}"
            raise ValueError(message)


def csv_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """A line of keys, then a line a row, numbers in full."""
    names: dict[str, None] = {}
    lines: list[tuple[str, int]] = []  # and how many names were known by then
    for row in rows:
        found = flat(row)
        names |= dict.fromkeys(found)
        lines.append((_line([found.get(name, "") for name in names]), len(names)))
    parts = [_line(names), *(line + "," * (len(names) - known) for line, known in lines)]
    return "\n".join([*parts, ""])


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def flat(row: Mapping[str, Any]) -> dict[str, str]:
    """A row with dotted keys for what has parts; the places of a list count from 0.

    >>> flat({"fits": True, "band": [1.0, 2.5], "notes": ["a", "b"], "left": None})
    {'fits': 'true', 'band.0': '1.0', 'band.1': '2.5', 'notes': 'a; b', 'left': ''}
    """
    found: dict[str, str] = {}
    for key, value in row.items():
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            found[key] = "; ".join(value)
        elif isinstance(value, list | tuple):
            found |= flat({f"{key}.{place}": item for place, item in enumerate(value)})
        elif isinstance(value, Mapping):
            found |= flat({f"{key}.{name}": item for name, item in value.items()})
        else:
            found[key] = written(value)
    return found


def written(value: Any) -> str:
    """A value in full."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
