"""Which collectives of which plans are one flight on the wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

import numpy as np

from sim.lowering.parts import B1, I4, I8, Flights, Wire
from sim.lowering.rows import one_of
from sim.lowering.table import each_of, table_of
from sim.records import NamedTuple
from sim.shelf import Shelf
from sim.strategies.messages import at_first
from sim.strategies.plan import COLLECTIVE, Plan, PlanOp

#: collectives of a plan that are the same in these are one kind
_ALIKE = attrgetter("comm", "group", "collective", "bytes_in", "bytes_out")


class _Order:
    """Of which kind the collectives of a plan are; the same for plans alike if it is one."""

    __slots__ = ("at", "crosses", "kind", "nth", "step", "way", "ways")

    def __init__(
        self, at: I8, kind: I8, crosses: B1, ways: tuple[tuple[str, str], ...], way: I8, step: I8,
        nth: I8,
    ) -> None:  # fmt: skip
        self.at = at  # (n,) which ops they are
        self.kind = kind  # (n,)
        self.crosses = crosses  # (n,) ranks of several stages take part
        # of those, (m,) each: communicator and unit, micro-batch, which of those that say so
        self.ways, self.way, self.step, self.nth = ways, way, step, nth


class _Issued(NamedTuple):
    """A plan's collectives, by what is equal among them."""

    order: _Order
    ops: tuple[PlanOp, ...]  # one of each kind, in order of first appearance


_Flown = tuple[I8, I4]  # which wire each flight is, and which op of each part's plan
# 32 MB: a flight has an entry a part, of 4 B; orders are held, so that the ids in a key stay theirs
_known = Shelf[tuple[_Flown, Sequence[_Order]]](
    8_000_000, lambda known: known[0][1].size, larger=False
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
    orders = [_issued(plan).order for plan in plans]
    wire = np.concatenate([of[each.kind] for of, each in zip(numbers, orders, strict=True)])
    at = np.concatenate([each.at for each in orders])
    flies = wire >= 0
    first = np.arange(wire.size)  # in any plan that is the same flight
    some = np.flatnonzero(np.concatenate([each.crosses for each in orders]))
    said, flown = _said(orders), flies[some]
    _, index, which = np.unique(said[flown], return_index=True, return_inverse=True)
    some = some[flown]
    first[some] = some[index[which.ravel()]]
    new = flies & (first == np.arange(wire.size))
    row = (np.cumsum(new) - 1)[first]
    ops = np.full((int(new.sum()), len(stages)), -1, dtype=np.int32)
    begin = 0
    for plan, order in zip(plans, orders, strict=True):
        mine = begin + np.flatnonzero(flies[begin : begin + order.at.size])
        for part in [i for i, stage in enumerate(stages) if stage == plan.stage]:
            ops[row[mine], part] = at[mine]
        begin += order.at.size
    return wire[new], ops


def _said(orders: Sequence[_Order]) -> I8:
    """What ranks of several stages issue, (m,): equal numbers for what is one flight."""
    ways: dict[tuple[str, str], int] = {}
    way = []
    for order in orders:
        number = np.array([ways.setdefault(each, len(ways)) for each in order.ways], dtype=np.int64)
        way.append(number[order.way])
    step, nth = (np.concatenate([getattr(o, name) for o in orders]) for name in ("step", "nth"))
    steps, most = int(step.max(initial=0)) + 1, int(nth.max(initial=0)) + 1
    found: I8 = (np.concatenate(way) * steps + step) * most + nth
    return found


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
    some = which[crosses]
    used = np.unique(some).tolist()
    known: dict[tuple[str, str], int] = {}
    way, base, own = (np.zeros(len(each.ops), dtype=np.int64) for _ in range(3))
    for i in used:
        op = each.ops[i]
        unit, base[i] = at_first(op.unit)
        way[i] = known.setdefault((op.comm, unit), len(known))
        own[i] = op.micro_step
    # copies of messages are later ones, of others they are the same once more
    later = table_of(plan).micro_step[at[crosses]] - own[some]
    step = base[some] + np.where(base[some] >= 0, later, 1)
    ways, way = tuple(known), way[some]
    nth = _nth(way * (int(step.max(initial=0)) + 1) + step)
    key = (
        "order", at.tobytes(), kind.tobytes(), crosses.tobytes(), ways, way.tobytes(),
        step.tobytes(), nth.tobytes(),
    )  # fmt: skip
    order = one_of(key, lambda: _Order(at, kind, crosses, ways, way, step, nth))
    found = plan.derived["issued"] = _Issued(order, one_of_each)
    return found


def _nth(values: I8) -> I8:
    """How many equal ones stand before each."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    new = np.ones(values.size, dtype=bool)
    new[1:] = ranked[1:] != ranked[:-1]
    at = np.arange(values.size)
    found = np.empty(values.size, dtype=np.int64)
    found[order] = at - np.maximum.accumulate(np.where(new, at, 0))
    return found
