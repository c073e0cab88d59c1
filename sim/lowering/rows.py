"""Rows of cost: collected op by op, kept as blocks of columns, joined into a step's."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from sys import getsizeof
from typing import Any, TypeVar

import numpy as np

from sim.lowering.parts import B1, CATEGORIES, F8, I1, I4, I8, RowDraws, RowKinds, RowRuns, Rows
from sim.records import NamedTuple
from sim.shelf import Shelf
from sim.units import MIB

#: of what a row's time goes on, by name
CATEGORY = {name: i for i, name in enumerate(CATEGORIES)}


class RowBlock(NamedTuple):
    """Rows that stand together."""

    columns: F8  # (8, n) of `Rows` up to `alone_s`
    kinds: RowKinds
    draws: RowDraws
    amount: F8


class KernelRows(NamedTuple):
    """Rows of kernels in a row, (n,) each, which draw on HBM alone."""

    columns: F8  # (8, n) as in `RowBlock`
    category: I1
    waits: B1
    rate: F8  # what each draws; 0: nothing [B/s]


_T = TypeVar("_T")
MAX_BYTES = int(64 * MIB)  # of keys of what is kept, which takes about as much again
#: things by all that they are made of, each with the size of its key [B]; equal ones that were let
#: go are told apart from then on, and stacks are less high
_ones = Shelf[tuple[int, Any]](MAX_BYTES, lambda kept: kept[0])


def one_of(key: tuple[Hashable, ...], make: Callable[[], _T]) -> _T:
    """The same object for equal keys, for as long as it is among those used last.

    Parameters
    ----------
    key : tuple
        What kind of thing it is, in a word, and all that it is made of.
    make : callable
        Makes it, where it is new.
    """
    kept = _ones.find(key)
    if kept is None:
        kept = _ones.keep(key, (getsizeof(key) + sum(map(getsizeof, key)), make()))
    found: _T = kept[1]
    return found


def runs_of(start: I8, count: I8) -> RowRuns:
    """First rows and numbers of rows of ops, (P,) each."""
    return one_of(("runs", start.tobytes(), count.tobytes()), lambda: RowRuns(start, count))


def kinds_of(category: I1, waits: B1, holds: B1) -> RowKinds:
    """What rows are, and whether each holds SMs, (n,) each."""
    key = "kinds", category.tobytes(), waits.tobytes(), holds.tobytes()
    return one_of(key, lambda: RowKinds(category, waits))


def _draws_of(counts: I4, local: I4) -> RowDraws:
    ptr = np.zeros(counts.size + 1, dtype=np.int32)
    np.cumsum(counts, out=ptr[1:])
    return one_of(("draws", ptr.tobytes(), local.tobytes()), lambda: RowDraws(ptr, local))


class RowTable:
    """Rows being collected one by one."""

    def __init__(self) -> None:
        self.columns: list[tuple[float, ...]] = []
        self.kinds: list[tuple[int, bool]] = []
        self.demands: list[tuple[tuple[int, float], ...]] = []

    def take(self, other: RowTable) -> tuple[int, int]:
        """Append the rows of another: the first one's index, and how many they are."""
        first = len(self.columns)
        self.columns += other.columns
        self.kinds += other.kinds
        self.demands += other.demands
        return first, len(other.columns)

    def add(
        self,
        *,
        latency_s: float = 0.0,
        work: float = 0.0,
        bound: float = float("inf"),
        weight: float = 1.0,
        curve: int = -1,
        hold: int = 0,
        host_s: float = 0.0,
        category: int = CATEGORY["collective"],
        alone_s: float = 0.0,
        waits: bool = False,
        demands: tuple[tuple[int, float], ...] = (),
    ) -> None:
        """Append one row."""
        self.columns.append((latency_s, work, bound, weight, curve, hold, host_s, alone_s))
        self.kinds.append((category, waits))
        self.demands.append(demands)

    def block(self) -> RowBlock:
        """All of them as columns."""
        flat = [pair for demand in self.demands for pair in demand]
        columns = np.array(self.columns, dtype=float).reshape(-1, 8).T
        category = np.array([kind for kind, _ in self.kinds], dtype=np.int8)
        waits = np.array([waits for _, waits in self.kinds], dtype=np.bool_)
        counts = np.array([len(each) for each in self.demands], dtype=np.int32)
        local = np.array([k for k, _ in flat], dtype=np.int32)
        return RowBlock(
            columns, kinds_of(category, waits, columns[5] > 0.0), _draws_of(counts, local),
            np.array([a for _, a in flat], dtype=float),
        )  # fmt: skip


def kernel_rows(
    seconds: F8, curve: I4, rate: F8, host_s: Sequence[float], category: Sequence[int],
    waits: Sequence[bool], stretches: Sequence[tuple[int, int]],
) -> list[KernelRows]:  # fmt: skip
    """Rows of kernels, stretch by stretch.

    Parameters
    ----------
    seconds : (n,) float64
        Of each by itself. [s]
    curve : (n,) int32
        Row of the cost model's curves.
    rate : (n,) float64
        What each draws from HBM. [B/s]
    host_s : (n,) float
        CPU time to launch it. [s]
    category, waits : (n,) of int, of bool
        As in `Rows`.
    stretches : sequence of (int, int)
        First kernel of each, and the one behind its last.
    """
    columns = np.zeros((8, seconds.size))
    # work in seconds alone, so that the rate is 1 alone and curves are relative
    columns[1] = columns[7] = seconds
    columns[2:4] = 1.0
    columns[4], columns[6] = curve, host_s
    kinds, waited = np.array(category, dtype=np.int8), np.array(waits, dtype=np.bool_)
    return [
        KernelRows(columns[:, first:end], kinds[first:end], waited[first:end], rate[first:end])
        for first, end in stretches
    ]


#: the row of no kernel: the CPU goes by
IDLE = KernelRows(
    np.array([[0.0], [0.0], [np.inf], [1.0], [-1.0], [0.0], [0.0], [0.0]]),
    np.array([CATEGORY["elementwise"]], dtype=np.int8), np.zeros(1, dtype=np.bool_), np.zeros(1),
)  # fmt: skip


def _reading(reads: B1) -> RowDraws:
    """Of rows of which some draw on HBM, and on nothing else."""

    def make() -> RowDraws:
        counts = reads.astype(np.int32)
        return _draws_of(counts, np.zeros(int(counts.sum()), dtype=np.int32))

    return one_of(("reading", reads.tobytes()), make)


def joined(blocks: Sequence[RowBlock], curves: F8) -> Rows:
    """Blocks one after the other, as a step's rows.

    Parameters
    ----------
    blocks : sequence of RowBlock
    curves : (n_curves, units + 1) float64
        That their rows name.
    """
    columns, kinds, draws, amount = zip(*blocks, strict=True)
    c = np.concatenate(columns, axis=1)
    curve, hold = c[4:6].astype(np.int32)
    return Rows(
        c[0], c[1], c[2], c[3], curve, hold, c[6], c[7], _one_kinds(kinds), _one_draws(draws),
        np.concatenate(amount), curves,
    )  # fmt: skip


def chained(parts: Sequence[KernelRows], which: I8) -> RowBlock:
    """Some of the rows of kernels in a row, (m,), one after the other, as a block."""
    columns, category, waits, rate = (
        np.concatenate(each, axis=-1).take(which, axis=-1) for each in zip(*parts, strict=True)
    )
    reads = rate > 0.0
    kinds = kinds_of(category, waits, columns[5] > 0.0)
    return RowBlock(columns, kinds, _reading(reads), rate[reads])


def _one_kinds(kinds: tuple[RowKinds, ...]) -> RowKinds:
    return one_of(("joined kinds", *kinds), lambda: _joined_kinds(kinds))


def _one_draws(draws: tuple[RowDraws, ...]) -> RowDraws:
    return one_of(("joined draws", *draws), lambda: _joined_draws(draws))


def _joined_kinds(kinds: Sequence[RowKinds]) -> RowKinds:
    category = np.concatenate([each.category for each in kinds])
    return RowKinds(category, np.concatenate([each.waits for each in kinds]))


def _joined_draws(draws: Sequence[RowDraws]) -> RowDraws:
    counts = np.concatenate([np.diff(each.ptr) for each in draws])
    ptr = np.zeros(counts.size + 1, dtype=np.int32)
    np.cumsum(counts, out=ptr[1:])
    return RowDraws(ptr, np.concatenate([each.local for each in draws]))
