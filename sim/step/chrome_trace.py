"""A simulated step as a Chrome trace (Perfetto, chrome://tracing), and its collectives as rows.

The trace has the keys that PyTorch's profiler writes (``cat: kernel``, ``Collective name``,
``In msg nelems`` ...), so that tools for profiler traces read it too, `sim.interop.kineto` among
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sim.blocks.kernels import Kernel
from sim.blocks.unroll import Templates, unroll
from sim.blocks.update import clip_kernels, optimizer_kernels, shard_of
from sim.cost.collectives import CollectiveCost
from sim.cost.nccl.algorithms import algorithm_named
from sim.documents import SCHEMAS, Document, dumps
from sim.errors import InputError
from sim.inputs.rows import as_run
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.costs import name_of
from sim.lowering.lower import Lowered, RankView
from sim.lowering.parts import CATEGORIES
from sim.program import Timeline
from sim.step.breakdown import Breakdown
from sim.step.critical import critical_path
from sim.step.run import StepOutcome, run_step
from sim.step.stages import stage_runs
from sim.step.trace_marks import marks, placed
from sim.step.variation import Variation
from sim.strategies.plan import COLLECTIVE, SEGMENT, Plan, PlanOp, runs
from sim.units import DTYPE_BYTES

_TORCH_NAMES = {
    "all_gather": "_allgather_base",
    "reduce_scatter": "_reduce_scatter_base",
    "all_reduce": "allreduce",
    "all_to_all": "all_to_allv",
    "broadcast": "broadcast",
    "send_recv": "send",
    "send": "send",
}
_NCCL_NAMES = {
    "all_gather": "AllGather", "reduce_scatter": "ReduceScatter", "all_reduce": "AllReduce",
    "all_to_all": "SendRecv", "broadcast": "Broadcast", "send_recv": "SendRecv",
    "send": "SendRecv",
}  # fmt: skip
_DTYPES = {
    "bf16": "BFloat16", "fp16": "Half", "fp32": "Float", "fp8": "Float8_e4m3fn", "int8": "Char",
    "uint8": "Byte",
}  # fmt: skip
_HOST = CATEGORIES.index("host")
_COLLECTIVE = CATEGORIES.index("collective")
_MICRO = 1e6
_MOST_OPS = 400_000  # of a trace that nobody asked to be whole: 100 MB
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
        lowered, timeline = self.outcome.lowered, self.outcome.timeline
        shown = self._views()
        numbers = frozenset(number for number, _ in shown)
        events = [e for e in (*_names(lowered), *self._steps()) if e["pid"] in numbers]
        path = critical_path(lowered.program, timeline)
        critical = frozenset(path)
        for number, view in shown:
            events += _kernels(self.outcome, number, self.workload, critical)
            events += _collectives(self.outcome, view, number, critical)
            events += marks(self.outcome, view, number, self.workload)
        if lowered.views[0].plan.stages > 1:
            events += _pipeline(self.outcome, self.workload, len(lowered.views))
        world = sum(view.multiplicity for view in lowered.views)
        return {
            "schemaVersion": 1,
            "traceName": self.title,
            "displayTimeUnit": "ms",
            "distributedInfo": {"backend": "nccl", "rank": 0, "world_size": world},
            "microSteps": {"shown": self.shown, "of": self.micro_steps},
            "pace": pace(self.outcome.breakdown),
            "criticalPath": _shares(lowered, timeline, path),
            "traceEvents": events,
        }

    def to_json(self, indent: int | None = None) -> str:
        """The trace as profilers write it, without white space."""
        return dumps(self.to_dict(), indent, compact=indent is None)

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
            yield _event(name, "user_annotation", number, 0, 0.0, end, {})

    def records(self) -> Sequence[Mapping[str, Any]]:
        """Collectives of the slowest rank in the order of issue; bytes are per rank, times in s."""
        return collectives(self.outcome)


def traced(
    topology: Topology, workload: Workload, variation: Variation, level: str | None,
    all_micro_steps: bool | None, ranks: tuple[int, ...],
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
    job = as_run(workload, world)
    outcome = run_step(
        topology, job, level=level, all_micro_steps=bool(all_micro_steps), variation=variation
    )
    steps = job.gradient_accumulation
    if all_micro_steps is None and outcome.repeats:
        ops = outcome.lowered.program.lane.size * steps / (steps - outcome.repeats)
        if ops <= _MOST_OPS:
            outcome = run_step(
                topology, job, level=level, all_micro_steps=True, variation=variation
            )
    return Trace(outcome, job, f"{job.name} on {topology.name}", ranks, steps)


def _lanes(lowered: Lowered, view: RankView) -> range:
    """Lanes of one class of ranks; pipeline stages have different ones."""
    prefix = f"rank {view.rank} "
    own = [i for i, name in enumerate(lowered.lane_names) if name.startswith(prefix)]
    return range(own[0], own[-1] + 1)


def _names(lowered: Lowered) -> Iterator[dict[str, Any]]:
    for number, view in enumerate(lowered.views):
        alike = f" (and {view.multiplicity - 1} like it)" if view.multiplicity > 1 else ""
        yield _meta("process_name", number, 0, name=f"rank {view.rank}{alike}")
        yield _meta("process_sort_index", number, 0, sort_index=number)
        for k, lane in enumerate(_lanes(lowered, view)):
            name = lowered.lane_names[lane].split(" ", 2)[2]
            yield _meta("thread_name", number, k, name=name)
            yield _meta("thread_sort_index", number, k, sort_index=k)


def _meta(kind: str, process: int, thread: int, **arguments: object) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": arguments}


def _event(
    name: str, category: str, process: int, thread: int, start: float, end: float,
    arguments: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    return {
        "ph": "X", "cat": category, "name": name, "pid": process, "tid": thread,
        **placed(start, end), "args": arguments,
    }  # fmt: skip


def pace(breakdown: Breakdown) -> float:
    """How much longer the kernels of a trace are than a usual rank's: it is the slowest's."""
    usual = breakdown.compute_s - breakdown.waiting_s
    return breakdown.compute_s / usual if usual > 0.0 else 1.0


def _shares(lowered: Lowered, timeline: Timeline, path: Sequence[int]) -> dict[str, float]:
    """Seconds of the critical path by what its ops are, the longest first; they make the step."""
    seconds = np.bincount(
        lowered.category[path], timeline.end[path] - timeline.start[path], len(CATEGORIES)
    )
    found = {name: float(s) for name, s in zip(CATEGORIES, seconds, strict=True) if s > 0.0}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _kernels(
    outcome: StepOutcome, number: int, workload: Workload, critical: frozenset[int]
) -> Iterator[dict[str, Any]]:
    """Everything of one rank but collectives: host launches, kernels, copies."""
    lowered, timeline = outcome.lowered, outcome.timeline
    lanes, lane = _lanes(lowered, lowered.views[number]), lowered.program.lane
    mine = np.flatnonzero((lane >= lanes.start) & (lane < lanes.stop))
    mine = mine[
        (lowered.category[mine] != _COLLECTIVE) & (timeline.end[mine] > timeline.start[mine])
    ]
    plan = lowered.views[number].plan
    names = _KernelNames(plan, workload)
    first: dict[tuple[int, int], int] = {}
    for i in mine.tolist():
        thread = int(lane[i]) - lanes.start
        at = int(lowered.plan_op[i])
        place = i - first.setdefault((thread, at), i)
        op = plan.ops[at]
        kind = CATEGORIES[int(lowered.category[i])]
        arguments: dict[str, Any] = {"phase": op.phase, "micro_step": op.micro_step}
        if i in critical:
            arguments["critical"] = True
        if op.unit or op.block >= 0:
            arguments["unit"] = op.unit or f"block {op.block}"
        if int(lowered.category[i]) == _HOST:
            yield _event(
                f"launch {op.name}", "cuda_runtime", number, thread,
                float(timeline.start[i]), float(timeline.end[i]), arguments,
            )  # fmt: skip
            continue
        arguments["kind"] = kind
        arguments["alone us"] = round(float(lowered.alone_s[i]) * _MICRO, 4)
        name = f"{kind} {names.of(at, place) or op.name}"
        yield _event(
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
            kernels = self._segment(op)
            self._known[key] = tuple(
                f"{k.name} {k.direction}" for k in kernels if runs(op.module, k.module)
            )
        names = self._known[key]
        return names[place] if place < len(names) else ""

    def _segment(self, op: PlanOp) -> tuple[Kernel, ...]:
        if op.name in ("optimizer", "clip"):
            plan = self._plan
            shard = shard_of(self._workload, plan.owned_numel, plan.owned_tensors)
            if op.name == "clip":
                return tuple(clip_kernels(shard))
            return tuple(optimizer_kernels(self._workload, shard))
        layers = self._templates.layer_kinds
        kind = "head"
        if op.block <= 0:
            kind = "embedding" if op.block == 0 else "root"
        elif op.block <= len(layers):
            kind = layers[op.block - 1]
        return tuple(self._templates.of(kind, op.name))


def _collectives(
    outcome: StepOutcome, view: RankView, number: int, critical: frozenset[int]
) -> Iterator[dict[str, Any]]:
    """Collectives of one rank, from the start on the wire to the end."""
    lowered, timeline = outcome.lowered, outcome.timeline
    lanes = _lanes(lowered, view)
    for k in range(len(view.comm_kind)):
        begin, end = int(view.comm_begin[k]), int(view.comm_end[k])
        op = view.plan.ops[int(view.comm_plan[k])]
        cost = cost_of(outcome, view.plan, op)
        arguments = _described(op, cost, view.comm_label[k])
        arguments["waits us"] = round(
            float(timeline.start[end] - timeline.start[begin]) * _MICRO if begin != end else 0.0, 4
        )
        if begin in critical or end in critical:
            arguments["critical"] = True
        name = f"ncclDevKernel_{_NCCL_NAMES[op.collective]}"
        if cost is not None and cost.channels and algorithm_named(cost.algorithm).in_kernel_name:
            name += f"_{cost.algorithm.upper()}_{cost.protocol.upper()}"
        thread = int(lowered.program.lane[begin]) - lanes.start
        yield _event(
            name, "kernel", number, thread, float(timeline.start[begin]), float(timeline.end[end]),
            arguments,
        )  # fmt: skip


def _pipeline(outcome: StepOutcome, workload: Workload, process: int) -> Iterator[dict[str, Any]]:
    """What the ranks of a pipeline compute, action by action; between them they wait."""
    yield _meta("process_name", process, 0, name="pipeline")
    yield _meta("process_sort_index", process, 0, sort_index=-1)
    named: set[int] = set()
    for run in stage_runs(outcome, workload):
        if run.rank not in named:
            named.add(run.rank)
            yield _meta("thread_name", process, run.rank, name=f"rank {run.rank}")
            yield _meta("thread_sort_index", process, run.rank, sort_index=run.rank)
        arguments = {"stage": run.stage, "micro_batch": run.micro_batch}
        yield _event(
            run.name, "user_annotation", process, run.rank, run.start_s, run.end_s, arguments
        )


def cost_of(outcome: StepOutcome, plan: Plan, op: PlanOp) -> CollectiveCost | None:
    """What a collective of a plan was priced at; None for one that moves nothing."""
    return outcome.priced.collectives.get(name_of(plan, op))


def _described(op: PlanOp, cost: CollectiveCost | None, label: str) -> dict[str, Any]:
    kind = op.dtype if op.dtype in _DTYPES else "uint8"
    dtype, width = _DTYPES[kind], DTYPE_BYTES[kind]
    found: dict[str, Any] = {
        "Collective name": _TORCH_NAMES[op.collective],
        "In msg nelems": round(op.bytes_in / width),
        "Out msg nelems": round(op.bytes_out / width),
        "dtype": dtype,
        "Process Group Name": op.group,
        "bytes in": op.bytes_in,
        "bytes out": op.bytes_out,
        "unit": op.unit,
        "phase": op.phase,
        "label": label,
    }
    if cost is not None:
        found["Group size"] = cost.ranks
        found["algorithm"] = cost.algorithm
        found["protocol"] = cost.protocol
        found["channels"] = cost.channels
        found["alone us"] = round(cost.time_s * _MICRO, 4)
        found["busbw alone GB/s"] = round(cost.busbw_bytes_per_s / 1e9, 3)
    return found


def collectives(outcome: StepOutcome) -> list[dict[str, Any]]:
    """Collectives of the slowest rank in the order of issue; bytes are per rank, times in s."""
    lowered, timeline = outcome.lowered, outcome.timeline
    view = max(lowered.views, key=lambda v: float(timeline.end[v.compute].max()))
    rows = []
    for k in range(len(view.comm_kind)):
        op = view.plan.ops[int(view.comm_plan[k])]
        cost = cost_of(outcome, view.plan, op)
        assert op.kind == COLLECTIVE
        rows.append(
            {
                "order": k,
                "op": op.collective,
                "phase": op.phase,
                "unit": op.unit,
                "bytes_in": op.bytes_in,
                "bytes_out": op.bytes_out,
                "dtype": op.dtype,
                "group": op.group,
                "group_size": cost.ranks if cost else view.plan.groups[op.group].size,
                "algorithm": cost.algorithm if cost else "",
                "protocol": cost.protocol if cost else "",
                "start_s": float(timeline.start[int(view.comm_begin[k])]),
                "end_s": float(timeline.end[int(view.comm_end[k])]),
                "alone_s": cost.time_s if cost else None,
            }
        )
    return rows
