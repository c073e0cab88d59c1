"""What a simulated step is measured to be: its windows and their breakdowns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sim.lowering.costs import Priced
from sim.lowering.crowd import Gathering
from sim.lowering.lowered import Lowered, RankView
from sim.program import Timeline
from sim.records import NamedTuple, dataclass
from sim.step.breakdown import Breakdown, measure
from sim.step.overlap import between_nodes
from sim.step.ready import Ready
from sim.step.rhythm import middle_of
from sim.step.straggle import of_blocks
from sim.step.transfers import shared
from sim.step.windows import Window, Windows


class CrowdRun(NamedTuple):
    """Ranks that share their columns, and when each one's ops ran."""

    gathering: Gathering
    timeline: Timeline


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """A simulated step.

    Attributes
    ----------
    breakdown : Breakdown
        Of the representative rank, the whole step with all its micro-steps.
    lowered, timeline, priced
        What was run, for traces and critical paths; of the simulated micro-steps. Of a crowd some
        ranks only, and all that is on the wire.
    windows : tuple of Window
        Parts of the simulated time that make up the step: all of it, and the second, where there is
        one, as often again as it stands for micro-steps that were left out.
    middle : Breakdown or None
        Of the second window, once.
    repeats : int
        Micro-steps that were left out.
    crowd : CrowdRun or None
        All ranks, where they are many.
    """

    breakdown: Breakdown
    lowered: Lowered
    timeline: Timeline
    priced: Priced
    windows: tuple[Window, ...]
    middle: Breakdown | None = None
    repeats: int = 0
    crowd: CrowdRun | None = None

    @property
    def time_s(self) -> float:
        """Duration of the optimizer step. [s]"""
        return self.breakdown.time_s

    @property
    def ops(self) -> int:
        """Ops of the program that was run. [1]"""
        return self.crowd.gathering.crowd.ops if self.crowd else self.lowered.program.lane.size

    def classes(self) -> Iterator[tuple[Lowered, Timeline, RankView]]:
        """Every class of ranks: where its ops are, and when they ran."""
        if self.crowd is not None:
            yield from self.crowd.gathering.each(self.crowd.timeline)
            return
        for view in self.lowered.views:
            yield self.lowered, self.timeline, view


class Ran(NamedTuple):
    """Steps that differ in numbers only, run together; or one."""

    places: list[int]  # which of those that were asked for
    lowered: Lowered  # a stack of them, or the one
    timeline: Timeline
    priced: list[Priced]
    whole: list[Breakdown]
    middle: list[Breakdown | None]
    repeats: list[int]
    windows: list[tuple[Window, ...]]
    #: steps of a stack whose middle, or whose few blocks, stand for no others
    apart: frozenset[int] = frozenset()

    def outcome(self, i: int) -> StepOutcome:
        """One of them by itself."""
        return StepOutcome(
            self.whole[i], self.lowered.row(i), self.timeline.row(i), self.priced[i],
            self.windows[i], self.middle[i], self.repeats[i],
        )  # fmt: skip


def measured(
    places: list[int], ready: Sequence[Ready], lowered: Lowered, timeline: Timeline,
    windows: list[tuple[Window, ...]], causes: bool = True,
    more: Sequence[tuple[Window, ...] | None] = (), view: RankView | None = None,
) -> Ran:  # fmt: skip
    """Measures of steps, with `more` windows of each that stand for blocks which it has not.

    One step is looked at from a rank's `view`, the slowest's if not told.
    """
    views = lowered.views if lowered.program.stack else (view or lowered.slowest(timeline),)
    further = more or [()] * len(windows)
    inside = Windows.of([each + (m or ()) for each, m in zip(windows, further, strict=True)])
    found = of_windows(ready, lowered, timeline, views, inside, causes)
    # beside a rank's, those of one on each other kind of GPU
    kinds = {} if lowered.program.stack else {v.role.gpu.name: v for v in reversed(lowered.views)}
    if len(kinds) > 1:
        for name, its_view in kinds.items():
            [one] = of_windows(ready, lowered, timeline, [its_view], inside)
            for window, its in zip(found[0], one, strict=True):
                window.by_gpu[name] = its.parts
    priced = [each.priced for each in ready]
    wholes = [whole for whole, *_ in found]
    middles = [middle[0] if middle else None for _, *middle in found]
    repeats = [each.repeats for each in ready]
    return Ran(places, lowered, timeline, priced, wholes, middles, repeats, windows)


def of_windows(
    ready: Sequence[Ready], lowered: Lowered, timeline: Timeline, views: Sequence[RankView],
    windows: Windows, causes: bool = False,
) -> list[list[Breakdown]]:  # fmt: skip
    """Measures of a rank, of each step and of its middle; waits for slower ranks are apart."""
    far = [between_nodes(r.priced, view.plan) for r, view in zip(ready, views, strict=True)]
    usual = [each.ranks.get(view.role) for each, view in zip(ready, views, strict=True)]
    blocks = of_blocks(views[0].plan, ready[0].layers)
    found = measure(lowered, timeline, views, windows, far, blocks, usual)
    if causes:
        lost = shared(lowered, timeline, views[0], windows)
        for mine, theirs in zip(found, lost, strict=True):
            for window, transfers in zip(mine, theirs, strict=True):
                window.transfers = transfers
    return found


def windows_of(
    ready: Sequence[Ready], lowered: Lowered, timeline: Timeline,
    stretch: tuple[float, float] | None = None, end_s: float | None = None,
) -> list[tuple[Window, ...]]:  # fmt: skip
    """The whole of each step, and the micro-step in its middle where it repeats.

    `stretch` is what stands for others of a pipeline, of one step; `end_s` when that ends, where
    `timeline` does not tell. [s]
    """
    ends = timeline.end.max(axis=-1) if end_s is None else end_s
    found: list[tuple[Window, ...]] = [
        (Window(0.0, end, 1),) for end in np.atleast_1d(ends).tolist()
    ]
    if stretch is not None:
        begin, finish = [stretch[0]], [stretch[1]]
    elif any(each.repeats for each in ready):
        middle = middle_of(lowered, timeline)
        begin, finish = (np.atleast_1d(t).tolist() for t in middle)
    for i, each in enumerate(ready):
        if each.repeats:
            found[i] += (Window(begin[i], finish[i], each.repeats // each.cycle, 1),)
    return found
