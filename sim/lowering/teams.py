"""Collectives on the wire: which ops they are, what each draws on and who waits for it.

At level ``ranks`` a group's collective is one op with the demands of all its edges. At level
``steps`` a collective whose algorithm has equal steps is one stepped op a rank: step s waits for
the predecessor's step s-1, and the ops of a group together draw what the collective draws at
level ``ranks``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.cost.nccl.algorithm import Steps
from sim.cost.nccl.loads import Demands
from sim.fabric.fabric import Fabric
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
B1 = npt.NDArray[np.bool_]


class Draws(NamedTuple):
    """Groups' collectives of a kind: who takes part in each and what a byte of it costs."""

    ptr: I8  # (n_groups + 1,)
    member: I8  # ranks, or classes of ranks
    demands: Demands

    @classmethod
    def of(cls, members: Sequence[npt.ArrayLike], demands: Sequence[tuple[I8, F8]]) -> Draws:
        """Group by group."""
        who = [np.asarray(each, dtype=np.int64) for each in members]
        ptr = np.cumsum([0, *(each.size for each in who)])
        return cls(ptr, np.concatenate(who), Demands.each(demands))

    @property
    def groups(self) -> int:
        """How many there are."""
        return self.ptr.size - 1

    def members(self, group: int) -> I8:
        """Who takes part in one."""
        return self.member[self.ptr[group] : self.ptr[group + 1]]

    def on_nothing(self) -> Draws:
        """The same groups, with no demands."""
        ptr, resource, amount = self.demands
        return self._replace(demands=Demands(np.zeros_like(ptr), resource[:0], amount[:0]))


class Team(NamedTuple):
    """The groups that run one kind of collective side by side.

    A collective of S bytes, latency L and bound B becomes, on each wire op, `steps` steps of
    S x chunk bytes, latency L / steps and bound B x steps x chunk x pace.
    """

    member: I8  # (m,) classes taking part, group by group
    group: I8  # (m,) which group a member is of
    wire: I8  # (m,) wire op that waits for a member's arrival and that its finish waits for
    ptr: I8  # (n_wires + 1,) CSR of demands per byte of each wire op
    resource: I8
    amount: F8
    pace: F8  # (n_wires,) bound relative to a healthy machine's, below 1 beside a slow link
    peer: I8  # (n_wires,) wire op of the predecessor in the ring, -1 none
    steps: int
    chunk: float  # share of the collective's bytes that one step moves

    @property
    def n_wires(self) -> int:
        """Wire ops of one collective."""
        return self.pace.size

    @property
    def alone(self) -> B1:
        """Wire ops of one class each, in one step, (n_wires,)."""
        single: B1 = np.bincount(self.wire, minlength=self.n_wires) == 1
        return single & (self.steps == 1)


def whole(draws: Draws) -> Team:
    """One op a group: a common rate for all its edges."""
    of = np.repeat(np.arange(draws.groups), np.diff(draws.ptr))
    return Team(
        member=draws.member,
        group=of,
        wire=of,
        ptr=draws.demands.ptr,
        resource=draws.demands.resource,
        amount=draws.demands.amount,
        pace=np.ones(draws.groups),
        peer=np.full(draws.groups, -1, dtype=np.int64),
        steps=1,
        chunk=1.0,
    )


def stepped(fabric: Fabric, groups: Sequence[Sequence[int]], steps: Sequence[Steps]) -> Team:
    """One stepped op a rank of every group, by the algorithm's `steps` of each group."""
    n = len(groups[0])
    ranks = np.concatenate([np.asarray(group, dtype=np.int64) for group in groups])
    keys = [(s.place + g * n) * fabric.n_resources + s.resource for g, s in enumerate(steps)]
    found, where = np.unique(np.concatenate(keys), return_inverse=True)
    row, resource = np.divmod(found, fabric.n_resources)
    weights = np.concatenate([s.amount for s in steps])
    return Team(
        member=ranks,
        group=np.repeat(np.arange(len(groups)), n),
        wire=np.arange(ranks.size),
        ptr=np.searchsorted(row, np.arange(ranks.size + 1)),
        resource=resource,
        amount=np.bincount(where, weights=weights).astype(float),
        pace=np.ones(ranks.size),
        peer=np.concatenate([s.before + g * n for g, s in enumerate(steps)]),
        steps=steps[0].steps,
        chunk=steps[0].chunk,
    )


def paced(team: Team, healthy: F8, capacity: F8) -> Team:
    """Slow the wire ops whose tightest resource has lost capacity.

    Notes
    -----
    D = what all ops of the team draw on a resource together; the collective's own bound was
    reckoned for R = min(healthy / D). An op whose tightest resource now lets through only
    r = min(capacity / D) has its bound lowered by r / R, never raised.
    """
    drawn = np.bincount(team.resource, weights=team.amount, minlength=healthy.size)
    ratio = healthy[team.resource] / drawn[team.resource]
    now = np.minimum.reduceat(capacity[team.resource] / drawn[team.resource], team.ptr[:-1])
    return team._replace(pace=np.minimum(1.0, now / ratio.min()))
