"""One step of a profiler's trace, taken apart so that its parts add up to its time.

What is kept of its events is in `sim.interop.recording`, what is done with the work found there in
`sim.interop.gpu_work`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sim.errors import InputError
from sim.interop.gpu_work import (
    B1,
    Lane,
    Longest,
    Wait,
    Work,
    WorkShare,
    by_number,
    lanes_of,
    longest_of,
    main_of,
    parts_of,
    stretches,
    waits_of,
)
from sim.interop.kineto import NO_KERNELS, device_of, distributed, world_of
from sim.interop.recording import PHASES, STEP, UNSIZED, Collectives, Recording
from sim.quantities import counted
from sim.records import NamedTuple


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
    parts : mapping of (phase, kind) to WorkShare
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
    head: Mapping[str, Any], events: Iterable[Any], source: str, *, steps: int | None = None
) -> Profile:
    """Take a trace apart.

    Parameters
    ----------
    head, events
        As `sim.interop.trace_file.read_trace` gives them; the events are taken once.
    source : str
        For messages.
    steps : int, optional
        In a trace that marks none.

    Raises
    ------
    InputError
        No kernels, or none that takes time; no steps marked and none said; a part of a step alone.
    """
    found = Recording(events)
    shown = head.get("microSteps")
    if isinstance(shown, Mapping) and shown.get("shown") != shown.get("of"):
        message = f"has {shown.get('shown')} of {shown.get('of')} micro-steps; write it whole"
        raise InputError.single(source, f"{message}: scaling-sim trace --all-micro-steps")
    if found.marks and steps is not None:
        message = f"marks {counted(len(found.marks), 'step')} itself; leave --steps out"
        raise InputError.single(source, message)
    if not found.marks and steps is None:
        message = f"marks no steps ({STEP}): say with --steps how many it has"
        raise InputError.single(source, message)
    work, collectives = found.work()
    if work.is_kind("copy").all():
        raise InputError.single(source, NO_KERNELS)
    main = main_of(work)
    process = work.streams[main][0]
    here = np.array([stream[0] == process for stream in work.streams])[work.stream]
    mine = work.where(here)
    count = len(found.marks) or steps or 1
    begin, end = _span(mine, found)
    if end <= begin:
        raise InputError.single(source, "its kernels take no time")
    filled = stretches(mine, main, begin, end)
    unsized = int((collectives.key == UNSIZED).sum())
    notes = [f"{unsized} collectives without their size"] if unsized else []
    if count == 1 and found.launches:
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
        phased=bool(np.isin(mine.phase, [mine.number(phase) for phase in PHASES]).any()),
        collectives=_calls(collectives, here, count),
        longest=longest_of(mine, count),
        lanes=lanes_of(mine, count),
        waits=waits_of(mine, main, filled),
        notes=tuple(notes),
    )


def _calls(all_: Collectives, here: B1, steps: int) -> tuple[CollectiveCalls, ...]:
    """Those of one GPU by kind and size, of one step."""
    found = []
    for key, mine in by_number(np.where(here, all_.key, UNSIZED)):
        if key >= 0:
            times = all_.seconds[mine]
            least, median = float(times.min()), float(np.median(times))
            found.append(CollectiveCalls(*all_.keys[key], mine.size / steps, least, median))
    return tuple(sorted(found))


def _span(work: Work, host: Recording) -> tuple[float, float]:
    """From the first kernel to the last; where the GPU's own clock has the marks, those. [s]"""
    begin, end = float(work.start.min()), float(work.end.max())
    if host.marks and not host.launches:
        return min(begin, host.marks[0][0]), max(end, host.marks[-1][1])
    return begin, end
