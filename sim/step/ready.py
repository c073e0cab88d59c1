"""A step ready to be lowered: plans priced, kernels as slow as the slowest rank of a role is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sim.blocks.parameters import tree_of
from sim.fabric import compile_fabric
from sim.fabric.role import Role
from sim.inputs.pipeline import shape_of
from sim.inputs.shares import mesh_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.costs import Priced, price
from sim.pipeline.schedules import SCHEDULES
from sim.records import NamedTuple
from sim.step.bounds import PLAY_BYTES, PROBED, check_size, crowded, ops_of
from sim.step.depth import of_layers
from sim.step.rhythm import cycle_of, of_steps
from sim.step.slowest import Ranks
from sim.step.straggle import ranks_of, slowed
from sim.step.variation import Variation, capacities, speeds
from sim.strategies import plans_of


class Ready(NamedTuple):
    """A priced step."""

    priced: Priced
    ranks: Mapping[Role, Ranks]  # as the kernels of a role were slowed
    layers: int  # blocks that are played
    repeats: int  # micro-steps that are left out
    cycle: int  # that stand for others together
    crowd: bool  # ranks that do the same share their columns


def priced_of(
    topology: Topology, workload: Workload, variation: Variation, level: str, missing: int = 0
) -> Priced:
    """A job's plans and what they cost, on ranks that are alike but for `variation`.

    `missing` layers of the model are not run (`sim.blocks.modules.ModelTree`).
    """
    fabric = compile_fabric(topology)
    plans = plans_of(workload, tree_of(workload, missing), mesh_of(topology, workload))
    slow = speeds(variation, fabric)
    known = topology.calibration
    if known is not None and told_slowest(topology, variation):
        slow = np.ones(fabric.n_ranks) if slow is None else slow
        slow[-1] *= known.slowest_gpu
    return price(plans, workload, fabric, level, slow, capacities(variation, fabric))


def reckoned(
    topology: Topology, workload: Workload, variation: Variation, level: str
) -> tuple[Priced, float] | None:
    """What the shortest step takes, and how many times as much this one, not written down.

    Every micro-step more has as many ops as the one before. None where it may be written down.
    """
    shape = shape_of(workload)
    if shape.micro * shape.virtual <= PROBED * shape.ranks:
        return None
    few = SCHEDULES[workload.parallelism.pipeline_schedule].fewest(shape.ranks)
    one, two = (
        priced_of(topology, of_steps(workload, n), variation, level) for n in (few, few + 1)
    )
    return one, 1.0 + max(0, shape.micro - few) * (ops_of(two) / ops_of(one) - 1.0)


def plan_bytes(workload: Workload) -> float:
    """Memory of a pipeline's plans, before they are made; 0 without stages. [B]"""
    shape = shape_of(workload)
    if shape.ranks == 1:
        return 0.0
    return 2.0 * shape.micro * shape.virtual * shape.ranks * PLAY_BYTES


def told_slowest(topology: Topology, variation: Variation) -> bool:
    """Whether a calibration found one GPU slower, which then says how ranks differ."""
    known = topology.calibration
    return known is not None and known.slowest_gpu != 1.0 and not variation.jitter


def ready_of(
    topology: Topology,
    workload: Workload,
    simulated: Workload,
    variation: Variation,
    level: str,
    layers: int | None,
    lean: bool = False,
) -> Ready:
    """A step to lower.

    Parameters
    ----------
    topology, workload : specs
        Checked by the loader.
    simulated : Workload
        The same with all of its micro-steps or fewer.
    variation : Variation
        Jitter and slow parts.
    level : str
        ``folded``, ``ranks`` or ``steps``.
    layers : int or None
        Of the whole model, where `workload` has some of its blocks.
    lean : bool
        Ranks that do the same may share their columns.

    Raises
    ------
    InputError
        Its program would be absurd.
    """
    missing = 0 if layers is None else layers - workload.model.layers
    priced = priced_of(topology, simulated, variation, level, missing)
    crowd = lean and crowded(priced)
    check_size(priced, level, variation, crowd=crowd)
    ranks: tuple[Ranks, ...] = ()
    if not told_slowest(topology, variation):
        whole = workload if layers is None else of_layers(workload, layers)
        ranks = ranks_of(priced, simulated, variation.jitter, whole)
    if not variation.jitter:
        priced = _as_the_slowest(priced, ranks, simulated.model.layers)
    by_role = {part.role: mine for part, mine in zip(priced.parts, ranks, strict=False)}
    repeats = workload.gradient_accumulation - simulated.gradient_accumulation
    return Ready(
        priced,
        by_role,
        simulated.model.layers,
        repeats,
        cycle_of(simulated) if repeats else 1,
        crowd,
    )


def _as_the_slowest(priced: Priced, ranks: Sequence[Ranks], layers: int) -> Priced:
    """The same step, of so many blocks, where all go as the slowest rank does in the mean."""
    if all(each.slowdown == 1.0 for each in ranks):
        return priced
    parts = (slowed(part, mine, layers) for part, mine in zip(priced.parts, ranks, strict=True))
    return priced._replace(parts=tuple(parts))
