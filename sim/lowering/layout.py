"""Where the ops of a part stand: the host's first, then each stream's, and what they wait for."""

from __future__ import annotations

import numpy as np

from sim.lowering.parts import B1, F8, HOST_SYNC_S, I4, I8, Part, Rows
from sim.lowering.table import PlanTable
from sim.program import successors_of
from sim.records import NamedTuple
from sim.strategies.plan import HOST


class Launches(NamedTuple):
    """What host ops of a part are: the launch of a row, or launches put together as one op.

    Of each row, then of each run of rows those of all but the first row; behind these the same
    after the host has waited, where it ever does.
    """

    first_row: I8  # (k,) of each run
    n_rows: I8  # (k,)
    waits: bool

    def seconds(self, host_s: F8) -> F8:
        """Time of each, given those of rows. [s]"""
        until = np.concatenate(([0.0], np.cumsum(host_s)))
        rest = until[self.first_row + self.n_rows] - until[self.first_row + 1]
        own = np.concatenate((host_s, rest))
        return np.concatenate((own, own + HOST_SYNC_S)) if self.waits else own

    def size(self, rows: int) -> int:
        """How many there are, of so many rows. [1]"""
        return (rows + self.first_row.size) * (2 if self.waits else 1)


class PartLayout(NamedTuple):
    """Local op indices of a class that plays a part: host ops first, then each stream's ops."""

    n: int
    host_first: I8  # (P,)
    first: I8  # (P,) first device op, or the host op of a host-only plan op
    last: I8
    entry: I4  # (n,) row of each op; of host ops, behind all rows, which of `launches`
    launches: Launches
    lane: I4  # (n,)
    plan_op: I4  # (n,)
    streams: tuple[str, ...]


class HostEdges(NamedTuple):
    """What waits for the host, and what the host waits for."""

    launched: I8  # (m,) device ops that wait for their launch
    launch: I8  # (m,) host op of it
    seen: I8  # (w,) device ops whose end the host waits for
    woken: I8  # (w,) host op that follows


def exclusive(counts: I8) -> I8:
    """Where runs of so many begin."""
    out = np.zeros(counts.size, dtype=np.int64)
    np.cumsum(counts[:-1], out=out[1:])
    return out


def after_waits(rows: Rows, host_rows: I8) -> B1:
    """Host ops whose forerunner the host waited for, (n_host,)."""
    out = np.zeros(host_rows.size, dtype=np.bool_)
    out[1:] = rows.waits[host_rows[:-1]]
    return out


def put_together(part: Part, table: PlanTable, hidden: B1) -> tuple[B1, B1]:
    """Ops whose launches but the first are no ops of their own, and those with one op for them."""
    rows, row_start, row_count = part.rows, part.row_start, part.row_count
    hidden = hidden & (table.kind != HOST) & (row_count > 1)
    until = np.concatenate(([0.0], np.cumsum(rows.host_s)))
    takes_time = until[row_start + row_count] > until[np.minimum(row_start + 1, rows.work.size)]
    return hidden, hidden & takes_time


def lay_out(part: Part, table: PlanTable, hidden: B1) -> tuple[PartLayout, HostEdges]:
    """Where a part's ops stand; of `hidden` ones the host's work is put together."""
    kind, stream_id = table.kind, table.stream_id
    rows, row_start, row_count = part.rows, part.row_start, part.row_count
    host_only = kind == HOST
    device_count = np.where(host_only, 0, row_count)
    hidden, together = put_together(part, table, hidden)
    host_count = np.where(host_only, 1, np.where(hidden, 1 + together, row_count))
    host_first = exclusive(host_count)
    n_host = int(host_count.sum())
    host_rows = np.repeat(row_start, host_count) + (
        np.arange(n_host) - np.repeat(host_first, host_count)
    )
    width = rows.work.size + 1
    runs, which = np.unique(row_start[together] * width + row_count[together], return_inverse=True)
    launches = Launches(runs // width, runs % width, bool(rows.waits.any()))
    issue = host_rows.copy()
    issue[host_first[together] + 1] = rows.work.size + which.ravel()
    issue += (rows.work.size + runs.size) * after_waits(rows, host_rows)
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
    layout = PartLayout(
        n=n_host + n_device,
        host_first=host_first,
        first=first,
        last=last,
        entry=np.concatenate((rows.work.size + issue, device_rows), dtype=np.int32),
        launches=launches,
        lane=lane,
        plan_op=plan_op,
        streams=table.streams,
    )
    return layout, HostEdges(n_host + waits, launch, n_host + waits[seen], launch[seen] + 1)


def edges_of(table: PlanTable, layout: PartLayout, host: HostEdges) -> tuple[I4, I4]:
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
            host.launch,
            host.seen,
            layout.last[table.dep_on],
            layout.last[table.host_after[blocked]],
            layout.last[before],
        )
    )
    dst = np.concatenate(
        (
            host.launched,
            host.woken,
            layout.first[table.dep_of],
            layout.host_first[blocked],
            layout.first[after],
        )
    )
    return successors_of(layout.n, src, dst)
