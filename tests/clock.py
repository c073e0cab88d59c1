"""CPU time as a usual core counts it, for guards against slips of an order of magnitude.

How fast the machine is, and what else it does, decides no test: bounds are in seconds of the core
that they were written on, and what waits for an event waits up to `HANG_S`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: nothing of ours takes as long by the wall clock: what waits for an event gives up then
HANG_S = 900.0
_USUAL_S = 4.5e-3  # `_standard` on a core of November 2026, otherwise idle


def _standard() -> list[tuple[int, str]]:
    held = {}
    for i in range(40_000):
        held[i % 997] = (i, str(i))
    return sorted(held.values())


def pace() -> float:
    """How many times as long as on a usual core Python takes here and now; at least 1."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        _standard()
        best = min(best, time.process_time() - began)
    return max(1.0, best / _USUAL_S)


def least(job: Callable[[], object], times: int = 5) -> float:
    """The least of so many runs. [s]"""
    best, slow = float("inf"), pace()
    for _ in range(times):
        began = time.process_time()
        job()
        best = min(best, time.process_time() - began)
    return best / max(slow, pace())


@contextmanager
def within(limit_s: float) -> Iterator[None]:
    """What runs in it, once, takes less. Compile before: it counts what numba does, too."""
    slow, began = pace(), time.process_time()
    yield
    spent = time.process_time() - began
    took = spent / max(slow, pace())
    assert took < limit_s, f"{took:.3g} s, {limit_s} are allowed"
