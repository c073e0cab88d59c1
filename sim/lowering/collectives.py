"""Collectives of a step: what each costs, and the classes of ranks that all of them make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from weakref import WeakValueDictionary

import numpy as np

from sim.cost.collectives import CollectiveCost, plan_collective
from sim.cost.demands import demands_of_sisters
from sim.cost.nccl.communicator import LATEST, Nccl
from sim.fabric.fabric import Fabric
from sim.fabric.held import goes_with_machines
from sim.fabric.sisters import never_full
from sim.inputs.workload import Stack
from sim.lowering.classes import Compiled, Key, compile_classes
from sim.lowering.flights import flights_of, stage_of
from sim.lowering.parts import F8, NO_FLIGHTS, Flights, Wire, roles_of
from sim.lowering.table import HOST_LINK, Distinct, total_bytes
from sim.lowering.teams import Draws
from sim.mesh import Sisters
from sim.records import NamedTuple
from sim.strategies.exchanges import DIRECT
from sim.strategies.plan import COLLECTIVE, Plan, PlanOp
from sim.units import show

#: what GPUs of a node move without NCCL, as its own ways that a program must ask for have it
_DIRECT = {name: Nccl(".".join(map(str, LATEST)), way) for name, way in DIRECT.items()}
#: whose share of a link nobody sees: one packet [B]. InfiniBand Architecture Specification 1.3,
#: volume 1, section 7.7.8: payloads of at most 4,096 bytes
PACKET_BYTES = 4096


class Name(NamedTuple):
    """What settles the cost of a collective on a machine."""

    collective: str
    group: str
    total: float  # as nccl-tests counts them [B]
    stage: int  # whose ranks they are; -1 where ranks of several stages take part


def name_of(plan: Plan, op: PlanOp) -> Name:
    """The name of a plan's collective."""
    return Name(op.collective, op.group, total_bytes(op), stage_of(plan, op.group))


def key_of(name: Name, cost: CollectiveCost) -> Key:
    """What decides a collective's demands per byte."""
    return name.collective, f"{name.group} {name.stage}", cost.algorithm


def algorithms_of(costs: Mapping[Name, CollectiveCost]) -> Mapping[str, tuple[str, ...]]:
    """What NCCL takes for the collectives of a kind, and up to what size where that is not all.

    As ``("ring ll 1 ch to 66 kB", "ring simple 2 ch")``, from the smallest to the largest.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    for name, cost in sorted(costs.items(), key=lambda item: item[0].total):
        if not cost.channels:
            continue
        taken = f"{cost.algorithm} {cost.protocol} {cost.channels} ch"
        runs = found.setdefault(name.collective, [])
        if runs and runs[-1][0] == taken:
            runs.pop()
        runs.append((taken, name.total))
    return {
        collective: (*(f"{taken} to {show(size, 'B')}" for taken, size in some), last)
        for collective, (*some, (last, _)) in found.items()
    }


_Kind = tuple[Key, Sisters]


class Agreed(NamedTuple):
    """What jobs of the same plans have in common on a machine."""

    costs: dict[Name, CollectiveCost]
    compiled: Compiled
    algorithms: Mapping[str, tuple[str, ...]]  # see `algorithms_of`


MAX_KEPT = 8  # of a plan


class _Kept(dict[object, tuple[Agreed, Fabric, Sequence[Plan]]]):
    """What is agreed of a plan; it goes with the plan, or with its machines."""


_of_plans: WeakValueDictionary[int, _Kept] = WeakValueDictionary()


def _let_go() -> None:
    for kept in list(_of_plans.values()):
        kept.clear()


goes_with_machines(_let_go)


class StepCollectives:
    """What all roles of a step share: plans, their collectives, and classes of ranks.

    Parameters
    ----------
    plans : sequence of Plan
        One for each pipeline stage.
    same : sequence of Distinct
        Their ops that cost the same.
    stack : Stack
        Whose NCCL it is.
    fabric : Fabric
        The machine.
    level : str
        ``folded``, ``ranks`` or ``steps``.
    speed, capacity : float64, optional
        As for `sim.lowering.costs.price`.
    """

    def __init__(
        self, plans: Sequence[Plan], same: Sequence[Distinct], stack: Stack, fabric: Fabric,
        level: str, speed: F8 | None, capacity: F8 | None,
    ) -> None:  # fmt: skip
        self.plans, self.distinct, self.fabric = plans, same, fabric
        self.roles = roles_of(fabric, len(plans))
        #: others may have the same classes, by identity
        self.kept = capacity is None
        agreed = self._agreed(Nccl.of(stack), level, speed, capacity)
        self.costs, self.compiled, self.algorithms = agreed
        self.single = len(self.compiled.classes.ranks) == 1
        self._lanes: dict[tuple[str, int, int, bool], int] = {}
        self._n_lanes = 0

    def _agreed(self, nccl: Nccl, level: str, speed: F8 | None, capacity: F8 | None) -> Agreed:
        """What collectives cost, and classes of ranks."""
        pace = b"" if speed is None else speed.tobytes()
        key = (level, nccl, pace, id(self.fabric), *map(id, self.plans))
        kept: _Kept = self.plans[0].derived.setdefault("collectives", _Kept())
        _of_plans[id(kept)] = kept
        if capacity is not None or key not in kept:
            costs: dict[Name, CollectiveCost] = {}
            compiled = self._compile(costs, nccl, level, pace, speed, capacity)
            found = Agreed(costs, compiled, algorithms_of(costs))
            if capacity is not None:
                return found
            if len(kept) >= MAX_KEPT:
                kept.clear()
            # held, so that the ids stay theirs; the first holds this, and would hold itself
            kept[key] = (found, self.fabric, self.plans[1:])
        return kept[key][0]

    def _compile(
        self, costs: dict[Name, CollectiveCost], nccl: Nccl, level: str, pace: bytes,
        speed: F8 | None, capacity: F8 | None,
    ) -> Compiled:  # fmt: skip
        kinds: dict[Key, _Kind] = {}
        large: set[Key] = set()
        copies = False
        for plan, same in zip(self.plans, self.distinct, strict=True):
            for op in same.ops:
                if op.kind != COLLECTIVE:
                    copies = copies or op.name in HOST_LINK
                    continue
                name = name_of(plan, op)
                if name in costs:
                    continue
                where = Sisters.among(plan.groups[op.group], plan.stage, plan.stages)
                by = moved_by(op.group, nccl)
                cost = costs[name] = cost_of(self.fabric, op.collective, where, name.total, by)
                if cost.limit_resource >= 0:
                    key = key_of(name, cost)
                    kinds.setdefault(key, (key, where))
                    if cost.work > PACKET_BYTES:
                        large.add(key)
        draws = tuple(kinds.values())
        if capacity is None:
            small = frozenset(kinds) - large
            return _classes(self.fabric, level, draws, small, len(self.plans), copies, pace)
        return compile_classes(
            self.fabric, level, _draws(self.fabric, draws, level), self.roles, copies=copies,
            speed=speed, capacity=capacity,
        )  # fmt: skip

    def flights(self) -> Flights:
        """Every collective on the wire; none where all ranks are one class."""
        if self.single:
            return NO_FLIGHTS
        return flights_of(self.plans, [role.stage for role in self.roles.roles], self._wire)

    def _wire(self, plan: Plan, op: PlanOp) -> Wire | None:
        """What a collective is on the wire; None if it is on none."""
        name = name_of(plan, op)
        cost = self.costs[name]
        team = self.compiled.teams.get(key_of(name, cost))
        if team is None:
            return None
        lane = self._lanes.setdefault(
            (op.comm, name.stage, team.n_wires, team.steps > 1), self._n_lanes
        )
        self._n_lanes = max(self._n_lanes, lane + team.n_wires)
        return Wire(op.comm, team, lane, cost.latency_s, cost.work, cost.bound_bytes_per_s)


def moved_by(group: str, nccl: Nccl) -> Nccl:
    """What moves the messages of a plan's group: NCCL, or ranks that reach for each other's."""
    return _DIRECT.get(group, nccl)


@lru_cache(maxsize=16384)
def cost_of(
    fabric: Fabric, collective: str, where: Sisters, total: float, nccl: Nccl
) -> CollectiveCost:
    """Cost of a collective of all sister groups at once."""
    first = where.first()
    return plan_collective(fabric, collective, first, total, nccl, concurrent_groups=where)


def _draws(fabric: Fabric, kinds: tuple[_Kind, ...], level: str) -> dict[Key, Draws]:
    """What a byte of each kind of collective costs, group by group; the same for every size."""
    found: dict[Key, Draws] = {}
    without = never_full(fabric) if level == "folded" else None
    for (collective, group, algorithm), where in kinds:
        rows = where.rows()
        members = np.arange(len(rows) + 1) * rows.shape[1]
        demands = demands_of_sisters(fabric, where, collective, algorithm, without)
        found[collective, group, algorithm] = Draws(members, rows.ravel(), demands)
    return found


@lru_cache(maxsize=512)
def _classes(
    fabric: Fabric, level: str, kinds: tuple[_Kind, ...], small: frozenset[Key], stages: int,
    copies: bool, speed: bytes,
) -> Compiled:  # fmt: skip
    """Classes of ranks and resources; they depend on the kinds of collective, not on sizes.

    A tree loads the ranks of a group unequally. Ranks of a stage that only a `small` kind of
    collective tells apart (norms of gradients, once a step) are one class: it then draws on
    nothing. Beside copies a nanosecond may decide which of two goes first, so there it draws.
    """
    pace = np.frombuffer(speed) if speed else None
    roles, draws = roles_of(fabric, stages), _draws(fabric, kinds, level)
    found = compile_classes(fabric, level, draws, roles, copies=copies, speed=pace)
    apart = len(found.classes.ranks) > len(roles.roles)
    if level != "folded" or stages == 1 or copies or not (small and apart):
        return found
    for key in small:
        draws[key] = draws[key].on_nothing()
    fewer = compile_classes(fabric, level, draws, roles, copies=copies, speed=pace)
    return fewer if len(fewer.classes.ranks) < len(found.classes.ranks) else found


goes_with_machines(cost_of.cache_clear)
goes_with_machines(_classes.cache_clear)
