"""Programs of many ranks, of which those that do the same share their columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.program.table import F8, I4, I8, Program
from sim.records import NamedTuple

B1 = npt.NDArray[np.bool_]


class ClassKind(NamedTuple):
    """What classes of one kind have in common."""

    program: Program  # of one of them alone, which waits for nobody else
    arrive: I8  # (k,) ops with which it comes to its collectives; the next one follows their end
    paced: B1  # (n,) ops whose work is multiplied by the pace of each class


def stride_of(kinds: Sequence[ClassKind]) -> int:
    """Ops from a class to the next: those of the longest kind, and one that is none."""
    return 1 + max(kind.program.lane.size for kind in kinds)


class Crowd(NamedTuple):
    """A program of many classes of ranks, and of ops on the wire that join them.

    Op `i` of class `c` is op ``c * stride + i``; those on the wire follow the classes'. A class has
    lanes, routes and a countable resource of its own; resources it draws on are its routes'.
    """

    kinds: tuple[ClassKind, ...]
    kind: I8  # (n_classes,) which each is
    pace: F8  # (n_classes,)
    wire: I4  # (n_classes, most collectives of a kind) wire op of each, from 0 on; -1 none
    route: I4  # (n_classes,) first route of each
    # by wire op
    wire_lane: I4  # from 0 on, ascending
    wire_latency: F8  # [s]
    wire_work: F8
    wire_bound: F8
    wire_route: I4
    # all of them
    demand_ptr: I4
    demand_resource: I4
    demand_amount: F8
    capacity: F8
    hold_capacity: I4  # (n_classes,)

    @property
    def stride(self) -> int:
        """Ops from a class to the next."""
        return stride_of(self.kinds)

    @property
    def split(self) -> int:
        """First op on the wire."""
        return self.kind.size * self.stride

    @property
    def lanes(self) -> I8:
        """First lane of each class, and the first of the wire, (n_classes + 1,)."""
        each = np.array([kind.program.n_lanes for kind in self.kinds], dtype=np.int64)[self.kind]
        return np.concatenate(([0], np.cumsum(each)))

    @property
    def ops(self) -> int:
        """Ops in all."""
        sizes = np.array([kind.program.lane.size for kind in self.kinds], dtype=np.int64)
        return int(sizes[self.kind].sum()) + self.wire_lane.size
