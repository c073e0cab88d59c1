"""The best of a large space: screened by a surrogate, then exact where it may lie.

Some points are computed exactly; from them a surrogate (`sim.study.surrogate`) learns the figure
that is sought, the compute and communication seconds of a step, and memory.  It then says all
points at once, and the most promising are computed exactly and learnt from in turn, until no other
one can be better by what the surrogate was off on samples kept back.  The winner is always exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.documents import Section
from sim.study.surrogate import F8, Codes, FigureSurface, Levels, Solved, Surrogate, predicted

#: exact samples to begin with: at least so many, and so many for each level of each key
_FEWEST, _EACH = 96, 3
#: of those asked to begin with, at most so many for each that is sought, where most are invalid
_TRIED = 8
#: points computed between two fits
_BATCH = 32
#: deviations by which a point may be better than predicted
_SURE = 4.0
#: points whose own deviation is asked; of others the largest error of all samples is taken
_CLOSE = 4096
#: samples learnt from: the first ones and the best
_LEARNT = 900
#: parts of a step, and the least that one is taken for beside the step
_PARTS, _LEAST = ("compute_s", "communication_s"), 1e-4
#: for a figure of nought, which has no logarithm
_NOTHING = 1e-12
_SEED = 20261129

PointMeasures = Mapping[str, Any]  # measures of a point
Ask = Callable[
    [Sequence[int]], Sequence[PointMeasures | None]
]  # points -> rows; None where it is invalid
#: measures of all points -> where they may win
May = Callable[[Mapping[str, F8]], NDArray[np.bool_]]


def samples_for(levels: Iterable[int]) -> int:
    """Exact points to begin with, keys having so many levels each."""
    return max(_FEWEST, _EACH * sum(levels))


@dataclass(frozen=True, slots=True)
class Screening(Section):
    """What a screening did and how sure it is.

    Attributes
    ----------
    measure : str
        What was sought, of `sim.study.measures.MEASURES`.
    points, exact, invalid : int
        Points of the space; those computed exactly; of these, those that contradict themselves.
    too_large : int
        Points left out because they need more memory than there is, by more than the error.
    error, worst : float
        Root of the mean square, and the largest, of the relative error on samples kept back; None
        where too few points are valid to learn from. [1]
    open : int
        Points that may be better than the winner by the stated error: 0 unless the search was cut.
    winner : int or None
        Its place among the points; None if none fits and meets what is required.
    """

    measure: str
    points: int
    exact: int
    invalid: int
    too_large: int
    error: float | None
    worst: float | None
    open: int
    winner: int | None

    def content(self) -> dict[str, Any]:
        """Counts and errors."""
        return {
            "measure": self.measure,
            "points": self.points,
            "exact": self.exact,
            "invalid": self.invalid,
            "too_large": self.too_large,
            "error": self.error,
            "worst_error": self.worst,
            "open": self.open,
        }


@dataclass(slots=True)
class Screen:
    """A search in progress.

    Attributes
    ----------
    levels, codes : Levels, (points, keys) uint16
        The space.
    measure, less : str, bool
        What is sought, and whether less of it is better.
    ask : callable
        Computes points exactly.
    allowed : callable
        Whether a row may win, beside fitting.
    asked : tuple of str
        Measures that requirements read.
    may : callable, optional
        Which points meet the requirements if these measures are so.
    """

    levels: Levels
    codes: Codes
    measure: str
    less: bool
    ask: Ask
    allowed: Callable[[int, PointMeasures], bool] = lambda place, row: True
    asked: tuple[str, ...] = ()
    may: May | None = None
    rows: dict[int, PointMeasures | None] = field(default_factory=dict)
    _figure: FigureSurface = field(init=False)
    _memory: Surrogate = field(init=False)
    _others: tuple[Surrogate, ...] = field(init=False)

    def __post_init__(self) -> None:
        parts = tuple(Surrogate(self.levels) for _ in _PARTS)
        self._figure = FigureSurface(Surrogate(self.levels), parts)
        self._memory = Surrogate(self.levels)
        self._others = tuple(Surrogate(self.levels) for _ in self.asked)

    def run(self, most: int) -> Screening:
        """Search, with so many points computed exactly at the most."""
        self._sample(most)
        while True:
            found = self._look()
            if found is None or found.done or len(self.rows) >= most:
                return self._told(found)
            self._compute(found.next[: most - len(self.rows)])

    def _compute(self, points: Sequence[int]) -> None:
        self.rows.update(zip(points, self.ask(points), strict=True))

    def _sample(self, most: int) -> None:
        """Exact points to begin with, drawn evenly."""
        count = len(self.codes)
        wanted = samples_for(map(len, self.levels.values))
        order = np.random.default_rng(_SEED).permutation(count)
        limit = min(count, most, _TRIED * wanted)
        begin = 0
        while begin < limit and sum(r is not None for r in self.rows.values()) < wanted:
            chosen = order[begin : min(limit, begin + _BATCH)]
            self._compute([int(i) for i in chosen])
            begin += len(chosen)

    def _loss(self, row: PointMeasures) -> float:
        """What is least where a row is best; nothing is better than what has no figure."""
        value = row.get(self.measure)
        if value is None or not value > 0.0:
            return math.inf
        return math.log(value) if self.less else -math.log(value)

    def _best(self) -> tuple[float, int | None]:
        good = [
            (self._loss(row), i) for i, row in self.rows.items()
            if row is not None and row["fits"] and self.allowed(i, row)
        ]  # fmt: skip
        return min(good, default=(math.inf, None))

    def _look(self) -> _Seen | None:
        """Learn from what is known; what it says of the rest, None where too little is known."""
        known = [i for i, r in self.rows.items() if r is not None and self._loss(r) < math.inf]
        if len(known) < len(self.levels.values) + 2:
            return None
        if len(known) > _LEARNT:
            first = known[: _LEARNT // 2]
            rest = sorted(known[len(first) :], key=lambda i: self._loss(self.rows[i] or {}))
            known = first + rest[: _LEARNT - len(first)]
        rows = [self.rows[i] or {} for i in known]
        codes = self.codes[known]
        loss = np.array([self._loss(row) for row in rows])
        least = _LEAST * np.array([row["step_time_s"] for row in rows])
        parts = [np.log(np.maximum([row[name] for row in rows], least)) for name in _PARTS]
        figure, memory = self._figure, self._memory
        solved: Solved = {}
        for surrogate, values in zip(figure.parts, parts, strict=True):
            surrogate.fit(codes, values, solved)
        figure.fit(codes, loss, parts, solved)
        share = np.log([row["memory_bytes"] / row["capacity_bytes"] for row in rows])
        memory.fit(codes, share, solved)
        for other, name in zip(self._others, self.asked, strict=True):
            asked = np.log([max(row[name] or 0.0, _NOTHING) for row in rows])
            other.fit(codes, asked, solved)
        said = predicted([figure.rest, memory, *figure.parts, *self._others], self.codes)
        two = 2 + len(parts)
        seen = _Seen(
            figure.said(said[0], list(said[2:two])), said[1], figure.left_out(parts),
            memory.left_out, self._best()[0],
        )  # fmt: skip
        seen.judge(self, self._open(said[two:]))
        return seen

    def _open(self, others: F8) -> NDArray[np.bool_]:
        """Points that are not known and may meet what is required, for all that it is off."""
        mask = np.ones(len(self.codes), bool)
        mask[list(self.rows)] = False
        if self.may is None:
            return mask
        margins = [np.abs(s.left_out).max() for s in self._others]
        held = np.zeros(len(mask), bool)
        shifts = [
            [np.exp(other + sign * margin) for sign in (0.0, -1.0, 1.0)]
            for other, margin in zip(others, margins, strict=True)
        ]
        for shifted in itertools.product(*shifts):
            held |= self.may(dict(zip(self.asked, shifted, strict=True)))
        return mask & held

    def _told(self, seen: _Seen | None) -> Screening:
        invalid = sum(row is None for row in self.rows.values())
        counts = self.measure, len(self.codes), len(self.rows), invalid
        if seen is None:
            left = len(self.codes) - len(self.rows)
            return Screening(*counts, 0, None, None, left, self._best()[1])
        off = np.expm1(np.abs(seen.left_out))
        error, worst = float(np.sqrt(np.mean(off**2))), float(off.max())
        return Screening(*counts, seen.too_large, error, worst, seen.left, self._best()[1])


@dataclass(slots=True)
class _Seen:
    """What the surrogate says of all points."""

    loss: F8
    memory: F8
    left_out: F8
    memory_left_out: F8
    best: float
    next: list[int] = field(default_factory=list)
    left: int = 0
    too_large: int = 0

    @property
    def done(self) -> bool:
        """Whether no point that is left can be better."""
        return self.left == 0

    def judge(self, search: Screen, unknown: NDArray[np.bool_]) -> None:
        """Which points may be better than the best, and which to compute next."""
        room = self.memory <= np.abs(self.memory_left_out).max()
        self.too_large = int(np.sum(unknown & ~room))
        worst = np.abs(self.left_out).max()
        may = np.flatnonzero(unknown & room & (self.loss - worst < self.best))
        if len(may) > _CLOSE:
            may = may[np.argpartition(self.loss[may], _CLOSE)[:_CLOSE]]
        codes = search.codes[may]
        unsure = _SURE * _deviations(search._figure.rest, codes, self.left_out)
        roomy = _SURE * _deviations(search._memory, codes, self.memory_left_out)
        chance = (self.loss[may] - unsure < self.best) & (self.memory[may] - roomy <= 0.0)
        may, unsure = may[chance], unsure[chance]
        self.left = len(may)
        likely = may[self.memory[may] <= 0.0]
        by_mean = likely[np.argsort(self.loss[likely], kind="stable")][: _BATCH // 2]
        by_chance = may[np.argsort(self.loss[may] - unsure, kind="stable")]
        order = dict.fromkeys([*by_mean.tolist(), *by_chance.tolist()])
        self.next = list(order)[:_BATCH]


def _deviations(surrogate: Surrogate, codes: Codes, left_out: F8) -> F8:
    """How unsure predictions are, scaled by what they were off on samples kept back."""
    own = surrogate.own_deviations()
    scale = float(np.sqrt(np.mean((left_out / own) ** 2)))
    return surrogate.deviations(codes) * scale if len(codes) else np.empty(0)
