"""What it means that engines agree on a program."""

from __future__ import annotations

import numpy as np

from sim.program import Timeline


def same_bits(a: Timeline, b: Timeline) -> None:
    """Every time equal to the bit."""
    np.testing.assert_array_equal(a.start, b.start)
    np.testing.assert_array_equal(a.end, b.end)


def same_run(a: Timeline, b: Timeline) -> None:
    """Equal to the bit, by the same events and as many solutions of the shares."""
    same_bits(a, b)
    assert (a.events, a.solves) == (b.events, b.solves)


def same_meaning(expected: Timeline, got: Timeline) -> None:
    """Equal but for rounding, durations too."""
    makespan = expected.end.max()
    np.testing.assert_allclose(got.start, expected.start, rtol=1e-9)
    np.testing.assert_allclose(got.end, expected.end, rtol=1e-9)
    np.testing.assert_allclose(
        got.end - got.start, expected.end - expected.start, rtol=1e-9, atol=1e-12 * makespan
    )
