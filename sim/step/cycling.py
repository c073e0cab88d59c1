"""A pipeline's step of many micro-batches, of which a few are written down.

Its schedule repeats itself cycle by cycle, and so does its program: a short one, put back before
it ends (`sim.engine.cycling`), runs as the long one would. What is put back is measured first. Once
two cycles in a row are the same to the last op, those that are left would be, too: the last is
counted as often.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from sim.engine import choose, watch
from sim.engine.cycling import Cycling, GateError
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.cycles import Repeating, repeating
from sim.lowering.frames import lowered
from sim.lowering.lowered import Lowered, RankView
from sim.lowering.parts import B1, CATEGORIES, F8
from sim.pipeline.schedules import SCHEDULES
from sim.program import Timeline
from sim.records import NamedTuple
from sim.step.bounds import check_size
from sim.step.outcome import Ran, measured
from sim.step.ready import Ready, plan_bytes, ready_of, reckoned
from sim.step.rhythm import SAME, cycle_of, of_steps
from sim.step.variation import Progress, Variation
from sim.step.windows import Window

_COLLECTIVE = CATEGORIES.index("collective")
_WORTH = 2  # times as many micro-batches as are written down
_MOST_PARTS = 100  # without two cycles that are the same: rhythms take some ten to be found
M = TypeVar("M")


class UnevenError(Exception):
    """A step that has to be simulated in full."""


def few_of(workload: Workload) -> Workload | None:
    """The job with as many micro-batches as are written down; None if that is no gain.

    GPipe's and 1F1B's own loops are not asked: 1F1B finds its rhythm within a few micro-batches.
    """
    steps, p = workload.gradient_accumulation, workload.parallelism.pipeline_parallel
    cycle = cycle_of(workload)
    if p == 1 or not SCHEDULES[workload.parallelism.pipeline_schedule].table or not cycle:
        return None
    # it fills and empties for two cycles or three, parameters that are gathered again for one more
    least = 6 * cycle if cycle > 1 else 3 * p + 8
    few = least + (steps - least) % cycle
    if steps < _WORTH * few:
        return None
    found = of_steps(workload, few)
    return found if cycle_of(found) == cycle else None


def cycled(
    topology: Topology, workload: Workload, few: Workload, engine: str, causes: bool,
    measure: Callable[[Ran], M], progress: Progress | None = None,
) -> list[M]:  # fmt: skip
    """Simulate a step part by part; together they are the step.

    Parameters
    ----------
    topology, workload : specs
        Checked by the loader.
    few : Workload
        Of `few_of`.
    engine, causes, progress
        As for `sim.step.run.run_together`.
    measure : callable
        Of a part, whose ops and their times are there no longer than it takes.

    Returns
    -------
    list
        What was measured of each part.

    Raises
    ------
    InputError
        What is written down would be absurd.
    UnevenError
        It does not repeat itself, what launches kernels is as late as they are, or another engine
        is asked for.
    """
    alike = Variation()
    if ahead := reckoned(topology, few, alike, "folded"):
        check_size(ahead[0], "folded", alike, ahead[1], plan_bytes=plan_bytes(few))
    ready = ready_of(topology, workload, few, alike, "folded", None)
    step, cycle = lowered(ready.priced), cycle_of(few)
    engine = choose(step.program) if engine == "auto" else engine
    where = repeating(step, cycle) if engine == "compiled" else None
    if where is None:
        raise UnevenError
    view = _last_to_end(step, where)
    for _ in step.views:  # told from one that another run may find not to be the last
        parts = _Parts(ready, step, where, view, causes)
        try:
            found = [measure(part) for part in parts.each(ready.repeats // cycle, progress)]
        except GateError as error:
            raise UnevenError from error
        if parts.slowest is view:
            return found
        view = parts.slowest
    raise UnevenError


def _last_to_end(step: Lowered, where: Repeating) -> RankView:
    """The rank whose kernels end last in what is written down."""
    played = Cycling(step.program, where.cycles, where.gates)
    played.open()
    played.run()
    return step.slowest(Timeline(played.start, played.end, 0, 0))


class _Parts:
    """A step in parts, as one rank sees them."""

    def __init__(
        self, ready: Ready, step: Lowered, where: Repeating, view: RankView, causes: bool
    ) -> None:
        self.ready, self.step, self.view, self.causes = ready, step, view, causes
        self.slowest = view
        self.lane = int(step.program.lane[view.compute.start])
        self.cycles, self.hosts = where.cycles, set(where.hosts.tolist())
        self.played = Cycling(step.program, where.cycles, where.gates)
        n = step.program.lane.size
        self.timeline = Timeline(np.empty(n), np.empty(n), 0, 0)  # of each part, one after another
        self.over = 0  # cycles that were put back
        self.last: dict[int, tuple[int, _Times]] = {}  # of lanes, their last and where that was
        self.gained: list[int] = []  # hosts that got further ahead in the last

    def each(self, left: int, progress: Progress | None) -> Iterator[Ran]:
        """Measures of each, with so many cycles more than are written down."""
        played, since, period = self.played, 0.0, int(self.cycles.period.sum())
        size = self.step.program.lane.size + left * period
        large = progress is not None and size >= watch.LARGE
        for part in itertools.count():
            if left and part == _MOST_PARTS:
                raise UnevenError
            if progress is not None and large:
                progress(size - left * period - self.step.program.lane.size, size)
            ended = played.run()
            now = self._now(ended)
            if ended:
                self.slowest = self.step.slowest(now.timeline)
                if any(not self._in_time(now.timeline, host) for host in self.gained):
                    raise UnevenError
                end = float(now.timeline.end.max())
                yield self._measured(now.timeline, (Window(since, end, 1),))
                return
            last = self._last(now)
            until = float(now.timeline.start[last])
            windows: tuple[Window, ...] = (Window(since, until, 1),)
            lasts = self._period(now) if left else 0.0
            if lasts > 0.0:
                # from a kernel on, to the one a cycle later
                before = last - int(self.cycles.period[self.lane])
                before_s = float(now.timeline.start[before])
                if before < self.cycles.begin[self.lane]:  # it has been put back since
                    before_s = since
                if before_s >= since and abs(until - before_s - lasts) <= SAME * lasts:
                    windows += (Window(before_s, until, left, 1),)
                    left = 0
            yield self._measured(now.timeline, windows)
            since = until
            if not left:
                played.open()
                continue
            cycles = min(left, self._over(now, until))
            if not cycles:
                raise UnevenError
            played.back(cycles)
            left -= cycles
            self.over += cycles

    def _measured(self, timeline: Timeline, windows: tuple[Window, ...]) -> Ran:
        some = [0], [self.ready], self.step, timeline, [windows]
        return measured(*some, causes=self.causes, view=self.view)

    def _now(self, all_ended: bool) -> _Now:
        """The times of what has begun; what has not ended ends later, and the rest begins then.

        A moment later, so that no gap of a window is said to end with it.
        """
        played, now = self.played, self.played.now
        begins, ends = self.timeline.start, self.timeline.end
        begins[:], ends[:] = played.start, played.end
        if all_ended:
            return _Now(now, self.timeline, np.ones(begins.size, dtype=np.bool_))
        ended = (ends > 0.0) & (ends <= now) | (ends == 0.0) & (begins == 0.0)
        at = played.running()
        ended[at] = False
        begun = begins[at]
        begins[~ended] = ends[~ended] = np.nextafter(now, np.inf)
        begins[at] = begun
        return _Now(now, self.timeline, ended)

    def _last(self, now: _Now) -> int:
        """The last kernel of the rank before anything that has not ended."""
        start, until = now.timeline.start, now.s
        for view in self.step.views:
            begin, end = start[view.comm_begin], now.ended[view.comm_end]
            until = min(until, float(begin[~end].min(initial=until)))
        running = self.played.running()
        until = min(until, float(start[running].min(initial=until)))
        own = self.view.compute
        begun = now.ended[own].copy()
        begun[running[(running >= own.start) & (running < own.stop)] - own.start] = True
        kernels = np.flatnonzero((self.step.category[own] != _COLLECTIVE) & begun)
        at = int(np.searchsorted(start[own][kernels], until, side="right")) - 1
        return int(own.start + kernels[at])

    def _over(self, now: _Now, until: float) -> int:
        """Cycles that are over on every lane. [1]"""
        found = []
        for lane in self.cycles.lanes.tolist():
            begin, at = int(self.cycles.begin[lane]), int(self.played.at[lane])
            if lane not in self.hosts:
                at = begin + int(np.searchsorted(now.timeline.end[begin:at], until, side="right"))
            found.append((at - begin) // int(self.cycles.period[lane]))
        return min(found)

    def _period(self, now: _Now) -> float:
        """How long a cycle takes, if all lanes have done the same in the last two; else 0. [s]

        Hosts may be ahead and get further ahead, but not fall behind.
        """
        lasts = 0.0
        known, self.last = self.last, {}
        self.gained = []
        same = True
        for lane in sorted(self.cycles.lanes.tolist(), key=lambda lane: lane != self.lane):
            at, n = int(self.played.at[lane]), int(self.cycles.period[lane])
            begin, host = int(self.cycles.begin[lane]), lane in self.hosts
            if at - n < begin:
                return 0.0
            after = self._times(at - n, at)
            before: _Times | None
            if at - 2 * n >= begin:
                before = self._times(at - 2 * n, at - n)
            else:  # it has been put back since: the cycle before the pause before
                place, before = known.get(lane, (0, None))
                self.last[lane] = at + self.over * n, _Times(*(each.copy() for each in after))
                if place + n != self.last[lane][0]:
                    before = None
            if before is None:
                same = False
            if not same or before is None:
                continue
            if lane == self.lane:
                lasts = float(after.end[-1] - before.end[-1])
            apart = [late - early - lasts for early, late in zip(before, after, strict=True)]
            if host:
                same = float(apart[1].max()) <= SAME * lasts
                if float(apart[1].min()) < -SAME * lasts:
                    self.gained.append(lane)
            else:
                same = all(float(np.abs(each).max()) <= SAME * lasts for each in apart)
                same &= bool(now.timeline.start[at] >= now.s - lasts)  # or it runs for longer
        return lasts if same else 0.0

    def _in_time(self, timeline: Timeline, host: int) -> bool:
        """Whether a host that comes earlier than it did, from a cycle's end on, changes nothing.

        Until it next waits, what it launches is to wait for something else.
        """
        program, begin = self.step.program, int(self.played.at[host])
        stop = int(np.searchsorted(program.lane, host, side="right"))
        waits = np.flatnonzero(timeline.start[begin + 1 : stop] > timeline.end[begin : stop - 1])
        until = begin + 1 + int(waits[0]) if waits.size else stop
        edges = program.succ_ptr[begin : until + 1]
        launch = np.repeat(np.arange(begin, until), np.diff(edges))
        launched = program.succ[edges[0] : edges[-1]]
        at_once = timeline.start[launched] <= timeline.end[launch]
        return not at_once[program.lane[launched] != host].any()

    def _times(self, begin: int, end: int) -> _Times:
        return _Times(self.played.start[begin:end], self.played.end[begin:end])


class _Times(NamedTuple):
    """Of some ops in a row. [s]"""

    start: F8
    end: F8


class _Now(NamedTuple):
    """What is known at a pause."""

    s: float  # when that is [s]
    timeline: Timeline
    ended: B1  # (n,)
