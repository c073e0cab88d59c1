"""A log of allocations as arrays, to be summed for jobs that differ only in costs.

Apart from the log, as whoever asks a strategy for its knobs needs no numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.records import NamedTuple
from sim.strategies.allocations import ADD, MARK, Allocations, Amount
from sim.strategies.terms import (
    FORWARD,
    JOB_QUANTITIES,
    LAYER_QUANTITIES,
    MOMENTS,
    OPTIMIZER,
    POOL_OF,
    TERMS,
)
from sim.strategies.traced import ValueTrace

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


class Columns(NamedTuple):
    """Allocations of a whole step, to be summed.

    Attributes
    ----------
    instant, term, quantity : (n,) int64
        Of each allocation, as time goes. A quantity at or past `JOB_QUANTITIES` is of a style of
        layer.
    place, pooled : (n,) int64
        Of each allocation, in a table of terms, or of pools, by instants.
    coefficient : (n,) float64
        What the quantity is multiplied by; negative where it is freed.
    moment, before : (instants,) int64
        Index into `MOMENTS`, and the op that is issued next.
    moments : tuple of (n,) int64
        Instants of each of `MOMENTS`.
    within : slice
        Those of the step itself, neither loading nor saving.
    offsets : tuple of int
        Where the quantities of the job (0) and of each layer start.
    """

    instant: I8
    term: I8
    quantity: I8
    place: I8
    pooled: I8
    coefficient: F8
    moment: I8
    before: I8
    moments: tuple[I8, ...]
    within: slice
    offsets: tuple[int, ...]


def columns_of(allocations: Allocations) -> Columns:
    """All allocations of the full model; worked out once a log."""
    found: Columns | None = allocations.derived.get("columns")
    if found is None:
        make = allocations.columns or partial(_read, allocations, edges=False)
        found = allocations.derived["columns"] = make()
    return found


def edges_of(allocations: Allocations) -> Columns:
    """The same without layers in a row that hold no more than the first or last one like them.

    Each of them adds what the one before did, at each of its instants. The last stands right
    behind the first, where all between them come and go at once; ops do not count them.
    """
    found: Columns | None = allocations.derived.get("edges")
    if found is None:
        make = allocations.edges or partial(_read, allocations, edges=True)
        found = allocations.derived["edges"] = make()
    return found


def _read(allocations: Allocations, edges: bool) -> Columns:
    reader = _LogReader(allocations, edges)
    whole, which = reader.columns()
    return whole._replace(coefficient=np.array(reader.sizes, dtype=np.float64)[which])


class LogPattern:
    """What logs of one structure have in common at their `edges_of`; one of them is traced."""

    def __init__(self, log: Allocations, trace: ValueTrace) -> None:
        reader = _LogReader(log, edges=True)
        self._whole, which = reader.columns()
        place = [trace.place(size) for size in reader.sizes]
        self._places, inverse = np.unique(np.array(place, dtype=np.int64), return_inverse=True)
        self._which = inverse[which]

    def edges(self, values: Sequence[Any]) -> Columns:
        """Those whose numbers these are."""
        sizes = np.array([values[place] for place in self._places.tolist()], dtype=np.float64)
        return self._whole._replace(coefficient=sizes[self._which])


class _LogReader:
    """Makes rows of a log. What `put` frees depends on all before it, missing layers included."""

    def __init__(self, a: Allocations, edges: bool) -> None:
        self.a = a
        #: copies of a layer that are written; others are lumped together
        self.copies = min(a.extra, 1) if edges and len(set(a.layers)) == 1 else a.extra
        self.lumps: list[list[tuple[int, int, int, int, int, int]]] = []  # rows, by stretch
        # of an allocation: instant, term, which of `sizes`, quantity, layer, 0;
        # of an instant: itself, -1, 0, moment, 0, the op that is issued next
        self.rows: list[tuple[int, int, int, int, int, int]] = []
        self.sizes: list[float] = []
        self.instants = 0
        self.live: list[dict[int, float]] = [{} for _ in TERMS]  # coefficients, but for layers'
        self.inside: list[tuple[int, int, int]] = []  # of each stretch: its rows, its instants
        at = 0
        for s in a.stretches:
            self._read(at, s.log[0])
            then, start, first = [held.copy() for held in self.live], len(self.rows), self.instants
            self._read(*s.log)
            self.inside.append((start, len(self.rows), self.instants - first))
            self.lumps.append(self._lump(start, a.extra - self.copies))
            for held, before in zip(self.live, then, strict=True):
                for quantity, size in held.items():  # the missing layers change it as this one has
                    held[quantity] = size + a.extra * (size - before.get(quantity, 0.0))
            at = s.log[1]
        self._read(at, len(a.log))

    def _read(self, start: int, stop: int) -> None:
        for kind, term, size, *rest in self.a.entries(start, stop):
            if kind == MARK:
                self._instant(term, size, rest[0])
            elif kind == ADD:
                self._add(term, size, *rest)
            else:
                for other, held in self.live[term].items():
                    if other != rest[0]:
                        self._add(term, -held, other)
                self._add(term, size - self.live[term].get(rest[0], 0.0), rest[0])

    def _lump(self, start: int, times: int) -> list[tuple[int, int, int, int, int, int]]:
        """All that rows from one on allocate and free, so many times, at the next instant."""
        found = []
        for _, term, which, quantity, layer, _ in self.rows[start:] if times else ():
            if term >= 0:
                found.append((self.instants, term, len(self.sizes), quantity, layer, 0))
                self.sizes.append(times * self.sizes[which])
        return found

    def _instant(self, moment: int, before: int, amounts: Sequence[Amount]) -> None:
        now, append = self.instants, self.rows.append
        for amount in amounts:
            term, size, quantity, layer = (*amount, 0, 0)[:4]
            if size:
                at = len(self.sizes)
                self.sizes += size, -size
                append((now, term, at, quantity, layer, 0))
                append((now + 1, term, at + 1, quantity, layer, 0))
        append((now, -1, 0, moment, 0, before))
        self.instants = now + 1

    def _add(self, term: int, size: float, quantity: int, layer: int = 0) -> None:
        if size:
            self.rows.append((self.instants, term, len(self.sizes), quantity, layer, 0))
            self.sizes.append(size)
            if not layer:
                held = self.live[term]
                held[quantity] = held.get(quantity, 0.0) + size

    def columns(self) -> tuple[Columns, I8]:
        """As arrays, with the missing layers; and which of `sizes` each allocation has."""
        entries = chain.from_iterable(self.rows)
        rows = np.fromiter(entries, np.int64, 6 * len(self.rows)).reshape(-1, 6)
        if self.a.extra:
            rows = self._lengthened(rows)
        found = rows[rows[:, 1] < 0]
        marks = found[found[:, 0].argsort()]
        # what the last instant alone held is freed after it
        rows = rows[(rows[:, 1] >= 0) & (rows[:, 0] < len(marks))]
        rows = rows[rows[:, 0].argsort(kind="stable")]
        instant, term, which, quantity, layer, _ = np.array(rows.T, order="C")
        styles = {style: at for at, style in enumerate(dict.fromkeys(self.a.layers))}
        starts = (JOB_QUANTITIES + LAYER_QUANTITIES * styles[style] for style in self.a.layers)
        offsets = (0, *starts)
        quantity += np.array(offsets)[layer]
        moments = tuple(np.flatnonzero(marks[:, 3] == at) for at in range(len(MOMENTS)))
        step = np.flatnonzero((marks[:, 3] >= FORWARD) & (marks[:, 3] <= OPTIMIZER))
        within = slice(int(step[0]), int(step[-1]) + 1)
        pooled = np.array(POOL_OF)[term] * len(marks) + instant
        whole = Columns(
            instant, term, quantity, term * len(marks) + instant, pooled, np.zeros(0),
            marks[:, 3], marks[:, 5], moments, within, offsets,
        )  # fmt: skip
        return whole, which

    def _lengthened(self, rows: I8) -> I8:
        """Copies of each stretch's rows behind it: instants, layers and ops move on."""
        copied, stretches = self.copies, self.a.stretches
        # from a layer's rows to the next one's
        steps = np.zeros((len(stretches), 6), dtype=np.int64)
        steps[:, 0] = [instants for _, _, instants in self.inside]
        steps[:, 4] = [stretch.step for stretch in stretches]
        steps[:, 5] = [stretch.ops[1] - stretch.ops[0] for stretch in stretches]
        # between a forward and a backward stretch stand the layers behind the missing ones
        none = np.zeros((1, 6), dtype=np.int64)
        shift = np.concatenate((none, copied * steps.cumsum(axis=0)))
        ends = [stop for _, stop, _ in self.inside]
        parts = [_moved(rows, np.repeat(shift, np.diff([0, *ends, len(rows)]), axis=0))]
        each = zip(self.inside, steps, self.lumps, shift, strict=False)  # nothing behind the last
        for (start, stop, _), step, lump, moved in each:
            copies = np.arange(1, copied + 1)[:, None, None] * step
            parts.append(_moved(parts[0][start:stop], copies).reshape(-1, 6))
            if lump:
                parts.append(_moved(np.array(lump, dtype=np.int64), moved))
        return np.concatenate(parts)


def _moved(rows: I8, by: I8) -> I8:
    """Rows later on; those of no layer stay so."""
    moved: I8 = rows + by
    moved[..., 4] *= rows[:, 4] > 0
    return moved
