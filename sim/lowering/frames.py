"""Programs of like plans with other costs: the frame stays, only numbers are written anew.

The ops of a plan, whatever bytes they move, and the number of kernels of each settle which ops a
program has and what waits for what. `lowered` keeps the first program of such a frame, or its
`Outline` where ranks are of several classes (pipelines), and fills later ones in; what it returns
is equal to what `lower` would make.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.lowering.costs import Priced
from sim.lowering.layout import after_waits, put_together
from sim.lowering.lower import Outline, filled, lower, outline_of
from sim.lowering.lowered import Lowered
from sim.lowering.parts import F8, HOST_SYNC_S, I4, I8, Flights, Part
from sim.lowering.rows import one_of
from sim.lowering.runs import Ground
from sim.lowering.table import table_of
from sim.program import revalue, validate_structure
from sim.records import NamedTuple
from sim.shelf import Shelf
from sim.strategies.plan import Plan

_Key = tuple[object, ...]
HIGHEST = 100_000  # ops of a stack: its columns stay in a processor's cache


class _Frame(NamedTuple):
    """The first program, and which entry of a table of costs each of its ops has.

    The table has every row three times: as it is launched, as it is after the host has waited, and
    as it runs.
    """

    first: Lowered
    place: I8  # (n,)
    route: I4  # (3 n_rows,) of the demands of each entry


def lowered(priced: Priced) -> Lowered:
    """The program of a step.

    Parameters
    ----------
    priced : Priced
        What runs and what it costs.
    """
    if not folds(priced):
        return _outlined(priced)
    key = _key(priced)
    frame = _frames.find(key)
    if frame is None:
        return _frames.keep(key, _frame(priced)).first
    return _filled([priced], frame).row(0)


def _outlined(priced: Priced) -> Lowered:
    """As `lower`, of several classes; the structure of those that are not too large is kept."""
    parts, classes, flights = priced.parts, priced.compiled.classes, priced.flights
    ground = Ground(parts, classes, flights)
    key = _outline_key(ground, priced)
    kept = _outlines.find(key)
    if kept is not None:
        return filled(kept[0], ground, classes, flights)
    some = np.arange(len(classes.ranks))
    outline = outline_of(ground, ground.played(), classes, flights, some)
    found = filled(outline, ground, classes, flights)
    validate_structure(found.program)
    _outlines.keep(key, (outline, flights))  # these are held, so that the ids stay theirs
    return found


def _outline_key(ground: Ground, priced: Priced) -> _Key:
    """All that an outline depends on: equal for steps that differ in numbers only."""
    classes, flights = priced.compiled.classes, priced.flights
    each: list[object] = []
    for part, own, hidden in zip(priced.parts, ground.parts, ground.hidden, strict=True):
        rows = part.rows
        each += (
            _structure(part.plan), part.runs, rows.kinds, rows.draws, (rows.curve >= 0).tobytes(),
            *(mask.tobytes() for mask in put_together(own, table_of(part.plan), hidden)),
        )  # fmt: skip
    each += (mask.tobytes() for mask in ground.kept)
    each += ((wire.comm, id(wire.team), wire.lane) for wire in flights.wires)
    keep = None if ground.keep is None else ground.keep.tobytes()
    return (
        *each, keep, id(flights.of), id(flights.ops), classes.ranks, classes.role.tobytes(),
        classes.local.tobytes(), classes.capacity.size, classes.sms.tobytes(),
    )  # fmt: skip


# changes worth trying go back and forth between the job's and their own
_outlines = Shelf[tuple[Outline, Flights]](
    125_000_000, lambda kept: 35 * kept[0].place.size + kept[1].ops.nbytes, larger=False
)  # [B]


class ProgramStack(NamedTuple):
    """Steps whose programs differ in numbers only."""

    places: list[int]  # which of those that were asked for
    lowered: Lowered  # with a row each


def stacks(many: Sequence[Priced]) -> Iterator[ProgramStack]:
    """The programs of steps of which each `folds`, in stacks of at most `HIGHEST` ops."""
    found: dict[tuple[_Key, _Key], list[int]] = {}
    for i, priced in enumerate(many):
        rows, classes = priced.parts[0].rows, priced.compiled.classes
        like = (
            rows.draws, classes.local.tobytes(), classes.capacity.size, classes.sms.tobytes(),
            id(priced.models[0]),
        )  # fmt: skip
        found.setdefault((_key(priced), like), []).append(i)
    for (key, _), places in found.items():
        frame = _frames.get(key, partial(_frame, many[places[0]]))
        high = max(1, HIGHEST // frame.place.size)
        for begin in range(0, len(places), high):
            mine = places[begin : begin + high]
            yield ProgramStack(mine, _filled([many[i] for i in mine], frame))


def folds(priced: Priced) -> bool:
    """Whether all ranks of a step are one class, so that it has a frame."""
    return len(priced.compiled.classes.ranks) == 1 and not priced.flights.of.size


def _key(priced: Priced) -> _Key:
    part = priced.parts[0]
    return _structure(part.plan), part.runs, part.rows.kinds, priced.compiled.classes.ranks


_frames = Shelf[_Frame](600_000, lambda frame: frame.place.size)  # some 60 MB


def _structure(plan: Plan) -> object:
    """All of a plan that programs and views depend on, but bytes: one object for equal ones."""
    plan = plan.first
    found: object | None = plan.derived.get("structure")
    if found is None:
        t = table_of(plan)
        own = (
            "structure", t.kind.tobytes(), t.streams, t.stream_id.tobytes(), t.micro_step.tobytes(),
            t.dep_on.tobytes(), t.dep_of.tobytes(), t.host_after.tobytes(), t.fifo.tobytes(),
            t.comm_kind, t.comm_label,
        )  # fmt: skip
        found = plan.derived["structure"] = one_of(own, object)
    return found


def _frame(priced: Priced) -> _Frame:
    """That of a step, which is its first."""
    part, first = priced.parts[0], lower(priced.parts, priced.compiled.classes)
    n_host = int(np.searchsorted(first.program.lane, 1))
    op = first.plan_op
    begins = np.ones(op.size, dtype=bool)  # of a run of ops of one plan op
    begins[1:] = op[1:] != op[:-1]
    begins[n_host : n_host + 1] = True
    at = np.arange(op.size)
    row = part.row_start[op] + at - np.maximum.accumulate(np.where(begins, at, 0))
    rows, host = part.rows.work.size, row[:n_host]
    place = np.concatenate((host + rows * after_waits(part.rows, host), 2 * rows + row[n_host:]))
    route = np.full(3 * rows, rows, dtype=np.int32)  # of no demands
    route[place] = first.program.route
    return _Frame(first, place, route)


def _filled(many: Sequence[Priced], frame: _Frame) -> Lowered:
    """A stack of programs of one frame."""
    parts, first = [priced.parts[0] for priced in many], frame.first
    classes = [priced.compiled.classes for priced in many]
    rows, one = parts[0].rows, classes[0]

    def entries(name: str, host: npt.ArrayLike) -> npt.NDArray[Any]:
        """A column of the table; what is launched has other values."""
        own = [getattr(part.rows, name) for part in parts]
        table = np.empty((len(own), 3, own[0].size), dtype=own[0].dtype)
        table[:, :2] = host
        for row, values in zip(table, own, strict=True):
            row[2] = values
        return table.reshape(len(own), -1)

    launch_s = np.stack([part.rows.host_s for part in parts])
    host_s = np.stack((launch_s, launch_s + HOST_SYNC_S), axis=1)
    curve = entries("curve", -1)
    bound, weight = entries("bound", np.inf), entries("weight", 1.0)
    alone = entries("alone_s", host_s)
    curved = curve >= 0
    curves, curve = _curves_of(parts, curve)
    speed = np.array([c.speed for c in classes])
    if (speed != 1.0).any():  # a slow rank's curves are the same curves, lower
        pace = np.where(curved, speed, 1.0)
        bound, weight, alone = bound * pace, weight * pace, alone / pace
        curves = curves * speed[:, :, None]
    # local resources beyond the class's own are the machine's
    shared = one.capacity.size
    local = np.concatenate((one.local[0], np.arange(shared, dtype=np.int32)))
    scale = np.stack([np.concatenate((c.scale[0], np.ones(shared))) for c in classes])
    amount = np.stack([part.rows.demand_amount for part in parts])
    program = revalue(
        first.program,
        frame.place,
        route=frame.route,
        latency=entries("latency_s", host_s),
        work=entries("work", 0.0),
        bound=bound,
        weight=weight,
        demand_ptr=np.append(rows.demand_ptr, rows.demand_ptr[-1:]),
        demand_resource=local[rows.demand_local],
        demand_amount=amount * scale[:, rows.demand_local],
        capacity=np.stack([c.capacity for c in classes]),
        hold_units=entries("hold", 0),
        hold_capacity=one.sms,
        curve=curve,
        curve_resource=np.where(curved, np.int32(0), np.int32(-1)),
        curves=curves,
    )
    return Lowered(
        program=program,
        plan_op=first.plan_op,
        category=first.category,
        alone_s=alone.take(frame.place, axis=1),
        views=tuple(
            [
                first.views[0].of(part.role, part.plan, int(c.multiplicity[0]))
                for part, c in zip(parts, classes, strict=True)
            ]
        ),
        lane_names=first.lane_names,
        wire=first.wire,
    )


def _curves_of(parts: Sequence[Part], curve: I4) -> tuple[F8, I4]:
    """Curves of a stack, (n_curves, n), and where ops find theirs; of many only those in use."""
    longest = max((part.rows.curves for part in parts), key=len)  # one GPU's grow with its kernels
    if len(parts) == 1:
        return longest, curve
    used = np.zeros(len(longest) + 1, dtype=bool)
    used[curve] = True
    used[-1] = False  # what has none
    place = np.cumsum(used, dtype=np.int32) - np.int32(1)
    place[-1] = -1
    return longest[used[:-1]], place[curve]
