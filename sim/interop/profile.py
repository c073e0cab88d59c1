"""One step of a profiler's trace, taken apart so that its parts add up to its time.

The stream that multiplies most is the clock: at each instant it runs a kernel, or it waits for a
collective, for other work on the GPU, or for the host. A kernel belongs to the phase in which the
host launched it: within the optimizer's step or after the last backward of a step, on a thread of
the autograd engine, or before. Our own traces say so among a kernel's arguments.

Source: the profiler's own marks, pytorch/kineto `tb_plugin` and torch/autograd/profiler.py
(``ProfilerStep#``, ``autograd::engine::evaluate_function``, ``Optimizer.step#``, ``correlation``).
"""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.errors import InputError
from sim.interop.kineto import (
    NO_KERNELS,
    Stream,
    collective_of,
    complete,
    device_of,
    distributed,
    kind_of,
    operation_of,
    world_of,
)
from sim.quantities import counted

F8 = npt.NDArray[np.float64]
B1 = npt.NDArray[np.bool_]

PHASES = ("forward", "backward", "update")
EXPOSED, BESIDE, IDLE = "exposed", "beside", "idle"
_STEP, _OPTIMIZER = "ProfilerStep#", "Optimizer.step#"
_BACKWARD = "autograd::engine::evaluate_function"
_LAUNCHES = ("cuda_runtime", "cuda_driver", "hip_runtime")
_ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
_OURS = {
    "forward": "forward", "recompute": "backward", "backward": "backward", "clip": "update",
    "optimizer": "update", "trainer": "update",
}  # fmt: skip
_LONGEST = 8


class Share(NamedTuple):
    """Part of a step: what the stream does, in which phase. Both of one step."""

    seconds: float
    calls: float


class Calls(NamedTuple):
    """All collectives of one kind and size."""

    op: str
    group_size: int
    size: float  # total bytes, as nccl-tests counts [B]
    calls: float  # of one step
    least_s: float
    median_s: float


class Longest(NamedTuple):
    """Kernels of one name, on all streams."""

    name: str
    seconds: float  # of one step
    calls: float


@dataclass(frozen=True, slots=True)
class Profile:
    """A step of one rank, in the mean of those in the trace.

    Attributes
    ----------
    source : str
        Where it was read.
    gpu : str
        As the trace names it; empty where it does not.
    rank, world_size : int
        Whose trace it is; 0 of 1 where it does not say.
    steps : int
        In the trace.
    step_s : float
        From the first kernel of a step to that of the next. [s]
    parts : mapping of (phase, kind) to Share
        They add up to `step_s`. Kinds are those of `kind_of`; and ``exposed`` with the operation
        in the place of the phase, ``beside`` and ``idle`` with nothing.
    phased : bool
        Whether the phases are known.
    """

    source: str
    gpu: str
    rank: int
    world_size: int
    steps: int
    step_s: float
    parts: Mapping[tuple[str, str], Share]
    phased: bool
    collectives: tuple[Calls, ...]
    longest: tuple[Longest, ...]
    notes: tuple[str, ...] = field(default=())


class _Work(NamedTuple):
    """A kernel or a copy on the GPU."""

    stream: Stream
    start: float
    end: float
    kind: str
    name: str
    phase: str
    step: int  # -1: outside


def profile_of(
    head: Mapping[str, Any], events: list[Any], source: str, *, steps: int | None = None
) -> Profile:
    """Take a trace apart.

    Parameters
    ----------
    head, events
        As `sim.interop.kineto.read_trace` gives them.
    source : str
        For messages.
    steps : int, optional
        In a trace that marks none.

    Raises
    ------
    InputError
        No kernels; no steps marked and none said; a part of a step alone.
    """
    shown = head.get("microSteps")
    if isinstance(shown, Mapping) and shown.get("shown") != shown.get("of"):
        message = f"has {shown.get('shown')} of {shown.get('of')} micro-steps; write it whole"
        raise InputError.single(source, f"{message}: scaling-sim trace --all-micro-steps")
    host = _Host(events)
    if host.marks and steps is not None:
        message = f"marks {counted(len(host.marks), 'step')} itself; leave --steps out"
        raise InputError.single(source, message)
    if not host.marks and steps is None:
        message = f"marks no steps ({_STEP}): say with --steps how many it has"
        raise InputError.single(source, message)
    work, sized, unsized = _work(events, host)
    if not any(w.kind != "copy" for w in work):
        raise InputError.single(source, NO_KERNELS)
    main = _main(work)
    mine = [w for w in work if w.stream[0] == main[0]]
    count = len(host.marks) or steps or 1
    begin, end = _span(mine, host)
    notes = [f"{unsized} collectives without their size"] if unsized else []
    if count == 1 and host.launches:
        notes.append("one step recorded: what starting the profiler costs is in it")
    whose = distributed(head).get("rank")
    return Profile(
        source=source,
        gpu=device_of(head),
        rank=whose if isinstance(whose, int) else 0,
        world_size=world_of(head),
        steps=count,
        step_s=(end - begin) / count,
        parts=_parts(mine, main, begin, end, count),
        phased=any(w.phase in PHASES for w in mine),
        collectives=tuple(
            Calls(*key, len(times) / count, min(times), statistics.median(times))
            for key, times in sorted(sized[main[0]].items())
        ),
        longest=_longest(mine, count),
        notes=tuple(notes),
    )


class _Host:
    """What the host's threads say of time: steps, backward, the optimizer, launches."""

    def __init__(self, events: list[Any]) -> None:
        marks: dict[str, tuple[float, float]] = {}
        backward: dict[Stream, list[tuple[float, float]]] = defaultdict(list)
        updates: dict[Stream, list[tuple[float, float]]] = defaultdict(list)
        self.launches: dict[int, tuple[Stream, float]] = {}
        leading: set[Stream] = set()
        for thread, name, category, start, duration, arguments in complete(events):
            if category in _LAUNCHES:
                number = arguments.get("correlation")
                if isinstance(number, int):
                    self.launches[number] = thread, start
            elif name.startswith(_BACKWARD):
                backward[thread].append((start, start + duration))
            elif category == "user_annotation" and name.startswith(_STEP):
                marks.setdefault(name, (start, start + duration))
                leading.add(thread)
            elif category == "user_annotation" and name.startswith(_OPTIMIZER):
                updates[thread].append((start, start + duration))
                leading.add(thread)
        self.marks = sorted(marks.values())
        self._begins = [start for start, _ in self.marks]
        self._engine = frozenset(backward) - leading  # threads that do nothing but backward
        self._backward = {thread: sorted(found) for thread, found in backward.items()}
        self._updates = {thread: sorted(found) for thread, found in updates.items()}
        self._last: dict[int, float] = {}  # step -> end of its last backward
        for found in backward.values():
            for start, end in found:
                at = self.step(start)
                self._last[at] = max(end, self._last.get(at, end))

    def step(self, time: float) -> int:
        """Which step an instant of the host is in; 0 where none are marked, -1 outside."""
        if not self.marks:
            return 0
        at = bisect_right(self._begins, time) - 1
        return at if at < len(self.marks) - 1 or time <= self.marks[-1][1] else -1

    def phase(self, thread: Stream, time: float) -> str:
        """Phase of what a thread launches at an instant; empty where nothing tells."""
        if not self._last:
            return ""
        if _within(self._updates.get(thread, ()), time):
            return "update"
        if thread in self._engine or _within(self._backward.get(thread, ()), time):
            return "backward"
        return "update" if time > self._last.get(self.step(time), np.inf) else "forward"


def _within(stretches: Sequence[tuple[float, float]], time: float) -> bool:
    """Whether one of some that do not overlap, by start, holds an instant."""
    at = bisect_right(stretches, (time, np.inf)) - 1
    return at >= 0 and time <= stretches[at][1]


_Sized = dict[str, dict[tuple[str, int, float], list[float]]]


def _work(events: list[Any], host: _Host) -> tuple[list[_Work], _Sized, int]:
    """What ran on GPUs in the steps, sized collectives by process, and how many have no size."""
    found: list[_Work] = []
    sized: _Sized = defaultdict(lambda: defaultdict(list))
    unsized = 0
    for stream, name, category, start, duration, arguments in complete(events):
        if category not in _ON_GPU:
            continue
        launch = host.launches.get(arguments.get("correlation", -1))
        step = host.step(launch[1] if launch else start)
        if step < 0:
            continue
        said = arguments.get("phase")
        phase = _OURS.get(said, "") if isinstance(said, str) else ""
        if not phase and launch:
            phase = host.phase(*launch)
        kind = kind_of(name, arguments) if category == "kernel" else "copy"
        if kind == "collective":
            key = collective_of(arguments)
            if key is None:
                unsized += 1
            else:
                sized[stream[0]][key].append(duration)
            phase = key[0] if key else operation_of(name, arguments)
        found.append(_Work(stream, start, start + duration, kind, name, phase, step))
    return found, sized, unsized


def _main(work: Sequence[_Work]) -> Stream:
    """The stream that multiplies most, or where none does is busiest."""
    busy: dict[Stream, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for w in work:
        if w.kind != "collective":
            busy[w.stream][0] += (w.end - w.start) * (w.kind == "gemm")
            busy[w.stream][1] += w.end - w.start
    return max(busy, key=lambda stream: busy[stream]) if busy else work[0].stream


def _span(work: Sequence[_Work], host: _Host) -> tuple[float, float]:
    """From the first kernel to the last; where the GPU's own clock has the marks, those. [s]"""
    begin, end = min(w.start for w in work), max(w.end for w in work)
    if host.marks and not host.launches:
        return min(begin, host.marks[0][0]), max(end, host.marks[-1][1])
    return begin, end


def _parts(
    work: Sequence[_Work], main: Stream, begin: float, end: float, steps: int
) -> dict[tuple[str, str], Share]:
    """Seconds and calls of a step by phase and kind, and what fills the stream's gaps."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    calls: Counter[tuple[str, str]] = Counter()
    reached = begin
    for w in sorted((w for w in work if _runs(w, main)), key=lambda w: w.start):
        key = w.phase, "other" if w.kind == "copy" else w.kind
        seconds[key] += max(0.0, w.end - max(w.start, reached))  # none counts twice
        calls[key] += 1
        reached = max(reached, w.end)
    edges = np.unique(np.array([begin, end, *(t for w in work for t in (w.start, w.end))]))
    length = np.diff(edges)
    free = ~_covered(edges, [w for w in work if _runs(w, main)])
    flights = [w for w in work if w.kind == "collective"]
    for op in dict.fromkeys(w.phase for w in flights):
        mine = free & _covered(edges, [w for w in flights if w.phase == op])
        seconds[op, EXPOSED] = float(length[mine].sum())
        calls[op, EXPOSED] = sum(w.phase == op for w in flights)
        free &= ~mine
    others = [w for w in work if w.kind != "collective" and w.stream != main]
    mine = free & _covered(edges, others)
    seconds["", BESIDE] = float(length[mine].sum())
    seconds["", IDLE] = float(length[free & ~mine].sum())
    return {key: Share(s / steps, calls[key] / steps) for key, s in seconds.items()}


def _runs(work: _Work, main: Stream) -> bool:
    return work.stream == main and work.kind != "collective"


def _covered(edges: F8, work: Sequence[_Work]) -> B1:
    """Which stretches between edges some work covers. (edges - 1,) bool"""
    change = np.zeros(edges.size)
    np.add.at(change, np.searchsorted(edges, [w.start for w in work]), 1.0)
    np.add.at(change, np.searchsorted(edges, [w.end for w in work]), -1.0)
    return np.cumsum(change)[:-1] > 0.5


def _longest(work: Sequence[_Work], steps: int) -> tuple[Longest, ...]:
    seconds: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for w in work:
        seconds[w.name] += w.end - w.start
        calls[w.name] += 1
    names = sorted(seconds, key=lambda name: -seconds[name])[:_LONGEST]
    return tuple(Longest(name, seconds[name] / steps, calls[name] / steps) for name in names)
