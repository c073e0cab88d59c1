"""When a job saves: so many steps apart, and what a save and a copy in memory hold it up."""

from __future__ import annotations

import math

from sim.job.spec import JobSpec
from sim.records import NamedTuple


class Cadence(NamedTuple):
    """Saves of a job whose steps go at some pace.

    Attributes
    ----------
    pace_s : float
        A step, with its share of copies in memory. [s]
    every : int
        Steps between saves; more than the job has: it makes none.
    save_s : float
        Training stands still per save. [s]
    copy_every : int
        Steps between copies in memory; 0: it makes none.
    copy_s : float
        What they hold up each step. [s]
    """

    pace_s: float
    every: int
    save_s: float
    copy_every: int
    copy_s: float

    @property
    def cycle_s(self) -> float:
        """From save to save. [s]"""
        return self.save_s + self.every * self.pace_s


def cadence(spec: JobSpec, worked_s: float) -> Cadence:
    """When a job saves whose steps take so long.

    Parameters
    ----------
    worked_s : float
        A step. [s]

    Notes
    -----
    Saves fall between steps. One that goes on beside the steps, in storage or in memory, and
    outlasts the time to the next holds that up.
    """
    copy_every, copy_s = 0, 0.0
    if math.isfinite(spec.memory_interval_s):
        copy_every = steps_within(spec.memory_interval_s, worked_s)
        hold_s = spec.memory_durable_s - copy_every * worked_s
        copy_s = max(spec.memory_blocking_s, hold_s) / copy_every
    pace_s = worked_s + copy_s
    every = spec.steps + 1
    if math.isfinite(spec.interval_s):
        every = steps_within(spec.interval_s, pace_s)
    save_s = max(spec.blocking_s, spec.durable_s - every * pace_s)
    return Cadence(pace_s, every, save_s, copy_every, copy_s)


def steps_within(interval_s: float, step_s: float) -> int:
    """Whole steps after which so much time has passed."""
    return max(1, math.ceil(interval_s / step_s - 1e-9))
