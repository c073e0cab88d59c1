"""Formats of a report: a file here is one, under its own name, with ``render(view) -> str``."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sim.report.view import View

_DEFAULT = "table"
_FILES = sorted(name.removesuffix(".py") for name in os.listdir(__path__[0]) if name[0] != "_")
#: what ``--format`` takes, the default first; a file's suffix names its format too
FORMATS = tuple(sorted(_FILES, key=_DEFAULT.__ne__))


def rendered(view: View, form: str) -> str:
    """A view in one of `FORMATS`."""
    module = importlib.import_module(f"{__name__}.{form}")
    return cast("Callable[[View], str]", module.render)(view)


def scrolls(form: str) -> bool:
    """Whether a format is the one for a terminal, which no program reads."""
    return form in FORMATS[:1]
