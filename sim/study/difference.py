"""Two results side by side: which figures moved, for a pull request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.documents import SCHEMAS, Document, flatten
from sim.errors import InputError
from sim.inputs.tree import read_file, too_deep


@dataclass(frozen=True, slots=True)
class Difference(Document):
    """Figures of two documents of one kind that differ.

    Attributes
    ----------
    kind : str
        The schema of both.
    before, after : str
        Their files.
    tolerance : float
        Relative changes up to it are none. [1]
    rows : tuple of mappings
        ``key``, ``before``, ``after``, ``change`` (relative, of numbers).
    same : int
        Figures that do not differ.
    """

    schema = SCHEMAS["difference"]
    kind: str
    before: str
    after: str
    tolerance: float
    rows: tuple[Mapping[str, Any], ...]
    same: int

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a figure that moved."""
        return self.rows


def difference(before: Path, after: Path, tolerance: float = 1e-3) -> Difference:
    """Compare two results as ``--json`` prints them.

    Raises
    ------
    InputError
        A file that is no JSON document, or documents of two kinds.
    """
    first, second = _document(before), _document(after)
    if first.get("schema") != second.get("schema"):
        message = f"is a {second.get('schema')}, {before} a {first.get('schema')}"
        raise InputError.single(str(after), message)
    one, two = flatten(first), flatten(second)
    rows, same = [], 0
    for key in dict.fromkeys((*one, *two)):
        old, new = one.get(key), two.get(key)
        change = _change(old, new)
        moved = abs(change) > tolerance if change is not None else old != new
        if moved:
            rows.append({"key": key, "before": old, "after": new, "change": change})
        same += not moved
    kind = str(first.get("schema", ""))
    return Difference(kind, str(before), str(after), tolerance, tuple(rows), same)


def _document(path: Path) -> dict[str, Any]:
    text = read_file(path)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError.single(str(path), f"is no JSON document: {error}") from None
    except RecursionError:
        raise too_deep(text, str(path)) from None
    if not isinstance(found, dict) or "schema" not in found:
        raise InputError.single(str(path), "is no result of scaling-sim: it has no schema")
    return found


def _change(old: Any, new: Any) -> float | None:
    """Relative change of two numbers; None where one is none."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (old, new))
    if not numbers:
        return None
    if old == new:
        return 0.0
    return (new - old) / abs(old) if old else float("inf") if new > 0 else float("-inf")
