"""Measures of unions of time intervals, vectorised.

All times in seconds; intervals are pairs of equally long float64 arrays (start, end).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


def union(start: F8, end: F8) -> tuple[F8, F8]:
    """Disjoint, sorted intervals covering the same points.

    Parameters
    ----------
    start, end : (n,) float64
        Intervals in any order; empty ones (``end <= start``) vanish. [s]

    Returns
    -------
    (m,) float64, (m,) float64
        Starts and ends, ascending, with gaps between them.
    """
    keep = end > start
    if not keep.all():
        start, end = start[keep], end[keep]
    if start.size == 0:
        return start, end
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    first = np.empty(start.size, dtype=bool)
    first[0] = True
    first[1:] = start[1:] > end[:-1]
    last = np.append(first[1:], True)
    return start[first], end[last]


class Coverage:
    """How much of ``[0, t]`` a union of intervals covers, for any array of t.

    Parameters
    ----------
    start, end : (n,) float64
        Intervals in any order. [s]
    """

    def __init__(self, start: F8, end: F8) -> None:
        self.start, self.end = union(start, end)
        lengths = self.end - self.start
        knots = np.empty(2 * self.start.size)
        knots[0::2], knots[1::2] = self.start, self.end
        values = np.empty_like(knots)
        values[1::2] = np.cumsum(lengths)
        values[0::2] = values[1::2] - lengths
        self._knots, self._values = knots, values

    @property
    def total(self) -> float:
        """Length of the whole union. [s]"""
        return float(self._values[-1]) if self._values.size else 0.0

    def upto(self, t: F8) -> F8:
        """Covered length of ``(-inf, t]``. [s]"""
        if self._knots.size == 0:
            return np.zeros_like(t)
        covered: F8 = np.interp(t, self._knots, self._values)
        return covered

    def inside(self, start: F8, end: F8) -> F8:
        """Covered length within each interval ``[start, end]``. [s]"""
        covered = self.upto(np.concatenate((start, end)))
        inside: F8 = covered[start.size :] - covered[: start.size]
        return inside

    def touched(self, start: F8, end: F8) -> I8:
        """Which of some intervals, that are in order and apart, it covers some of, ascending."""
        first = np.searchsorted(end, self.start, side="right")
        last = np.searchsorted(start, self.end)
        first[1:] = np.maximum(first[1:], last[:-1])  # one that several of its parts touch
        counts = np.maximum(last - first, 0)
        ends = np.cumsum(counts)
        found: I8 = np.arange(counts.sum()) + np.repeat(first - ends + counts, counts)
        return found


def gaps(start: F8, end: F8, begin: float, finish: float) -> tuple[F8, F8]:
    """Complement of a union within ``[begin, finish]``.

    Parameters
    ----------
    start, end : (n,) float64
        Intervals in any order. [s]
    begin, finish : float
        The window. [s]

    Returns
    -------
    (m,) float64, (m,) float64
        Starts and ends of the idle intervals, all of positive length.
    """
    busy = union(np.clip(start, begin, finish), np.clip(end, begin, finish))
    return between(*busy, begin, finish)


def between(start: F8, end: F8, begin: float, finish: float) -> tuple[F8, F8]:
    """`gaps` of intervals that follow each other in order, as ops of a lane do.

    Parameters
    ----------
    start, end : (n,) float64
        Within ``[begin, finish]``; none starts before the one before it ends. One of no length
        parts the gap that it is in. [s]
    begin, finish : float
        The window. [s]
    """
    idle_start, idle_end = np.empty(start.size + 1), np.empty(start.size + 1)
    idle_start[0], idle_start[1:] = begin, end
    idle_end[-1], idle_end[:-1] = finish, start
    keep = np.flatnonzero(idle_end > idle_start)
    return idle_start[keep], idle_end[keep]
