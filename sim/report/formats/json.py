"""The document behind a view, as it writes itself."""

from __future__ import annotations

from sim.documents import Listing, dumps
from sim.report.view import View


def render(view: View) -> str:
    """JSON with a schema, SI units and stable keys."""
    document = view.document
    if not isinstance(document, Listing):
        return document.to_json()
    items = [dumps(item).replace("\n", "\n  ") for item in view.passed(document.items())]
    return "[\n  " + ",\n  ".join(items) + "\n]" if items else "[]"
