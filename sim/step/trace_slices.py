"""Slices of a Chrome trace: what each rank runs but collectives, and the actions of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from sim.blocks.unroll import Templates, unroll
from sim.inputs.workload import Workload
from sim.lowering.lowered import Lowered
from sim.lowering.parts import CATEGORIES
from sim.lowering.pricing import segment_kernels
from sim.step.outcome import StepOutcome
from sim.step.stages import stage_runs
from sim.step.trace_events import event, meta
from sim.strategies.plan import SEGMENT, Plan, runs

_HOST = CATEGORIES.index("host")
_COLLECTIVE = CATEGORIES.index("collective")
_MICRO = 1e6
_TOGETHER = 1 << 16  # ops whose numbers are Python objects at a time


def titles(lowered: Lowered) -> Iterator[dict[str, Any]]:
    """Names of the ranks, a process each, and of their streams."""
    for number, view in enumerate(lowered.views):
        alike = f" (and {view.multiplicity - 1} like it)" if view.multiplicity > 1 else ""
        yield meta("process_name", number, 0, name=f"rank {view.rank}{alike}")
        yield meta("process_sort_index", number, 0, sort_index=number)
        for k, lane in enumerate(lowered.lanes_of(view)):
            name = lowered.stream_of(lane)
            yield meta("thread_name", number, k, name=name)
            yield meta("thread_sort_index", number, k, sort_index=k)


def kernels(
    outcome: StepOutcome, number: int, workload: Workload, critical: bytes
) -> Iterator[dict[str, Any]]:
    """Everything of one rank but collectives: host launches, kernels, copies.

    `critical` has a byte an op, 1 on the critical path.
    """
    lowered, timeline = outcome.lowered, outcome.timeline
    lanes, lane = lowered.lanes_of(lowered.views[number]), lowered.program.lane
    mine = np.flatnonzero((lane >= lanes.start) & (lane < lanes.stop))
    mine = mine[
        (lowered.category[mine] != _COLLECTIVE) & (timeline.end[mine] > timeline.start[mine])
    ]
    plan = lowered.views[number].plan
    names = _KernelNames(plan, workload)
    first: dict[tuple[int, int], int] = {}
    parts = (mine[at : at + _TOGETHER].tolist() for at in range(0, mine.size, _TOGETHER))
    for i in chain.from_iterable(parts):
        thread = int(lane[i]) - lanes.start
        at = int(lowered.plan_op[i])
        place = i - first.setdefault((thread, at), i)
        op = plan.ops[at]
        kind = CATEGORIES[int(lowered.category[i])]
        arguments: dict[str, Any] = {"phase": op.phase, "micro_step": op.micro_step}
        if critical[i]:
            arguments["critical"] = True
        if op.unit or op.block >= 0:
            arguments["unit"] = op.unit or f"block {op.block}"
        if int(lowered.category[i]) == _HOST:
            yield event(
                f"launch {op.name}", "cuda_runtime", number, thread,
                float(timeline.start[i]), float(timeline.end[i]), arguments,
            )  # fmt: skip
            continue
        arguments["kind"] = kind
        arguments["alone us"] = round(float(lowered.alone_s[i]) * _MICRO, 4)
        name = f"{kind} {names.of(at, place) or op.name}"
        yield event(
            name, "kernel", number, thread, float(timeline.start[i]), float(timeline.end[i]),
            arguments,
        )  # fmt: skip


class _KernelNames:
    """Names of the kernels of a plan op, in order."""

    def __init__(self, plan: Plan, workload: Workload) -> None:
        self._plan, self._workload = plan, workload
        self._templates: Templates = unroll(workload)
        self._known: dict[tuple[str, int, str], tuple[str, ...]] = {}

    def of(self, at: int, place: int) -> str:
        """Name of a kernel; empty where the op is none of the model's."""
        op = self._plan.ops[at]
        if op.kind != SEGMENT:
            return ""
        key = op.name, op.block, op.module
        if key not in self._known:
            kernels = segment_kernels(self._workload, self._plan, self._templates, op)
            self._known[key] = tuple(
                f"{k.name} {k.direction}" for k in kernels if runs(op.module, k.module)
            )
        names = self._known[key]
        return names[place] if place < len(names) else ""


def pipeline(outcome: StepOutcome, workload: Workload, process: int) -> Iterator[dict[str, Any]]:
    """What the ranks of a pipeline compute, action by action; between them they wait."""
    yield meta("process_name", process, 0, name="pipeline")
    yield meta("process_sort_index", process, 0, sort_index=-1)
    named: set[int] = set()
    for run in stage_runs(outcome, workload):
        if run.rank not in named:
            named.add(run.rank)
            yield meta("thread_name", process, run.rank, name=f"rank {run.rank}")
            yield meta("thread_sort_index", process, run.rank, sort_index=run.rank)
        arguments = {"stage": run.stage, "micro_batch": run.micro_batch}
        yield event(
            run.name, "user_annotation", process, run.rank, run.start_s, run.end_s, arguments
        )
