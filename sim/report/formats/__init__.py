"""Formats of a report: a file each, with ``render(view) -> str``, and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sim.report.view import View

#: ``--format`` -> module here; a file's suffix names its format too
FORMATS = {
    "table": "text",
    "json": "json",
    "csv": "csv",
    "md": "markdown",
    "html": "html",
    "jsonl": "jsonl",
}


def rendered(view: View, form: str) -> str:
    """A view in one of `FORMATS`."""
    module = importlib.import_module(f"{__name__}.{FORMATS[form]}")
    return cast("Callable[[View], str]", module.render)(view)
