"""A program and what its ops are: whose ranks' they are, of which op of a plan, of what kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sim.fabric.role import Role
from sim.lowering.parts import CATEGORIES, F8, I4, I8, NOT_KERNELS
from sim.lowering.table import comm_bytes_of
from sim.program import Program, Timeline
from sim.records import dataclass
from sim.strategies.plan import Plan

# of moments, not of a step, so that nothing hangs on how much of it is played
TOGETHER = 1e-6  # ranks that end as close to each other end together [s]
ROUNDED = 1e-10  # and so does a rank with those that run the same [s]
EVEN = 1e-9  # of what kernels take: as close to each other, ranks are as busy
_COLLECTIVE = CATEGORIES.index("collective")


def lane_name(rank: int, stream: str) -> str:
    """How the lane of a rank's stream is called."""
    return f"rank {rank} {stream}"


@dataclass(frozen=True, slots=True)
class RankView:
    """Where one class of ranks is found in the op table."""

    index: int  # of the class, and of the SMs that its ops hold
    rank: int
    multiplicity: int
    role: Role
    plan: Plan
    compute: slice
    copies: I8
    comm_begin: I8  # ops at whose start a collective is in flight
    comm_end: I8  # ops at whose end it is over
    comm_plan: I8
    comm_kind: tuple[str, ...]
    comm_label: tuple[str, ...]
    comm_bytes: F8

    def of(self, role: Role, plan: Plan, multiplicity: int) -> RankView:
        """The same of other ranks, whose plan has the same ops of other sizes."""
        return RankView(
            self.index, self.rank, multiplicity, role, plan, self.compute, self.copies,
            self.comm_begin, self.comm_end, self.comm_plan, self.comm_kind, self.comm_label,
            comm_bytes_of(plan),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program and what its ops are; or a stack of programs, with a row and a view each."""

    program: Program
    plan_op: I4  # (n,) index into its view's plan, also of the host op that launches it
    category: npt.NDArray[np.int8]  # (n,) index into CATEGORIES
    alone_s: F8  # (n,)
    views: tuple[RankView, ...]
    lane_names: tuple[str, ...]
    wire: int  # first op on the wire

    def row(self, i: int) -> Lowered:
        """One program of a stack."""
        if not self.program.stack:
            return self
        return Lowered(
            self.program.row(i), self.plan_op, self.category, self.alone_s[i], (self.views[i],),
            self.lane_names, self.wire,
        )  # fmt: skip

    def lanes_of(self, view: RankView) -> range:
        """A rank's; they stand together, in the order of its streams."""
        prefix = lane_name(view.rank, "")
        own = [i for i, name in enumerate(self.lane_names) if name.startswith(prefix)]
        return range(own[0], own[-1] + 1)

    def host_of(self, view: RankView) -> int:
        """The lane of a rank's host."""
        return self.lane_names.index(lane_name(view.rank, "host"))

    def stream_of(self, lane: int) -> str:
        """The name of the stream that a rank's lane is."""
        return self.lane_names[lane].split(" ", 2)[2]

    def slower(self, factor: F8) -> Lowered:
        """The same where ops take so many times as long, (n,)."""
        program = self.program._replace(work=self.program.work * factor)
        return replace(self, program=program, alone_s=self.alone_s * factor)

    def kernels(self, view: RankView) -> I8:
        """Ops of a rank that its GPU's pace changes."""
        ops = np.arange(view.compute.start, view.compute.stop)
        return ops[~np.isin(self.category[ops], NOT_KERNELS)]

    def slowest(self, timeline: Timeline) -> RankView:
        """The rank whose kernels end last, of several the busiest; of a stack, the first row's."""
        if len(self.views) == 1 or self.program.stack:
            return self.views[0]
        ends = [float(timeline.end[view.compute].max()) for view in self.views]
        least = max(ends) - TOGETHER
        late = [i for i, end in enumerate(ends) if end >= least]
        if len(late) > 1:
            busy = [self._busy_s(self.views[i]) for i in late]
            least = (1.0 - EVEN) * max(busy)
            late = [i for i, seconds in zip(late, busy, strict=True) if seconds >= least]
        last = max(ends[i] for i in late)
        return next(self.views[i] for i in late if ends[i] >= last - ROUNDED)

    def _busy_s(self, view: RankView) -> float:
        """What the kernels of a rank take alone, which is told without a timeline. [s]"""
        kernels = self.category[view.compute] != _COLLECTIVE
        # no BLAS, whose threads would wait for more on cores of others
        return float(np.einsum("i,i->", self.alone_s[view.compute], kernels))
