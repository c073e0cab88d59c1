"""Who waits for whom: ranks of each kind, and what they lose in collectives to later ones.

A rank waits while its compute lane is idle and a collective it has come to lacks a rank of the
group. The time that data moves is no waiting, and neither is what it computes meanwhile; but those
kernels are slower for the SMs that the collective holds while it waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field

import numpy as np

from sim.fabric.role import Role
from sim.lowering.lowered import Lowered, RankView
from sim.lowering.parts import CATEGORIES, I8
from sim.program import Timeline
from sim.records import NamedTuple, dataclass
from sim.step.intervals import F8, Coverage, between
from sim.step.outcome import StepOutcome

_COLLECTIVE = CATEGORIES.index("collective")
_ROUNDING = 1e-14  # of a step: kernels that lost less have lost nothing


@dataclass(slots=True)
class WaitingGroup:
    """Ranks of one role and one speed; times are their mean and add up to the step's. [s]"""

    role: Role
    speed: float  # of kernels; 1 as a rule
    ranks: tuple[int, ...]
    compute_s: float = 0.0
    waiting_s: float = 0.0
    communication_s: float = 0.0  # compute lane idle, data moving
    idle_s: float = 0.0  # compute lane idle for the host, copies, or the end of the step
    waiting_for: dict[int, float] = field(default_factory=dict)  # by group that came last
    #: of compute_s, what kernels lost to collectives that lacked a rank, by group that came last
    slowed_for: dict[int, float] = field(default_factory=dict)

    @property
    def stage(self) -> int:
        """Of the pipeline."""
        return self.role.stage

    @property
    def count(self) -> int:
        """Ranks."""
        return len(self.ranks)

    def add(
        self, other: WaitingGroup, times: float, named: Mapping[int, int] | None = None
    ) -> None:
        """Add what the same ranks do in another window, `times` times.

        `named` are numbers of its groups among this one's, where they differ.
        """
        for name in ("compute_s", "waiting_s", "communication_s", "idle_s"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for mine, theirs in (
            (self.waiting_for, other.waiting_for), (self.slowed_for, other.slowed_for),
        ):  # fmt: skip
            for late, lost in theirs.items():
                late = late if named is None else named[late]
                mine[late] = mine.get(late, 0.0) + times * lost

    def wait_for(self, late: int, seconds: float) -> None:
        """Wait for another group."""
        self.waiting_s += seconds
        self.waiting_for[late] = self.waiting_for.get(late, 0.0) + seconds


class _Late(NamedTuple):
    """Intervals in which a class waits for the last of a group."""

    start: F8
    end: F8
    by: I8  # group of ranks that came last


def summed(parts: Iterable[tuple[tuple[WaitingGroup, ...], float]]) -> tuple[WaitingGroup, ...]:
    """The same ranks in several windows, each so many times."""
    whole: list[WaitingGroup] = []
    for groups, times in parts:
        whole = whole or [WaitingGroup(g.role, g.speed, g.ranks) for g in groups]
        for group, other in zip(whole, groups, strict=True):
            group.add(other, times)
    return tuple(whole)


def regrouped(
    groups: tuple[WaitingGroup, ...], among: tuple[WaitingGroup, ...]
) -> tuple[WaitingGroup, ...]:
    """The same times, told of other groups of the same ranks.

    Parameters
    ----------
    groups : tuple of WaitingGroup
        Of every rank.
    among : tuple of WaitingGroup
        As which they are told: of one that joins several the mean over its ranks.
    """
    of = {rank: i for i, group in enumerate(groups) for rank in group.ranks}
    mine = {rank: i for i, group in enumerate(among) for rank in group.ranks}
    late = {i: mine[group.ranks[0]] for i, group in enumerate(groups)} if among else {}
    found = []
    for group in among:
        told = WaitingGroup(group.role, group.speed, group.ranks)
        for i, count in Counter(of[rank] for rank in group.ranks).items():
            told.add(groups[i], count / group.count, late)
        found.append(told)
    return tuple(found)


def waiting(outcome: StepOutcome) -> tuple[WaitingGroup, ...]:
    """How long ranks of each kind compute, wait for later ones, and are idle otherwise.

    Parameters
    ----------
    outcome : StepOutcome
        At any level of detail; where equal ranks are one class, none waits.

    Returns
    -------
    tuple of WaitingGroup
        In order of their first rank; of the whole step.
    """
    parts = zip(waiting_in_windows(outcome), outcome.windows, strict=True)
    return summed((groups, window.times) for groups, window in parts)


def waiting_in_windows(
    outcome: StepOutcome, ends: Sequence[float] = ()
) -> list[tuple[WaitingGroup, ...]]:
    """The same in each window of the outcome, once.

    `ends` say when each class is done, should it be before the end of the window; then it waits for
    the last one. [s]
    """
    classes = outcome.priced.compiled.classes
    kinds = list(zip(classes.role.tolist(), classes.speed.tolist(), strict=True))
    index = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    group_of = np.array([index[kind] for kind in kinds])
    members = group_of[classes.of]
    who = [tuple(np.flatnonzero(members == i).tolist()) for i in index.values()]
    late = _late(outcome, classes.role, group_of)
    found = []
    for begin, finish, *_ in outcome.windows:
        groups = [
            WaitingGroup(outcome.priced.parts[role].role, speed, ranks)
            for (role, speed), ranks in zip(index, who, strict=True)
        ]
        for c, (lowered, timeline, view) in enumerate(outcome.classes()):
            group = groups[group_of[c]]
            share = int(classes.multiplicity[c]) / len(group.ranks)
            end = ends[c] if ends else finish
            _add(group, share, lowered, timeline, view, late.get(c), (begin, end))
            if end < finish:
                group.wait_for(int(group_of[np.argmax(ends)]), share * (finish - end))
        found.append(tuple(groups))
    return found


def _late(outcome: StepOutcome, role: I8, group_of: I8) -> Mapping[int, _Late]:
    """Where each class waits, flight by flight."""
    flights = outcome.priced.flights
    if not flights.of.size:
        return {}
    arrival, plans = [], {}
    for mine, (_, timeline, view) in zip(role.tolist(), outcome.classes(), strict=True):
        arrival.append(timeline.end[view.comm_begin])
        plans[mine] = view
    # a group of one class waits for nobody
    teams = {id(w.team): w.team for w in flights.wires if np.bincount(w.team.group).max() > 1}
    numbers = {key: i for i, key in enumerate(teams)}
    team_of = np.array([numbers.get(id(w.team), len(teams)) for w in flights.wires])[flights.of]
    order = np.argsort(team_of, kind="stable")
    ends = np.cumsum(np.bincount(team_of, minlength=len(teams))).tolist()
    found: dict[int, list[_Late]] = {}
    for team, begin, end in zip(teams.values(), [0, *ends], ends, strict=False):
        first = np.flatnonzero(np.diff(team.group, prepend=-1))
        members = team.member.tolist()
        # which of its plan's collectives each flight is, to a class of each part
        flown = flights.ops[order[begin:end]]
        parts = set(role[team.member].tolist())
        place = {p: np.searchsorted(plans[p].comm_plan, flown[:, p]) for p in parts}
        came = np.stack([arrival[c][place[int(role[c])]] for c in members])
        last = np.maximum.reduceat(came, first, axis=0)
        # the first member of those that came last
        at = np.where(came == last[team.group], np.arange(team.member.size)[:, None], came.shape[0])
        by = group_of[team.member[np.minimum.reduceat(at, first, axis=0)]]
        for i, c in enumerate(members):
            own = _Late(came[i], last[team.group[i]], by[team.group[i]])
            found.setdefault(c, []).append(own)
    return {
        c: _Late(*(np.concatenate(column) for column in zip(*each, strict=True)))
        for c, each in found.items()
    }


def _add(
    group: WaitingGroup,
    times: float,
    lowered: Lowered,
    timeline: Timeline,
    view: RankView,
    late: _Late | None,
    window: tuple[float, float],
) -> None:
    """Add a class's times within a window."""
    begin, finish = window
    lane = _inside(timeline, view, window)
    started, ended, alone = timeline.start[lane], timeline.end[lane], lowered.alone_s[lane]
    start, end = np.clip(started, begin, finish), np.clip(ended, begin, finish)
    transfers = np.flatnonzero(lowered.category[lane] == _COLLECTIVE)
    end[transfers] = start[transfers]  # the lane is idle meanwhile
    idle = between(start, end, begin, finish)
    group.compute_s += times * float((end - start).sum())
    flown = Coverage(timeline.start[view.comm_begin], timeline.end[view.comm_end])
    moving = float(flown.inside(*idle).sum())
    waited = 0.0
    if late is not None:
        every = Coverage(late.start, late.end)
        some = every.touched(*idle)
        gap = idle[0][some], idle[1][some]
        waited = float(every.inside(*gap).sum())
        slow = every.touched(start, end)
        lost = ended[slow] - started[slow] - alone[slow]
        more = lost > _ROUNDING * finish
        slow, lost = slow[more], lost[more]
        # of what a kernel lost, the share of the time beside collectives in which they waited
        beside = flown.inside(started[slow], ended[slow])
        share = np.divide(lost, beside, out=np.zeros(slow.size), where=beside > 0.0)
        for other in np.unique(late.by).tolist():
            mine = late.by == other
            lacking = Coverage(late.start[mine], late.end[mine])
            for found, seconds in (
                (group.waiting_for, lacking.inside(*gap)),
                (group.slowed_for, share * lacking.inside(start[slow], end[slow])),
            ):
                found[other] = found.get(other, 0.0) + times * float(seconds.sum())
    group.waiting_s += times * waited
    group.communication_s += times * (moving - waited)
    group.idle_s += times * (float((idle[1] - idle[0]).sum()) - moving)


def _inside(timeline: Timeline, view: RankView, window: tuple[float, float]) -> slice:
    """Ops of a compute lane that run within a window."""
    lane, (begin, finish) = view.compute, window
    first = int(np.searchsorted(timeline.end[lane], begin, side="right"))
    last = int(np.searchsorted(timeline.start[lane], finish))
    return slice(lane.start + first, lane.start + max(first, last))
