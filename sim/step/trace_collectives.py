"""Collectives of a step: slices of a Chrome trace as PyTorch's profiler names them, and rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sim.cost.collectives import CollectiveCost
from sim.cost.nccl.algorithms import algorithm_named
from sim.documents import OneByOne
from sim.lowering.lowered import RankView
from sim.step.outcome import StepOutcome
from sim.step.trace_events import event
from sim.strategies.plan import PlanOp
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
_MICRO = 1e6


def wires(
    outcome: StepOutcome, view: RankView, number: int, critical: bytes
) -> Iterator[dict[str, Any]]:
    """Collectives of one rank, from the start on the wire to the end; `critical` as `kernels`."""
    lowered, timeline = outcome.lowered, outcome.timeline
    lanes = lowered.lanes_of(view)
    for k in range(len(view.comm_kind)):
        begin, end = int(view.comm_begin[k]), int(view.comm_end[k])
        op = view.plan.ops[int(view.comm_plan[k])]
        cost = outcome.priced.cost_of(view.plan, op)
        arguments = _described(op, cost, view.comm_label[k])
        arguments["waits us"] = round(
            float(timeline.start[end] - timeline.start[begin]) * _MICRO if begin != end else 0.0, 4
        )
        if critical[begin] or critical[end]:
            arguments["critical"] = True
        name = f"ncclDevKernel_{_NCCL_NAMES[op.collective]}"
        if cost.channels and algorithm_named(cost.algorithm).in_kernel_name:
            name += f"_{cost.algorithm.upper()}_{cost.protocol.upper()}"
        thread = int(lowered.program.lane[begin]) - lanes.start
        yield event(
            name, "kernel", number, thread, float(timeline.start[begin]), float(timeline.end[end]),
            arguments,
        )  # fmt: skip


def _described(op: PlanOp, cost: CollectiveCost, label: str) -> dict[str, Any]:
    kind = op.dtype if op.dtype in _DTYPES else "uint8"
    dtype, width = _DTYPES[kind], DTYPE_BYTES[kind]
    return {
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
        "Group size": cost.ranks,
        "algorithm": cost.algorithm,
        "protocol": cost.protocol,
        "channels": cost.channels,
        "alone us": round(cost.time_s * _MICRO, 4),
        "busbw alone GB/s": round(cost.busbw_bytes_per_s / 1e9, 3),
    }


COLLECTIVE_KEYS = (
    "order", "op", "phase", "unit", "bytes_in", "bytes_out", "dtype", "group", "group_size",
    "algorithm", "protocol", "start_s", "end_s", "alone_s",
)  # fmt: skip


def collective_rows(outcome: StepOutcome) -> Sequence[dict[str, Any]]:
    """Collectives of the slowest rank in the order of issue; bytes are per rank, times in s."""
    lowered, timeline = outcome.lowered, outcome.timeline
    view = lowered.slowest(timeline)

    def row(k: int) -> dict[str, Any]:
        op = view.plan.ops[int(view.comm_plan[k])]
        cost = outcome.priced.cost_of(view.plan, op)
        begin, end = (int(at[k]) for at in (view.comm_begin, view.comm_end))
        said = (
            k, op.collective, op.phase, op.unit, op.bytes_in, op.bytes_out, op.dtype, op.group,
            cost.ranks, cost.algorithm, cost.protocol, float(timeline.start[begin]),
            float(timeline.end[end]), cost.time_s,
        )  # fmt: skip
        return dict(zip(COLLECTIVE_KEYS, said, strict=True))

    return OneByOne(len(view.comm_kind), row)
