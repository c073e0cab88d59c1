"""Which collectives of which plans are one flight on the wire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter

import numpy as np

from sim.lowering.parts import B1, I4, I8, Flights, Wire
from sim.lowering.rows import one_of
from sim.lowering.table import each_of, table_of
from sim.records import NamedTuple
from sim.shelf import Shelf
from sim.strategies.messages import later_unit
from sim.strategies.plan import COLLECTIVE, Plan, PlanOp

#: collectives of a plan that are the same in these are one kind
_ALIKE = attrgetter("comm", "group", "collective", "bytes_in", "bytes_out")


class _Order:
    """Of which kind the collectives of a plan are; the same for plans alike if it is one."""

    __slots__ = ("at", "crosses", "kind", "name")

    def __init__(self, at: I8, kind: I8, crosses: B1, name: dict[int, _CrossName]) -> None:
        self.at = at  # (n,) which ops they are
        self.kind = kind  # (n,)
        self.crosses = crosses  # (n,) ranks of several stages take part
        self.name = name  # of those, by place


_CrossName = tuple[str, str, int]  # communicator, unit, and which of it


class _Issued(NamedTuple):
    """A plan's collectives, by what is equal among them."""

    order: _Order
    ops: tuple[PlanOp, ...]  # one of each kind, in order of first appearance


_Flown = tuple[I8, I4]  # which wire each flight is, and which op of each part's plan
# a flight takes some 75 B on 16 stages; orders are held, so that the ids in a key stay theirs
_known = Shelf[tuple[_Flown, Sequence[_Order]]](
    500_000, lambda known: known[0][0].size, larger=False
)


def stage_of(plan: Plan, group: str) -> int:
    """The stage whose ranks a group of a plan has; -1 where it has those of several."""
    if plan.stages == 1:
        return plan.stage
    known = plan.derived.setdefault("stages of groups", {})
    if group not in known:
        known[group] = -1 if plan.groups[group].crosses(plan.stages) else plan.stage
    found: int = known[group]
    return found


def flights_of(
    plans: Sequence[Plan],
    stages: Sequence[int],
    wire: Callable[[Plan, PlanOp], Wire | None],
) -> Flights:
    """Every collective on the wire, in plan order; what ranks of several stages issue is one.

    Parameters
    ----------
    plans : sequence of Plan
        The step, a plan for each pipeline stage.
    stages : sequence of int
        Of each part.
    wire : callable
        What a plan's collective is on the wire; None if it is on none.
    """
    wires: list[Wire] = []
    numbers: list[I8] = []  # of the kinds of each plan, which wire; -1 none
    for plan in plans:
        ops = _issued(plan).ops
        numbers.append(np.full(len(ops), -1, dtype=np.int64))
        for kind, op in enumerate(ops):
            found = wire(plan, op)
            if found is not None:
                numbers[-1][kind] = len(wires)
                wires.append(found)
    orders = [_issued(plan).order for plan in plans]
    key = (
        *map(id, orders), *(plan.stage for plan in plans), *stages,
        *(number.tobytes() for number in numbers),
    )  # fmt: skip
    flown, _ = _known.get(key, lambda: (_flown(plans, stages, numbers), orders))
    return Flights(tuple(wires), *flown)


def _flown(plans: Sequence[Plan], stages: Sequence[int], numbers: Sequence[I8]) -> _Flown:
    of: list[I8] = []
    ops: list[I4] = []
    known: dict[_CrossName, int] = {}  # flights of ranks of several stages
    again: list[tuple[int, I4]] = []  # such a flight in another plan
    total = 0
    for plan, number in zip(plans, numbers, strict=True):
        issued = _issued(plan).order
        mine = np.array([stage == plan.stage for stage in stages])
        flies = number[issued.kind] >= 0
        new = flies.copy()
        part = np.where(mine, issued.at[:, None].astype(np.int32), np.int32(-1))
        for i in np.flatnonzero(flies & issued.crosses).tolist():
            other = known.get(issued.name[i])
            if other is not None:
                new[i] = False
                again.append((other, part[i]))
        row = total + np.cumsum(new) - 1
        for i in np.flatnonzero(new & issued.crosses).tolist():
            known[issued.name[i]] = int(row[i])
        of.append(number[issued.kind[new]])
        ops.append(part[new])
        total += of[-1].size
    whole = np.concatenate(ops)
    for other, here in again:
        np.maximum(whole[other], here, out=whole[other])
    return np.concatenate(of), whole


def _issued(plan: Plan) -> _Issued:
    found: _Issued | None = plan.derived.get("issued")
    if found is not None:
        return found
    at, each = table_of(plan).collectives, each_of(plan)
    place = [i for i, op in enumerate(each.ops) if op.kind == COLLECTIVE]
    ops = [each.ops[i] for i in place]
    keys = list(map(_ALIKE, ops))
    first = dict(zip(reversed(keys), reversed(ops), strict=True))  # the first of each
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    kind_of = np.zeros(len(each.ops), dtype=np.int64)
    kind_of[place] = [number[key] for key in keys]
    which = each.of[at]
    kind = kind_of[which]
    one_of_each = tuple([first[key] for key in number])
    between = np.array([stage_of(plan, op.group) < 0 for op in one_of_each], dtype=bool)
    crosses = between[kind]
    name: dict[int, _CrossName] = {}
    count: Counter[tuple[str, str]] = Counter()
    some = np.flatnonzero(crosses)
    steps = table_of(plan).micro_step[at[some]].tolist()
    for i, mine, step in zip(some.tolist(), which[some].tolist(), steps, strict=True):
        op = each.ops[mine]
        said = op.comm, later_unit(op.unit, step - op.micro_step)
        count[said] += 1
        name[i] = (*said, count[said])
    told = "\n".join([f"{comm} {unit}" for comm, unit, _ in name.values()])
    own = ("order", at.tobytes(), kind.tobytes(), crosses.tobytes(), told)
    order = one_of(own, lambda: _Order(at, kind, crosses, name))
    found = plan.derived["issued"] = _Issued(order, one_of_each)
    return found
