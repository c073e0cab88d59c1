"""A deep model's step from two shallow ones, where its blocks have settled into a rhythm.

Blocks repeat, so past the first few every measure is linear in their number:
M(L) = M(b) + (L - b) (M(b) - M(a)) / (b - a). Whether they have settled is seen in the deeper of
the two: its blocks must follow each other evenly. What that cannot show is a host that falls behind
only after many blocks; docs/decisions/0008-one-step.md has what is left of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.blocks.layer import layer_kinds
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.lowering.lower import Lowered, RankView
from sim.program import Timeline
from sim.step.run import StepOutcome
from sim.strategies.plan import SEGMENT, Plan

SHALLOW, DEEP = 4, 8  # both beyond any prefetch depth of FSDP
EVEN = 1e-5  # of a block's share of a micro-step: how much its pace may still change


def repeats(workload: Workload) -> bool:
    """Whether a step is deep, and every block of it may turn out to be like the next.

    ZeRO-3 looks far ahead, the others reduce in buckets of many blocks: they are not asked.
    """
    model, p = workload.model, workload.parallelism
    alike = len(set(layer_kinds(model))) == 1
    near = strategy_of(workload).blocks_alike and p.forward_prefetch < SHALLOW - 1
    policy = workload.activation_checkpointing.kind
    deep = p.pipeline_parallel == 1 and model.layers > 2 * DEEP
    return alike and near and policy != "selective-blocks" and deep


def of_layers(workload: Workload, layers: int) -> Workload:
    """The same job with fewer blocks."""
    return workload.model_copy(
        update={"model": workload.model.model_copy(update={"layers": layers})}
    )


def factors(layers: int) -> tuple[float, float]:
    """How often measures at `SHALLOW` and at `DEEP` blocks go into those at `layers`."""
    factor = (layers - DEEP) / (DEEP - SHALLOW)
    return -factor, 1.0 + factor


def settled(lowered: Lowered, timeline: Timeline, layers: int) -> bool:
    """Whether the blocks past `SHALLOW` follow each other evenly, and so would `layers` of them.

    They would not where the host, ahead of the GPU now, loses so much a block that it falls behind.

    Parameters
    ----------
    lowered, timeline
        A step of `DEEP` blocks, as the slowest rank sees it.
    layers : int
        Blocks of the whole model. [1]
    """
    view = _slowest(lowered, timeline)
    first = _first_of_blocks(view.plan)
    begins = _begins(lowered, timeline)
    pace = np.diff(begins, axis=1)[:, SHALLOW - 2 : DEEP - 3]  # the last ones see the end coming
    share = _share(lowered, timeline, DEEP)
    if (pace.max(axis=1) - pace.min(axis=1)).max() > EVEN * share:
        return False
    lead = begins - timeline.end[_launches(lowered, view.rank, first)]
    lost = lead[:, DEEP - 4] - lead[:, DEEP - 3]  # a block
    falls = (lost > EVEN * share) & (lead[:, DEEP - 3] < lost * (layers - DEEP + 3))
    return not bool(falls.any())


def alike(shallow: StepOutcome, deep: StepOutcome, layers: int) -> bool:
    """Whether the two begin and end alike, so that the deeper one has more of its middle only.

    A host or a stream that is not yet in its rhythm where the shallow one ends shows here: as
    another pace of the first or last blocks, as waiting that more blocks make less, or as a stream
    or host that would end after the step does: it is ahead at eight blocks and falls behind later.

    Parameters
    ----------
    shallow, deep : StepOutcome
        Steps of `SHALLOW` and of `DEEP` blocks.
    layers : int
        Blocks of the whole model. [1]
    """
    less, more = (np.diff(_begins(o.lowered, o.timeline), axis=1) for o in (shallow, deep))
    head, tail = less[:, :-1] - more[:, : SHALLOW - 2], less[:, -1] - more[:, -1]
    least = EVEN * _share(deep.lowered, deep.timeline, DEEP)
    if max(np.abs(head).max(), np.abs(tail).max()) > least:
        return False
    fewer, further = shallow.breakdown, deep.breakdown
    once, again = ({**part.exposed, "host": part.host_s} for part in (fewer, further))
    if any(again.get(name, 0.0) < seconds - least for name, seconds in once.items()):
        return False
    times, more_times = factors(layers)
    ends = times * _ends(shallow) + more_times * _ends(deep)  # of each lane
    step_s = times * shallow.timeline.end.max() + more_times * deep.timeline.end.max()
    return bool(ends.max() <= step_s + least)


def _ends(outcome: StepOutcome) -> npt.NDArray[np.float64]:
    """When each lane ends, (n_lanes,). [s]"""
    program = outcome.lowered.program
    ends = np.zeros(program.n_lanes)
    np.maximum.at(ends, program.lane, outcome.timeline.end)
    return ends


def _slowest(lowered: Lowered, timeline: Timeline) -> RankView:
    return max(lowered.views, key=lambda view: float(timeline.end[view.compute].max()))


def _share(lowered: Lowered, timeline: Timeline, layers: int) -> float:
    """A block's share of a micro-step. [s]"""
    view = _slowest(lowered, timeline)
    passes = len(_first_of_blocks(view.plan))  # forward and backward of every micro-step
    return float(timeline.end[view.compute].max()) / (layers * (passes // 2))


def _begins(lowered: Lowered, timeline: Timeline) -> npt.NDArray[np.float64]:
    """When the slowest rank begins each block, (2 x micro-steps, blocks). [s]"""
    view = _slowest(lowered, timeline)
    of, starts = lowered.plan_op[view.compute], timeline.start[view.compute]
    found: npt.NDArray[np.float64] = starts[np.searchsorted(of, _first_of_blocks(view.plan))]
    return found


def _launches(lowered: Lowered, rank: int, ops: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The host op that launches the first kernel of each plan op."""
    lane = lowered.lane_names.index(f"rank {rank} host")
    begin, end = np.searchsorted(lowered.program.lane, (lane, lane + 1))
    return np.asarray(begin + np.searchsorted(lowered.plan_op[begin:end], ops))


def _first_of_blocks(plan: Plan) -> npt.NDArray[np.int64]:
    """The op with which each block begins, (2 x micro-steps, blocks), in the order of running."""
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
