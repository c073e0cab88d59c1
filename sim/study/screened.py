"""`screened(grid, store, measure)`: the best of a large grid, few of its points computed."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.errors import Fault, InputError
from sim.step.variation import Progress
from sim.study.axes import SIDES, Changes, Grid
from sim.study.bases import Bases, check_keys, read_bases
from sim.study.conditions import check_measured, conditions, input_of, meets, passes
from sim.study.executors import Task, run_here
from sim.study.expressions import Condition
from sim.study.measures import MEASURES, RANKED
from sim.study.screen import PointMeasures, Screen, samples_for
from sim.study.store import Arriving, Store, StoredRow
from sim.study.surrogate import F8, Codes, Levels
from sim.study.sweep import TOGETHER, SweepOutcome, as_text, compute, compute_many, row_of

#: points computed exactly at the most, where nobody says
EXACT = 2000
#: entries of the table of the three keys with most levels: what a core goes through at once
_LARGEST = 1 << 22
_SCREEN = "--screen"
#: measures that requirements may read and that are no quantities: what is computed decides
_WORDS = frozenset(("verdict", "fit_probability"))


@dataclass(slots=True)
class _Space:
    """The points of a grid as columns.

    Attributes
    ----------
    keys : tuple of str
        Varied keys.
    levels : Levels
        Their values.
    codes : (points, keys) uint16
        Which of them each point has.
    """

    grid: Grid
    bases: Bases
    keys: tuple[str, ...]
    levels: Levels
    codes: Codes
    _columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def changes(self, place: int) -> Changes:
        """What is changed at a point, as `Grid.points` has it."""
        values = zip(self.levels.values, self.codes[place], strict=True)
        return {**self.grid.fixed, **dict(zip(self.keys, (v[c] for v, c in values), strict=True))}

    def column(self, names: Iterable[str], of: Callable[[Changes], Any]) -> NDArray[Any]:
        """(points,) what a function says of the changes, which reads some names of inputs alone."""
        read = {*names, *SIDES}
        if "gpus" in read:
            read |= {"nodes", "node.gpus"}
        columns = [i for i, key in enumerate(self.keys) if key in read]
        at = np.zeros(len(self.codes), np.int64)
        for i in columns:
            at = at * len(self.levels.values[i]) + self.codes[:, i]
        _, first, which = np.unique(at, return_index=True, return_inverse=True)
        return np.array([of(self.changes(int(i))) for i in first])[which]

    def leave(self, condition: Condition) -> None:
        """Keep the points whose inputs meet a condition."""
        self.codes = self.codes[
            self.column(condition.names, lambda c: passes(c, [condition], self.bases))
        ]

    def input(self, name: str) -> NDArray[Any]:
        """(points,) an input; not a number where it has no value."""
        if name not in self._columns:

            def value(changes: Changes) -> Any:
                found = input_of(name, changes, self.bases)
                return math.nan if found is None else found

            self._columns[name] = self.column([name], value)
        return self._columns[name]


def space_of(grid: Grid, exact: int = EXACT) -> tuple[tuple[str, ...], Levels, Codes]:
    """The keys of a grid, their values, and which of them each point has, before conditions.

    Raises
    ------
    InputError
        Keys of so many values that no surrogate learns them from few points.
    """
    values: list[tuple[Any, ...]] = []
    columns: list[NDArray[np.uint16]] = []
    for axis in grid.axes:
        own = []
        for listed in zip(*axis.points, strict=True):
            codes: dict[str | None, int] = {}
            kept: list[Any] = []
            placed = []
            for value in listed:
                text = as_text(value)
                if text not in codes:
                    codes[text] = len(kept)
                    kept.append(value)
                placed.append(codes[text])
            values.append(tuple(kept))
            own.append(placed)
        columns.append(np.array(own, np.uint32).astype(np.uint16).T)
    _check_levels(grid, values, exact)
    places = np.unravel_index(np.arange(len(grid)), [len(axis.points) for axis in grid.axes])
    codes_ = [column[place] for column, place in zip(columns, places, strict=True)]
    return grid.keys, Levels(tuple(values)), np.concatenate(codes_, axis=1)


def _check_levels(grid: Grid, values: Sequence[Sequence[Any]], exact: int) -> None:
    """Refuse more values than so many exact points can tell apart, or than tables hold."""
    if len(grid) <= exact:
        return
    counts = [len(own) for own in values]
    most, key = max(zip(counts, grid.keys, strict=True))
    needed = samples_for(counts)
    if needed > exact:
        message = (
            f"the keys have {sum(counts):,} values, {key} {most:,} of them; to learn what each "
            f"does takes {needed:,} exact configurations, and {exact:,} may be computed; "
            "give fewer values, or a larger --exact"
        )
        raise InputError.single(_SCREEN, message)
    if math.prod(sorted(counts)[-3:]) > _LARGEST:
        message = f"{key} has {most:,} values, too many beside those of the other keys; give fewer"
        raise InputError.single(_SCREEN, message)


def screened(
    grid: Grid, store: Path, measure: str, *, exact: int = EXACT, sets: Iterable[str] = (),
    progress: Progress | None = None,
) -> SweepOutcome:  # fmt: skip
    """Find the best configuration of a grid, computing those that may be it.

    Arguments are those of `sim.sweep`: `measure` its `screen`, `store` what is not computed again.

    Returns
    -------
    SweepOutcome
        Rows are those computed, best first; `SweepOutcome.screening` says what of the others.

    Raises
    ------
    InputError
        A fault of the grid or its bases; a measure that cannot be sought, or that no point has.
    """
    began = time.perf_counter()
    _check(grid, measure)
    bases = read_bases(grid, sets)
    check_keys(grid, bases)
    wheres, requires = conditions(grid, bases)
    space = _Space(grid, bases, *space_of(grid, exact))
    for condition in wheres:
        space.leave(condition)
    if not len(space.codes):
        message = "where leaves no configuration"
        raise InputError.single(grid.name, message)
    rows: dict[int, StoredRow] = {}
    reused = 0
    most = min(exact, len(space.codes))
    with Store(store) as opened:

        def ask(places: Sequence[int]) -> list[PointMeasures | None]:
            nonlocal reused
            changes = {place: space.changes(place) for place in places}
            keys = {place: bases.key_of(changed) for place, changed in changes.items()}
            known = opened.get(keys.values())
            reused += len(known)
            tasks = [
                Task(place, (bases.pair_of(changed), changed))
                for place, changed in changes.items()
                if keys[place] not in known
            ]
            context = bases.pairs, True
            with Arriving(opened) as arriving:
                for answer in run_here(compute, context, tasks, compute_many, TOGETHER):
                    key = keys[answer.place]
                    known[key] = row_of(key, changes[answer.place], answer)
                    arriving.add(known[key])
            rows.update((place, known[keys[place]]) for place in places)
            if progress:
                progress(len(rows), most)
            return [known[keys[p]].measures or None for p in places]

        asked, may = _requirements(space, requires)
        search = Screen(
            space.levels, space.codes, measure, bool(MEASURES[measure][1]), ask,
            lambda place, _: meets(rows[place], requires, bases), asked, may,
        )  # fmt: skip
        said = search.run(most)
    check_measured(_SCREEN, measure, tuple(rows.values()))
    met = {place: meets(row, requires, bases) for place, row in rows.items()}
    order = sorted(rows, key=lambda place: _rank(rows[place], met[place], measure))
    return SweepOutcome(
        grid, tuple(rows[i] for i in order), tuple(met[i] for i in order), (),
        len(rows) - reused, reused, sum(row.status != "ok" for row in rows.values()),
        len(grid) - len(space.codes), time.perf_counter() - began, said,
    )  # fmt: skip


def _check(grid: Grid, measure: str) -> None:
    faults = []
    if measure not in RANKED:
        faults.append(Fault(_SCREEN, None, None, measure, f"none can be the best by it; write one "
                            f"of {', '.join(RANKED)}"))  # fmt: skip
    if grid.pareto:
        message = "a screening finds the best by one measure; leave pareto out, or --screen"
        faults.append(Fault(_SCREEN, None, None, "pareto", message))
    if faults:
        raise InputError(faults)


def _rank(row: StoredRow, met: bool, measure: str) -> tuple[bool, bool, float]:
    value = row.measures.get(measure)
    sign = 1.0 if MEASURES[measure][1] else -1.0
    figure = math.inf if value is None else sign * value
    return not row.measures.get("fits", False), not met, figure


def _requirements(
    space: _Space, requires: Sequence[Condition]
) -> tuple[tuple[str, ...], Callable[[Mapping[str, F8]], NDArray[np.bool_]] | None]:
    """Measures that requirements read, and where these may be met, measures being so."""
    told = [c for c in requires if not _WORDS & {*c.names}]
    names = dict.fromkeys(itertools.chain.from_iterable(c.names for c in told))
    asked = tuple(name for name in names if name in MEASURES and name != "fits")
    if not told:
        return (), None

    def may(measures: Mapping[str, F8]) -> NDArray[np.bool_]:
        def lookup(name: str) -> Any:
            if name == "fits":  # memory is judged by itself
                return np.ones(len(space.codes), bool)
            return measures[name] if name in measures else space.input(name)

        held = np.ones(len(space.codes), bool)
        for condition in told:
            held &= condition.over(lookup)
        return held

    return asked, may
