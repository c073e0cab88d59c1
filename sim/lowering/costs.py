"""Price a plan: every op of it as rows of cost, every collective as what it draws on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.blocks.unroll import unroll
from sim.cost.collectives import CollectiveCost
from sim.cost.kernel_cost import CostModel
from sim.fabric.fabric import Fabric
from sim.inputs.workload import Workload
from sim.lowering.classes import Compiled
from sim.lowering.collectives import Name, StepCollectives, name_of
from sim.lowering.parts import F8, Flights, Part
from sim.lowering.pricing import pricing_of
from sim.lowering.table import distinct
from sim.records import NamedTuple
from sim.strategies.plan import Plan, PlanOp


class Priced(NamedTuple):
    """What `lower` needs: a part for each role, and who plays it."""

    parts: tuple[Part, ...]
    flights: Flights
    compiled: Compiled
    collectives: dict[Name, CollectiveCost]
    algorithms: Mapping[str, tuple[str, ...]]  # that NCCL takes, by kind of collective
    fallbacks: tuple[str, ...]
    models: tuple[CostModel, ...]  # of the kernels of each part

    def cost_of(self, plan: Plan, op: PlanOp) -> CollectiveCost:
        """What a collective of a plan was priced at."""
        return self.collectives[name_of(plan, op)]


def price(
    plans: Sequence[Plan],
    workload: Workload,
    fabric: Fabric,
    level: str = "folded",
    speed: F8 | None = None,
    capacity: F8 | None = None,
) -> Priced:
    """Cost every op of a step on a machine.

    Parameters
    ----------
    plans : sequence of Plan
        The step, a plan for each pipeline stage.
    workload : Workload
        Shapes, dtypes and stack.
    level : str
        ``folded``, ``ranks`` or ``steps``.
    speed : (n_ranks,) float64, optional
        Relative kernel speed of each rank; 1 if left out.
    capacity : (n_resources,) float64, optional
        Capacities of resources where some are slower than the machine's; not at ``folded``.
    """
    templates = unroll(workload)
    same = [distinct(plan, templates.layer_kinds) for plan in plans]
    step = StepCollectives(plans, same, workload.stack, fabric, level, speed, capacity)
    parts, models = [], []
    fallbacks: dict[str, None] = {}
    for i, role in enumerate(step.roles.roles):
        pricing = pricing_of(step, workload, role, i)
        part, notes = pricing.part(step, workload, templates)
        parts.append(part)
        models.append(pricing.model)
        fallbacks.update(dict.fromkeys(notes))
    return Priced(
        parts=tuple(parts),
        flights=step.flights(),
        compiled=step.compiled,
        collectives=step.costs,
        algorithms=step.algorithms,
        fallbacks=tuple(fallbacks),
        models=tuple(models),
    )
