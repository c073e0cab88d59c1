"""Fit the allocator's fragmentation and print the error table of published memory peaks.

    python bench/fit/memory.py

The one constant is the ratio of reserved memory to the sum of the streams' peaks, least squares in
logarithm over the rows marked "fitted"; the others are predictions.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("rows", ROOT / "tests/reality/test_memory_peaks.py")
assert spec is not None
assert spec.loader is not None
rows = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rows)


def fragmentation():
    """Reserved memory beyond the sum of the streams' peaks, as a share of it."""
    now = 1 + rows.constants()["fragmentation"]
    fitted = [r for r in rows.ROWS if r.get("fitted")]
    ratio = [math.log(r["measured"] / rows.predicted(r) * now) for r in fitted]
    return math.exp(sum(ratio) / len(ratio)) - 1


if __name__ == "__main__":
    ships = rows.constants()["fragmentation"]
    print(f"fragmentation = {fragmentation():.4f}  # ships {ships:.4f}")
    print("| row | figure | measured GiB | predicted GiB | error |\n|---|---|---|---|---|")
    for row in rows.ROWS:
        value = rows.predicted(row)
        error = 100 * (value / row["measured"] - 1)
        print(
            f"| {row['row']} | {row['figure']} | {row['measured']} | {value:.2f} | {error:+.1f} % |"
        )
