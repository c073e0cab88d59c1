"""What share of a job's time is useful in the long run, in closed form.

The same job as `sim.job.run` plays: `tests/unit/test_goodput.py` holds one to the other.
"""

from __future__ import annotations

import math

from sim.job.cadence import cadence
from sim.job.run import HOPELESS
from sim.job.spares import standing
from sim.job.spec import JobSpec
from sim.records import NamedTuple

#: starts that a save takes, in the logarithm: a replica is given up after as many
_HOPELESS = math.log(HOPELESS)


class Goodput(NamedTuple):
    """Shares of a job's time, setup apart.

    Attributes
    ----------
    useful : float
        In which steps that count are worked on, waiting for data included, and evaluated; 0: it
        never ends.
    again : float
        In which steps are worked on that are lost.
    """

    useful: float
    again: float


def mean_goodput(spec: JobSpec) -> Goodput:
    """Shares of the time of a job, in the mean.

    Notes
    -----
    From save to save, evaluations with it, is `_worked_s`, and more by the rate of failures times
    how much later a save is durable. A start of R, which interruptions at rate L break off too,
    takes (exp(L R) - 1) / L: the whole exp(L R) times as long as the work; that is Daly's formula
    where each is a failure. A failure that a copy in memory outlives costs half the time between
    copies and the time until one is whole. Nodes that are waited for or missing: `standing`.

    Source: Daly, "A higher order estimate of the optimum checkpoint interval", 2006.
    """
    at, rate, often = cadence(spec, spec.step_s), spec.storage_rate, spec.interruption_rate
    once_s = spec.steps * spec.step_s + spec.evaluated_s
    stand = standing(spec, once_s)
    starts = often * _start_s(spec, stand.stood_by)
    waits = spec.preemption_wait_s / spec.preemption_s if spec.spares is None else 0.0
    saves = (spec.steps - 1) // at.every
    pace_s = at.pace_s + spec.evaluated_s / spec.steps
    cycle_s, last_s = at.save_s + at.every * pace_s, (spec.steps - saves * at.every) * pace_s
    if rate * (cycle_s if saves else last_s) + starts > _HOPELESS:
        return Goodput(0.0, 0.0)
    kept_s = work_s = saves * cycle_s + last_s
    if rate:
        beside = 0.0 if spec.copied_when_warned else spec.warned_rate
        work_s = saves * _worked_s(cycle_s, rate, beside)
        work_s += _worked_s(last_s, rate, beside)
        work_s *= 1.0 + rate * (spec.durable_s - at.save_s) if saves else 1.0
    if at.copy_every:
        lost_s = at.copy_every * pace_s / 2.0 + spec.memory_durable_s
        work_s *= 1.0 + spec.memory_rate * lost_s
    regain_s = spec.blocking_s + spec.restart_s + spec.load_s
    wall_s = work_s * math.exp(starts) * (1.0 + waits) * (1.0 + stand.regains_hz * regain_s)
    wall_s /= stand.running * stand.pace
    return Goodput(once_s / wall_s, (work_s - kept_s) / wall_s)


def _worked_s(cycle_s: float, rate: float, beside: float) -> float:
    """Work from one save to the next, in the mean. [s]

    Parameters
    ----------
    cycle_s : float
        Between them where nothing fails. [s]
    rate : float
        Failures, each of which loses what was done since the state was kept; above 0. [1/s]
    beside : float
        How often it is kept in between, on a warning. [1/s]

    Notes
    -----
    With rates l and v, a = l + v, the mean f(x) of x still to do just after the state was kept is
    exp(-a x) x + int_0^x exp(-a t) (a t + l f(x) + v f(x - t)) dt, which
    f(x) = log(1 + v (exp(a x) - 1) / a) / v solves; (exp(l x) - 1) / l without v.
    """
    if not beside:
        return math.expm1(rate * cycle_s) / rate
    both = rate + beside
    much = both * cycle_s
    if much > 30.0:
        kept = math.log(beside / both + rate / both * math.exp(-much))
        return (much + kept) / beside
    return math.log1p(beside * math.expm1(much) / both) / beside


def _start_s(spec: JobSpec, stood_by: float) -> float:
    """Until the first step after an interruption, in the mean, from when a node is there. [s]"""
    often = spec.interruption_rate
    if not often:
        return 0.0
    start_s = spec.restart_s
    if spec.warm_restart_s is not None:
        reclaimed = 1.0 / spec.preemption_s / often
        if spec.spares is None and spec.preemption_wait_s:  # no spare stands by
            stood_by = 1.0 - reclaimed
        start_s += stood_by * (spec.warm_restart_s - start_s)
    start_s += spec.detect_s * spec.failure_rate / often
    copied = spec.memory_rate + (spec.warned_rate if spec.copied_when_warned else 0.0)
    copied /= often
    return start_s + copied * spec.memory_load_s + (1.0 - copied) * spec.load_s
