"""A simulated step as a Chrome trace (Perfetto, chrome://tracing), and its collectives as rows.

The trace has the keys that PyTorch's profiler writes (``cat: kernel``, ``Collective name``,
``In msg nelems`` ...), so that tools for profiler traces read it too, `sim.interop.kineto` among
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sim.documents import SCHEMAS, Document, dumps
from sim.errors import InputError
from sim.inputs.rows import run_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.lowered import Lowered, RankView
from sim.lowering.parts import CATEGORIES
from sim.program import Timeline
from sim.quantities import gib
from sim.step.bounds import most_bytes
from sim.step.breakdown import Breakdown
from sim.step.critical import critical_path
from sim.step.cycling import few_of
from sim.step.outcome import StepOutcome
from sim.step.rhythm import fewest
from sim.step.run import run_step
from sim.step.trace_collectives import COLLECTIVE_KEYS, collective_rows, wires
from sim.step.trace_events import event
from sim.step.trace_marks import marks
from sim.step.trace_slices import kernels, pipeline, titles
from sim.step.variation import Progress, Variation

I8 = npt.NDArray[np.int64]

_MOST_OPS = 400_000  # of a trace that nobody asked to be whole: 100 MB
_EVENT_BYTES = 1000  # of an op as text, several times over on its way out, as measured [B]
_TOGETHER = 20_000  # events that are written between two words of progress
_SOURCE = "trace"


@dataclass(frozen=True, slots=True)
class Trace(Document):
    """A simulated step as a Chrome trace; `records` are its collectives in the order of issue.

    Attributes
    ----------
    outcome : StepOutcome
        What was run; all its simulated micro-steps are in the trace.
    workload : Workload
        For the names of its kernels.
    title : str
        Name of the trace.
    ranks : tuple of int
        Those that are written; empty: all, equal ones once.
    micro_steps : int
        Of the job. Where fewer were simulated the trace says so, and marks no whole step.
    """

    schema: ClassVar[str] = SCHEMAS["trace"]

    outcome: StepOutcome
    workload: Workload
    title: str = ""
    ranks: tuple[int, ...] = ()
    micro_steps: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Events in microseconds, one process a rank (class), a thread a stream.

        A pipeline is a process of its own too, with a thread a rank of it.
        """
        path = critical_path(self.outcome.lowered.program, self.outcome.timeline)
        return self._head(path) | {"traceEvents": list(self._events(path))}

    def to_json(self, indent: int | None = None, progress: Progress | None = None) -> str:
        """The trace as profilers write it, without white space.

        `progress` is called with events written and about how many there are.

        Raises
        ------
        InputError
            It needs more memory than there is to spare; `parts` do not.
        """
        if indent is not None:
            return dumps(self.to_dict(), indent)
        ops = self._ops()
        needed = ops * _EVENT_BYTES
        if needed > (most := most_bytes(needed)):
            message = (
                f"the timeline of {ops:,} ops needs {gib(needed)} of memory, more than "
                f"{gib(most)}; take fewer micro-steps, or some of its ranks"
            )
            raise InputError.single(_SOURCE, message)
        return "".join(self.parts(progress))

    def parts(self, progress: Progress | None = None) -> Iterator[str]:
        """The text of `to_json` as it is made, some thousand events at a time."""
        ops, done = self._ops(), 0
        path = critical_path(self.outcome.lowered.program, self.outcome.timeline)
        yield dumps(self._head(path), None, compact=True)[:-1] + ',"traceEvents":['
        events = self._events(path)
        while some := list(islice(events, _TOGETHER)):
            yield "," * bool(done) + dumps(some, None, compact=True)[1:-1]
            done += len(some)
            if progress is not None and ops >= _TOGETHER:
                progress(done, max(done, ops))
        yield "]}"

    def _events(self, path: I8) -> Iterator[dict[str, Any]]:
        """Slices and names, a rank after another; `path` is the critical one."""
        lowered, shown = self.outcome.lowered, self._views()
        numbers = frozenset(number for number, _ in shown)
        yield from (e for e in (*titles(lowered), *self._steps()) if e["pid"] in numbers)
        on_path = np.zeros(lowered.program.lane.size, np.uint8)
        on_path[path] = 1
        critical = on_path.tobytes()
        for number, view in shown:
            yield from kernels(self.outcome, number, self.workload, critical)
            yield from wires(self.outcome, view, number, critical)
            yield from marks(self.outcome, view, number, self.workload)
        if lowered.views[0].plan.stages > 1:
            yield from pipeline(self.outcome, self.workload, len(lowered.views))

    def _head(self, path: I8) -> dict[str, Any]:
        """What is said before the events."""
        lowered, shown = self.outcome.lowered, self._views()
        world = sum(view.multiplicity for view in lowered.views)
        return {
            "schemaVersion": 1,
            "traceName": self.title,
            "displayTimeUnit": "ms",
            "distributedInfo": {"backend": "nccl", "rank": shown[0][1].rank, "world_size": world},
            "microSteps": {"shown": self.shown, "of": self.micro_steps},
            "pace": _pace(self.outcome.breakdown),
            "criticalPath": _shares(lowered, self.outcome.timeline, path),
        }

    def _ops(self) -> int:
        """Of the ranks that are written. [1]"""
        lowered = self.outcome.lowered
        each = np.bincount(lowered.program.lane, minlength=len(lowered.lane_names))
        return sum(int(each[lowered.lanes_of(view)].sum()) for _, view in self._views())

    def memory_snapshot(self) -> dict[str, Any]:
        """Allocations of the step as PyTorch's snapshot, a device a rank that is shown.

        Pickled it opens at https://pytorch.org/memory_viz.
        """
        from sim.step.snapshot import memory_snapshot

        return memory_snapshot(self.outcome, [view for _, view in self._views()], self.workload)

    def _views(self) -> list[tuple[int, RankView]]:
        """Ranks that are written, with their numbers."""
        return [
            (number, view)
            for number, view in enumerate(self.outcome.lowered.views)
            if not self.ranks or view.rank in self.ranks
        ]

    @property
    def shown(self) -> int:
        """Micro-steps in it; those that are missing are like the one in the middle."""
        return self.micro_steps - self.outcome.repeats

    def _steps(self) -> Iterator[dict[str, Any]]:
        """What profilers mark a step with; no step where one of its parts is missing."""
        end = float(self.outcome.timeline.end.max())
        name = "ProfilerStep#0"
        if self.shown < self.micro_steps:
            name = f"{self.shown} of {self.micro_steps} micro-steps"
        for number in range(len(self.outcome.lowered.views)):
            yield event(name, "user_annotation", number, 0, 0.0, end, {})

    def records(self) -> Sequence[Mapping[str, Any]]:
        """Collectives of the slowest rank in the order of issue; bytes are per rank, times in s."""
        return collective_rows(self.outcome)

    def heads(self) -> Sequence[str]:
        """As its records have them."""
        return COLLECTIVE_KEYS


def traced(
    topology: Topology, workload: Workload, variation: Variation, level: str | None,
    all_micro_steps: bool | None, ranks: tuple[int, ...], progress: Progress | None = None,
) -> Trace:  # fmt: skip
    """Simulate a step and trace it; arguments as for `sim.trace`.

    Raises
    ------
    InputError
        A rank that the machine has not.
    """
    world = topology.world_size
    beyond = [rank for rank in ranks if not 0 <= rank < world]
    if beyond:
        raise InputError.single(_SOURCE, f"{beyond[0]} is none of ranks 0 to {world - 1}", "ranks")
    level = "ranks" if ranks and level is None else variation.level(level)
    job = run_on(topology, workload)
    steps, few = job.gradient_accumulation, None
    if not all_micro_steps and few_of(job) is not None:
        few = fewest(job)  # cycle after cycle: two show how it begins and ends
    outcome = run_step(
        topology, few or job, level=level, all_micro_steps=bool(all_micro_steps or few),
        variation=variation, progress=progress,
    )  # fmt: skip
    if few is not None:
        outcome = replace(outcome, repeats=steps - few.gradient_accumulation)
    if all_micro_steps is None and outcome.repeats:
        ops = outcome.lowered.program.lane.size * steps / (steps - outcome.repeats)
        if ops <= _MOST_OPS:
            outcome = run_step(
                topology, job, level=level, all_micro_steps=True, variation=variation
            )
    return Trace(outcome, job, f"{job.name} on {topology.name}", ranks, steps)


def _pace(breakdown: Breakdown) -> float:
    """How much longer the kernels of a trace are than a usual rank's: it is the slowest's."""
    usual = breakdown.compute_s - breakdown.waiting_s
    return breakdown.compute_s / usual if usual > 0.0 else 1.0


def _shares(lowered: Lowered, timeline: Timeline, path: I8) -> dict[str, float]:
    """Seconds of the critical path by what its ops are, the longest first; they make the step."""
    seconds = np.bincount(
        lowered.category[path], timeline.end[path] - timeline.start[path], len(CATEGORIES)
    )
    found = {name: float(s) for name, s in zip(CATEGORIES, seconds, strict=True) if s > 0.0}
    return dict(sorted(found.items(), key=lambda item: -item[1]))
