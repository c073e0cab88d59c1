"""Parts of the simulated time that make up a step, and what sums over them come to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.lowering.parts import F8, I8
from sim.records import NamedTuple


class Window(NamedTuple):
    """A part of the simulated time, and how often it is to be counted.

    Attributes
    ----------
    begin, finish : float
        [s]
    times : float
        In the step.
    within : float
        In the micro-step of its middle, which stands for others.
    """

    begin: float
    finish: float
    times: float
    within: float = 0


class Windows(NamedTuple):
    """Those of several steps, as columns.

    Attributes
    ----------
    counts : (steps,) int64
        How many each has.
    begin, finish : (steps, most) float64
        [s]
    times : (steps, 2, most) float64
        How often each goes into its step, and into the middle of that.
    """

    counts: I8
    begin: F8
    finish: F8
    times: F8

    @classmethod
    def of(cls, many: Sequence[Sequence[Window]]) -> Windows:
        """Windows of steps, the whole of each first."""
        counts = [len(each) for each in many]
        found = np.zeros((4, len(counts), max(counts)))
        for i, each in enumerate(many):
            found[:, i, : len(each)] = np.transpose(each)
        return cls(np.array(counts), found[0], found[1], found[2:].transpose(1, 0, 2))

    def added(self, sums: F8) -> list[list[list[float]]]:
        """What sums of windows, (steps, most, n), are of each step, and of its middle if any."""
        counts = np.where(self.times[:, 1].any(axis=1), 2, 1).tolist()
        found: list[list[list[float]]] = (self.times @ sums).tolist()
        return [both[:n] for both, n in zip(found, counts, strict=True)]
