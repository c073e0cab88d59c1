"""What overlap costs kernels, by cause: whose SMs a kernel lacked, or HBM that it shared."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.lowering.costs import Priced
from sim.lowering.lower import Lowered, RankView
from sim.lowering.parts import CATEGORIES, F8, I8
from sim.program import Timeline
from sim.step.intervals import Coverage
from sim.strategies.plan import COLLECTIVE, Plan

B1 = npt.NDArray[np.bool_]

INSIDE, BETWEEN = "collectives inside nodes", "collectives between nodes"
COPIES, MEMORY = "copies on other streams", "HBM shared"
_COLLECTIVE = CATEGORIES.index("collective")
_ROUNDING = 1e-12  # of a difference of times [s]
_FLAT = 0.999  # of its rate: what a kernel keeps that does not miss the SMs it lacks


def between_nodes(priced: Priced, plan: Plan) -> B1:
    """Which ops of a plan are collectives whose ranks are on several nodes, (P,)."""
    groups: tuple[str, ...] | None = plan.derived.get("comm groups")
    if groups is None:
        groups = tuple(op.group if op.kind == COLLECTIVE else "" for op in plan.ops)
        plan.derived["comm groups"] = groups
    far = {name.group for name, cost in priced.collectives.items() if cost.nodes > 1}
    if not far:
        return np.zeros(len(groups), dtype=np.bool_)
    return np.fromiter((group in far for group in groups), dtype=np.bool_, count=len(groups))


def causes(
    lowered: Lowered, timeline: Timeline, view: RankView, ops: I8, lost: F8, far: B1
) -> dict[str, float]:
    """Seconds that kernels took longer than alone, by cause; they add up to `lost`.

    Parameters
    ----------
    lowered, timeline : Lowered, Timeline
        The step and when it ran.
    view : RankView
        The rank.
    ops : (n,) int64
        Its kernels.
    lost : (n,) float64
        By how much each was slower than alone. [s]
    far : (P,) bool
        `between_nodes` of its plan.

    Notes
    -----
    A kernel's loss goes to who held SMs beside it, by SMs times seconds. One that keeps its rate
    with so few SMs, or had all of them, lost it to HBM.
    """
    slowed = lost > _ROUNDING
    if not slowed.any():
        return {}
    ops, lost = ops[slowed], lost[slowed]
    program = lowered.program
    held = np.flatnonzero(program.hold_units)
    if len(lowered.views) > 1:
        held = held[program.hold_resource[held] == view.index]
    units = program.hold_units[held]
    start, end = timeline.start[held], timeline.end[program.hold_until[held]]
    collective = lowered.category[held] == _COLLECTIVE
    away = far[lowered.plan_op[held]]
    away &= collective
    begin, finish = timeline.start[ops], timeline.end[ops]
    parts, most = {}, 0
    for cause, mine in ((INSIDE, collective & ~away), (BETWEEN, away), (COPIES, ~collective)):
        if mine.any():
            taken = float(units[mine].mean())
            parts[cause] = taken * Coverage(start[mine], end[mine]).inside(begin, finish)
            most = max(most, round(taken))
    sms = int(program.hold_capacity[view.index])
    misses = program.curves[:, max(0, sms - most)] < _FLAT * program.curves[:, sms]
    row = program.curve[ops]
    curved = (row >= 0) & misses[row]
    total = np.asarray(sum(parts.values(), np.zeros(ops.size)))
    blamed = curved & (total > 0.0)
    found = {
        cause: float((lost[blamed] * part[blamed] / total[blamed]).sum())
        for cause, part in parts.items()
    }
    found[MEMORY] = float(lost[~blamed].sum())
    return {cause: seconds for cause, seconds in found.items() if seconds > 0.0}
