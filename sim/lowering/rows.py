"""Rows of cost: collected op by op, kept as blocks of columns, joined into a step's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sim.lowering.parts import CATEGORIES, F8, I4, Rows

#: of what a row's time goes on, by name
CATEGORY = {name: i for i, name in enumerate(CATEGORIES)}
_WIDTH = 11  # columns of `Rows` up to `waits`, and numbers of demands


class RowBlock(NamedTuple):
    """Rows that stand together."""

    columns: F8  # (11, n) of `Rows` up to `waits`, and numbers of demands
    local: I4
    amount: F8
    notes: tuple[str, ...] = ()  # what is costed with constants of something else


class RowTable:
    """Rows being collected one by one."""

    def __init__(self) -> None:
        self.columns: list[tuple[float | int | bool, ...]] = []
        self.demands: list[tuple[tuple[int, float], ...]] = []

    def take(self, other: RowTable) -> tuple[int, int]:
        """Append the rows of another: the first one's index, and how many they are."""
        first = len(self.columns)
        self.columns += other.columns
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
        self.columns.append(
            (
                latency_s, work, bound, weight, curve, hold, host_s, category, alone_s, waits,
                len(demands),
            )
        )  # fmt: skip
        self.demands.append(demands)

    def block(self) -> RowBlock:
        """All of them as columns."""
        flat = [pair for demand in self.demands for pair in demand]
        columns = np.array(self.columns, dtype=float).reshape(-1, _WIDTH).T
        local = np.array([k for k, _ in flat], dtype=np.int32)
        return RowBlock(columns, local, np.array([a for _, a in flat], dtype=float))


def kernel_rows(
    seconds: F8, curve: I4, rate: F8, host_s: F8, category: Sequence[int], waits: Sequence[bool],
    notes: tuple[str, ...],
) -> RowBlock:  # fmt: skip
    """Rows of kernels in a row, which draw on HBM alone.

    Parameters
    ----------
    seconds : (n,) float64
        Of each by itself. [s]
    curve : (n,) int32
        Row of the cost model's curves.
    rate : (n,) float64
        What each draws from HBM. [B/s]
    host_s : (n,) float64
        CPU time to launch it. [s]
    category, waits : (n,) of int, of bool
        As in `Rows`.
    notes : tuple of str
        Constants that were borrowed for them.
    """
    reads = rate > 0.0
    columns = np.zeros((_WIDTH, seconds.size))
    # work in seconds alone, so that the rate is 1 alone and curves are relative
    columns[1] = columns[8] = seconds
    columns[2:4] = 1.0
    columns[4], columns[6], columns[7] = curve, host_s, category
    columns[9], columns[10] = waits, reads
    return RowBlock(columns, np.zeros(int(reads.sum()), dtype=np.int32), rate[reads], notes)


def joined(blocks: Sequence[RowBlock], curves: F8) -> Rows:
    """Blocks one after the other, as a step's rows.

    Parameters
    ----------
    blocks : sequence of RowBlock
    curves : (n_curves, units + 1) float64
        That their rows name.
    """
    columns, local, amount, _ = zip(*blocks, strict=True)
    c = np.concatenate(columns, axis=1)
    ptr = np.zeros(c.shape[1] + 1, dtype=np.int32)
    np.cumsum(c[10], out=ptr[1:], dtype=np.int32)
    return Rows(
        latency_s=c[0], work=c[1], bound=c[2], weight=c[3], curve=c[4].astype(np.int32),
        hold=c[5].astype(np.int32), host_s=c[6], category=c[7].astype(np.int8), alone_s=c[8],
        waits=c[9] > 0.0, demand_ptr=ptr, demand_local=np.concatenate(local),
        demand_amount=np.concatenate(amount), curves=curves,
    )  # fmt: skip
