"""How far the odds of causes can be trusted: each cause simulated, blurred, and diagnosed.

A cause is drawn by its plausibility, a strength of it at random, and the figures that it gives get
the model's own error. What the diagnosis then says is set against what was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from sim.calibration.figures import Figure
from sim.calibration.predictions import F8, FREEDOM, OWN_ERROR, SHARED_ERROR, Predicted, predictions
from sim.documents import SCHEMAS, Document, Section
from sim.records import dataclass

DRAWS = 4000
_EDGES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Confused(Section):
    """A cause that was drawn, and what was said.

    Attributes
    ----------
    key, title : str
        Of the cause.
    draws : int
        Times it was drawn.
    first, among_three : float
        Share in which it was named first, and among the first three.
    probability : float
        Mean of what it was given.
    instead : str
        What was named first most often where it was not; empty where it always was.
    """

    key: str
    title: str
    draws: int
    first: float
    among_three: float
    probability: float
    instead: str


@dataclass(frozen=True, slots=True)
class Odds(Section):
    """Statements of like probability: how many, what they said on average, how often it was so."""

    low: float
    high: float
    statements: int
    said: float
    true: float


@dataclass(frozen=True, slots=True)
class Confusion(Document):
    """Causes drawn and named, and how often stated odds came true.

    Attributes
    ----------
    figures : int
        Measured runs that each diagnosis had.
    causes : tuple of Confused
        Those that can be, the most often named rightly first.
    odds : tuple of Odds
        All statements of all diagnoses, by what they said.
    first : float
        Share of all draws in which the cause that was drawn was named first.
    """

    schema: ClassVar[str] = SCHEMAS["confusion"]

    figures: int
    causes: tuple[Confused, ...]
    odds: tuple[Odds, ...]
    first: float

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a cause."""
        return [c.content() for c in self.causes]


def confusion(figures: Sequence[Figure], draws: int = DRAWS, seed: int = 0) -> Confusion:
    """Draw causes, simulate what they give, and diagnose it.

    Parameters
    ----------
    figures : sequence of Figure
        The jobs of which figures are to be had; what was measured does not matter.
    draws, seed : int
        Of causes, strengths and errors.
    """
    table = predictions(figures)
    rng = np.random.default_rng(seed)
    weights = np.array([p.cause.plausibility for p in table])
    drawn = rng.choice(len(table), draws, p=weights / weights.sum())
    stated = np.zeros((draws, len(table)))
    for i, which in enumerate(drawn.tolist()):
        logs = table[which].logs
        measured = logs[rng.integers(len(logs))] + _error(rng, logs.shape[1])
        stated[i] = _posterior(table, measured)
    order = np.argsort(-stated, axis=1, kind="stable")
    return Confusion(
        len(figures), _rows(table, drawn, stated, order), _odds(drawn, stated),
        float((order[:, 0] == drawn).mean()),
    )  # fmt: skip


def _error(rng: np.random.Generator, n: int) -> F8:
    """What the model is off by: a part that all figures share and a part of each, with tails."""
    tail = np.sqrt(FREEDOM / rng.chisquare(FREEDOM))
    own = OWN_ERROR * rng.standard_normal(n)
    return np.asarray(tail * (SHARED_ERROR * rng.standard_normal() + own))


def _posterior(table: Sequence[Predicted], measured: F8) -> F8:
    """Probability of each cause of the table."""
    found = np.array([p.cause.plausibility * p.weighed(measured).mean() for p in table])
    return np.asarray(found / (found.sum() or 1.0))


def _rows(
    table: Sequence[Predicted], drawn: np.ndarray[Any, Any], stated: F8,
    order: np.ndarray[Any, Any],
) -> tuple[Confused, ...]:  # fmt: skip
    found = []
    for k, p in enumerate(table):
        mine = drawn == k
        if not mine.any():
            continue
        named = order[mine, 0]
        wrong = named[named != k]
        instead = table[int(np.bincount(wrong).argmax())].cause.key if wrong.size else ""
        found.append(Confused(
            p.cause.key, p.cause.title, int(mine.sum()), float((named == k).mean()),
            float((order[mine, :3] == k).any(axis=1).mean()), float(stated[mine, k].mean()),
            instead,
        ))  # fmt: skip
    return tuple(sorted(found, key=lambda c: (-c.first, -c.probability, c.key)))


def _odds(drawn: np.ndarray[Any, Any], stated: F8) -> tuple[Odds, ...]:
    """Every probability that was stated, by its size, and how often it was the cause drawn."""
    true = np.zeros(stated.shape, dtype=bool)
    true[np.arange(len(drawn)), drawn] = True
    found = []
    for low, high in pairwise(_EDGES):
        inside = (stated > low) & (stated <= high)
        if low == 0.0:
            inside &= stated > 0.01
        if inside.any():
            said, was = float(stated[inside].mean()), float(true[inside].mean())
            found.append(Odds(low, high, int(inside.sum()), said, was))
    return tuple(found)
