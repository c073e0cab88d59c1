"""What a step is spent on, in the mean over ranks: kernels, bubble, exposed exchanges, the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sim.records import dataclass
from sim.step.breakdown import Breakdown
from sim.step.waiting import WaitingGroup
from sim.strategies.exchanges import GROUPS, NODE, NODES

#: groups of collectives inside blocks, as their labels begin, and what is split
WITHIN = {name: name for name in GROUPS.values()} | dict.fromkeys((NODES, NODE), GROUPS["ep"])


class Waits(Protocol):
    """Ranks of one kind, of one stage of a pipeline."""

    @property
    def stage(self) -> int:
        """Of the pipeline."""

    @property
    def count(self) -> int:
        """Ranks."""

    @property
    def waiting_s(self) -> float:
        """Idle in collectives that other ranks have not come to. [s]"""


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of a step that add up to it. [s]

    Attributes
    ----------
    compute_s : float
        Kernels, recompute included.
    bubble_s : float
        Waiting for other stages of a pipeline.
    within_s : dict of str to float
        Exposed exchanges inside blocks, by what is split: tensor, context, expert.
    exchange_s : float
        Other exposed communication: gathers and reductions of parameters, messages of stages.
    other_s : float
        Host, copies, and the slowest rank of equal ones.
    """

    compute_s: float
    bubble_s: float
    within_s: dict[str, float]
    exchange_s: float
    other_s: float


def bubble_s(groups: Sequence[Waits]) -> float:
    """What ranks of a pipeline lose to other stages, in the mean; 0 of one stage. [s]"""
    if len({group.stage for group in groups}) < 2:
        return 0.0
    return sum(g.count * g.waiting_s for g in groups) / sum(g.count for g in groups)


def shares(step: Breakdown, groups: Sequence[WaitingGroup]) -> Shares:
    """The parts of a step.

    Parameters
    ----------
    step : Breakdown
        Of the representative rank.
    groups : sequence of WaitingGroup
        Of all ranks; empty where they do the same.
    """
    within: dict[str, float] = {}
    for label, seconds in step.exposed.items():
        if what := WITHIN.get(label.partition(" ")[0]):
            within[what] = within.get(what, 0.0) + seconds
    inside = sum(within.values())
    compute, exposed = step.compute_s - step.waiting_s, step.exposed_s
    bubble = bubble_s(groups)
    if bubble:
        ranks = sum(g.count for g in groups)
        exposed = sum(g.count * (g.waiting_s + g.communication_s) for g in groups) / ranks
        compute = sum(g.count * g.compute_s for g in groups) / ranks - step.waiting_s
    exchange = max(0.0, exposed - bubble - inside)
    other = step.time_s - compute - bubble - inside - exchange
    return Shares(compute, bubble, within, exchange, other)
