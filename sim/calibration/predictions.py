"""What each single cause would make of measured runs, at strengths from mild to hard.

Likelihood of measured times under a prediction, L: that of `sim.calibration.diagnose`, with r_i =
ln(predicted_i / measured_i), S = b^2 + n^2 I, and Student's tails in place of normal ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.calibration.cause import Cause, Changed
from sim.calibration.causes import CAUSES, NOTHING
from sim.calibration.figures import Figure
from sim.errors import InputError
from sim.records import NamedTuple
from sim.step.breakdown import Breakdown
from sim.step.step import memory_of, step
from sim.step.variation import Progress

F8 = npt.NDArray[np.float64]
SHARED_ERROR = 0.06  # b
OWN_ERROR = 0.04  # n: fully specified runs the constants were not fitted to, docs/validation.md
FREEDOM = 4  # degrees of freedom of their tails
_FINE = 40  # interpolated strengths between two simulated ones


class Predicted(NamedTuple):
    """What a cause gives: strengths (m,) and logarithms of the figures' step times (m, n)."""

    cause: Cause
    strengths: F8
    logs: F8

    def weighed(self, measured: F8) -> F8:
        """Likelihood of logarithms of measured step times (n,) at each strength. (m,)"""
        return np.asarray(np.exp(_log_likelihood(self.logs - measured)))


def predictions(
    figures: Sequence[Figure], baseline: Figure | None = None, progress: Progress | None = None
) -> list[Predicted]:
    """Every cause that can be, simulated at strengths from mild to hard.

    Parameters
    ----------
    figures : sequence of Figure
        The jobs; what was measured of them does not matter.
    baseline : Figure, optional
        A job whose pace is taken as it is, and that has what causes everything has.
    progress : callable, optional
        Called with causes simulated and how many there are.
    """
    declared = [step(f.topology, f.workload).breakdown for f in figures]
    reference = None
    if baseline is not None:
        reference = step(baseline.topology, baseline.workload).breakdown
    found, causes = [], (NOTHING, *CAUSES)
    for done, cause in enumerate(causes, 1):
        found.append(_predicted(cause, figures, declared, (baseline, reference)))
        if progress is not None:
            progress(done, len(causes))
    return [one for one in found if one is not None]


def _predicted(
    cause: Cause, figures: Sequence[Figure], declared: Sequence[Breakdown],
    baseline: tuple[Figure | None, Breakdown | None],
) -> Predicted | None:  # fmt: skip
    """A cause at its strengths, interpolated; None where it cannot be."""
    first = figures[0]
    changed = cause.change(first.topology, first.workload, cause.strengths[0])
    if changed is None or _cannot_be(changed, first):
        return None
    if first.timed and changed.adds == "tokens":
        return None
    rows = []
    for strength in cause.strengths:
        try:
            times = [_time(cause, f, b, strength) for f, b in zip(figures, declared, strict=True)]
            rows.append([t / _shared(cause, *baseline, strength) for t in times])
        except InputError:  # a machine that cannot be, such as one without any link
            if len(cause.strengths) == 1:
                return None
            break
    if not rows:
        return None
    logs = np.log(np.array(rows))
    places = np.arange(len(rows), dtype=float)
    fine = np.linspace(0.0, places[-1], max(1, _FINE * (len(rows) - 1) + 1))
    found = np.stack([np.interp(fine, places, column) for column in logs.T], axis=1)
    strengths = np.exp(np.interp(fine, places, np.log(cause.strengths[: len(rows)])))
    return Predicted(cause, strengths, found)


def _cannot_be(changed: Changed, figure: Figure) -> bool:
    """Whether a job that fits as declared would not as a cause leaves it: then it did not run."""
    if changed.workload is figure.workload and changed.topology is figure.topology:
        return False
    fits = memory_of(figure.topology, figure.workload).fits
    return fits and not memory_of(changed.topology, changed.workload).fits


def _shared(
    cause: Cause, baseline: Figure | None, declared: Breakdown | None, strength: float
) -> float:
    """How much slower the baseline is by the cause: that much of it is in its pace already."""
    if baseline is None or declared is None or not cause.everywhere:
        return 1.0
    return _time(cause, baseline, declared, strength) / declared.time_s


def _time(cause: Cause, figure: Figure, declared: Breakdown, strength: float) -> float:
    changed = cause.change(figure.topology, figure.workload, strength)
    if changed is None or (figure.timed and changed.adds == "tokens"):  # it is not touched
        return declared.time_s
    return changed.time(_step(changed, figure, declared))


def _step(changed: Changed, figure: Figure, declared: Breakdown) -> Breakdown:
    if changed.topology is figure.topology and changed.workload is figure.workload:
        return declared
    return step(changed.topology, changed.workload).breakdown


def _log_likelihood(r: F8) -> F8:
    """Of residuals (m, n figures), up to a constant, with Student's tails.

    Notes
    -----
    Normal tails would call a run that is 3 times off "impossible" under every cause that explains
    half of it; a t of 4 degrees of freedom keeps an order among them.
    """
    n = r.shape[1]
    covariance = np.full((n, n), SHARED_ERROR**2) + np.diag(np.full(n, OWN_ERROR**2))
    quadratic = np.einsum("mi,ij,mj->m", r, np.linalg.inv(covariance), r)
    return np.asarray(-0.5 * (FREEDOM + n) * np.log1p(quadratic / FREEDOM))
