"""The document behind a view, as it writes itself."""

from __future__ import annotations

from collections.abc import Iterator

from sim.documents import Listing, dumps
from sim.report.view import View


def render(view: View) -> Iterator[str]:
    """JSON with a schema, SI units and stable keys."""
    document = view.document
    if not isinstance(document, Listing):
        yield document.to_json()
        return
    before = "["
    for item in view.passed(document.items()):
        yield before + "\n  " + dumps(item).replace("\n", "\n  ")
        before = ","
    yield "[]" if before == "[" else "\n]"
