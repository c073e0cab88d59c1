"""A surrogate: a figure of every point of a space, learnt from exact samples of the same space.

A point is a level of every key, and the logarithm of a figure is a sum of what each level does,
each two and each three together: a Gaussian process with that kernel, whose mean folds into small
tables, so that a point costs a few look-ups. A product (tokens x layers x recompute) is a sum of
logarithms already; what is no product, such as the longer of compute and communication, is put
together from the `parts` of the step, each learnt by itself (`FigureSurface`).

Errors are those of samples kept back, one at a time: of a Gaussian process they follow from one fit
without another one (Rasmussen and Williams, Gaussian Processes for Machine Learning, eq. 5.12).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.units import UnitError, parse_any

F8 = NDArray[np.float64]
Codes = NDArray[np.uint16]  # (points, keys): which level of each key
SurrogateSetting = tuple[tuple[float, ...], float]  # weights of interactions, noise
#: by setting, what a fit takes of the codes of some samples: what their figures are does not matter
Solved = dict[SurrogateSetting, tuple[F8, float]]

#: weights of effects of two and of three keys beside those of one; the likeliest is taken
_INTERACTIONS = ((1.0, 0.03, 0.001), (1.0, 0.1, 0.01), (1.0, 0.3, 0.1))
_NOISES = (1e-6, 1e-4)
#: e-folds of a quantity over which its effect is alike
_LENGTH = 3.0
#: of two levels that are no quantities, what effects have in common
_COMMON = 0.3
_CONSTANT = 10.0
#: entries of a table of several keys, so that it stays in a core's cache
_TABLE = 1 << 15
#: points looked up at once
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Levels:
    """The values of every key of a space.

    Attributes
    ----------
    values : tuple of tuple
        Of each key, its levels in the order of their codes.
    kernels : tuple of (levels, levels) float64
        How alike the effects of two levels are; their mean is nought, so that effects of several
        keys are beside those of fewer.
    """

    values: tuple[tuple[Any, ...], ...]
    kernels: tuple[F8, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(map(_kernel, self.values)))


def _kernel(values: tuple[Any, ...]) -> F8:
    count = len(values)
    numbers = [_number(value) for value in values]
    if all(number > 0.0 for number in numbers):
        x = np.log(numbers)
        alike = np.exp(-np.abs(x[:, None] - x) / _LENGTH)
    else:
        alike = np.eye(count) * (1.0 - _COMMON) + _COMMON
    centred = alike - alike.mean(0) - alike.mean(1)[:, None] + alike.mean()
    scale = float(np.mean(np.diag(centred)))
    return centred / scale if count > 1 else np.zeros((1, 1))


def _number(value: Any) -> float:
    """A level as a quantity; not a number where it is none."""
    try:
        return float(parse_any(value)) if isinstance(value, str) else float(value)
    except (UnitError, TypeError, ValueError):
        return math.nan


def _sums(factors: Sequence[F8], weights: tuple[float, ...]) -> F8:
    """Weighted sums of products of one, two and three different factors."""
    one = two = three = np.zeros(())
    for factor in factors:
        three = three + two * factor
        two = two + one * factor
        one = one + factor
    return np.asarray(_CONSTANT + weights[0] * one + weights[1] * two + weights[2] * three)


@dataclass(slots=True)
class Surrogate:
    """The logarithm of one figure over a space.

    Attributes
    ----------
    levels : Levels
        Of the space.
    setting : tuple, optional
        Weights of interactions and noise; found by the first fit.
    """

    levels: Levels
    setting: SurrogateSetting | None = None
    codes: Codes = field(init=False)
    left_out: F8 = field(init=False)  # (samples,) as predicted from the others less what it is
    _alpha: F8 = field(init=False)
    _inverse: F8 = field(init=False)
    _mean: float = 0.0
    _scale: float = 0.0

    def fit(self, codes: Codes, values: F8, solved: Solved | None = None) -> Surrogate:
        """Learn from samples.

        Parameters
        ----------
        codes : (samples, keys) uint16
            Levels.
        values : (samples,) float64
            Logarithms of the figure.
        solved : Solved, optional
            Of these samples, shared by the surrogates of one space that learn from them.
        """
        solved = {} if solved is None else solved
        self.codes, self._mean = codes, float(values.mean())
        centred = values - self._mean
        likeliest = -math.inf
        tried = [self.setting] if self.setting else list(itertools.product(_INTERACTIONS, _NOISES))
        for setting in tried:
            if setting not in solved:
                solved[setting] = self._solve(codes, *setting)
            inverse, log_det = solved[setting]
            alpha: F8 = inverse @ centred
            scale = max(float(centred @ alpha) / len(values), 1e-30)
            likely = log_det - len(values) * math.log(scale)
            if likely > likeliest:
                likeliest, self.setting = likely, setting
                self._alpha, self._scale, self._inverse = alpha, scale, inverse
        self.left_out = np.asarray(-self._alpha / np.diag(self._inverse))
        return self

    def _solve(self, codes: Codes, weights: tuple[float, ...], noise: float) -> tuple[F8, float]:
        """Inverse of the samples' covariance, and the logarithm of its determinant."""
        gram = self._gram(codes, codes, weights)
        gram[np.diag_indices_from(gram)] += noise
        inverse = np.asarray(np.linalg.inv(gram), float)
        return inverse, float(np.linalg.slogdet(inverse)[1])

    def deviations(self, codes: Codes) -> F8:
        """(points,) how unsure each prediction is, of the logarithm."""
        assert self.setting is not None
        beside = self._gram(codes, self.codes, self.setting[0])
        own = _sums([np.diag(k)[c] for k, c in zip(self.levels.kernels, codes.T, strict=True)],
                    self.setting[0])  # fmt: skip
        known = np.einsum("ij,ij->i", beside @ self._inverse, beside)
        return np.asarray(np.sqrt(self._scale * np.maximum(own - known, 0.0)))

    def own_deviations(self) -> F8:
        """(samples,) the same of each sample, kept back."""
        return np.asarray(np.sqrt(self._scale / np.diag(self._inverse)))

    def _gram(self, codes: Codes, others: Codes, weights: tuple[float, ...]) -> F8:
        kernels = zip(self.levels.kernels, codes.T, others.T, strict=True)
        return _sums([k[np.ix_(a, b)] for k, a, b in kernels if len(k) > 1], weights)

    def table(self, keys: tuple[int, ...]) -> F8:
        """What the levels of some keys, one to three, do together; an axis a key."""
        assert self.setting is not None
        factors = [self.levels.kernels[key][:, self.codes[:, key]] for key in keys]
        widest = max(range(len(keys)), key=lambda i: len(factors[i]))
        # a row for what the others do together, each sample a column, is the most that is held
        others = self._alpha[None, :] * self.setting[0][len(keys) - 1]
        for i, factor in enumerate(factors):
            if i != widest:
                others = (others[:, None, :] * factor[None, :, :]).reshape(-1, others.shape[1])
        rest = [len(factor) for i, factor in enumerate(factors) if i != widest]
        found = (others @ factors[widest].T).reshape(*rest, -1)
        return np.asarray(np.moveaxis(found, -1, widest))

    @property
    def constant(self) -> float:
        """What all points have in common."""
        return self._mean + _CONSTANT * float(self._alpha.sum())


def predicted(surrogates: Sequence[Surrogate], codes: Codes) -> F8:
    """What several surrogates of one space say of points.

    Parameters
    ----------
    surrogates : sequence of Surrogate
        Fitted.
    codes : (points, keys) uint16
        Levels.

    Returns
    -------
    (surrogates, points) float64
        Logarithms.
    """
    levels = surrogates[0].levels
    sizes = tuple(len(values) for values in levels.values)
    blocks = _blocks(sizes)
    tables = [_table(surrogates, keys, terms, sizes) for keys, terms in blocks]
    found = np.empty((len(surrogates), len(codes)))
    for begin in range(0, len(codes), _CHUNK):
        part = codes[begin : begin + _CHUNK]
        said = found[:, begin : begin + _CHUNK]
        said[:] = np.array([s.constant for s in surrogates])[:, None]
        for (keys, _), table in zip(blocks, tables, strict=True):
            at = np.zeros(len(part), np.int32)
            for key in keys:
                at *= sizes[key]
                at += part[:, key]
            for row, own in zip(said, table, strict=True):
                row += own[at]
    return found


_Terms = list[tuple[int, ...]]


@lru_cache(maxsize=8)
def _blocks(sizes: tuple[int, ...]) -> list[tuple[tuple[int, ...], _Terms]]:
    """Few groups of keys, of small tables, that hold every one to three keys together once."""
    keys = [k for k, size in enumerate(sizes) if size > 1]
    together = itertools.chain.from_iterable(itertools.combinations(keys, n) for n in (3, 2, 1))
    open_: set[frozenset[int]] = set(map(frozenset, together))
    blocks: list[tuple[tuple[int, ...], _Terms]] = []
    while open_:
        first = max(open_, key=_order)
        group = set(first)
        while True:
            size = math.prod(sizes[k] for k in group)
            room = [k for k in keys if k not in group and size * sizes[k] <= _TABLE]
            if not room:
                break
            gains = {k: sum(k in t and t <= group | {k} for t in open_) for k in room}
            group.add(max(room, key=lambda k: gains[k]))
        terms = [tuple(sorted(t)) for t in open_ if t <= group]
        open_ -= {frozenset(t) for t in terms}
        blocks.append((tuple(sorted(group)), sorted(terms)))
    return blocks


def _order(term: frozenset[int]) -> tuple[int, list[int]]:
    """Larger terms first, of these the first keys."""
    return len(term), [-key for key in sorted(term)]


def _table(
    surrogates: Sequence[Surrogate], keys: tuple[int, ...], terms: _Terms, sizes: Sequence[int]
) -> F8:
    """(surrogates, entries) the sum of the terms over all levels of some keys."""
    whole = np.zeros((len(surrogates), *(sizes[k] for k in keys)))
    for table, surrogate in zip(whole, surrogates, strict=True):
        for term in terms:
            shape = [sizes[k] if k in term else 1 for k in keys]
            table += surrogate.table(term).reshape(shape)
    return whole.reshape(len(surrogates), -1)


#: how sharply the longer of compute and communication is taken, as a power; the best is kept
_SHARPNESS = (None, 1.5, 3.0, 8.0)


@dataclass(slots=True)
class FigureSurface:
    """A figure over a space, put together from parts of the step where that is closer.

    Attributes
    ----------
    rest : Surrogate
        Of the figure over the step that its parts make, or of the figure itself.
    parts : tuple of Surrogate
        Compute and communication seconds.
    power : float or None
        How the parts are put together; None where they are not.
    sign : float
        1 where the figure grows with the step, -1 where it falls.
    """

    rest: Surrogate
    parts: tuple[Surrogate, ...]
    power: float | None = None
    sign: float = 1.0

    def fit(
        self, codes: Codes, values: F8, parts: Sequence[F8], solved: Solved | None = None
    ) -> FigureSurface:
        """Learn from samples: the figure, and the parts that `self.parts` have learnt from.

        `solved` is as for `Surrogate.fit`.
        """
        solved = {} if solved is None else solved
        tried: list[tuple[float | None, float]] = [(self.power, self.sign)]
        if self.rest.setting is None:
            tried = [(p, s) for p in _SHARPNESS for s in ((1.0, -1.0) if p else (1.0,))]
        best = math.inf
        for power, sign in tried:
            self.power, self.sign = power, sign
            rest = Surrogate(self.rest.levels, self.rest.setting)
            rest.fit(codes, values - self._base(parts), solved)
            error = float(np.sqrt(np.mean(self._left_out(rest, parts) ** 2)))
            if error < best:
                best, found = error, (rest, power, sign)
        self.rest, self.power, self.sign = found
        return self

    def said(self, rest: F8, parts: Sequence[F8]) -> F8:
        """(points,) its logarithm from what `rest` and `parts` say."""
        return rest + self._base(parts)

    def left_out(self, parts: Sequence[F8]) -> F8:
        """(samples,) predicted from the others less what it is, its parts being predicted too."""
        return self._left_out(self.rest, parts)

    def _left_out(self, rest: Surrogate, parts: Sequence[F8]) -> F8:
        if self.power is None:
            return rest.left_out
        kept_back = [y + s.left_out for y, s in zip(parts, self.parts, strict=True)]
        return rest.left_out + self._base(kept_back) - self._base(parts)

    def _base(self, parts: Sequence[F8]) -> F8:
        if self.power is None:
            return np.zeros(())
        p = self.power
        return np.asarray(self.sign * np.logaddexp(p * parts[0], p * parts[1]) / p)
