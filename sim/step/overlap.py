"""What overlap costs kernels, by cause: whose SMs a kernel lacked, or HBM that it shared.

A kernel's loss goes to who held SMs beside it, by SMs times seconds. One that keeps its rate with
so few SMs, or had all of them, lost it to HBM.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.lowering.costs import Priced
from sim.lowering.lowered import Lowered
from sim.lowering.parts import B1, CATEGORIES, I4, I8
from sim.lowering.table import each_of, table_of
from sim.strategies.plan import Plan

INSIDE, BETWEEN = "collectives inside nodes", "collectives between nodes"
COPIES, MEMORY = "copies on other streams", "HBM shared"
CAUSES = (MEMORY, INSIDE, BETWEEN, COPIES)
_COLLECTIVE = CATEGORIES.index("collective")


def between_nodes(priced: Priced, plan: Plan) -> B1:
    """Which ops of a plan are collectives whose ranks are on several nodes, (P,)."""
    plan = plan.first
    groups: list[str] | None = plan.derived.get("comm groups")
    at, each = table_of(plan).collectives, each_of(plan)
    if groups is None:
        groups = [each.ops[i].group for i in each.of[at].tolist()]
        plan.derived["comm groups"] = groups
    far = frozenset(name.group for name, cost in priced.collectives.items() if cost.nodes > 1)
    known: dict[frozenset[str], B1] = plan.derived.setdefault("far", {})
    if far not in known:
        known[far] = away = np.zeros(each.of.size, dtype=np.bool_)
        away[at] = [group in far for group in groups]
    return known[far]


def holders(lowered: Lowered, holds: I8, far: Sequence[B1]) -> I4:
    """Which of `CAUSES` but the first each op that holds SMs is, from 0 on, (steps, n).

    Parameters
    ----------
    lowered : Lowered
        The step, or a stack.
    holds : (n,) int64
        The ops.
    far : sequence of (P,) bool
        `between_nodes` of each one's plan.
    """
    known: dict[int, I4] = {}
    found = []
    collective = lowered.category[holds] == _COLLECTIVE
    for away in far:
        if id(away) not in known:
            kind = np.where(away[lowered.plan_op[holds]], 1, 0)
            known[id(away)] = np.where(collective, kind, 2).astype(np.int32)
        found.append(known[id(away)])
    return np.stack(found)
