"""The columns of a program and of a timeline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]


class Program(NamedTuple):
    """Column arrays; ops are sorted by (primary) lane, order within a lane is issue order.

    Every precedence edge other than "next in lane" is in the successor CSR. Programs that differ in
    numbers only may be stacked: columns of `NUMBERS` have a leading axis then, a row a program.
    """

    lane: I4  # (n,) primary lane, ascending
    latency: F8  # (n,) [s] fixed, unshared, runs before the work
    work: F8  # (n,) in the op's own unit (flows: bytes; kernels: 1 = the kernel)
    bound: F8  # (n,) rate when alone [work/s]; may be inf; unused where there is a curve
    weight: F8  # (n,) share weight; flows 1, kernels their stand-alone rate
    demand_ptr: I4  # (n_routes+1,) CSR of demands per route
    demand_resource: I4
    demand_amount: F8  # resource units per unit work
    route: I4  # (n,) row of the demand CSR (shared by equal ops)
    capacity: F8  # (n_resources,) [unit/s]
    succ_ptr: I4  # (n+1,)
    succ: I4
    # holds: whole units of a countable resource (SMs), from this op's start to the end of
    # `hold_until`
    hold_resource: I4  # (n,) -1 none
    hold_units: I4  # (n,)
    hold_until: I4  # (n,) op whose end releases; own index as a rule
    hold_capacity: I4  # (n_holds,) units each countable resource has
    # kernels whose bound is a step function of the units left
    curve: I4  # (n,) row of `curves`, -1 none
    curve_resource: I4  # (n,) countable resource that the curve reads, -1 none
    curves: F8  # (n_curves, max_units+1) bound by units left; column 0 holds for "none left"
    # stepped ops (level "steps")
    steps: I4  # (n,) 1 unless stepped
    peer: I4  # (n,) op whose step s-1 must be done before step s; -1 none
    follower: I4  # (n,) inverse of peer
    n_lanes: int

    @property
    def stack(self) -> int:
        """Programs of a stack; 0: it is a single one."""
        return len(self.latency) if self.latency.ndim > 1 else 0

    def stacked(self, name: str) -> bool:
        """Whether a column has a row a program."""
        column: npt.NDArray[np.generic] = getattr(self, name)
        return name in NUMBERS and column.ndim > (2 if name == "curves" else 1)

    def row(self, i: int) -> Program:
        """One program of a stack, the only one where there is none."""
        if not self.stack:
            return self
        own = {name: getattr(self, name)[i] for name in NUMBERS if self.stacked(name)}
        return self._replace(**own)


#: columns in which programs of a stack may differ
NUMBERS = (
    "latency", "work", "bound", "weight", "demand_amount", "capacity", "hold_units", "curve",
    "curve_resource", "curves",
)  # fmt: skip


class Timeline(NamedTuple):
    """When each op started (nothing left to wait for) and ended; of a stack, a row a program."""

    start: F8  # (n,) largest end of its predecessors [s]
    end: F8  # (n,) [s]
    events: int | I8  # ends of latencies, works and steps: heap pops of the plain algorithm
    solves: int | I8  # components solved

    def row(self, i: int) -> Timeline:
        """Of one program of a stack."""
        if self.start.ndim == 1:
            return self
        assert not isinstance(self.events, int)
        assert not isinstance(self.solves, int)
        return Timeline(self.start[i], self.end[i], int(self.events[i]), int(self.solves[i]))
