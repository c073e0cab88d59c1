"""What a step allocates and frees, written down beside its ops by the same hooks.

A plan serves jobs that differ only in costs, while activations, logits and optimizer states depend
on those. So a size is a coefficient times a *quantity*: `BYTES` for what the plan itself knows, or
one that `sim.memory.ledger` measures for the job at hand.

Time is counted in *instants*, the points at which the CPU thread has just allocated: what was added
since the last one lives from here on, what `mark` is given lives for this instant alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.strategies.terms import BYTES, INIT, JOB_QUANTITIES, LAYER_QUANTITIES, MOMENTS, TERMS

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

Amount = tuple[int, float] | tuple[int, float, int] | tuple[int, float, int, int]
"""Term, coefficient, quantity (default bytes), and the layer it is one of (0: of the job)."""

_ADD, _PUT, _MARK = range(3)


class Style(NamedTuple):
    """Layers of one style have equal quantities."""

    kind: str
    recomputed: bool


class Stretch(NamedTuple):
    """A layer in one pass of a recording, behind which equal ones are missing."""

    ops: tuple[int, int]  # its first, and the first behind it
    log: tuple[int, int]  # the same of the log of allocations
    step: int  # layers from one to the next: 1 forward, -1 backward


@dataclass(frozen=True, slots=True)
class Columns:
    """Allocations of a whole step, to be summed.

    Attributes
    ----------
    instant, term, quantity : (n,) int64
        Of each allocation. A quantity at or past `JOB_QUANTITIES` is of a style of layer.
    coefficient : (n,) float64
        What the quantity is multiplied by; negative where it is freed.
    moment, before : (instants,) int64
        Index into `MOMENTS`, and the op that is issued next.
    moments : tuple of (n,) int64
        Instants of each of `MOMENTS`.
    offsets : tuple of int
        Where the quantities of the job (0) and of each layer start.
    """

    instant: I8
    term: I8
    quantity: I8
    coefficient: F8
    moment: I8
    before: I8
    moments: tuple[I8, ...]
    offsets: tuple[int, ...]


class Allocations:
    """The allocator's side of a recorded step: a log, made sense of once it is asked for.

    Parameters
    ----------
    ops : sequence
        The plan's ops as they are issued: an instant stands before the next one.
    """

    def __init__(self, ops: Sequence[object]) -> None:
        self._ops = ops
        self.moment = INIT
        self.ranks = 1  # that share the optimizer's states
        self.layers: Sequence[Style] = ()  # of the full model, from layer 1
        self.host: list[tuple[str, float, int, int]] = []  # name, then as in an `Amount`
        self.log: list[tuple[Any, ...]] = []
        self.stretches: Sequence[Stretch] = ()
        self.extra = 0  # layers missing behind each stretch
        self._columns: Columns | None = None

    def add(self, term: int, size: float, quantity: int = BYTES, layer: int = 0) -> None:
        """Allocate (or with a negative size free), seen from the next instant on."""
        self.log.append((_ADD, term, size, quantity, layer))

    def put(self, term: int, size: float = 0.0, quantity: int = BYTES) -> None:
        """Make a term this large, whatever it is; not for what layers hold."""
        self.log.append((_PUT, term, size, quantity))

    def mark(self, *amounts: Amount) -> None:
        """An instant, with what lives only now."""
        self.log.append((_MARK, self.moment, len(self._ops), amounts))

    def keep_on_host(self, name: str, size: float, quantity: int = BYTES, layer: int = 0) -> None:
        """Host memory that this rank holds from the first step on."""
        self.host.append((name, size, quantity, layer))

    def lengthen(self, stretches: Sequence[Stretch], extra: int) -> None:
        """Say which layers are missing, as `repeat.lengthen` is told for the ops."""
        self.stretches, self.extra = stretches, extra

    def columns(self) -> Columns:
        """All allocations of the full model, in no order."""
        if self._columns is None:
            self._columns = _Reader(self).columns()
        return self._columns


class _Reader:
    """Makes rows of a log. What `put` frees depends on all before it, missing layers included."""

    def __init__(self, a: Allocations) -> None:
        self.a = a
        # of an allocation: instant, term, coefficient, quantity, layer, 0;
        # of an instant: itself, -1, 1, moment, 0, the op that is issued next
        self.rows: list[tuple[int, int, float, int, int, int]] = []
        self.instants = 0
        self.live: list[dict[int, float]] = [{} for _ in TERMS]  # coefficients, but for layers'
        self.inside: list[tuple[int, int, int]] = []  # of each stretch: its rows, its instants
        at = 0
        for s in a.stretches:
            self._read(at, s.log[0])
            then, start, first = [held.copy() for held in self.live], len(self.rows), self.instants
            self._read(*s.log)
            self.inside.append((start, len(self.rows), self.instants - first))
            for held, before in zip(self.live, then, strict=True):
                for quantity, size in held.items():  # the missing layers change it as this one has
                    held[quantity] = size + a.extra * (size - before.get(quantity, 0.0))
            at = s.log[1]
        self._read(at, len(a.log))

    def _read(self, start: int, stop: int) -> None:
        for kind, term, size, *rest in self.a.log[start:stop]:
            if kind == _MARK:
                self._instant(term, size, rest[0])
            elif kind == _ADD:
                self._add(term, size, *rest)
            else:
                for other, held in self.live[term].items():
                    if other != rest[0]:
                        self._add(term, -held, other)
                self._add(term, size - self.live[term].get(rest[0], 0.0), rest[0])

    def _instant(self, moment: int, before: int, amounts: Sequence[Amount]) -> None:
        now, append = self.instants, self.rows.append
        for amount in amounts:
            term, size, quantity, layer = (*amount, 0, 0)[:4]
            if size:
                append((now, term, size, quantity, layer, 0))
                append((now + 1, term, -size, quantity, layer, 0))
        append((now, -1, 1.0, moment, 0, before))
        self.instants = now + 1

    def _add(self, term: int, size: float, quantity: int, layer: int = 0) -> None:
        if size:
            self.rows.append((self.instants, term, size, quantity, layer, 0))
            if not layer:
                held = self.live[term]
                held[quantity] = held.get(quantity, 0.0) + size

    def columns(self) -> Columns:
        """As arrays, with the missing layers."""
        rows = np.array(self.rows, dtype=np.float64).reshape(-1, 6)
        if self.a.extra:
            rows = self._lengthened(rows)
        found = rows[rows[:, 1] < 0].astype(np.int64)
        marks = found[found[:, 0].argsort()]
        # what the last instant alone held is freed after it
        rows = rows[(rows[:, 1] >= 0) & (rows[:, 0] < len(marks))]
        instant, term, _, quantity, layer, _ = rows.T.astype(np.int64)
        styles = {style: at for at, style in enumerate(dict.fromkeys(self.a.layers))}
        starts = (JOB_QUANTITIES + LAYER_QUANTITIES * styles[style] for style in self.a.layers)
        offsets = (0, *starts)
        quantity += np.array(offsets)[layer]
        moments = tuple(np.flatnonzero(marks[:, 3] == at) for at in range(len(MOMENTS)))
        return Columns(
            instant,
            term,
            quantity,
            rows[:, 2].copy(),
            marks[:, 3],
            marks[:, 5],
            moments,
            offsets,
        )

    def _lengthened(self, rows: F8) -> F8:
        """Copies of each stretch's rows behind it: instants, layers and ops move on."""
        extra, stretches = self.a.extra, self.a.stretches
        steps = np.zeros((len(stretches), 6))  # from a layer's rows to the next one's
        steps[:, 0] = [instants for _, _, instants in self.inside]
        steps[:, 4] = [stretch.step for stretch in stretches]
        steps[:, 5] = [stretch.ops[1] - stretch.ops[0] for stretch in stretches]
        # between a forward and a backward stretch stand the layers behind the missing ones
        shift = np.concatenate((np.zeros((1, 6)), extra * steps.cumsum(axis=0)))
        ends = [stop for _, stop, _ in self.inside]
        parts = [_moved(rows, np.repeat(shift, np.diff([0, *ends, len(rows)]), axis=0))]
        for (start, stop, _), step in zip(self.inside, steps, strict=True):
            copies = np.arange(1, extra + 1)[:, None, None] * step
            parts.append(_moved(parts[0][start:stop], copies).reshape(-1, 6))
        return np.concatenate(parts)


def _moved(rows: F8, by: F8) -> F8:
    """Rows later on; those of no layer stay so."""
    moved: F8 = rows + by
    moved[..., 4] *= rows[:, 4] > 0
    return moved
