"""Formats of a report: a file here is one, under its own name, with ``render(view)``.

That is its text, or, of rows, which may be a million, the parts of it as they are made.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sim.report.view import View

_DEFAULT = "table"
_TOGETHER = 500  # parts that are handed on as one
_FILES = sorted(name.removesuffix(".py") for name in os.listdir(__path__[0]) if name[0] != "_")
#: what ``--format`` takes, the default first; a file's suffix names its format too
FORMATS = tuple(sorted(_FILES, key=_DEFAULT.__ne__))


def rendered(view: View, form: str) -> str:
    """A view in one of `FORMATS`."""
    return "".join(in_parts(view, form))


def in_parts(view: View, form: str) -> Iterator[str]:
    """The same in parts, none of them empty; those of a million rows are never held together."""
    module = importlib.import_module(f"{__name__}.{form}")
    made = cast("Callable[[View], str | Iterable[str]]", module.render)(view)
    some: list[str] = []
    for part in (made,) if isinstance(made, str) else made:
        some.append(part)
        if len(some) == _TOGETHER:
            yield "".join(some)
            some = []
    if text := "".join(some):
        yield text


def scrolls(form: str) -> bool:
    """Whether a format is the one for a terminal, which no program reads."""
    return form in FORMATS[:1]
