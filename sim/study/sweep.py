"""`sweep(grid, store)`: every configuration once, whatever interrupts it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sim.documents import SCHEMAS, Listing, OneByOne, dumps, plain
from sim.inputs.loader import Prepared
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.step.variation import Progress
from sim.study.axes import SIDES, Changes, Grid
from sim.study.bases import Bases, Pair, check_keys, read_bases
from sim.study.conditions import check_measured, conditions, meets, passes
from sim.study.executors import LocalPool, Task, TaskOutcome, run_here
from sim.study.measures import MEASURES, measures, measures_of
from sim.study.pareto import pareto_front
from sim.study.screen import Screening
from sim.study.store import Arriving, Store, StoredRow, StoredRows, keys_together


@dataclass(frozen=True, slots=True)
class SweepOutcome(Listing):
    """What a sweep found.

    Attributes
    ----------
    grid : Grid
        What was asked.
    rows : sequence of StoredRow
        One a configuration, in the order of the axes; of more than `HELD` each is read from the
        store when it is looked at.
    meets : tuple of bool
        Whether a row is ``ok`` and meets every ``require``.
    front : tuple of int
        Rows on the Pareto front, best in the first measure first.
    computed, reused, failed, filtered : int
        Configurations computed now, taken from the store, without a result, left out by ``where``.
    seconds : float
        Wall-clock of the sweep. [s]
    screening : Screening or None
        Where only what may be the best was computed: how that was found. Rows are then best first.
    """

    schema: ClassVar[str] = SCHEMAS["sweep"]

    grid: Grid
    rows: Sequence[StoredRow]
    meets: tuple[bool, ...]
    front: tuple[int, ...]
    computed: int
    reused: int
    failed: int
    filtered: int
    seconds: float
    screening: Screening | None = None

    @property
    def rate(self) -> float:
        """Configurations computed per second. [1/s]"""
        return self.computed / self.seconds if self.seconds > 0 else 0.0

    @property
    def columns(self) -> list[str]:
        """Names of all columns: what was varied, `MEASURES`, what became of the row."""
        front = ["pareto"] if self.grid.pareto else []
        meets = ["meets"] if self.grid.require else []
        return [*self.grid.keys, *MEASURES, *meets, *front, "status", "error"]

    def heads(self) -> Sequence[str]:
        """Names of all columns."""
        return self.columns

    def content(self) -> dict[str, Any]:
        """The rows, and how a screening found them."""
        screening = {} if self.screening is None else {"screening": self.screening}
        return {"rows": list(self.items()), **screening}

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a configuration, columns as `columns` says, what was varied as text."""
        keys, items = set(self.grid.keys), self.items()

        def row(place: int) -> Mapping[str, Any]:
            record = items[place].items()
            return {name: as_text(value) if name in keys else value for name, value in record}

        return OneByOne(len(items), row)

    def items(self) -> Sequence[Mapping[str, Any]]:
        """The same with varied values as they were set; None where a failed row has no figure."""
        front = set(self.front)

        def row(place: int) -> Mapping[str, Any]:
            found = self.rows[place]
            record = {key: found.changes.get(key) for key in self.grid.keys}
            record |= {name: found.measures.get(name) for name in MEASURES}
            if self.grid.require:
                record["meets"] = self.meets[place]
            if self.grid.pareto:
                record["pareto"] = place in front
            return record | {"status": found.status, "error": found.error}

        return OneByOne(len(self.rows), row)


def as_text(value: Any) -> str | None:
    """A varied value as a cell: what is no text is JSON."""
    return value if isinstance(value, str | None) else dumps(plain(value), None)


#: configurations from which a process is better off with the compiled engine from the start
MANY = 400
#: rows that are held, at some 2 kB each; more are read from the store as they are asked for
HELD = 20_000
#: configurations that are computed together at the most
TOGETHER = 512
#: and of their machines at most so many, at some 1 kB each
MOST_GPUS = 131_072
Job = tuple[Topology, Workload]
Context = tuple[dict[Pair, Prepared], bool]  # base pairs, and whether there is much to do


def compute(context: Context, payload: tuple[Pair, Changes]) -> dict[str, Any]:
    """Figures of one configuration: the work function of the executors."""
    return measures(*_loaded(context, payload))


def compute_many(
    context: Context, payloads: Sequence[tuple[Pair, Changes]]
) -> list[dict[str, Any] | Exception]:
    """Figures of configurations whose steps are simulated together, or why there are none."""
    loaded: list[tuple[Topology, Workload] | Exception] = []
    for payload in payloads:
        try:
            loaded.append(_loaded(context, payload))
        except Exception as fault:  # of this one alone
            loaded.append(fault)
    jobs = [one for one in loaded if isinstance(one, tuple)]
    found = itertools.chain.from_iterable(map(measures_of, _at_once(jobs)))
    return [next(found) if isinstance(one, tuple) else one for one in loaded]


def _at_once(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs whose machines may be held together, in order."""
    some: list[Job] = []
    gpus = 0
    for topology, workload in jobs:
        if not some or some[-1][0] is not topology:
            gpus += topology.world_size
            if some and gpus > MOST_GPUS:
                yield some
                some, gpus = [], topology.world_size
        some.append((topology, workload))
    if some:
        yield some


def _loaded(context: Context, payload: tuple[Pair, Changes]) -> tuple[Topology, Workload]:
    pairs, many = context
    if many:
        import sim.engine.compiled  # noqa: F401  # "auto" takes it once it is there
    pair, changes = payload
    own = {k: v for k, v in changes.items() if k not in SIDES}
    prepared = pairs[pair]
    return (prepared.vary(own) if own else prepared).loaded()[:2]


def sweep(
    grid: Grid,
    store: Path,
    *,
    sets: Iterable[str] = (),
    processes: int = 1,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> SweepOutcome:
    """Compute every configuration of a grid that the store does not have.

    Arguments are those of `sim.sweep`; one process computes in this one.

    Raises
    ------
    InputError
        A fault of the grid or its bases, or a measure of ``pareto`` that no configuration has.
        Faults of single configurations become rows.
    """
    began = time.perf_counter()
    bases = read_bases(grid, sets)
    check_keys(grid, bases)
    wheres, requires = conditions(grid, bases)
    if progress:
        progress(0, len(grid))  # a million take seconds to be named, and more to be read
    chosen = (i for i, p in enumerate(grid.points()) if passes(p, wheres, bases))
    places = np.fromiter(chosen, np.int64)
    keys = keys_together(bases.key_of(grid.point(i)) for i in map(int, places))
    with Store(store) as opened:
        distinct, first, which = np.unique(keys, return_index=True, return_inverse=True)
        missing = places[first[~opened.has(distinct)]]
        reused = len(places) - len(missing)
        points = ((i, grid.point(i)) for i in map(int, _in_order(grid, missing)))
        tasks = (Task(i, (bases.pair_of(point), point)) for i, point in points)
        if progress:
            progress(reused, len(places))
        done = reused
        held = len(places) <= HELD
        known: dict[str, StoredRow] = {}
        with Arriving(opened) as arriving:
            for answer in _answers(tasks, len(missing), bases, processes, workers, scheduler):
                point = grid.point(answer.place)
                row = row_of(bases.key_of(point), point, answer)
                arriving.add(row)
                if held:
                    known[row.key] = row
                done += 1
                if progress:
                    progress(done, len(places))
        found: Sequence[StoredRow] = StoredRows(store, keys)
        if held:
            names = [key.decode() for key in keys]
            known |= opened.get(dict.fromkeys(name for name in names if name not in known))
            found = tuple(known[name] for name in names)
        met = ~opened.has(distinct, failed=True)[which]
    failed = len(met) - int(met.sum())
    for name in grid.pareto:
        check_measured("--pareto", name, found)
    if requires:  # rows are read for them alone
        met = np.fromiter((meets(row, requires, bases) for row in found), bool)
    return SweepOutcome(
        grid, found, tuple(met.tolist()), _front(grid, found, met), len(missing), reused,
        failed, len(grid) - len(places), time.perf_counter() - began,
    )  # fmt: skip


#: keys by what a change of them costs to compute anew, dearest first: schedule (steps of one run
#: together) and machine, then shapes, then what only memory or nothing at all depends on
_DEAR = ("topology", "workload", "model", "parallelism", "method", "precision",
         "activation_checkpointing", "nodes", "node", "network")  # fmt: skip
_CHEAP = ("gradient_accumulation", "tokens", "steps", "samples", "epochs", "offer", "data",
          "checkpoint")  # fmt: skip


def _in_order(grid: Grid, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order of computation: neighbours share as much as possible of what is cached."""

    def cost(key: str) -> int:
        first = key.removeprefix("topology.").removeprefix("workload.").split(".")[0]
        if first in _DEAR:
            return _DEAR.index(first)
        return len(_DEAR) + (1 + _CHEAP.index(first) if first in _CHEAP else 0)

    columns: dict[str, NDArray[np.int64]] = {}
    at = np.unravel_index(places, [len(axis.points) for axis in grid.axes])
    for axis, point in zip(grid.axes, at, strict=True):
        for key, values in zip(axis.keys, zip(*axis.points, strict=True), strict=True):
            seen: dict[str, int] = {}
            ranks = [seen.setdefault(str(value), len(seen)) for value in values]
            columns[key] = np.array(ranks, np.int64)[point]
    dear = sorted(grid.keys, key=cost)
    return places[np.lexsort([places, *(columns[key] for key in reversed(dear))])]


def _answers(
    tasks: Iterable[Task],
    count: int,
    bases: Bases,
    processes: int,
    workers: int | None,
    scheduler: str | None,
) -> Iterator[TaskOutcome]:
    if not count:
        return iter(())
    context = bases.pairs, count >= MANY
    if workers is not None or scheduler is not None:
        from sim.study.dask_executor import DaskPool

        return DaskPool(compute, context, workers or 1, scheduler, compute_many).run(tasks)
    if processes > 1:
        workers = min(processes, count)
        chunk = min(TOGETHER, count // workers // 4)  # they end at much the same time
        return LocalPool(compute, context, workers, compute_many, chunk).run(tasks)
    return run_here(compute, context, tasks, compute_many, TOGETHER)


def row_of(key: str, changes: Changes, answer: TaskOutcome) -> StoredRow:
    """What is stored of an answer."""
    value = answer.value if answer.status == "ok" else {}
    return StoredRow(
        key, answer.status, changes, value, answer.error, answer.attempts, answer.seconds
    )  # fmt: skip


def _front(grid: Grid, rows: Sequence[StoredRow], meets: NDArray[np.bool_]) -> tuple[int, ...]:
    """Rows on the Pareto front: of those that fit and meet the requirements."""
    if not grid.pareto:
        return ()
    table = np.full((len(rows), len(grid.pareto)), np.nan)  # not a number never wins
    for i, row in enumerate(rows):
        if meets[i] and row.measures.get("fits"):
            table[i] = [np.nan if (x := row.measures.get(n)) is None else x for n in grid.pareto]
    return tuple(pareto_front(table, [bool(MEASURES[name][1]) for name in grid.pareto]))
