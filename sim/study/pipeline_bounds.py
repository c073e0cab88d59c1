"""Least time of a pipeline, whose ranks wait for the stages before theirs, and for those behind."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from sim.blocks.layer import layer_kinds
from sim.inputs.check_mesh import shape_of, stage_layers
from sim.inputs.workload import Workload
from sim.pipeline.schedules import SCHEDULES
from sim.study.micro_bounds import Paced
from sim.study.parameter_bounds import Copies

#: forward is so much of a micro-step at the least: two ninths of attention that is run again
_DOWN = 0.2
#: its product is so much slower or quicker by the FLOP than those of blocks
_HEAD = 1.25


def filling(workload: Workload) -> float:
    """Least time of a pipeline over that of its rank alone; 1 without one."""
    p = workload.parallelism
    if p.pipeline_parallel == 1 or SCHEDULES[p.pipeline_schedule].splits:
        return 1.0
    shape = shape_of(workload)
    return 1.0 + (shape.ranks - 1) / (shape.virtual * shape.micro)


def busiest(
    workload: Workload, micro: Paced, copies: Sequence[Copies], head: float
) -> float:  # fmt: skip
    """Bound 3 of the rank that it binds most, where blocks are alike; 0 elsewhere. [s]"""
    alike = len(set(layer_kinds(workload.model))) == 1
    some = workload.activation_checkpointing.kind == "selective-blocks"
    if not alike or some:
        return 0.0
    schedule, shape = SCHEDULES[workload.parallelism.pipeline_schedule], shape_of(workload)
    least = _stages_s(workload, micro, head)
    before = list(itertools.accumulate(least, initial=0.0))
    bounds = []
    for rank in range(shape.ranks):
        own = schedule.stages_of(shape, rank)
        waits = (_DOWN if schedule.splits else 1.0) * before[own[0]]
        # the last of a rank's blocks hands on what is not told apart from the whole stage's
        busy = sum(least[stage] + copies[stage].each_s for stage in own)
        busy -= max(0.0, micro.block_s)
        once = sum(copies[stage].once_s for stage in own)
        bounds.append(shape.micro * busy + once + waits)
    return max(bounds)


def _stages_s(workload: Workload, micro: Paced, head: float) -> list[float]:
    """Least time of a micro-step of each stage, forward and backward. [s]"""
    model = workload.model
    loss, gemm = micro.kernels["loss"], micro.kernels["gemm"]
    outside = loss + micro.kernels["embedding"] + min(1.0, _HEAD * head) * gemm
    block = (micro.busy_s - outside) / model.layers + micro.block_s
    last = loss + min(1.0, head) / _HEAD * gemm
    found = [block * layers for layers in stage_layers(workload)]
    found[-1] += last
    return found
