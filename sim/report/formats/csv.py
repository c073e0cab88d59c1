"""Rows of the document behind a view, numbers in full."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from sim.report.view import View


def render(view: View) -> str:
    """Comma-separated values: a line of keys, then a line a row, what the notes say last."""
    document = view.document
    return csv_of(view.noted(document.records()), document.heads()).rstrip("\n")


def csv_of(rows: Iterable[Mapping[str, Any]], heads: Iterable[str] = ()) -> str:
    """A line of keys, then a line a row, numbers in full; `heads` are the keys of no row."""
    names: dict[str, None] = {}
    lines: list[tuple[str, int]] = []  # and how many names were known by then
    for row in rows:
        found = flat(row)
        names |= dict.fromkeys(found)
        lines.append((_line([found.get(name, "") for name in names]), len(names)))
    names = names or dict.fromkeys(heads)
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
