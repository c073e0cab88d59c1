"""Deep models: a step of a few of the blocks, and when it begins each.

Whether it stands for a step of all is seen in it (`sim.step.blocks_repeat`).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim.blocks.layer import layer_kinds
from sim.inputs.model import Model
from sim.inputs.shares import mesh_of
from sim.inputs.strategy import EACH_BLOCK, BlockRhythm, strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.lowered import Lowered, RankView
from sim.lowering.parts import F8, I8
from sim.program import Timeline
from sim.records import NamedTuple
from sim.strategies.plan import SEGMENT, Plan

NEAR = 2  # blocks that are gathered ahead at most, for that few to be in their rhythm


def rhythm_of(topology: Topology, workload: Workload) -> BlockRhythm | None:
    """Whether a step is deep, and its blocks may turn out to be like the next.

    Not asked is what ends otherwise with more blocks, or looks far ahead.
    """
    model, p, strategy = workload.model, workload.parallelism, strategy_of(workload)
    if p.pipeline_parallel > 1 or model.layers <= 2 * EACH_BLOCK.layers:
        return None
    kinds = set(layer_kinds(model, workload.method, workload.precision.bf16_ends))
    if len(kinds) > 1 or any(kind.state == "passive" for kind in kinds):  # backward runs none
        return None
    if p.forward_prefetch > NEAR or not strategy.counts_missing(p):
        return None
    if workload.activation_checkpointing.kind == "selective-blocks":
        return None
    return strategy.block_rhythm(workload, mesh_of(topology, workload))


@lru_cache(maxsize=1024)
def of_layers(workload: Workload, layers: int) -> Workload:
    """The same job with another number of blocks."""
    if layers == workload.model.layers:
        return workload
    return workload.model_copy(update={"model": _model_of(workload.model, layers)})


@lru_cache(maxsize=64)
def _model_of(model: Model, layers: int) -> Model:
    return model.model_copy(update={"layers": layers})


class BlockPaces(NamedTuple):
    """How steps of few blocks go, a row a step; of one representative rank each."""

    begins: F8  # (steps, 2 x micro-steps, blocks) when it begins each block [s]
    leads: F8  # by how much the host was ahead then [s]


def block_paces(lowered: Lowered, timeline: Timeline) -> BlockPaces:
    """How a step of a few blocks goes, or those of a stack."""
    view = lowered.slowest(timeline)
    first = first_of_blocks(view.plan)
    start, end = np.atleast_2d(timeline.start), np.atleast_2d(timeline.end)
    at = np.searchsorted(lowered.plan_op[view.compute], first) + view.compute.start
    begins = start[:, at]
    launches, _ = launches_of(lowered, view)
    return BlockPaces(begins, begins - end[:, launches])


def launches_of(lowered: Lowered, view: RankView) -> tuple[I8, int]:
    """The host op that launches the first kernel of each block, (2 x micro-steps, blocks).

    And where ops of that host end.
    """
    lane = lowered.host_of(view)
    begin, end = np.searchsorted(lowered.program.lane, (lane, lane + 1))
    ops = first_of_blocks(view.plan)
    return np.asarray(begin + np.searchsorted(lowered.plan_op[begin:end], ops)), int(end)


def first_of_blocks(plan: Plan) -> npt.NDArray[np.int64]:
    """The op with which each block begins, (2 x micro-steps, blocks), in the order of running."""
    plan = plan.first
    known: npt.NDArray[np.int64] | None = plan.derived.get("first of blocks")
    if known is not None:
        return known
    found: dict[tuple[int, bool], dict[int, int]] = {}
    for i, op in enumerate(plan.ops):
        if op.kind == SEGMENT and op.block > 0 and op.name in ("forward", "recompute", "backward"):
            found.setdefault((op.micro_step, op.name == "forward"), {}).setdefault(op.block, i)
    # the head counts as the block after the last
    layers = max(b for row in found.values() for b in row) - 1
    rows = np.array([[i for b, i in row.items() if b <= layers] for row in found.values()])
    plan.derived["first of blocks"] = rows
    return rows
