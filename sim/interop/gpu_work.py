"""What ran on a GPU in a profiled step: parts that add up, streams, the longest waits and kernels.

The stream that multiplies most is the clock: at each instant it runs a kernel, or it waits for a
collective, for other work on the GPU, or for the host.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.interop.kineto import Stream

F8 = npt.NDArray[np.float64]
B1 = npt.NDArray[np.bool_]
I8 = npt.NDArray[np.int64]

EXPOSED, BESIDE, IDLE = "exposed", "beside", "idle"
_LONGEST, _WAITS = 8, 3


class WorkShare(NamedTuple):
    """Part of a step: what the stream does, in which phase. Both of one step."""

    seconds: float
    calls: float


class Longest(NamedTuple):
    """Kernels of one name, on all streams."""

    name: str
    seconds: float  # of one step
    calls: float


class Lane(NamedTuple):
    """A stream: what it mostly runs, and how long it is busy. Both of one step."""

    stream: str
    mostly: str
    seconds: float
    calls: float


class Wait(NamedTuple):
    """The stream that computes has nothing to run. [s]"""

    seconds: float
    at_s: float  # from the start of what was recorded
    cause: str  # a collective, ``beside`` or ``idle``, whichever fills most of it
    before: str  # the kernel that ends it


class Work(NamedTuple):
    """A kernel or a copy on the GPU."""

    stream: Stream
    start: float
    end: float
    kind: str
    name: str
    phase: str
    step: int  # -1: outside


def main_of(work: Sequence[Work]) -> Stream:
    """The stream that multiplies most, or where none does is busiest."""
    busy: dict[Stream, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for w in work:
        if w.kind != "collective":
            busy[w.stream][0] += (w.end - w.start) * (w.kind == "gemm")
            busy[w.stream][1] += w.end - w.start
    return max(busy, key=lambda stream: busy[stream]) if busy else work[0].stream


class Stretches(NamedTuple):
    """What the main stream does between one edge and the next: -1 runs, or waits for a cause."""

    edges: F8  # (n + 1,) [s]
    cause: I8  # (n,)
    causes: tuple[str, ...]  # collectives, `BESIDE`, `IDLE`

    @property
    def seconds(self) -> F8:
        """Length of each stretch. (n,) [s]"""
        return np.diff(self.edges)


def stretches(work: Sequence[Work], main: Stream, begin: float, end: float) -> Stretches:
    """The time from `begin` to `end` by what the main stream runs or waits for."""
    edges = np.unique(np.array([begin, end, *(t for w in work for t in (w.start, w.end))]))
    flights = [w for w in work if w.kind == "collective"]
    operations = tuple(dict.fromkeys(w.phase for w in flights))
    others = [w for w in work if w.kind != "collective" and w.stream != main]
    cause = np.where(_covered(edges, [w for w in work if _runs(w, main)]), -1, len(operations) + 1)
    groups = [*([w for w in flights if w.phase == op] for op in operations), others]
    for i, found in enumerate(groups):
        cause[(cause == len(groups)) & _covered(edges, found)] = i
    return Stretches(edges, cause, (*operations, BESIDE, IDLE))


def parts_of(
    work: Sequence[Work], main: Stream, found: Stretches, steps: int
) -> dict[tuple[str, str], WorkShare]:
    """Seconds and calls of a step by phase and kind, and what fills the stream's gaps."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    calls: Counter[tuple[str, str]] = Counter()
    reached = float(found.edges[0])
    for w in sorted((w for w in work if _runs(w, main)), key=lambda w: w.start):
        key = w.phase, "other" if w.kind == "copy" else w.kind
        seconds[key] += max(0.0, w.end - max(w.start, reached))  # none counts twice
        calls[key] += 1
        reached = max(reached, w.end)
    for i, cause in enumerate(found.causes):
        key = ("", cause) if cause in (BESIDE, IDLE) else (cause, EXPOSED)
        seconds[key] = float(found.seconds[found.cause == i].sum())
        if key[0]:
            calls[key] = sum(w.kind == "collective" and w.phase == cause for w in work)
    return {key: WorkShare(s / steps, calls[key] / steps) for key, s in seconds.items()}


def waits_of(work: Sequence[Work], main: Stream, found: Stretches) -> tuple[Wait, ...]:
    """The longest times in which the main stream runs nothing, the longest first."""
    starts = {w.start: w.name for w in work if _runs(w, main)}
    change = np.flatnonzero(np.diff(np.concatenate(([-1], found.cause, [-1])) >= 0))
    waits = []
    for first, last in zip(change[::2].tolist(), change[1::2].tolist(), strict=True):
        filled = np.bincount(found.cause[first:last], found.seconds[first:last])
        begin, end = float(found.edges[first]), float(found.edges[last])
        cause = found.causes[int(filled.argmax())]
        waits.append(Wait(end - begin, begin - float(found.edges[0]), cause, starts.get(end, "")))
    return tuple(sorted(waits, key=lambda wait: -wait.seconds)[:_WAITS])


def lanes_of(work: Sequence[Work], steps: int) -> tuple[Lane, ...]:
    """The streams of a GPU, the busiest first."""
    streams: dict[Stream, list[Work]] = defaultdict(list)
    for w in work:
        streams[w.stream].append(w)
    lanes = []
    for stream, mine in streams.items():
        kinds: dict[str, float] = defaultdict(float)
        for w in mine:
            kinds[w.phase if w.kind == "collective" else w.kind] += w.end - w.start
        edges = np.unique([t for w in mine for t in (w.start, w.end)])
        busy = float(np.diff(edges)[_covered(edges, mine)].sum())
        most = max(kinds, key=lambda kind: kinds[kind])
        lanes.append(Lane(stream[1], most, busy / steps, len(mine) / steps))
    return tuple(sorted(lanes, key=lambda lane: -lane.seconds))


def _runs(work: Work, main: Stream) -> bool:
    return work.stream == main and work.kind != "collective"


def _covered(edges: F8, work: Sequence[Work]) -> B1:
    """Which stretches between edges some work covers. (edges - 1,) bool"""
    change = np.zeros(edges.size)
    np.add.at(change, np.searchsorted(edges, [w.start for w in work]), 1.0)
    np.add.at(change, np.searchsorted(edges, [w.end for w in work]), -1.0)
    covered: B1 = np.cumsum(change)[:-1] > 0.5
    return covered


def longest_of(work: Sequence[Work], steps: int) -> tuple[Longest, ...]:
    """Kernels by name, those that take longest first."""
    seconds: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for w in work:
        seconds[w.name] += w.end - w.start
        calls[w.name] += 1
    names = sorted(seconds, key=lambda name: -seconds[name])[:_LONGEST]
    return tuple(Longest(name, seconds[name] / steps, calls[name] / steps) for name in names)
