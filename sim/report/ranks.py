"""Ranks that differ, in the report: who waits for whom."""

from __future__ import annotations

from sim.quantities import percent
from sim.report.view import Fact
from sim.result.figures import RankGroup
from sim.result.result import Result
from sim.step.shares import bubble_s

MOST = 3  # groups, those that wait longest
LEAST = 0.005  # share of the step that a line is worth


def waiting(result: Result) -> list[Fact]:
    """One fact for each group of ranks that waits for others, the longest first."""
    total, named = result.step.time_s, {g.ranks: g for g in result.ranks}
    found = bubble(result)
    most = MOST + len(found)
    for group in sorted(result.ranks, key=lambda g: -sum(_lost(g).values())):
        lost = _lost(group)
        whole = sum(lost.values())
        if whole < LEAST * total:
            break
        last = named[max(lost, key=lambda ranks: lost[ranks])]
        whom = "one another" if last is group else _named(last)
        speed = percent(last.speed / group.speed)
        if last.gpu == group.gpu and last.speed < group.speed and speed != percent(1.0):
            whom += f", {speed} as fast"
        text = f"{percent(whole / total)} of the step for {whom}"
        if whole - group.waiting_s >= LEAST * total:
            beside = percent((whole - group.waiting_s) / total)
            text += f" ({beside} in kernels beside collectives that wait)"
        text += f"; {percent(group.communication_s / total)} more for data on its way"
        found.append(Fact("Waiting", f"{_named(group)} {text}"))
    return found[:most]


def _lost(group: RankGroup) -> dict[str, float]:
    """Seconds lost to later ranks, idle or in slower kernels, by those ranks."""
    names = {**group.waiting_for, **group.slowed_for}
    return {
        name: group.waiting_for.get(name, 0.0) + group.slowed_for.get(name, 0.0) for name in names
    }


def bubble(result: Result) -> list[Fact]:
    """What ranks of a pipeline lose to other stages, in the mean."""
    lost = bubble_s(result.ranks)
    if not lost:
        return []
    share = percent(lost / result.step.time_s)
    return [Fact("Bubble", f"{share} of the step: what a rank waits for other stages, in the mean")]


def _named(group: RankGroup) -> str:
    return f"{'rank' if group.count == 1 else 'ranks'} {group.ranks} ({group.gpu})"
