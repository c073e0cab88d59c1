"""What a trace says beside its slices: arrows, counters, exposed and critical stretches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sim.inputs.workload import Workload
from sim.lowering.lowered import RankView
from sim.step.outcome import StepOutcome
from sim.step.spans import critical_stretches, exposed_stretches, held_bytes, tracks_of
from sim.step.trace_events import event, instant, meta
from sim.strategies.plan import COLLECTIVE

#: threads below those of the streams
EXPOSED, CRITICAL = 900, 901
NAMES = {EXPOSED: "exposed communication", CRITICAL: "critical path"}


def marks(
    outcome: StepOutcome, view: RankView, number: int, workload: Workload
) -> Iterator[dict[str, Any]]:
    """Everything of one rank that is no slice of a stream.

    Parameters
    ----------
    outcome : StepOutcome
        What was run.
    view : RankView
        The rank.
    number : int
        Of its process in the trace.
    workload : Workload
        The job, for its memory.
    """
    yield from _stretches(outcome, view, number)
    yield from _arrows(outcome, view, number)
    yield from _memory(outcome, view, number, workload)
    yield from _traffic(outcome, view, number)


def _stretches(outcome: StepOutcome, view: RankView, number: int) -> Iterator[dict[str, Any]]:
    lowered, timeline = outcome.lowered, outcome.timeline
    end = float(timeline.end.max())
    for thread, name in NAMES.items():
        yield meta("thread_name", number, thread, name=name)
        yield meta("thread_sort_index", number, thread, sort_index=thread)
    for start, stop in exposed_stretches(outcome, view, end):
        yield event("exposed", "user_annotation", number, EXPOSED, start, stop, {})
    for track, start, stop in critical_stretches(lowered, timeline, view, end):
        yield event(track, "user_annotation", number, CRITICAL, start, stop, {})


def _arrows(outcome: StepOutcome, view: RankView, number: int) -> Iterator[dict[str, Any]]:
    """From each launch to what it launches, and from a collective to what waits for it."""
    lowered = outcome.lowered
    threads = _threads(outcome, view)
    host = threads.get("host", (-1, 0))[0]
    first: dict[int, int] = {}  # plan op -> its first op on a stream
    last: dict[int, int] = {}
    launched: dict[int, int] = {}
    for lane, _ in threads.values():
        for i in np.flatnonzero(lowered.program.lane == lane).tolist():
            at = int(lowered.plan_op[i])
            if lane == host:
                launched[at] = i
            else:
                first.setdefault(at, i)
                last[at] = i
    where = dict(threads.values())
    lanes, arrows = lowered.program.lane, 0
    for at, i in first.items():
        if at in launched:
            yield from _arrow("launch", at, number, (launched[at], i), where, outcome)
    for at, op in enumerate(view.plan.ops):
        for dep in op.deps:
            if view.plan.ops[dep].kind != COLLECTIVE or at not in first or dep not in last:
                continue
            ends = last[dep], first[at]
            if lanes[ends[0]] != lanes[ends[1]]:
                yield from _arrow("wait", arrows, number, ends, where, outcome)
                arrows += 1


def _arrow(
    name: str, key: int, number: int, ends: tuple[int, int], where: dict[int, int],
    outcome: StepOutcome,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    lowered, timeline = outcome.lowered, outcome.timeline
    a, b = ends
    # an arrow leaves within the slice it starts at
    leaves = float(timeline.start[a]) if name == "launch" else float(timeline.end[a])
    for phase, op, time in (("s", a, leaves), ("f", b, float(timeline.start[b]))):
        arrow = {
            "ph": phase, "cat": name, "name": name, "id": f"{number}.{name}.{key}", "pid": number,
            "tid": where[int(lowered.program.lane[op])], "ts": instant(time),
        }  # fmt: skip
        yield arrow | ({"bp": "e"} if phase == "f" else {})


def _threads(outcome: StepOutcome, view: RankView) -> dict[str, tuple[int, int]]:
    """Lane and thread of each stream of a rank."""
    base = outcome.lowered.lanes_of(view).start
    tracks = tracks_of(outcome.lowered, view)
    return {name: (lane, lane - base) for name, lane in tracks.items()}


def _memory(
    outcome: StepOutcome, view: RankView, number: int, workload: Workload
) -> Iterator[dict[str, Any]]:
    """Live bytes by category. [GiB]"""
    for held in held_bytes(outcome, view, workload):
        yield {
            "ph": "C", "name": "memory GiB", "pid": number, "ts": instant(held.time_s),
            "args": {name: round(size / 2**30, 4) for name, size in held.by_category.items()},
        }  # fmt: skip


def _traffic(outcome: StepOutcome, view: RankView, number: int) -> Iterator[dict[str, Any]]:
    """What the collectives in flight move, in the mean of each. [GB/s]"""
    timeline = outcome.timeline
    start, end = timeline.start[view.comm_begin], timeline.end[view.comm_end]
    long = end > start
    rate = np.where(long, view.comm_bytes / np.where(long, end - start, 1.0), 0.0) / 1e9
    times = np.concatenate((start[long], end[long]))
    steps = np.concatenate((rate[long], -rate[long]))
    order = np.argsort(times, kind="stable")
    total = np.cumsum(steps[order])
    for time, value in zip(times[order].tolist(), total.tolist(), strict=True):
        yield {
            "ph": "C", "name": "collectives GB/s", "pid": number, "ts": instant(time),
            "args": {"in flight": round(max(value, 0.0), 3)},
        }  # fmt: skip
