"""Predicted against measured layouts: errors, their order, the best one, runs said not to fit.

Rows that other rows contradict (`mesh.at_odds`) are counted apart. A *cell* is a model on a number
of nodes; one in three is kept out of every fit, and is counted apart too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from sim.calibration.mesh import MeasuredLayout, at_odds, held_up, layouts, measured
from sim.calibration.validate_training import TrainingGroup, TrainingPoint, errors_of, predict
from sim.errors import InputError
from sim.records import NamedTuple
from sim.step.variation import Progress, silent


class MeshPoint(NamedTuple):
    """A layout that ran, and what the model says of it."""

    layout: MeasuredLayout
    point: TrainingPoint
    odd: bool  # other rows contradict it


class MeshCell(NamedTuple):
    """Layouts of one model and number of nodes, those at odds left out."""

    name: str
    held: bool
    rows: int
    bias: float
    mean: float  # of |error|
    median: float
    order: float | None  # Spearman's rank correlation of measured and predicted speed; of 3 or more
    regret: float  # what the layout that the model chooses loses against the measured best


class MeshKind(NamedTuple):
    """Layouts that have something in common."""

    name: str
    of: Callable[[MeasuredLayout], bool]


#: what waits for what
KINDS = (
    MeshKind("no tensor parallelism", lambda r: r.tp == 1),
    MeshKind("t within a node, no pipeline or one node", lambda r: 1 < r.tp <= 8 and _calm(r)),
    MeshKind("t within a node, pipeline over nodes", lambda r: 1 < r.tp <= 8 and not _calm(r)),
    MeshKind("t over nodes, pipeline", lambda r: r.tp > 8 and r.pp > 1),
    MeshKind("t over nodes, no pipeline", lambda r: r.tp > 8 and r.pp == 1),
)


def _waits(point: MeshPoint) -> bool:
    return held_up(point.layout)


def _calm(row: MeasuredLayout) -> bool:
    return row.pp == 1 or row.nodes == 1


class MeshValidation(NamedTuple):
    """All of it."""

    points: tuple[MeshPoint, ...]
    cells: tuple[MeshCell, ...]
    groups: tuple[TrainingGroup, ...]
    inexpressible: tuple[tuple[MeasuredLayout, str], ...]  # and why

    @property
    def consistent(self) -> list[MeshPoint]:
        """Those that no other row contradicts."""
        return [p for p in self.points if not p.odd]

    @property
    def refused(self) -> list[MeshPoint]:
        """Layouts that ran and are said not to fit."""
        return [p for p in self.points if not p.point.memory.fits]


def validate_mesh(progress: Progress | None = None) -> MeshValidation:
    """Compare every layout that ran with the model.

    `progress` is called with layouts predicted and all there are.
    """
    told = progress or silent
    odd, ran = at_odds(layouts()), [row for row in layouts() if row.ran]
    points: list[MeshPoint] = []
    inexpressible = []
    for done, row in enumerate(ran):
        told(done, len(ran))
        try:
            points.append(MeshPoint(row, predict(measured(row)), row in odd))
        except InputError as error:
            inexpressible.append((row, error.faults[0].message))
    told(len(ran), len(ran))
    return MeshValidation(
        tuple(points), tuple(_cells(points)), tuple(_groups(points)), tuple(inexpressible)
    )


def _groups(points: list[MeshPoint]) -> Iterable[TrainingGroup]:
    def group(dimension: str, value: str, of: Callable[[MeshPoint], bool]) -> TrainingGroup | None:
        errors = [p.point.error for p in points if of(p)]
        return errors_of(dimension, value, errors) if errors else None

    found = [
        group("all", "that ran", lambda p: True),
        group("all", "not at odds with others", lambda p: not p.odd),
        group("all", "at odds with others", lambda p: p.odd),
        *(group("kind", k.name, lambda p, k=k: not p.odd and k.of(p.layout)) for k in KINDS),  # type: ignore[misc]
        group("held up", "fitted", lambda p: not p.odd and _waits(p) and not p.layout.held),
        group("held up", "held back", lambda p: not p.odd and _waits(p) and p.layout.held),
        group("held back", "all not at odds", lambda p: p.layout.held and not p.odd),
    ]  # fmt: skip
    return [g for g in found if g is not None]


def _cells(points: list[MeshPoint]) -> Iterable[MeshCell]:
    by: dict[str, list[MeshPoint]] = {}
    for p in points:
        if not p.odd:
            by.setdefault(p.layout.cell, []).append(p)
    for name, mine in by.items():
        speeds = [p.layout.tokens_per_s_per_gpu or 0.0 for p in mine]
        said = [p.point.predicted for p in mine]
        g = errors_of("cell", name, [p.point.error for p in mine])
        chosen = speeds[said.index(max(said))]
        order = spearman(speeds, said) if len(mine) > 2 else None
        yield MeshCell(
            name, mine[0].layout.held, len(mine), g.bias, g.mean, g.median, order,
            1.0 - chosen / max(speeds),
        )  # fmt: skip


def spearman(one: list[float], two: list[float]) -> float:
    """Rank correlation: Pearson's of the ranks, equal values sharing theirs."""
    return statistics.correlation(_ranks(one), _ranks(two))


def _ranks(values: list[float]) -> list[float]:
    return [
        sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2
        for value in values
    ]
