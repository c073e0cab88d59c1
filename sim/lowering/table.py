"""A plan as columns: what pricing and lowering read of its ops, worked out once a plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.strategies.plan import COLLECTIVE, Plan, PlanOp

I8 = npt.NDArray[np.int64]


class PlanTable(NamedTuple):
    """Columns over the ops of a plan, (P,) each, and its edges."""

    kind: I8
    streams: tuple[str, ...]  # the host, then others in order of first appearance
    stream_id: I8  # index into `streams`
    micro_step: I8
    dep_on: I8  # (n_deps,) earlier op
    dep_of: I8  # (n_deps,) op that waits for it
    host_after: I8
    fifo: I8  # (n, 2) successive collectives of one communicator
    collectives: I8  # (n_comm,) which ops they are
    comm_kind: tuple[str, ...]
    comm_label: tuple[str, ...]
    comm_bytes: npt.NDArray[np.float64]  # as nccl-tests counts them [B]


class Distinct(NamedTuple):
    """Ops that cost the same, found once."""

    of: I8  # (P,) index into `ops`
    ops: tuple[PlanOp, ...]  # one of each, in order of first appearance
    keys: tuple[object, ...]  # what each is known by, in other plans of the job too


def table_of(plan: Plan) -> PlanTable:
    """The plan's columns."""
    found: PlanTable | None = plan.derived.get("table")
    if found is None:
        found = plan.derived["table"] = _table(plan)
    return found


def _table(plan: Plan) -> PlanTable:
    columns = dict(zip(PlanOp._fields, zip(*plan.ops, strict=True), strict=True))
    deps: Sequence[tuple[int, ...]] = columns["deps"]
    kind = np.array(columns["kind"], dtype=np.int64)
    lengths = np.fromiter(map(len, deps), dtype=np.int64, count=len(deps))
    on = np.fromiter(chain.from_iterable(deps), dtype=np.int64, count=int(lengths.sum()))
    collectives = np.flatnonzero(kind == COLLECTIVE)
    comms = columns["comm"]
    previous: dict[str, int] = {}
    fifo: list[tuple[int, int]] = []
    for i in collectives.tolist():
        before = previous.get(comms[i])
        if before is not None:
            fifo.append((before, i))
        previous[comms[i]] = i
    ops = [plan.ops[i] for i in collectives.tolist()]
    stream = columns["stream"]
    streams = ("host", *(s for s in dict.fromkeys(stream) if s != "host"))
    number = {name: i for i, name in enumerate(streams)}
    return PlanTable(
        kind=kind,
        streams=streams,
        stream_id=np.array([number[name] for name in stream], dtype=np.int64),
        micro_step=np.array(columns["micro_step"], dtype=np.int64),
        dep_on=on,
        dep_of=np.repeat(np.arange(len(deps)), lengths),
        host_after=np.array(columns["host_after"], dtype=np.int64),
        fifo=np.array(fifo, dtype=np.int64).reshape(-1, 2),
        collectives=collectives,
        comm_kind=tuple(op.collective for op in ops),
        comm_label=tuple(labels_of(ops)),
        comm_bytes=np.array([total_bytes(op) for op in ops], dtype=float),
    )


def total_bytes(op: PlanOp) -> float:
    """Bytes as nccl-tests counts them: all shards of an all-gather or reduce-scatter. [B]"""
    return max(op.bytes_in, op.bytes_out)


def distinct(plan: Plan, layer_kinds: tuple[str, ...]) -> Distinct:
    """Group ops that cost the same.

    Parameters
    ----------
    plan : Plan
        Its ops.
    layer_kinds : tuple of str
        Kind of each block of the model: blocks of a kind have equal kernels.
    """
    found: Distinct | None = plan.derived.get(layer_kinds)
    if found is not None:
        return found
    kinds = ("embedding", *layer_kinds, "head", "root")  # the root's block number is -1
    seen: dict[tuple[object, ...], int] = {}
    first: list[PlanOp] = []
    of = []
    for op in plan.ops:
        (
            kind, stream, name, _, block, module, _, _, _, collective, group, bytes_in, bytes_out,
            _, _, traffic, _, calls,
        ) = op  # fmt: skip
        if kind == COLLECTIVE:
            key: tuple[object, ...] = (collective, group, bytes_in, bytes_out, calls)
        else:
            key = (kind, name, kinds[block], module, traffic, stream, calls)
        index = seen.get(key)
        if index is None:
            index = seen[key] = len(first)
            first.append(op)
        of.append(index)
    found = plan.derived[layer_kinds] = Distinct(
        np.array(of, dtype=np.int64), tuple(first), tuple(seen)
    )
    return found


def labels_of(ops: Sequence[PlanOp]) -> list[str]:
    """Name each collective by kind and place: the first and the last of a micro-step stand out."""
    labels = [f"{op.collective} {op.phase}" for op in ops]
    first: dict[tuple[int, str], int] = {}
    last: dict[tuple[int, str], int] = {}
    for i, op in enumerate(ops):
        if op.group == op.stream:  # inside a block: not of the parameters
            labels[i] = f"{op.group} {labels[i]}"
            continue
        key = (op.micro_step, op.collective)
        first.setdefault(key, i)
        last[key] = i
    for (_, collective), i in first.items():
        if collective == "all_gather":
            labels[i] = "first all_gather"
    for (_, collective), i in last.items():
        if collective == "reduce_scatter":
            labels[i] = "last reduce_scatter"
    return labels
