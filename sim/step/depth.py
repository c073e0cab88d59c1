"""A deep model's step from two shallow ones, where its blocks have settled into a rhythm.

Blocks repeat, so past the first few every measure is linear in their number:
M(L) = M(b) + (L - b) (M(b) - M(a)) / (b - a). Whether they have settled is seen in the deeper of
the two: its blocks must follow each other evenly. What that cannot show is a host that falls behind
only after many blocks; docs/decisions/0008-one-step.md has what is left of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sim.blocks.layer import layer_kinds
from sim.inputs.model import Model
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.lower import Lowered, RankView
from sim.lowering.parts import B1, F8, I8
from sim.program import Timeline
from sim.step.breakdown import Breakdown
from sim.strategies.plan import SEGMENT, Plan

SHALLOW, DEEP = 4, 8  # both beyond any prefetch depth of FSDP
N = TypeVar("N", float, npt.NDArray[Any])
EVEN = 1e-5  # of a block's share of a micro-step: how much its pace may still change
SHORT = 1e-4  # of a step: by how much waits that more blocks end may make it too short


def repeats(topology: Topology, workload: Workload) -> bool:
    """Whether a step is deep, and every block of it may turn out to be like the next.

    ZeRO-3 looks far ahead, the others reduce in buckets of many blocks: they are not asked, but for
    those of which one GPU reduces nothing.
    """
    model, p = workload.model, workload.parallelism
    alike = len(set(layer_kinds(model))) == 1
    near = p.forward_prefetch < SHALLOW - 1 and (
        strategy_of(workload).blocks_alike or alone(topology, workload)
    )
    policy = workload.activation_checkpointing.kind
    deep = p.pipeline_parallel == 1 and model.layers > 2 * DEEP
    return alike and near and policy != "selective-blocks" and deep


def alone(topology: Topology, workload: Workload) -> bool:
    """Whether blocks are alike because there is one GPU: to the last op, or not at all."""
    return strategy_of(workload).blocks_alike_alone and topology.world_size == 1


@lru_cache(maxsize=1024)
def of_layers(workload: Workload, layers: int) -> Workload:
    """The same job with another number of blocks."""
    if layers == workload.model.layers:
        return workload
    return workload.model_copy(update={"model": _model_of(workload.model, layers)})


@lru_cache(maxsize=64)
def _model_of(model: Model, layers: int) -> Model:
    return model.model_copy(update={"layers": layers})


def factors(layers: N) -> tuple[N, N]:
    """How often measures at `SHALLOW` and at `DEEP` blocks go into those at `layers`."""
    factor: N = (layers - DEEP) / (DEEP - SHALLOW)
    return -factor, 1.0 + factor


class ShallowSteps(NamedTuple):
    """How steps of few blocks go, a row a step; of one representative rank each."""

    begins: F8  # (steps, 2 x micro-steps, blocks) when it begins each block [s]
    leads: F8  # by how much the host was ahead then [s]
    waits: F8  # (steps,) for how long it waits once it has launched the last block [s]
    share: F8  # (steps,) a block's share of a micro-step [s]
    ends: F8  # (steps, n_lanes) when each lane ends [s]
    end: F8  # (steps,) [s]


def pace_of(lowered: Lowered, timeline: Timeline, layers: int) -> ShallowSteps:
    """How a step of `layers` blocks goes, or those of a stack."""
    view, program = lowered.slowest(timeline), lowered.program
    first = _first_of_blocks(view.plan)
    start, end = np.atleast_2d(timeline.start), np.atleast_2d(timeline.end)
    at = np.searchsorted(lowered.plan_op[view.compute], first) + view.compute.start
    begins = start[:, at]
    lasts = np.searchsorted(program.lane, np.arange(program.n_lanes), side="right")
    some = np.flatnonzero(np.diff(lasts, prepend=0))  # lanes of which there are ops
    ends = np.zeros((len(end), program.n_lanes))
    # ops of a lane end one after the other
    ends[:, some] = end[:, lasts[some] - 1]
    passes = len(first)  # forward and backward of every micro-step
    launches, stop = launches_of(lowered, view)
    last = launches[-1, -1]
    return ShallowSteps(
        begins, begins - end[:, launches],
        (start[:, last + 1 : stop] - end[:, last : stop - 1]).sum(axis=1),
        end[:, view.compute.stop - 1] / (layers * (passes // 2)), ends, ends.max(axis=1),
    )  # fmt: skip


def rows_of(paces: Sequence[tuple[ShallowSteps, int]]) -> ShallowSteps:
    """Rows of several, each given with its number, as one."""
    each = [[column[row] for column in pace] for pace, row in paces]
    return ShallowSteps(*(np.stack(rows) for rows in zip(*each, strict=True)))


def settled(deep: ShallowSteps, layers: I8) -> B1:
    """Whether the blocks past `SHALLOW` follow each other evenly, and so would `layers` of them.

    They would not where the host, ahead of the GPU now, loses so much a block that it falls behind.

    Parameters
    ----------
    deep : ShallowSteps
        Steps of `DEEP` blocks.
    layers : (steps,) int64
        Blocks of each whole model. [1]
    """
    pace = np.diff(deep.begins, axis=2)[..., SHALLOW - 2 : DEEP - 3]  # the last see the end coming
    least = EVEN * deep.share
    even = (pace.max(axis=2) - pace.min(axis=2)).max(axis=1) <= least
    lead = deep.leads
    lost = lead[..., DEEP - 4] - lead[..., DEEP - 3]  # a block
    more = (layers - DEEP + 3)[:, None]
    falls = (lost > least[:, None]) & (lead[..., DEEP - 3] < lost * more)
    found: B1 = even & ~falls.any(axis=1)
    return found


def alike(
    shallow: ShallowSteps,
    deep: ShallowSteps,
    parts: Sequence[tuple[Breakdown, Breakdown]],
    layers: I8,
) -> B1:
    """Whether the two begin and end alike, so that the deeper one has more of its middle only.

    A host or a stream that is not yet in its rhythm where the shallow one ends shows here: as
    another pace of the first or last blocks, as waiting that more blocks make less (of the GPU for
    what is launched or in flight, of the host for the last gradients), or as a stream or host that
    would end after the step does: it is ahead at eight blocks and falls behind later.

    Parameters
    ----------
    shallow, deep : ShallowSteps
        Steps of `SHALLOW` and of `DEEP` blocks.
    parts : sequence of (shallow, deep)
        Their breakdowns.
    layers : (steps,) int64
        Blocks of each whole model. [1]
    """
    less, more = (np.diff(pace.begins, axis=2) for pace in (shallow, deep))
    head, tail = less[..., :-1] - more[..., : SHALLOW - 2], less[..., -1] - more[..., -1]
    least = EVEN * deep.share
    off = np.maximum(np.abs(head).max(axis=(1, 2)), np.abs(tail).max(axis=1))
    times, more_times = factors(layers[:, None])
    ends = times * shallow.ends + more_times * deep.ends
    step_s = times[:, 0] * shallow.end + more_times[:, 0] * deep.end
    found: B1 = (off <= least) & (ends.max(axis=1) <= step_s + least)
    found &= more_times[:, 0] * (shallow.waits - deep.waits) <= SHORT * step_s
    for i, (fewer, further) in enumerate(parts):
        once, again = ({**part.exposed, "host": part.host_s} for part in (fewer, further))
        if any(again.get(name, 0.0) < s - least[i] for name, s in once.items()):
            found[i] = False
    return found


def launches_of(lowered: Lowered, view: RankView) -> tuple[I8, int]:
    """The host op that launches the first kernel of each block, (2 x micro-steps, blocks).

    And where ops of that host end.
    """
    lane = lowered.host_of(view)
    begin, end = np.searchsorted(lowered.program.lane, (lane, lane + 1))
    ops = _first_of_blocks(view.plan)
    return np.asarray(begin + np.searchsorted(lowered.plan_op[begin:end], ops)), int(end)


def _first_of_blocks(plan: Plan) -> npt.NDArray[np.int64]:
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
