"""Fit a cluster's calibration to its own measurements, and say what it is worth on others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sim.calibration.fit import F8, Fit, Prior, solve, without
from sim.calibration.observation import Observation
from sim.documents import SCHEMAS, Document, Section
from sim.errors import InputError
from sim.inputs.calibration import CONSTANTS, Calibration
from sim.quantities import percent
from sim.step.variation import Progress, silent

#: constant -> (prior width in ln, lowest, highest). Widths: what machines of one model differ by
#: from each other and from the data sheet, as far as published figures tell (docs/calibration.md).
PRIORS: dict[str, tuple[float, float, float]] = {
    "gemm_clock": (0.10, 0.4, 1.4),
    "hbm_bandwidth": (0.10, 0.4, 1.4),
    "nvlink_bandwidth": (0.10, 0.2, 1.4),
    "pcie_bandwidth": (0.15, 0.01, 1.5),
    "network_bandwidth": (0.30, 0.02, 1.6),
    "collective_latency": (0.40, 0.2, 6.0),
    "host_launch": (0.50, 0.2, 12.0),
}


_SOURCE = "calibrate"
_PASSES = 3  # over all constants, that a usual fit takes


@dataclass(frozen=True, slots=True)
class Constant(Section):
    """One fitted multiplier."""

    name: str
    value: float
    sigma: float  # standard deviation of its logarithm, after
    prior_sigma: float

    @property
    def informed(self) -> float:
        """Share of the prior's variance that the evidence removed; 0: it stayed a guess."""
        return 1.0 - (self.sigma / self.prior_sigma) ** 2

    def content(self) -> dict[str, Any]:
        """Value, and how sure it is."""
        return {"value": self.value, "sigma_log": self.sigma, "informed": self.informed}


@dataclass(frozen=True, slots=True)
class Compared(Section):
    """One observation before, after, and without itself. Errors are predicted / measured - 1."""

    label: str
    group: str
    kind: str
    measured_s: float
    before: float
    after: float
    left_out: float | None  # None: held out from the beginning

    @property
    def unseen(self) -> float:
        """Error of a fit that did not see it."""
        return self.after if self.left_out is None else self.left_out


@dataclass(frozen=True, slots=True)
class CalibrationReport(Document):
    """What came out."""

    schema: ClassVar[str] = SCHEMAS["calibration"]

    calibration: Calibration
    constants: tuple[Constant, ...]
    fitted: tuple[Compared, ...]
    held_out: tuple[Compared, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What the calibration is worth on what it did not see."""
        unseen = list(self.held_out) or [c for c in self.fitted if c.kind == "run"]
        which = "held-out figures" if self.held_out else "runs, each left out of its own fit"
        if not self.held_out and len({c.group for c in self.fitted}) < 2:
            return "only one piece of evidence: no error on unseen ones can be given"
        if not unseen:
            unseen, which = list(self.fitted), "measurements, each file left out of its own fit"
        before = mean_error([c.before for c in unseen])
        after = mean_error([c.unseen for c in unseen])
        word = "fell" if after < before else "rose"
        text = f"error on {len(unseen)} {which}: {word} from {percent(before)} to {percent(after)}"
        if after >= before:
            text += "; the shipped constants fit them better, use this calibration with care"
        return text

    def content(self) -> dict[str, Any]:
        """Constants, errors, verdict. [s]"""
        return {
            "constants": {c.name: c for c in self.constants},
            "errors": [*self.fitted, *self.held_out],
            "verdict": self.verdict,
            "notes": self.notes,
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row an observation."""
        return [c.content() for c in (*self.fitted, *self.held_out)]


def mean_error(values: Sequence[float]) -> float:
    """Mean of |error|."""
    return statistics.fmean(abs(v) for v in values) if values else math.nan


def calibration_of(names: Sequence[str], x: F8, fitted_on: Sequence[str] = ()) -> Calibration:
    """Log multipliers as a calibration."""
    values = dict(zip(names, np.exp(x).tolist(), strict=True))
    return Calibration.model_construct(**values, fitted_on=tuple(fitted_on))


def calibrate(
    observations: Sequence[Observation],
    held_out: Sequence[Observation] = (),
    names: Sequence[str] = tuple(PRIORS),
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> CalibrationReport:
    """Fit the named constants.

    Parameters
    ----------
    observations : sequence of Observation
        The evidence.
    held_out : sequence of Observation
        Predicted before and after, not fitted.
    names : sequence of str
        Constants to fit; the others stay 1.
    notes, progress
        Passed on; called with predictions made and about how many there will be.

    Raises
    ------
    InputError
        For no evidence, or a constant that is none.
    """
    if not observations:
        message = "nothing to fit: give --nccl-tests, --measured, --log, --kineto or --nvbandwidth"
        raise InputError.single(_SOURCE, message)
    unknown = [name for name in names if name not in PRIORS]
    if unknown:
        known = ", ".join(PRIORS)
        raise InputError.single(_SOURCE, f"{unknown[0]!r} is not one of {known}", "fit")
    names = [name for name in CONSTANTS if name in names]
    measured = np.log([o.measured for o in observations])
    sigma = np.array([o.sigma for o in observations])
    prior = Prior(*(np.array(column) for column in zip(*(_logs(n) for n in names), strict=True)))
    about = len(observations) * (1 + len(names)) * _PASSES + 2 * len(held_out)
    predict = _Predictions(progress or silent, about)
    before = np.array([predict(o, Calibration.model_construct()) for o in observations])

    def residuals(x: F8) -> F8:
        if not x.any():
            return np.asarray(np.log(before) - measured)
        known = calibration_of(names, x)
        return np.asarray(np.log([predict(o, known) for o in observations]) - measured)

    fit = solve(residuals, sigma, prior)
    after = np.exp(fit.residuals) - 1.0
    first = before / np.exp(measured) - 1.0
    unseen = _left_out(observations, predict, fit, sigma, prior, names)
    groups = list(dict.fromkeys(o.group for o in observations))
    final = calibration_of(names, fit.x, groups)
    compared = [
        Compared(o.label, o.group, o.kind, o.measured, float(first[i]), float(after[i]), unseen[i])
        for i, o in enumerate(observations)
    ]
    held = [_held(o, predict, final) for o in held_out]
    constants = [
        Constant(name, float(np.exp(fit.x[k])), float(fit.sigma[k]), PRIORS[name][0])
        for k, name in enumerate(names)
    ]
    stopped = [
        f"{name} stopped at its bound {math.exp(x):.3g}: are topology and workload what ran?"
        for name, x, low, high in zip(names, fit.x, prior.low, prior.high, strict=True)
        if min(x - low, high - x) < 1e-9
    ]
    return CalibrationReport(
        final, tuple(constants), tuple(compared), tuple(held), (*notes, *stopped)
    )


class _Predictions:
    """Predictions, and how many there were; the fit decides as it goes how many there will be."""

    def __init__(self, told: Progress, about: int) -> None:
        self._told, self._done, self._about = told, 0, about

    def __call__(self, o: Observation, known: Calibration) -> float:
        self._told(self._done, max(self._done, self._about))
        self._done += 1
        return o.predict(known)


def _logs(name: str) -> tuple[float, float, float]:
    width, low, high = PRIORS[name]
    return width, math.log(low), math.log(high)


def _left_out(
    observations: Sequence[Observation], predict: _Predictions, fit: Fit, sigma: F8, prior: Prior,
    names: Sequence[str],
) -> list[float]:  # fmt: skip
    """Error of every observation under a fit that lacked its whole group."""
    errors = [0.0] * len(observations)
    groups = np.array([o.group for o in observations])
    for group in dict.fromkeys(groups.tolist()):
        gone = groups == group
        known = calibration_of(names, without(fit, sigma, prior, gone))
        for i in np.flatnonzero(gone).tolist():
            o = observations[i]
            errors[i] = predict(o, known) / o.measured - 1.0
    return errors


def _held(o: Observation, predict: _Predictions, final: Calibration) -> Compared:
    before = predict(o, Calibration.model_construct()) / o.measured - 1.0
    after = predict(o, final) / o.measured - 1.0
    return Compared(o.label, o.group, o.kind, o.measured, before, after, None)
