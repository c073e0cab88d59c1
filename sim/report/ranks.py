"""Ranks that differ, in the report: who waits for whom."""

from __future__ import annotations

from sim.quantities import percent
from sim.report.view import Fact
from sim.result.result import RankGroup, Result
from sim.step.shares import bubble_s

MOST = 3  # groups, those that wait longest
LEAST = 0.005  # share of the step that a line is worth


def waiting(result: Result) -> list[Fact]:
    """One fact for each group of ranks that waits for others, the longest first."""
    total, named = result.step.time_s, {g.ranks: g for g in result.ranks}
    found = bubble(result)
    most = MOST + len(found)
    for group in sorted(result.ranks, key=lambda g: -g.waiting_s):
        if group.waiting_s < LEAST * total:
            break
        last = named[max(group.waiting_for, key=lambda ranks: group.waiting_for[ranks])]
        whom = "one another" if last is group else _named(last)
        if last.gpu == group.gpu and last.speed < group.speed:
            whom += f", {percent(last.speed / group.speed)} as fast"
        shares = percent(group.waiting_s / total), percent(group.communication_s / total)
        text = f"{shares[0]} of the step for {whom}; {shares[1]} more for data on its way"
        found.append(Fact("Waiting", f"{_named(group)} {text}"))
    return found[:most]


def bubble(result: Result) -> list[Fact]:
    """What ranks of a pipeline lose to other stages, in the mean."""
    lost = bubble_s(result.ranks)
    if not lost:
        return []
    share = percent(lost / result.step.time_s)
    return [Fact("Bubble", f"{share} of the step: what a rank waits for other stages, in the mean")]


def _named(group: RankGroup) -> str:
    return f"{'rank' if group.count == 1 else 'ranks'} {group.ranks} ({group.gpu})"
