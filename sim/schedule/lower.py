"""Plan + costs + fabric -> Program: what runs meets how much work it is.

Each rank (or class of equal ranks) gets one lane a stream and one for the host thread. A compute
segment becomes its kernels, each launched by a host op of its own; a collective becomes one op
with the demands of all its edges, or, where several lanes take part, an arrival op a lane (which
takes the SMs of its channels and holds them while it waits for late peers), one op on the wire and
a finish op a lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.program import Program, assemble
from sim.schedule.plan import COLLECTIVE, HOST, KERNEL, SEGMENT, Plan, PlanOp

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]
B1 = npt.NDArray[np.bool_]

CATEGORIES = (
    "gemm", "attention", "norm", "elementwise", "reduction", "embedding", "loss",
    "optimizer", "copy", "quantize", "collective", "host",
)  # fmt: skip

_COPY_STREAMS = frozenset({"copy_in", "offload_in", "offload_out"})


class Rows(NamedTuple):
    """Cost of each distinct op, columns of length n_rows; plan ops point at runs of rows.

    Demands name *local* resources: `Machine.local` maps them to resources class by class.
    """

    latency_s: F8  # fixed, unshared [s]
    work: F8
    bound: F8  # rate alone [work/s]
    weight: F8
    curve: I4  # row of `curves`, -1 none
    hold: I4  # SMs taken, 0 none
    host_s: F8  # CPU time to launch [s]
    category: npt.NDArray[np.int8]
    alone_s: F8  # duration with nothing beside it [s]
    recompute: B1
    demand_ptr: I4
    demand_local: I4
    demand_amount: F8
    curves: F8  # (n_curves, max_units + 1)


class Machine(NamedTuple):
    """Classes of equal ranks and the resources they draw on."""

    ranks: tuple[int, ...]  # representative rank of each class
    multiplicity: I4  # (n_classes,)
    speed: F8  # (n_classes,) relative kernel speed (stragglers), 1 as a rule
    local: I4  # (n_classes, n_local) local resource -> resource
    scale: F8  # (n_classes, n_local) demand multiplier (equal ranks folded onto one resource)
    capacity: F8  # (n_resources,) [unit/s]
    sms: I4  # (n_classes,) countable units


class Flight(NamedTuple):
    """One collective on the wire: the classes that take part and what it draws on."""

    plan_op: int
    participants: tuple[int, ...]  # class indices
    lane: int  # wire lane (one per communicator instance)
    latency_s: float
    work: float  # [B]
    bound: float  # [B/s]
    resources: tuple[int, ...]
    amounts: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RankView:
    """Where one class of ranks is found in the op table."""

    rank: int
    multiplicity: int
    compute: slice
    copies: I8
    comm_begin: I8  # ops at whose start a collective is in flight
    comm_end: I8  # ops at whose end it is over
    comm_plan: I8
    comm_kind: tuple[str, ...]
    comm_label: tuple[str, ...]
    comm_bytes: F8


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program and what its ops are."""

    program: Program
    plan: Plan
    plan_op: I4  # (n,) index into plan.ops, also of the host op that launches it
    category: npt.NDArray[np.int8]  # (n,) index into CATEGORIES
    alone_s: F8  # (n,)
    recompute: B1  # (n,)
    views: tuple[RankView, ...]
    lane_names: tuple[str, ...]


class _Layout(NamedTuple):
    """Local op indices of one class: host ops first, then each stream's ops."""

    n: int
    n_host: int
    host_first: I8  # (P,)
    first: I8  # (P,) first device op, or the host op of a host-only plan op
    last: I8
    rows: I8  # (n_device,)
    host_of: I8  # (n_device,) host op that launches it
    lane: I4  # (n,)
    plan_op: I4  # (n,)
    streams: tuple[str, ...]


def _exclusive(counts: I8) -> I8:
    out = np.zeros(counts.size, dtype=np.int64)
    np.cumsum(counts[:-1], out=out[1:])
    return out


def _layout(kind: I8, stream: Sequence[str], row_start: I8, row_count: I8) -> _Layout:
    names = tuple(dict.fromkeys(s for s in stream if s != "host"))
    number = {name: i + 1 for i, name in enumerate(names)} | {"host": 0}
    stream_id = np.array([number[s] for s in stream], dtype=np.int64)
    host_only = kind == HOST
    device_count = np.where(host_only, 0, row_count)
    host_count = np.where(host_only, 1, row_count)
    host_first = _exclusive(host_count)
    n_host = int(host_count.sum())
    order = np.argsort(stream_id, kind="stable")
    order = order[device_count[order] > 0]
    counts = device_count[order]
    base = _exclusive(counts)
    n_device = int(counts.sum())
    step = np.arange(n_device) - np.repeat(base, counts)
    first = host_first.copy()
    first[order] = n_host + base
    last = host_first.copy()
    last[order] = n_host + base + counts - 1
    lane = np.zeros(n_host + n_device, dtype=np.int32)
    lane[n_host:] = np.repeat(stream_id[order], counts)
    plan_op = np.empty(n_host + n_device, dtype=np.int32)
    plan_op[:n_host] = np.repeat(np.arange(kind.size), host_count)
    plan_op[n_host:] = np.repeat(order, counts)
    return _Layout(
        n=n_host + n_device,
        n_host=n_host,
        host_first=host_first,
        first=first,
        last=last,
        rows=np.repeat(row_start[order], counts) + step,
        host_of=np.repeat(host_first[order], counts) + step,
        lane=lane,
        plan_op=plan_op,
        streams=("host", *names),
    )


def _edges(plan: Plan, layout: _Layout, communicator: Sequence[str], kind: I8) -> tuple[I8, I8]:
    """Cross-lane edges of one class: launches, dependencies, host syncs, communicator order."""
    deps = [op.deps for op in plan.ops]
    lengths = np.fromiter(map(len, deps), dtype=np.int64, count=len(deps))
    on = np.fromiter(chain.from_iterable(deps), dtype=np.int64, count=int(lengths.sum()))
    of = np.repeat(np.arange(len(deps)), lengths)
    sync = np.fromiter((op.host_after for op in plan.ops), dtype=np.int64, count=len(plan.ops))
    blocked = np.flatnonzero(sync >= 0)
    collectives = np.flatnonzero(kind == COLLECTIVE)
    previous: dict[str, int] = {}
    fifo: list[tuple[int, int]] = []
    for i in collectives.tolist():
        before = previous.get(communicator[i])
        if before is not None:
            fifo.append((before, i))
        previous[communicator[i]] = i
    pairs = np.array(fifo, dtype=np.int64).reshape(-1, 2)
    src = np.concatenate(
        (layout.host_of, layout.last[on], layout.last[sync[blocked]], layout.last[pairs[:, 0]])
    )
    dst = np.concatenate(
        (
            layout.n_host + np.arange(layout.rows.size),
            layout.first[of],
            layout.host_first[blocked],
            layout.first[pairs[:, 1]],
        )
    )
    return src, dst
