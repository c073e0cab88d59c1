"""What a job of FSDP2 needs of a GPU at the least, without walking its memory.

1. Shards of parameters and states; gradients too where micro-steps add to them.
2. What blocks save for backward: of all blocks when it begins; of a pipeline of as many
   micro-batches as its schedule has under way, stage by stage.
3. Parameters of the block that runs, or of all that are kept gathered. A stage of a pipeline keeps
   its parameters whole while it runs, and its gradients from its first backward on.

Nothing is said of other strategies.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim.blocks.flops import checkpointed_layers
from sim.blocks.footprint import checkpoint_policy, layer_footprint
from sim.blocks.parameters import tree_of
from sim.inputs.base import fields_but
from sim.inputs.pipeline import blocks_of, shape_of
from sim.inputs.rows import at_longest, with_kernels
from sim.inputs.shares import mesh_on
from sim.inputs.topology import Topology
from sim.inputs.trainer import reduces_each
from sim.inputs.workload import Workload
from sim.memory.states import constants, fragmentation, optimizer_bytes
from sim.mesh import Mesh
from sim.pipeline.schedules import SCHEDULES, PipelineShape, in_flight
from sim.records import NamedTuple, dataclass
from sim.strategies.units import dtypes, sharers
from sim.study.parameter_bounds import BATCH, known, units_of
from sim.units import DTYPE_BYTES

F8 = npt.NDArray[np.float64]

#: micro-batches for each rank of a pipeline, with which it is as full as with more
FULL = 2
#: what blocks save of a micro-batch does not depend on these, nor on these of `parallelism`
_STEPS = BATCH - {"micro_batch", "activation_checkpointing"} | {"parallelism"}
_AROUND = frozenset((
    "pipeline_parallel", "pipeline_schedule", "virtual_stages", "replicate",
    "reshard_after_forward",
))  # fmt: skip


class _Whole(NamedTuple):
    """Parameters of some blocks on one rank. [B]"""

    shard: float  # its part of them
    gathered: float  # all
    gradients: float  # all, as they are added up
    reduced: float  # its part of the gradients
    least: float  # the smallest of these blocks, gathered


class _Model(NamedTuple):
    """Parameters of each stage, or of the whole model, and states of a rank's share. [B]"""

    parts: tuple[_Whole, ...]
    states: float


@dataclass(slots=True)
class MemoryBounds:
    """Bounds of jobs; what they share is laid out once."""

    _models: dict[Hashable, _Model] = field(default_factory=dict)
    _saved: dict[Hashable, F8] = field(default_factory=dict)
    _known: dict[Hashable, float] = field(default_factory=dict)

    def needed(self, topology: Topology, workload: Workload) -> float:
        """Bytes of a GPU that a job needs at the least; 0 where nothing is known. [B]"""
        world, per_node = topology.world_size, topology.gpus_per_node
        workload = with_kernels(topology, workload)
        key = (workload, world, per_node)
        if key not in self._known:
            job = at_longest(workload, world)
            mesh = mesh_on(job, world, per_node)
            least = self._allocated(job, mesh) if known(job, mesh) else 0.0
            self._known[key] = (1.0 + fragmentation(workload)) * least + constants()["context"]
        return self._known[key]

    def _allocated(self, workload: Workload, mesh: Mesh) -> float:
        key = (mesh, *fields_but(workload, BATCH))
        if key not in self._models:
            paged = workload.optimizer_paged
            states = 0.0 if paged else optimizer_bytes(workload, mesh.size("fsdp"))
            self._models[key] = _Model(_parts(workload, mesh), states)
        (parts, states), saved = self._models[key], self._saved_until(workload)
        if mesh.pp == 1:
            return _flat(workload, parts[0], states, float(saved[-1]))
        whole = sum(part.reduced for part in parts)
        schedule, shape = SCHEDULES[workload.parallelism.pipeline_schedule], shape_of(workload)
        found, blocks = 0.0, blocks_of(workload)
        for rank in (0, 1):
            stages = schedule.stages_of(shape, rank)
            own = [parts[stage] for stage in stages]
            each = [saved[b.stop - 1] - saved[max(0, b.start - 1)]
                    for b in (blocks[stage] for stage in stages)]  # fmt: skip
            share = sum(part.reduced for part in own) / whole if whole else 0.0
            rest = sum(part.shard for part in own) + share * states
            each += [part.gradients for part in own] + [part.gathered for part in own]
            there = _moments(schedule.name, _shortest(shape), rank) @ np.array(each)
            found = max(found, rest + float(there.max()))
        return found

    def _saved_until(self, workload: Workload) -> F8:
        """What the blocks before each, and all, keep of a micro-batch, (layers + 2,). [B]"""
        key = fields_but(workload, _STEPS), fields_but(workload.parallelism, _AROUND)
        if key not in self._saved:
            self._saved[key] = np.cumsum([0.0, *_saved(workload), 0.0])
        return self._saved[key]


def _parts(workload: Workload, mesh: Mesh) -> tuple[_Whole, ...]:
    """Parameters of each stage, or of the whole model."""
    types, units = dtypes(workload), units_of(workload, mesh)
    wide = max(DTYPE_BYTES[types.reduce], DTYPE_BYTES[types.compute])
    master = DTYPE_BYTES[types.master]
    ranks = sharers(mesh)
    found = []
    for blocks in blocks_of(workload) if mesh.pp > 1 else (range(-1, workload.model.layers + 2),):
        own = [unit for unit in units if unit.block in blocks]
        found.append(_Whole(
            sum(unit.master_bytes / ranks[unit.over] for unit in own),
            sum(unit.gather_bytes for unit in own), sum(wide * unit.grad_numel for unit in own),
            sum(master * unit.grad_numel / ranks[unit.over] for unit in own),
            min((unit.gather_bytes for unit in own if 0 < unit.block <= workload.model.layers),
                default=0.0),
        ))  # fmt: skip
    return tuple(found)


def _flat(workload: Workload, model: _Whole, states: float, saved: float) -> float:
    """Where backward begins, or the optimizer steps. [B]"""
    p = workload.parallelism
    rest = 0.0 if p.offload != "none" else model.shard + states
    kept = model.gathered if p.reshard_after_forward is False else model.least
    again = workload.gradient_accumulation > 1 and reduces_each(workload)
    added = model.reduced if again and p.offload == "none" else 0.0
    passing = p.offload != "none" or workload.optimizer_in_backward
    return rest + max(saved + kept + added, 0.0 if passing else model.reduced)


def _saved(workload: Workload) -> list[float]:
    """What each block keeps of a micro-batch for its backward. [B]"""
    policy, away = checkpoint_policy(workload), workload.activation_checkpointing.offload
    kinds = [block.kind for block in tree_of(workload).layers]
    marks = checkpointed_layers(workload.activation_checkpointing, len(kinds))
    sizes: dict[tuple[str, bool], float] = {}
    for kind, again in dict.fromkeys(zip(kinds, marks, strict=True)):
        layer = layer_footprint(workload, kind, policy if again else "none")
        sizes[kind, again] = max(0.0, layer.saved - layer.hidden * away)
    return [sizes[pair] for pair in zip(kinds, marks, strict=True)]


def _shortest(shape: PipelineShape) -> PipelineShape:
    """A pipeline that fills up as far, with fewer micro-batches."""
    full = FULL * shape.ranks
    return shape._replace(micro=full) if shape.micro > full and shape.micro % full == 0 else shape


@lru_cache(maxsize=1024)
def _moments(name: str, shape: PipelineShape, rank: int) -> F8:
    """What a rank has under way after each of its forwards, (n, 3 stages).

    Of each of its stages the micro-batches, whether it has gradients, and whether it runs.
    """
    schedule = SCHEDULES[name]
    number = {stage: i for i, stage in enumerate(schedule.stages_of(shape, rank))}
    under_way, ended = [0] * len(number), [0] * len(number)
    found = set()
    for stage, kept in in_flight(shape, schedule, rank):
        at = number[stage]
        before, under_way[at] = under_way[at], kept
        ended[at] += kept < before
        if kept > before:
            begun = [0 < n < shape.micro for n in ended]
            found.add((*under_way, *begun, *(i == at for i in number.values())))
    return np.array(list(found), dtype=float)
