"""What collectives and copies lose to what shares their way, by cause.

A transfer alone takes its latency and its work at the rate that is its weight (a copy has no other
bound than its links). Beside others on a link that cannot carry all of them at the pace each would
have alone, it takes longer; the loss goes to those that were under way beside it on such a link, by
the seconds they were. What no transfer explains went to kernels on the same HBM. A copy that a
kernel makes on a stream of its own (a cast, parameters on their way into a gather's buffer) loses
to all that shares its HBM. It is time in flight: of the step it costs what is exposed of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.engine.losses import SLOWER, Transfers, losses
from sim.lowering.lowered import Lowered, RankView
from sim.lowering.parts import B1, CATEGORIES, F8, I4, I8
from sim.program import Program, Timeline
from sim.records import NamedTuple
from sim.step import overlap
from sim.step.windows import Windows

COLLECTIVES, COPIES, KERNELS = "collectives", "copies", "kernels (HBM)"
ASIDE = f"{overlap.COPIES} ({overlap.MEMORY})"  # the key of what kernels there lost that copy
_COPY = CATEGORIES.index("copy")


def shared(
    lowered: Lowered, timeline: Timeline, view: RankView, windows: Windows
) -> list[list[dict[str, float]]]:
    """Seconds that a rank's collectives and copies took longer than alone, by cause.

    Keys say which of the two lost and beside what (`beside`): a copy that goes faster may take less
    from its like, and more from collectives that the step waits for. `ASIDE` is apart.

    Parameters
    ----------
    lowered, timeline : Lowered, Timeline
        The step and when it ran; or a stack.
    view : RankView
        The rank; of a stack, that of its first step.
    windows : Windows
        Of each step. Transfers that start within one count there.

    Returns
    -------
    list of list of dict
        Seconds by key, of each step and of its middle if any. [s]

    Notes
    -----
    Ring steps (level ``steps``) wait for each other, which is no sharing: they are left out.
    """
    program = lowered.program
    own = np.zeros(program.lane.size, dtype=np.int32)
    own[_transfers(program, [view])] = 1
    views = [view] if program.stack else lowered.views
    ops = _transfers(program, views, np.arange(lowered.wire, program.lane.size))
    ops = ops[program.steps[ops] == 1]
    ops = ops[_near(program, program.route[ops], own[ops] > 0)]
    start, end, latency, work, weight = (
        column.take(ops, axis=-1)
        for column in (timeline.start, timeline.end, program.latency, program.work, program.weight)
    )
    flying = (work > 0.0) & (program.curve.take(ops, axis=-1) < 0)
    moving = np.where(flying, start + latency, end)
    alone = np.full(flying.shape, np.inf)
    np.divide(work, weight, out=alone, where=flying)
    alone += latency
    routes = _Routes.of_ops(lowered, ops)
    found = losses(
        Transfers(
            start=start,
            moving=moving,
            end=end,
            alone=alone,
            weight=np.where(flying, weight, 0.0),
            own=own[ops],
            route=routes.place,
            by_moving=_i4(moving.argsort(axis=-1)),
            by_end=_i4(end.argsort(axis=-1)),
            n=ops.size,
            kind=routes.kind,
            first=routes.first,
            n_routes=routes.kind.size,
            resource=routes.resource,
            amount=program.demand_amount.take(routes.entry, axis=-1),
            capacity=program.capacity.take(routes.on, axis=-1),
            windows=windows.counts,
            begin=windows.begin,
            finish=windows.finish,
        ),
        len(windows.counts),
    )
    found = np.concatenate((found, _aside(lowered, timeline, view, windows)), axis=2)
    return [[_named(sums) for sums in each] for each in windows.added(found)]


def _aside(lowered: Lowered, timeline: Timeline, view: RankView, windows: Windows) -> F8:
    """Seconds that a rank's copies by kernels beside others took longer, (steps, windows, 1)."""
    copies = (lowered.program.hold_resource == view.index) & (lowered.category == _COPY)
    start, end, alone = (
        np.atleast_2d(column[..., copies])
        for column in (timeline.start, timeline.end, lowered.alone_s)
    )
    lost = end - start - alone
    lost[lost <= SLOWER * alone] = 0.0
    begun = start[:, None]
    within = (windows.begin[..., None] <= begun) & (begun < windows.finish[..., None])
    return within @ lost[..., None]


class _Routes(NamedTuple):
    """Routes that transfers take, (r,), and what each demands, (d,).

    Attributes
    ----------
    kind : (r,) int32
        Of the transfers on each, a place in `_LOSERS`.
    place : (transfers,) int32
        Which of these each one takes.
    entry : (d,) int64
        Demands of the program that are theirs, route by route.
    first : (r + 1,) int32
        Where those of each begin.
    on : (resources,) int64
        Resources of the program that they are on.
    resource : (d,) int32
        Which of these each is on.
    """

    kind: I4
    place: I4
    entry: I8
    first: I4
    on: I8
    resource: I4

    @classmethod
    def of_ops(cls, lowered: Lowered, ops: I8) -> _Routes:
        """Those of some ops."""
        program = lowered.program
        number, op, place = np.unique(program.route[ops], return_index=True, return_inverse=True)
        kind = lowered.category[ops[op]] == _COPY
        begin = program.demand_ptr[number]
        many = program.demand_ptr[number + 1] - begin
        first = np.append(0, many.cumsum())
        entry = np.arange(first[-1]) + np.repeat(begin - first[:-1], many)
        on, resource = np.unique(program.demand_resource[entry], return_inverse=True)
        return cls(_i4(kind), _i4(place), entry, _i4(first), on, _i4(resource))


def _transfers(program: Program, views: Sequence[RankView], wires: I8 | None = None) -> I8:
    """What ranks have on the wire: collectives, and copies that no kernel makes; and `wires`."""
    parts = [part for v in views for part in (program.hold_until[v.comm_begin], v.copies)]
    if wires is not None:
        parts.append(wires)
    ops: I8 = np.concatenate(parts).astype(np.int64)
    if len(views) > 1 or (wires is not None and wires.size):  # of a group all ranks name the one
        named = np.zeros(program.lane.size, dtype=np.bool_)
        named[ops] = True
        ops = np.flatnonzero(named)
    return ops


def _near(program: Program, route: I4, own: B1) -> B1:
    """Which of some transfers are a rank's own, or on what some of these are, (transfers,)."""
    routes = program.demand_ptr.size - 1
    of = np.repeat(np.arange(routes), np.diff(program.demand_ptr))
    mine, on = (np.zeros(size, dtype=np.bool_) for size in (routes, program.capacity.shape[-1]))
    mine[route[own]] = True
    on[program.demand_resource[mine[of]]] = True
    mine[of[on[program.demand_resource]]] = True
    near: B1 = own | mine[route]
    return near


def beside(loser: str, cause: str) -> str:
    """The key of what one of `COLLECTIVES` and `COPIES` lost to a cause."""
    return f"{loser} beside {cause}"


_LOSERS = (COLLECTIVES, COPIES)
_KEYS = [*(beside(loser, cause) for loser in _LOSERS for cause in (*_LOSERS, KERNELS)), ASIDE]


def _named(sums: Sequence[float]) -> dict[str, float]:
    """What transfers lost, by which of the two they are and cause. [s]"""
    return {key: seconds for key, seconds in zip(_KEYS, sums, strict=True) if seconds > 0.0}


def _i4(column: npt.NDArray[Any]) -> I4:
    return column.astype(np.int32)
