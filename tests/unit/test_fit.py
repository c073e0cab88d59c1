"""The fit behind `calibrate`: a prior, measurements, and what each says of named constants."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sim.calibration.fit import Prior, solve, without


def linear(n: int = 12, outlier: float = 0.0):
    """r = A x - b with a known answer."""
    rng = np.random.default_rng(7)
    slopes = rng.normal(size=(n, 2))
    slopes[:, 1] = 0.0  # nothing is said about the second constant
    goal = slopes @ np.array([0.2, 0.0]) + rng.normal(scale=0.01, size=n)
    goal[np.argmax(np.abs(slopes[:, 0]))] += outlier
    return slopes, goal, np.full(n, 0.05)


PRIOR = Prior(np.array([0.3, 0.3]), np.log([0.1, 0.1]), np.log([10.0, 10.0]))


def test_fit_is_the_closed_form_where_all_is_linear() -> None:
    """x = (A' W A + P)^-1 A' W b; the constant without evidence stays at its prior."""
    slopes, goal, sigma = linear()
    fit = solve(lambda x: slopes @ x - goal, sigma, PRIOR)
    normal = slopes.T @ slopes / 0.05**2 + np.diag(1 / PRIOR.sigma**2)
    expected = np.linalg.solve(normal, slopes.T @ goal / 0.05**2)
    assert fit.x == pytest.approx(expected, abs=2e-3)
    assert fit.x[1] == 0.0
    assert fit.sigma[1] == pytest.approx(0.3)
    assert fit.sigma[0] == pytest.approx(math.sqrt(1 / normal[0, 0]), rel=1e-6)


def test_leaving_out_is_fitting_without() -> None:
    slopes, goal, sigma = linear()
    gone = np.zeros(12, dtype=bool)
    gone[3:6] = True
    fit = solve(lambda x: slopes @ x - goal, sigma, PRIOR)
    again = solve(lambda x: slopes[~gone] @ x - goal[~gone], sigma[~gone], PRIOR)
    assert without(fit, sigma, PRIOR, gone) == pytest.approx(again.x, abs=2e-3)


def test_one_odd_run_does_not_carry_the_fit() -> None:
    slopes, goal, sigma = linear(outlier=2.0)
    fit = solve(lambda x: slopes @ x - goal, sigma, PRIOR)
    squares = np.linalg.lstsq(slopes[:, :1], goal, rcond=None)[0][0]
    assert abs(fit.x[0] - 0.2) < 0.5 * abs(squares - 0.2)


def test_of_two_links_in_series_the_likelier_is_slow() -> None:
    """The second, a little faster, has no effect at first, and a prior that hardly lets it move."""
    unlike = Prior(np.array([0.5, 0.12]), np.log([0.1, 0.1]), np.log([2.0, 2.0]))

    def late(x):  # measured: half the rate of the slower
        return np.array([-min(x[0], x[1] + 0.05) - math.log(2.0)])

    fit = solve(late, np.array([0.05]), unlike)
    weight = 1 / 0.05**2
    assert fit.x == pytest.approx([-math.log(2.0) * weight / (weight + 1 / 0.5**2), 0.0], abs=1e-6)


def test_bounds_hold() -> None:
    tight = Prior(np.array([5.0]), np.log([0.9]), np.log([1.1]))
    fit = solve(lambda x: x - math.log(3.0) * np.ones(1), np.array([0.01]), tight)
    assert np.exp(fit.x) == pytest.approx([1.1])
