"""A trace as a Chrome trace, or its collectives as CSV."""

from __future__ import annotations

import csv
import io

from sim.step.chrome_trace import Trace


def formatted(trace: Trace, form: str) -> str:
    """``chrome`` or ``csv``."""
    if form == "chrome":
        return trace.to_json()
    rows = trace.records()
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["order"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.12g}" if isinstance(v, float) else v for k, v in row.items()})
    return out.getvalue().rstrip("\n")
