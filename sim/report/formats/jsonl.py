"""The document behind a view as JSON lines: an object a row, read one by one."""

from __future__ import annotations

from collections.abc import Iterator

from sim.documents import Listing, dumps
from sim.report.view import View


def render(view: View) -> Iterator[str]:
    """A line of JSON a row."""
    found = view.document
    rows = found.items() if isinstance(found, Listing) else found.records()
    before = ""
    for row in view.noted(rows):
        yield before + dumps(row, None)
        before = "\n"
