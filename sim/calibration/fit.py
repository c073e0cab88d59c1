"""Least squares on logarithms: a few multipliers, a prior around 1, bounds, outliers damped.

    minimise  sum_i h((ln p_i(x) - ln m_i) / s_i)  +  sum_k (x_k / t_k)^2,   x = ln(multiplier)

with measured m_i, predicted p_i, their error s_i, the prior's width t_k, and Huber's h: quadratic
up to HUBER, linear beyond, so that one odd run cannot carry the fit. Gauss-Newton with step control
(Levenberg-Marquardt); derivatives by differences. A constant that the evidence says nothing about
stays at 1 by its prior. A link that is not the tightest at 1 has no slope there although a slower
one would explain much, so flat constants are first tried at some lower values.

Source: Nocedal and Wright, Numerical Optimization, 2nd ed., chapter 10; Huber, Ann. Math. Statist.
35 (1964) 73.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]
Residuals = Callable[[F8], F8]
"""(n_constants,) log multipliers -> (n,) ln p - ln m."""

STEP = 0.02  # of the differences, in ln: beyond the rounding of waves and tiles
HUBER = 2.5  # standard deviations
_ROUNDS = 12
_FLAT = 1e-6  # largest slope of a constant without effect
_QUIET = 0.5  # standard errors that a constant moves all figures together, below which it is flat
_LOWER = (-1.5, -0.7, -0.5, -0.3, -0.1)  # where flat constants are tried, in ln
_DONE = 2e-3  # largest change of a log multiplier at which the fit stops


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known of each constant beforehand; logarithms, (n_constants,) float64."""

    sigma: F8
    low: F8
    high: F8


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted set of multipliers.

    Attributes
    ----------
    x : (n_constants,) float64
        Log multipliers.
    sigma : (n_constants,) float64
        Their standard deviations, from the curvature.
    residuals : (n,) float64
        ln p - ln m at `x`.
    jacobian : (n, n_constants) float64
        Its derivatives there.
    rounds : int
        Steps taken.
    """

    x: F8
    sigma: F8
    residuals: F8
    jacobian: F8
    rounds: int


def cost(residuals: F8, sigma: F8, x: F8, prior: Prior) -> float:
    """The sum that is minimised."""
    z = np.abs(residuals / sigma)
    bent = np.where(z <= HUBER, z**2, 2 * HUBER * z - HUBER**2)
    return float(bent.sum() + ((x / prior.sigma) ** 2).sum())


def jacobian(residuals: Residuals, x: F8, at: F8, wanted: Sequence[int]) -> F8:
    """Backward differences by the constants `wanted`, 0 by the others, (n, n_constants)."""
    slopes = np.zeros((at.size, x.size))
    for k in wanted:
        moved = x.copy()
        moved[k] -= STEP
        slopes[:, k] = (at - residuals(moved)) / STEP
    return slopes


def broyden(slopes: F8, step: F8, change: F8) -> F8:
    """Slopes that explain what a step changed, otherwise as before.

    Source: Broyden, Math. Comp. 19 (1965) 577.
    """
    return np.asarray(slopes + np.outer(change - slopes @ step, step) / float(step @ step))


def newton_step(residuals: F8, slopes: F8, sigma: F8, x: F8, prior: Prior, damping: float) -> F8:
    """One Gauss-Newton step of the weighted problem with its prior."""
    z = np.abs(residuals / sigma)
    weight = np.where(z <= HUBER, 1.0, HUBER / np.maximum(z, HUBER)) / sigma**2
    normal = slopes.T @ (weight[:, None] * slopes) + np.diag(1 / prior.sigma**2)
    gradient = slopes.T @ (weight * residuals) + x / prior.sigma**2
    normal += damping * np.diag(np.diag(normal))
    return np.asarray(-np.linalg.solve(normal, gradient))


def solve(residuals: Residuals, sigma: F8, prior: Prior) -> Fit:
    """Fit from 1.

    Parameters
    ----------
    residuals : callable
        See `Residuals`.
    sigma : (n,) float64
        Standard errors of the logarithms.
    prior : Prior
        Widths and bounds.
    """
    every = range(prior.sigma.size)
    x = np.zeros(prior.sigma.size)
    now = residuals(x)
    slopes = jacobian(residuals, x, now, every)
    flat = [k for k in every if _informs(slopes[:, k], sigma) * prior.sigma[k] < _QUIET]
    x, now = _tried_lower(residuals, x, now, sigma, prior, flat)
    if x.any():
        slopes = jacobian(residuals, x, now, every)
    # what still has no effect will not be looked at again
    active = [k for k in every if np.abs(slopes[:, k]).max(initial=0.0) >= _FLAT]
    damping, rounds = 0.0, 0
    for _ in range(_ROUNDS):
        step = newton_step(now, slopes, sigma, x, prior, damping)
        moved = np.clip(x + step, prior.low, prior.high)
        if np.abs(moved - x).max(initial=0.0) < _DONE:
            break
        there = residuals(moved)
        if cost(there, sigma, moved, prior) < cost(now, sigma, x, prior):
            rounds += 1
            damping = damping / 10 if damping > 1e-4 else 0.0
            # every other time the step itself says how the slopes have changed
            slopes = broyden(slopes, moved - x, there - now)
            x, now = moved, there
            if rounds % 2 == 0:
                slopes = jacobian(residuals, x, now, active)
        elif damping > 1e3:
            break
        else:
            damping = max(10 * damping, 1e-2)
    curvature = slopes.T @ (slopes / (sigma**2)[:, None]) + np.diag(1 / prior.sigma**2)
    spread = np.sqrt(np.diag(np.linalg.inv(curvature))) if x.size else x
    return Fit(x, spread, now, slopes, rounds)


def _informs(slope: F8, sigma: F8) -> float:
    """Standard errors that a unit of the constant moves the figures."""
    return float(np.sqrt(((slope / sigma) ** 2).sum()))


def _tried_lower(
    residuals: Residuals, x: F8, now: F8, sigma: F8, prior: Prior, flat: Sequence[int]
) -> tuple[F8, F8]:
    """The best of some lower values of the flat constants: of links in series one is slow.

    Where one of them helps, constants that are not flat are tried as far down: a slower NIC may say
    the same as a slower PCIe link, and be likelier by its prior, though the first step is shorter.
    """
    left = list(flat)
    seen = [k for k in range(x.size) if k not in left]

    def lowest(constants: Sequence[int], best: float) -> tuple[float, int, F8, F8] | None:
        found = None
        for k in constants:
            for lower in _LOWER:
                moved = x.copy()
                moved[k] = max(lower, prior.low[k])
                there = residuals(moved)
                if np.abs(there - now).max() < _FLAT:
                    break  # not even the lowest does anything
                its = cost(there, sigma, moved, prior)
                if its < best:
                    best, found = its, (its, k, moved, there)
        return found

    while left:
        found = lowest(left, cost(now, sigma, x, prior))
        if found is None:
            break
        found = lowest(seen, found[0]) or found
        _, k, x, now = found
        (left if k in left else seen).remove(k)
    return x, now


def without(fit: Fit, sigma: F8, prior: Prior, left_out: npt.NDArray[np.bool_]) -> F8:
    """Log multipliers had some evidence been missing, by Newton steps on the linear model at `fit`.

    Parameters
    ----------
    fit : Fit
        Of all evidence.
    sigma : (n,) float64
        Standard errors.
    prior : Prior
        Widths and bounds.
    left_out : (n,) bool
        What to do without.
    """
    keep = ~left_out
    slopes, errors = fit.jacobian[keep], sigma[keep]
    x = fit.x
    for _ in range(4):  # Huber's weights move with x
        now = fit.residuals[keep] + slopes @ (x - fit.x)
        x = np.clip(x + newton_step(now, slopes, errors, x, prior, 0.0), prior.low, prior.high)
    return x
