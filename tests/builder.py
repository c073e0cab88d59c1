"""Small programs, op by op."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from sim.program import I8, Program, assemble, check_acyclic


class ProgramBuilder:
    """Makes a small program op by op, in issue order within each lane.

    >>> build = ProgramBuilder()
    >>> link = build.resource(100.0)
    >>> first = build.op(0, work=50.0, demands={link: 1.0})
    >>> build.op(1, latency=1.0, after=[first])
    1
    >>> program = build.build()
    """

    def __init__(self) -> None:
        self._capacity: list[float] = []
        self._units: list[int] = []
        self._curves: list[list[float]] = []
        self._ops: list[dict[str, float]] = []
        self._demands: list[Mapping[int, float]] = []
        self._edges: list[tuple[int, int]] = []

    def resource(self, capacity: float) -> int:
        """Add a shared resource; returns its index."""
        self._capacity.append(capacity)
        return len(self._capacity) - 1

    def countable(self, units: int) -> int:
        """Add a countable resource; returns its index."""
        self._units.append(units)
        return len(self._units) - 1

    def curve(self, bounds: Iterable[float]) -> int:
        """Add a curve: its bound with 0, 1, ... units left; returns its index."""
        self._curves.append(list(bounds))
        return len(self._curves) - 1

    def op(
        self,
        lane: int,
        *,
        latency: float = 0.0,
        work: float = 0.0,
        bound: float = math.inf,
        weight: float = 1.0,
        demands: Mapping[int, float] | None = None,
        after: Iterable[int] = (),
        hold: tuple[int, int] | None = None,
        hold_until: int = -1,
        curve: tuple[int, int] | None = None,
        steps: int = 1,
    ) -> int:
        """Add an op; returns its index.

        Parameters
        ----------
        lane, latency, work, bound, weight, steps
            See `Program`.
        demands : mapping of resource to float
            Resource units per unit work.
        after : iterable of int
            Ops to wait for beside the previous one of the lane.
        hold : (countable resource, units), optional
            Taken at the start; released at the end of `hold_until` (default: of the op itself).
        hold_until : int
            May name an op yet to be added.
        curve : (curve, countable resource), optional
            The bound, by units left.
        """
        index = len(self._ops)
        resource, units = hold or (-1, 0)
        row, reads = curve or (-1, -1)
        self._ops.append(
            {
                "lane": lane, "latency": latency, "work": work, "bound": bound, "weight": weight,
                "hold_resource": resource, "hold_units": units, "hold_until": hold_until,
                "curve": row, "curve_resource": reads, "steps": steps, "peer": -1,
            }
        )  # fmt: skip
        self._demands.append(dict(demands or {}))
        self._edges += [(before, index) for before in after]
        return index

    def edge(self, before: int, after: int) -> None:
        """Let op `after` start only when op `before` has ended."""
        self._edges.append((before, after))

    def pair(self, op: int, peer: int) -> None:
        """Let step s of `op` wait for step s-1 of `peer`."""
        self._ops[op]["peer"] = peer

    def ring(self, ops: Iterable[int]) -> None:
        """Pair each op with the one before it, and the first with the last."""
        members = list(ops)
        for i, op in enumerate(members):
            self.pair(op, members[i - 1])

    def build(self) -> tuple[Program, I8]:
        """Assemble, validate and check for cycles; see `assemble`."""
        width = max((len(c) for c in self._curves), default=1)
        columns = {
            name: np.array([op[name] for op in self._ops])
            for name in (self._ops[0] if self._ops else ("lane",))
        }
        ptr = np.cumsum([0] + [len(d) for d in self._demands])
        program, position = assemble(
            **columns,
            demand_ptr=ptr,
            demand_resource=[r for d in self._demands for r in d],
            demand_amount=[x for d in self._demands for x in d.values()],
            route=np.arange(len(self._ops)),
            capacity=self._capacity,
            src=[a for a, _ in self._edges],
            dst=[b for _, b in self._edges],
            hold_capacity=self._units,
            curves=np.array([c + c[-1:] * (width - len(c)) for c in self._curves]).reshape(
                len(self._curves), width
            ),
        )
        check_acyclic(program)
        return program, position
