"""Least time of a pipeline: its schedule played with the least times of what its stages compute.

Every rank computes in the order of its schedule, and waits for what other stages send. The longest
way through that only grows with what is on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from sim.blocks.layer import EMBEDDING, HEAD, layer_kinds
from sim.cost.nccl.communicator import Nccl
from sim.fabric import compile_fabric
from sim.inputs.pipeline import shape_of, stage_layers
from sim.inputs.shares import mesh_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.collectives import cost_of
from sim.mesh import Pairs, Sisters
from sim.pipeline.actions import BACKWARD, FORWARD, WEIGHT
from sim.pipeline.schedules import SCHEDULES, PipelineShape
from sim.records import NamedTuple
from sim.strategies.pipeline_play import message_bytes
from sim.study.micro_bounds import Micro, Paced
from sim.study.parameter_bounds import Copies


class StageTime(NamedTuple):
    """Least times of a micro-batch in a stage. [s]"""

    forward_s: float
    input_s: float
    weight_s: float

    @property
    def whole_s(self) -> float:
        """Forward and backward."""
        return self.forward_s + self.input_s + self.weight_s


class Through(NamedTuple):
    """When the ranks of a pipeline are through at the earliest. [s]"""

    end_s: float
    first_s: float  # its first stage


def filling(workload: Workload) -> float:
    """Least time of a pipeline over that of its rank alone; 1 without one."""
    p = workload.parallelism
    if p.pipeline_parallel == 1 or SCHEDULES[p.pipeline_schedule].splits:
        return 1.0
    shape = shape_of(workload)
    return 1.0 + (shape.ranks - 1) / (shape.virtual * shape.micro)


def stage_times(
    workload: Workload, micro: Micro, paced: Paced, outside: Mapping[bool, float]
) -> tuple[StageTime, ...]:
    """Of each stage, where blocks are alike; none elsewhere.

    Parameters
    ----------
    workload, micro, paced
        The job, a micro-step of it.
    outside : mapping of bool to float
        Exchanges of the embedding and the head, of forward and of backward. [s]
    """
    kinds = dict.fromkeys(
        layer_kinds(workload.model, workload.method, workload.precision.bf16_ends)
    )
    if len(kinds) > 1 or workload.activation_checkpointing.kind == "selective-blocks":
        return ()
    [kind], layers = kinds, workload.model.layers
    parts = micro.parts
    busy = paced.slower * sum(seconds for (block, _), seconds in parts.items() if block == kind.key)
    # quick hosts hand on what is gathered sooner than those that are in the constants of kernels
    pace = paced.slower * (max(0.0, 1.0 + min(0.0, paced.block_s) / busy) if busy else 1.0)

    def block(name: str, *phases: str) -> float:
        return pace * sum([parts.get((name, phase), 0.0) for phase in phases])

    back_s = paced.exchanges_s - paced.forward_s
    forward = block(kind.key, "forward") + max(0.0, paced.forward_s - outside[True]) / layers
    back = block(kind.key, "recompute", "input") + max(0.0, back_s - outside[False]) / layers
    weight, each = block(kind.key, "weight"), stage_layers(workload)
    equal = {n: StageTime(n * forward, n * back, n * weight) for n in set(each)}
    found = [equal[n] for n in each]
    for at, name in ((0, EMBEDDING.key), (-1, HEAD.key)):
        ends = (block(name, phase) for phase in ("forward", "input", "weight"))
        found[at] = StageTime(*map(sum, zip(found[at], ends, strict=True)))
    return tuple(found)


def busiest(workload: Workload, stages: Sequence[StageTime], copies: Sequence[Copies]) -> float:
    """Bound 3 of the rank that it binds most. [s]"""
    schedule, shape = SCHEDULES[workload.parallelism.pipeline_schedule], shape_of(workload)
    found = waits = 0.0
    each = [stage.whole_s + copied.each_s for stage, copied in zip(stages, copies, strict=True)]
    for rank in range(shape.ranks):
        own = schedule.stages_of(shape, rank)
        busy, once = sum([each[s] for s in own]), sum([copies[s].once_s for s in own])
        found = max(found, shape.micro * busy + once + waits)
        # the stages of ranks before it come before its own
        waits += stages[rank].forward_s if schedule.splits else stages[rank].whole_s
    return found


def hops(topology: Topology, workload: Workload) -> tuple[float, ...]:
    """What a message takes alone from each stage to the next. [s]"""
    schedule, shape = SCHEDULES[workload.parallelism.pipeline_schedule], shape_of(workload)
    rank_of, mesh = schedule.rank_of(shape), mesh_of(topology, workload)
    fabric, nccl, size = compile_fabric(topology), Nccl.of(workload.stack), message_bytes(workload)
    found: dict[tuple[int, int], float] = {}
    for stage in range(shape.stages - 1):
        a, b = rank_of(stage), rank_of(stage + 1)
        if a == b:
            found[a, b] = 0.0
        elif (a, b) not in found:
            pairs = Pairs(a, b, mesh.pp, mesh.world // mesh.pp)
            where = Sisters.among(pairs, a, mesh.pp)
            found[a, b] = cost_of(fabric, "send", where, size, nccl).time_s
    return tuple(found[rank_of(s), rank_of(s + 1)] for s in range(shape.stages - 1))


@lru_cache(maxsize=1024)
def played(
    name: str, shape: PipelineShape, stages: tuple[StageTime, ...], copies: tuple[Copies, ...],
    between: tuple[float, ...],
) -> Through:  # fmt: skip
    """A schedule with the least times of its stages, and of messages between them.

    All micro-batches but the first add their gradients up.
    """
    orders, last = _orders(name, shape), shape.stages - 1
    down = [[-1.0] * shape.micro for _ in stages]  # when each forward has ended
    back = [[-1.0] * shape.micro for _ in stages]
    through = [0.0] * len(stages)
    free, at = [0.0] * len(orders), [0] * len(orders)
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(orders):
            now, i = free[rank], at[rank]
            while i < len(order):
                kind, stage, m = order[i]
                time = stages[stage]
                if kind == FORWARD:
                    if stage:
                        there = down[stage - 1][m]
                        if there < 0.0:
                            break
                        now = max(now, there + between[stage - 1])
                    now += time.forward_s
                    down[stage][m] = now
                elif kind == WEIGHT:
                    now += time.weight_s + copies[stage].each_s * (m > 0)
                    if not stage:  # backward of the first stage waits for its weights' turn
                        now += time.input_s
                    through[stage] = now
                else:
                    if stage < last:
                        there = back[stage + 1][m]
                        if there < 0.0:
                            break
                        now = max(now, there + between[stage])
                    if kind == BACKWARD:
                        now += time.input_s + time.weight_s + copies[stage].each_s * (m > 0)
                        through[stage] = now
                    elif stage:
                        now += time.input_s
                    back[stage][m] = now
                i += 1
            moved = moved or i > at[rank]
            free[rank], at[rank] = now, i
    return Through(max(free), through[0])


@lru_cache(maxsize=32)
def _orders(name: str, shape: PipelineShape) -> tuple[tuple[tuple[str, int, int], ...], ...]:
    """What every rank computes: kind, stage, micro-batch."""
    return tuple(
        tuple((part.kind, part.stage, part.micro) for action in order for part in action.parts)
        for order in SCHEDULES[name].computed(shape).values()
    )
