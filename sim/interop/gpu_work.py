"""What ran on a GPU in a profiled step: parts that add up, streams, the longest waits and kernels.

The stream that multiplies most is the clock: at each instant it runs a kernel, or it waits for a
collective, for other work on the GPU, or for the host.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sim.interop.kineto import Stream
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
B1 = npt.NDArray[np.bool_]
I8 = npt.NDArray[np.int64]

EXPOSED, BESIDE, IDLE = "exposed", "beside", "idle"
_LONGEST, _WAITS = 8, 3
_Key = TypeVar("_Key", bound=Hashable)


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


class Numbered(dict[_Key, int]):
    """Keys by the number that each got when it first came."""

    def __missing__(self, key: _Key) -> int:
        self[key] = number = len(self)
        return number


@dataclass(frozen=True, slots=True)
class Work:
    """Kernels and copies on GPUs, in the order of the trace.

    Attributes
    ----------
    streams, names, words : tuples
        What numbers of streams, of names, and of kinds and phases stand for.
    stream, kind, name, phase : (n,) int64
        Numbers.
    start, end : (n,) float64
        [s]
    """

    streams: tuple[Stream, ...]
    names: tuple[str, ...]
    words: tuple[str, ...]
    stream: I8
    start: F8
    end: F8
    kind: I8
    name: I8
    phase: I8

    def where(self, chosen: B1 | I8) -> Work:
        """Those that are chosen, or that stand in these places."""
        columns = ("stream", "start", "end", "kind", "name", "phase")
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})

    def is_kind(self, word: str) -> B1:
        """Which are of a kind. (n,)"""
        found: B1 = self.kind == self.number(word)
        return found

    def number(self, word: str) -> int:
        """Of a word; -1 of one that none has."""
        return self.words.index(word) if word in self.words else -1

    def runs(self, main: int) -> B1:
        """Which keep the main stream from waiting. (n,)"""
        found: B1 = (self.stream == main) & ~self.is_kind("collective")
        return found


def by_number(numbers: I8) -> Iterator[tuple[int, I8]]:
    """Each number, and where it stands."""
    order = np.argsort(numbers, kind="stable")
    found, first = np.unique(numbers[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, first)[1:], strict=True)


def main_of(work: Work) -> int:
    """The stream that multiplies most, or where none does is busiest."""
    computes = ~work.is_kind("collective")
    if not computes.any():
        return int(work.stream[0])
    stream, seconds = work.stream[computes], (work.end - work.start)[computes]
    busy = np.bincount(stream, seconds).tolist()
    multiplies = np.bincount(stream, seconds * work.is_kind("gemm")[computes]).tolist()
    streams: list[int] = np.unique(stream).tolist()
    return max(streams, key=lambda which: (multiplies[which], busy[which]))


class Stretches(NamedTuple):
    """What the main stream does between one edge and the next: -1 runs, or waits for a cause."""

    edges: F8  # (n + 1,) [s]
    cause: I8  # (n,)
    causes: tuple[str, ...]  # collectives, `BESIDE`, `IDLE`

    @property
    def seconds(self) -> F8:
        """Length of each stretch. (n,) [s]"""
        return np.diff(self.edges)


def stretches(work: Work, main: int, begin: float, end: float) -> Stretches:
    """The time from `begin` to `end` by what the main stream runs or waits for."""
    edges = np.unique(np.concatenate(([begin, end], work.start, work.end)))
    flight = work.is_kind("collective")
    operations = _by_first(work.phase[flight])
    groups = [*(flight & (work.phase == op) for op in operations), ~flight & (work.stream != main)]
    cause = np.where(_covered(edges, work, work.runs(main)), -1, len(groups))
    for i, chosen in enumerate(groups):
        cause[(cause == len(groups)) & _covered(edges, work, chosen)] = i
    return Stretches(edges, cause, (*(work.words[op] for op in operations), BESIDE, IDLE))


def parts_of(
    work: Work, main: int, found: Stretches, steps: int
) -> dict[tuple[str, str], WorkShare]:
    """Seconds and calls of a step by phase and kind, and what fills the stream's gaps."""
    mine = work.where(work.runs(main))
    mine = mine.where(np.argsort(mine.start, kind="stable"))
    reached = np.maximum.accumulate(np.concatenate((found.edges[:1], mine.end)))[:-1]
    alone = np.maximum(0.0, mine.end - np.maximum(mine.start, reached))  # none counts twice
    other = work.number("other" if "other" in work.words else "copy")
    key = mine.phase * len(work.words) + np.where(mine.is_kind("copy"), other, mine.kind)
    seconds, calls = np.bincount(key, alone), np.bincount(key)
    parts = {}
    for number in _by_first(key):
        phase, kind = (work.words[n] for n in divmod(number, len(work.words)))
        parts[phase, kind.replace("copy", "other")] = seconds[number], calls[number]
    flights = np.bincount(work.phase[work.is_kind("collective")], minlength=len(work.words))
    for i, cause in enumerate(found.causes):
        waited = float(found.seconds[found.cause == i].sum())
        if cause in (BESIDE, IDLE):
            parts["", cause] = waited, 0
        else:
            parts[cause, EXPOSED] = waited, flights[work.number(cause)]
    return {at: WorkShare(float(s) / steps, int(n) / steps) for at, (s, n) in parts.items()}


def waits_of(work: Work, main: int, found: Stretches) -> tuple[Wait, ...]:
    """The longest times in which the main stream runs nothing, the longest first."""
    runs = work.where(work.runs(main))
    change = np.flatnonzero(np.diff(np.concatenate(([-1], found.cause, [-1])) >= 0))
    first, last = change[::2], change[1::2]
    waited = found.edges[last] - found.edges[first]
    waits = []
    for i in np.argsort(-waited, kind="stable")[:_WAITS].tolist():
        within = slice(int(first[i]), int(last[i]))
        filled = np.bincount(found.cause[within], found.seconds[within])
        cause = found.causes[int(filled.argmax())]
        ends = np.flatnonzero(runs.start == found.edges[last[i]])
        before = work.names[int(runs.name[ends[-1]])] if ends.size else ""
        at = float(found.edges[first[i]]) - float(found.edges[0])
        waits.append(Wait(float(waited[i]), at, cause, before))
    return tuple(waits)


def lanes_of(work: Work, steps: int) -> tuple[Lane, ...]:
    """The streams of a GPU, the busiest first."""
    lanes = []
    word = np.where(work.is_kind("collective"), work.phase, work.kind)
    for stream, mine in by_number(work.stream):
        words, seconds = word[mine], (work.end - work.start)[mine]
        kinds = np.bincount(words, seconds)
        most = max(_by_first(words), key=lambda kind: kinds[kind])
        own = work.where(mine)
        edges = np.unique(np.concatenate((own.start, own.end)))
        busy = float(np.diff(edges)[_covered(edges, own, np.ones(mine.size, np.bool_))].sum())
        name = work.streams[stream][1]
        lanes.append(Lane(name, work.words[most], busy / steps, mine.size / steps))
    return tuple(sorted(lanes, key=lambda lane: -lane.seconds))


def longest_of(work: Work, steps: int) -> tuple[Longest, ...]:
    """Kernels by name, those that take longest first."""
    seconds = np.bincount(work.name, work.end - work.start)
    calls = np.bincount(work.name)
    order = [n for n in np.argsort(-seconds, kind="stable")[:_LONGEST].tolist() if calls[n]]
    return tuple(
        Longest(work.names[n], float(seconds[n]) / steps, int(calls[n]) / steps) for n in order
    )


def _by_first(numbers: I8) -> list[int]:
    """Each number once, in the order in which they come."""
    found, first = np.unique(numbers, return_index=True)
    ordered: list[int] = found[np.argsort(first)].tolist()
    return ordered


def _covered(edges: F8, work: Work, chosen: B1) -> B1:
    """Which stretches between edges some work covers. (edges - 1,) bool"""
    begun = np.bincount(np.searchsorted(edges, work.start[chosen]), minlength=edges.size)
    ended = np.bincount(np.searchsorted(edges, work.end[chosen]), minlength=edges.size)
    covered: B1 = np.cumsum(begun - ended)[:-1] > 0
    return covered
