"""Parts as classes of ranks play them: what is the same for every class, and where it differs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.lowering.layout import PartLayout, edges_of, exclusive, lay_out
from sim.lowering.parts import B1, F8, I4, Classes, Flights, Part, RowDraws, Rows
from sim.lowering.slack import may_bind
from sim.lowering.table import each_of, table_of
from sim.records import NamedTuple

_HASTE = 0.5  # kernels may be so much faster than their rows say (jitter) and still hide launches


def hidden_launches(part: Part, fastest: float) -> B1:
    """Plan ops whose rows but the first are launched before they can be needed, whatever else runs.

    Launch i follows launch 0 by the host's time for 1..i; kernel i follows kernel 0 by at least
    what 0..i-1 take alone, and kernel 0 its launch. A kernel that the host waits for hides none.
    """
    rows, each = part.rows, each_of(part.plan)
    row_start, row_count = part.row_start[each.at], part.row_count[each.at]
    alone = rows.latency_s + np.where(rows.work > 0.0, rows.work / rows.bound, 0.0)
    launched, run = np.cumsum(rows.host_s), _HASTE / fastest * np.cumsum(alone)
    key = row_start * (rows.work.size + 1) + row_count
    _, places, which = np.unique(key, return_index=True, return_inverse=True)
    first, more = row_start[places], row_count[places] - 1
    of = np.repeat(np.arange(places.size), more)  # runs of rows, and their rows but the first
    begin = first[of]
    at = begin + 1 + np.arange(of.size) - np.repeat(exclusive(more), more)
    before = run[at - 1] - run[begin] + _HASTE / fastest * alone[begin]
    found = ~rows.waits[first]
    found[of[(launched[at] - launched[begin] > before) | rows.waits[at]]] = False
    out: B1 = found[which.ravel()][each.of]
    return out


class Played(NamedTuple):
    """A part as the ops of a class that plays it."""

    part: Part
    layout: PartLayout
    waited_ptr: I4  # (n + 1,) CSR of the ops that wait for each of its ops
    waited: I4


class ClassRun(NamedTuple):
    """Classes in a row that play the same part."""

    part: int
    begin: int  # first class
    classes: int  # how many
    pace: F8 | float  # (classes, 1) their speed, or the speed of all
    curve: I4 | int  # (classes, 1) where their curves begin, or those of all begin

    @property
    def each(self) -> I4:
        """Their numbers, (classes, 1)."""
        return np.arange(self.begin, self.begin + self.classes, dtype=np.int32)[:, None]


def _played_of(part: Part, hidden: B1) -> Played:
    """A part laid out, with the launches of its `hidden` ops put together."""
    table = table_of(part.plan)
    layout, host = lay_out(part, table, hidden)
    return Played(part, layout, *edges_of(table, layout, host))


def curves_of(parts: Sequence[Part], classes: Classes) -> tuple[F8, I4]:
    """All curves, and where each class's begin; a slow rank's are the same ones, lower."""
    tables: list[F8] = []
    begin = np.zeros(len(classes.ranks), dtype=np.int32)
    at = 0
    for i, part in enumerate(parts):
        mine = classes.role == i
        speeds, of = np.unique(classes.speed[mine], return_inverse=True)
        curves = part.rows.curves
        tables.append((curves * speeds[:, None, None]).reshape(-1, curves.shape[1]))
        begin[mine] = at + of * curves.shape[0]
        at += tables[-1].shape[0]
    width = max(table.shape[1] for table in tables)  # columns beyond a GPU's SMs are never read
    wide = [np.pad(t, ((0, 0), (0, width - t.shape[1])), mode="edge") for t in tables]
    return (np.concatenate(wide) if len(wide) > 1 else tables[0]), begin


def runs_of(classes: Classes, curve: I4) -> tuple[ClassRun, ...]:
    """Classes by what they play; `curve` is where each one's curves begin, (n_classes,)."""
    starts = [0, *(np.flatnonzero(np.diff(classes.role)) + 1).tolist(), classes.role.size]
    runs = []
    for first, end in pairwise(starts):
        speed, curves = classes.speed[first:end], curve[first:end]
        runs.append(
            ClassRun(
                part=int(classes.role[first]),
                begin=first,
                classes=end - first,
                pace=float(speed[0]) if (speed == speed[0]).all() else speed[:, None],
                curve=int(curves[0]) if (curves == curves[0]).all() else curves[:, None],
            )
        )
    return tuple(runs)


def kept(ptr: npt.NDArray[Any], keep: B1) -> I4:
    """Row pointers once only some entries are kept."""
    before = np.zeros(keep.size + 1, dtype=np.int32)
    np.cumsum(keep, out=before[1:])
    return np.asarray(before[ptr], dtype=np.int32)


def _kept_rows(rows: Rows, keep: B1) -> Rows:
    return rows._replace(
        draws=RowDraws(kept(rows.demand_ptr, keep), rows.demand_local[keep]),
        demand_amount=rows.demand_amount[keep],
    )


class Ground:
    """What a program is made of, whichever of its classes are written out.

    Attributes
    ----------
    parts : tuple of Part
        With those demands that may bind.
    hidden : tuple of (P,) bool
        Of each part the ops whose launches nobody can wait for.
    curves, curve_begin : (n_curves, units + 1) float64, (n_classes,) int32
        Of all parts and speeds, and where each class's begin.
    keep : (n_resources,) bool or None
        Resources that may bind; None: all.
    kept : tuple of (n_demands,) bool
        Of each part the demands that were kept; empty where all are.
    """

    def __init__(self, parts: Sequence[Part], classes: Classes, flights: Flights) -> None:
        self.keep: B1 | None = None
        self.kept: tuple[B1, ...] = ()
        self.hidden = [np.zeros(part.row_start.size, dtype=bool) for part in parts]
        if len(classes.ranks) > 1:
            self.hidden = [
                hidden_launches(part, float(classes.speed[classes.role == i].max()))
                for i, part in enumerate(parts)
            ]
            binding = may_bind(parts, classes, flights)
            self.keep, self.kept = binding.resource, binding.local
            parts = [
                part._replace(rows=_kept_rows(part.rows, local))
                for part, local in zip(parts, binding.local, strict=True)
            ]
        self.parts = tuple(parts)
        self.curves, self.curve_begin = curves_of(parts, classes)

    def played(self) -> tuple[Played, ...]:
        """Each part laid out: much where micro-batches are many, so it is not kept."""
        return tuple(map(_played_of, self.parts, self.hidden))
