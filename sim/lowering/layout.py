"""Where the ops of a part stand: the host's first, then each stream's, and what they wait for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.lowering.parts import B1, F8, HOST_SYNC_S, I4, I8, Part, Rows
from sim.lowering.table import PlanTable
from sim.program import successors_of
from sim.strategies.plan import HOST


class PartLayout(NamedTuple):
    """Local op indices of a class that plays a part: host ops first, then each stream's ops."""

    n: int
    n_host: int
    host_first: I8  # (P,)
    first: I8  # (P,) first device op, or the host op of a host-only plan op
    last: I8
    rows: I8  # (n_device,)
    launched: I8  # (m,) device ops that wait for their launch
    launch: I8  # (m,) host op of it
    seen: I8  # (w,) device ops whose end the host waits for
    woken: I8  # (w,) host op that follows
    host_s: F8  # (n_host,) [s]
    lane: I4  # (n,)
    plan_op: I4  # (n,)
    streams: tuple[str, ...]


def exclusive(counts: I8) -> I8:
    """Where runs of so many begin."""
    out = np.zeros(counts.size, dtype=np.int64)
    np.cumsum(counts[:-1], out=out[1:])
    return out


def woken_s(rows: Rows, host_rows: I8) -> F8 | float:
    """What waking up adds to each host op whose forerunner the host waited for, (n_host,). [s]"""
    if not rows.waits.any():
        return 0.0
    return np.where(after_waits(rows, host_rows), HOST_SYNC_S, 0.0)


def after_waits(rows: Rows, host_rows: I8) -> B1:
    """Host ops whose forerunner the host waited for, (n_host,)."""
    out = np.zeros(host_rows.size, dtype=np.bool_)
    out[1:] = rows.waits[host_rows[:-1]]
    return out


def lay_out(part: Part, table: PlanTable, hidden: B1) -> PartLayout:
    """Where a part's ops stand; of `hidden` ones the host's work is put together."""
    kind, stream_id = table.kind, table.stream_id
    rows, row_start, row_count = part.rows, part.row_start, part.row_count
    host_only = kind == HOST
    device_count = np.where(host_only, 0, row_count)
    hidden = hidden & ~host_only & (row_count > 1)
    host_time = np.concatenate(([0.0], np.cumsum(rows.host_s)))
    rest = np.where(hidden, host_time[row_start + row_count] - host_time[row_start + 1], 0.0)
    host_count = np.where(host_only, 1, np.where(hidden, 1 + (rest > 0.0), row_count))
    host_first = exclusive(host_count)
    n_host = int(host_count.sum())
    host_rows = np.repeat(row_start, host_count) + (
        np.arange(n_host) - np.repeat(host_first, host_count)
    )
    host_s = rows.host_s[host_rows]
    host_s[host_first[rest > 0.0] + 1] = rest[rest > 0.0]
    host_s += woken_s(rows, host_rows)
    order = np.argsort(stream_id, kind="stable")
    order = order[device_count[order] > 0]
    counts = device_count[order]
    base = exclusive(counts)
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
    waits = np.flatnonzero((step == 0) | ~np.repeat(hidden[order], counts))
    device_rows = np.repeat(row_start[order], counts) + step
    launch = (np.repeat(host_first[order], counts) + step)[waits]
    seen = rows.waits[device_rows[waits]] & (launch < n_host - 1)
    return PartLayout(
        n=n_host + n_device,
        n_host=n_host,
        host_first=host_first,
        first=first,
        last=last,
        rows=device_rows,
        launched=n_host + waits,
        launch=launch,
        seen=n_host + waits[seen],
        woken=launch[seen] + 1,
        host_s=host_s,
        lane=lane,
        plan_op=plan_op,
        streams=table.streams,
    )


def edges_of(table: PlanTable, layout: PartLayout) -> tuple[I4, I4]:
    """Cross-lane edges of one class: launches, dependencies, host syncs, communicator order.

    Returns
    -------
    (n + 1,) int32, (m,) int32
        CSR of the ops that wait for each op, ascending, each once.
    """
    blocked = np.flatnonzero(table.host_after >= 0)
    before, after = table.fifo[:, 0], table.fifo[:, 1]
    src = np.concatenate(
        (
            layout.launch,
            layout.seen,
            layout.last[table.dep_on],
            layout.last[table.host_after[blocked]],
            layout.last[before],
        )
    )
    dst = np.concatenate(
        (
            layout.launched,
            layout.woken,
            layout.first[table.dep_of],
            layout.host_first[blocked],
            layout.first[after],
        )
    )
    return successors_of(layout.n, src, dst)
