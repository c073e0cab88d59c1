"""Programs of like plans with other costs: the frame stays, only numbers are written anew.

The ops of a plan, whatever bytes they move, and the number of kernels of each settle which ops a
program has and what waits for what. Where all ranks are one class, `lowered` keeps the first
program of such a frame and fills later ones in; what it returns is equal to what `lower` would
make.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.lowering.costs import Priced
from sim.lowering.layout import woken_s
from sim.lowering.lower import Lowered, lower
from sim.lowering.table import table_of
from sim.program import revalue
from sim.strategies.plan import Plan

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
MAX_FRAMES = 24  # programs are large: up to a few MB


class _Frame(NamedTuple):
    """The first program, and the row of costs that each of its ops has."""

    first: Lowered
    n_host: int  # host ops stand first
    host: I8  # (n_host,)
    device: I8  # (n - n_host,)


def lowered(priced: Priced) -> Lowered:
    """The program of a step.

    Parameters
    ----------
    priced : Priced
        What runs and what it costs.
    """
    parts, classes = priced.parts, priced.compiled.classes
    if len(classes.ranks) > 1 or priced.flights.of.size:
        return lower(parts, classes, priced.flights)
    plan, rows, start, count = parts[0].plan, parts[0].rows, parts[0].row_start, parts[0].row_count
    key = (
        _structure(plan), start.tobytes(), count.tobytes(), rows.work.size,
        (rows.hold > 0).tobytes(), rows.waits.tobytes(), classes.ranks,
    )  # fmt: skip
    frame = _frames.pop(key, None)
    if frame is None:
        result = lower(parts, classes)
        frame = _frame(result, start)
        if len(_frames) >= MAX_FRAMES:
            del _frames[next(iter(_frames))]
    else:
        result = _filled(priced, frame)
    _frames[key] = frame  # the last used stands last
    return result


_frames: dict[tuple[object, ...], _Frame] = {}


def _structure(plan: Plan) -> tuple[object, ...]:
    """All of a plan that programs and views depend on, but bytes."""
    found: tuple[object, ...] | None = plan.derived.get("structure")
    if found is None:
        t = table_of(plan)
        found = plan.derived["structure"] = (
            t.kind.tobytes(), t.streams, t.stream_id.tobytes(), t.micro_step.tobytes(),
            t.dep_on.tobytes(), t.dep_of.tobytes(), t.host_after.tobytes(), t.fifo.tobytes(),
            t.comm_kind, t.comm_label,
        )  # fmt: skip
    return found


def _frame(first: Lowered, start: I8) -> _Frame:
    n_host = int(np.searchsorted(first.program.lane, 1))
    op = first.plan_op
    begins = np.ones(op.size, dtype=bool)  # of a run of ops of one plan op
    begins[1:] = op[1:] != op[:-1]
    begins[n_host : n_host + 1] = True
    at = np.arange(op.size)
    row = start[op] + at - np.maximum.accumulate(np.where(begins, at, 0))
    return _Frame(first, n_host, row[:n_host], row[n_host:])


def _filled(priced: Priced, frame: _Frame) -> Lowered:
    part, classes, first = priced.parts[0], priced.compiled.classes, frame.first
    rows = part.rows
    size, n_host = first.plan_op.size, frame.n_host
    host_s = rows.host_s[frame.host] + woken_s(rows, frame.host)

    def spread(column: npt.NDArray[Any], host: npt.ArrayLike) -> npt.NDArray[Any]:
        out = np.empty(size, dtype=column.dtype)
        out[:n_host] = host
        out[n_host:] = column[frame.device]
        return out

    curve = spread(rows.curve, -1)
    bound, weight = spread(rows.bound, np.inf), spread(rows.weight, 1.0)
    alone = spread(rows.alone_s, host_s)
    speed = float(classes.speed[0])
    curves = rows.curves
    if speed != 1.0:  # a slow rank's curves are the same curves, lower
        pace = np.where(curve >= 0, speed, 1.0)
        bound, weight, alone = bound * pace, weight * pace, alone / pace
        curves = curves * speed
    # local resources beyond the class's own are the machine's
    shared = classes.capacity.size
    local = np.concatenate((classes.local[0], np.arange(shared, dtype=np.int32)))
    scale = np.concatenate((classes.scale[0], np.ones(shared)))
    program = revalue(
        first.program,
        latency=spread(rows.latency_s, host_s),
        work=spread(rows.work, 0.0),
        bound=bound,
        weight=weight,
        demand_ptr=np.append(rows.demand_ptr, rows.demand_ptr[-1:]),
        demand_resource=local[rows.demand_local],
        demand_amount=rows.demand_amount * scale[rows.demand_local],
        capacity=classes.capacity,
        hold_units=spread(rows.hold, 0),
        hold_capacity=classes.sms,
        curve=curve,
        curve_resource=np.where(curve >= 0, np.int32(0), np.int32(-1)),
        curves=curves,
    )
    return Lowered(
        program=program,
        plan_op=first.plan_op,
        category=spread(rows.category, first.category[0]),
        alone_s=alone,
        views=(
            replace(
                first.views[0],
                role=part.role,
                plan=part.plan,
                multiplicity=int(classes.multiplicity[0]),
                comm_bytes=table_of(part.plan).comm_bytes,
            ),
        ),
        lane_names=first.lane_names,
    )
