"""One step of a profiler's trace, taken apart so that its parts add up to its time.

What is done with the work found here is in `sim.interop.gpu_work`. A kernel belongs to the phase in
which the host launched it: within the optimizer's step or after the last backward of a step, on a
thread of the autograd engine, or before. Our own traces say so among a kernel's arguments.

Source: the profiler's own marks, pytorch/kineto `tb_plugin` and torch/autograd/profiler.py
(``ProfilerStep#``, ``autograd::engine::evaluate_function``, ``Optimizer.step#``, ``correlation``).
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sim.errors import InputError
from sim.interop.gpu_work import (
    Lane,
    Longest,
    Wait,
    Work,
    WorkShare,
    lanes_of,
    longest_of,
    main_of,
    parts_of,
    stretches,
    waits_of,
)
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

PHASES = ("forward", "backward", "update")
_STEP, _OPTIMIZER = "ProfilerStep#", "Optimizer.step#"
_BACKWARD = "autograd::engine::evaluate_function"
_LAUNCHES = ("cuda_runtime", "cuda_driver", "hip_runtime")
_ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
_OURS = {
    "forward": "forward", "recompute": "backward", "backward": "backward", "clip": "update",
    "optimizer": "update", "trainer": "update",
}  # fmt: skip


class CollectiveCalls(NamedTuple):
    """All collectives of one kind and size."""

    op: str
    group_size: int
    size: float  # total bytes, as nccl-tests counts [B]
    calls: float  # of one step
    least_s: float
    median_s: float


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
    lanes, waits
        Streams, and the longest times in which none of its kernels ran on the one that computes.
    """

    source: str
    gpu: str
    rank: int
    world_size: int
    steps: int
    step_s: float
    parts: Mapping[tuple[str, str], WorkShare]
    phased: bool
    collectives: tuple[CollectiveCalls, ...]
    longest: tuple[Longest, ...]
    lanes: tuple[Lane, ...]
    waits: tuple[Wait, ...]
    notes: tuple[str, ...] = field(default=())


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
    main = main_of(work)
    mine = [w for w in work if w.stream[0] == main[0]]
    count = len(host.marks) or steps or 1
    begin, end = _span(mine, host)
    filled = stretches(mine, main, begin, end)
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
        parts=parts_of(mine, main, filled, count),
        phased=any(w.phase in PHASES for w in mine),
        collectives=tuple(
            CollectiveCalls(*key, len(times) / count, min(times), statistics.median(times))
            for key, times in sorted(sized[main[0]].items())
        ),
        longest=longest_of(mine, count),
        lanes=lanes_of(mine, count),
        waits=waits_of(mine, main, filled),
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
        return "update" if time > self._last.get(self.step(time), math.inf) else "forward"


def _within(times: Sequence[tuple[float, float]], time: float) -> bool:
    """Whether one of some that do not overlap, by start, holds an instant."""
    at = bisect_right(times, (time, math.inf)) - 1
    return at >= 0 and time <= times[at][1]


_Sized = dict[str, dict[tuple[str, int, float], list[float]]]


def _work(events: list[Any], host: _Host) -> tuple[list[Work], _Sized, int]:
    """What ran on GPUs in the steps, sized collectives by process, and how many have no size."""
    found: list[Work] = []
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
        found.append(Work(stream, start, start + duration, kind, name, phase, step))
    return found, sized, unsized


def _span(work: Sequence[Work], host: _Host) -> tuple[float, float]:
    """From the first kernel to the last; where the GPU's own clock has the marks, those. [s]"""
    begin, end = min(w.start for w in work), max(w.end for w in work)
    if host.marks and not host.launches:
        return min(begin, host.marks[0][0]), max(end, host.marks[-1][1])
    return begin, end
