"""Fit the allocator's fragmentation: what it reserves beyond what its streams' pools need.

    python bench/fit/memory.py

The one constant is the ratio of reserved memory to the sum of the streams' peaks, least squares in
logarithm over three eager rows of torchtitan; `scaling-sim validate memory` shows all other peaks,
which are predictions.
"""

from __future__ import annotations

import math

from sim.calibration.validate_memory import validate_memory
from sim.memory.states import constants

FITTED = ("torchao-eager:L43", "torchao-eager:L53", "torchao-eager:L63")


def fragmentation():
    """Reserved memory beyond the sum of the streams' peaks, as a share of it."""
    now = 1 + constants()["fragmentation"]
    errors = [p.error for p in validate_memory().peaks if p.row.id in FITTED]
    assert len(errors) == len(FITTED)
    return math.exp(sum(math.log(now / (1 + e)) for e in errors) / len(errors)) - 1


if __name__ == "__main__":
    print(f"fragmentation = {fragmentation():.4f}  # ships {constants()['fragmentation']:.4f}")
