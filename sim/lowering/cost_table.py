"""What ops of a program cost, as a table that thousands of them share.

Entries are, class by class, the rows of its part and what its host does (`Launches`); then those of
the wire (`WireCosts`); then transfers of one class alone, which take its SMs as their row says, and
as long as the wire does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cost.nccl.loads import Demands
from sim.lowering.layout import Launches, exclusive
from sim.lowering.parts import F8, I4, I8, Classes, Flights, Part, Rows
from sim.lowering.runs import ClassRun
from sim.records import NamedTuple

_Column = npt.NDArray[Any]


class CostPlaces(NamedTuple):
    """Where entries stand."""

    launches: tuple[Launches, ...]  # of each part
    begin: I8  # (n_classes,) first entry of each
    wire: int  # first of the wire's
    own: int  # first of transfers of one class alone
    row: I8  # (k,) of each of these, the entry of its row
    flown: I8  # (k,) and that of its wire

    @property
    def size(self) -> int:
        """Entries in all. [1]"""
        return self.own + self.row.size


def places_of(
    parts: Sequence[Part], launches: Sequence[Launches], classes: Classes, flights: Flights
) -> CostPlaces:
    """Of a program with no transfers of one class alone; see `Outline`."""
    each = [one.size(p.rows.work.size) for one, p in zip(launches, parts, strict=True)]
    sizes = np.array([p.rows.work.size for p in parts]) + np.array(each)
    begin, none = exclusive(sizes[classes.role]), np.zeros(0, dtype=np.int64)
    wire = int(sizes[classes.role].sum())
    own = wire + sum(w.team.n_wires for w in flights.wires)
    return CostPlaces(tuple(launches), begin, wire, own, none, none)


class CostTable:
    """Columns of a table, for some costs.

    Parameters
    ----------
    parts : sequence of Part
        With their costs.
    runs : sequence of ClassRun
        Who plays them.
    places : CostPlaces
        Where they stand.
    """

    def __init__(self, parts: Sequence[Part], runs: Sequence[ClassRun], places: CostPlaces) -> None:
        self.parts, self.runs, self.places = parts, runs, places
        self.host_s = [
            one.seconds(part.rows.host_s) for one, part in zip(places.launches, parts, strict=True)
        ]

    def rows(
        self, of: Callable[[Rows, ClassRun], _Column], host: float | None, wire: _Column | float
    ) -> _Column:
        """A column in which a transfer of one class has what its row has.

        Parameters
        ----------
        of : callable
            Values of rows, (rows,) or (classes, rows) a run.
        host : float or None
            What host ops have; None: how long they take.
        wire : (n_wires,) or a number
            What those on the wire have.
        """
        return self._column(of, host, wire, self.places.row)

    def flown(
        self, of: Callable[[Rows, ClassRun], _Column], host: float | None, wire: _Column | float
    ) -> _Column:
        """A column in which it has what it has on the wire; see `rows`."""
        return self._column(of, host, wire, self.places.flown)

    def _column(
        self, of: Callable[[Rows, ClassRun], _Column], host: float | None,
        wire: _Column | float, own: I8,
    ) -> _Column:  # fmt: skip
        places = self.places
        out: _Column | None = None
        for run in self.runs:
            rows = self.parts[run.part].rows
            values = of(rows, run)
            if out is None:
                out = np.empty(places.size, dtype=values.dtype)
            n, begin = rows.work.size, int(places.begin[run.begin])
            width = n + places.launches[run.part].size(n)
            mine = out[begin : begin + run.classes * width].reshape(run.classes, width)
            mine[:, :n] = values
            mine[:, n:] = self.host_s[run.part] if host is None else host
        assert out is not None
        out[places.wire : places.own] = wire
        out[places.own :] = out[own]
        return out


class Routes(NamedTuple):
    """Demand table: one route a (class, row), then the wires'; the last route is empty."""

    ptr: I4
    resource: I4
    amount: F8
    wires: int  # first route of a wire op
    begin: dict[int, int]  # first route of a run, by its first class

    def of(self, rows: Rows, run: ClassRun) -> I4:
        """Route of each row of each class of a run, (classes, rows)."""
        n = rows.work.size
        first = self.begin[run.begin] + np.arange(run.classes, dtype=np.int32)[:, None] * n
        return np.asarray(first + np.arange(n), dtype=np.int32)

    @property
    def none(self) -> int:
        """The empty one."""
        return self.ptr.size - 2


def routes_of(
    parts: Sequence[Part], runs: Sequence[ClassRun], classes: Classes, wires: Demands
) -> Routes:
    """Demands of classes, and of what is on the wire."""
    counts, resources, amounts = [], [], []
    begin, own = {}, 0
    for run in runs:
        rows, where = parts[run.part].rows, slice(run.begin, run.begin + run.classes)
        local, scale = classes.local[where], classes.scale[where]
        if len(classes.ranks) == 1:  # beyond a class's own are the machine's: it needs no flights
            shared = np.arange(classes.capacity.size)[None]
            local = np.concatenate((local, shared), axis=1)
            scale = np.concatenate((scale, np.ones_like(shared, dtype=float)), axis=1)
        counts.append(np.tile(np.diff(rows.demand_ptr), run.classes))
        resources.append(local[:, rows.demand_local].ravel())
        amounts.append((rows.demand_amount * scale[:, rows.demand_local]).ravel())
        begin[run.begin] = own
        own += run.classes * rows.work.size
    ptr = np.zeros(own + wires.ptr.size + 1, dtype=np.int32)
    np.cumsum(np.concatenate(counts), out=ptr[1 : own + 1])
    ptr[own:-1] = ptr[own] + wires.ptr
    ptr[-1] = ptr[-2]
    return Routes(
        ptr,
        np.concatenate([*resources, wires.resource]).astype(np.int32),
        np.concatenate([*amounts, wires.amount]),
        own,
        begin,
    )
