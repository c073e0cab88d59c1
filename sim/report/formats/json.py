"""The document behind a view, as it writes itself."""

from __future__ import annotations

from sim.report.view import View


def render(view: View) -> str:
    """JSON with a schema, SI units and stable keys."""
    return view.document.to_json()
