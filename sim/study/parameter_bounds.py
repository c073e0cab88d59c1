"""What parameters take in a step of FSDP2 at the least, beside the kernels that compute.

1. Copies on the stream that computes: out of every gather, into every reduction, and onto gradients
   of a pipeline that are there already.
2. Gathers follow each other, and so do reductions: some are under way for as long as all gathers
   take alone, or all reductions. What both need of one link they need one after the other.
3. Before the first kernel of a micro-step the first unit is gathered, and after the last one it is
   reduced: the compute stream waits for that, and gathers of the next micro-step for the compute
   stream. Of a pipeline all units of its first stage are, once.
4. Experts with a group of their own are reduced before the rest of their block. The inputs of one
   reduction are kept, so that the compute stream waits for it before it fills those of the next.

Nothing is said of other strategies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import field
from functools import lru_cache

from sim.blocks.layer import layer_kinds
from sim.blocks.parameters import tree_of
from sim.blocks.update import copy_kernel
from sim.cost.collectives import CollectiveCost
from sim.cost.kernel_cost import CostModel, cost_model
from sim.cost.nccl.communicator import Nccl
from sim.fabric import compile_fabric
from sim.inputs.base import fields_but
from sim.inputs.pipeline import blocks_of
from sim.inputs.shares import mesh_of
from sim.inputs.trainer import reduces_each
from sim.inputs.workload import Checkpointing, Workload
from sim.lowering.collectives import cost_of
from sim.lowering.pricing import sms_taken
from sim.mesh import Mesh, Sisters
from sim.records import NamedTuple, dataclass
from sim.strategies.fsdp2 import groups_of
from sim.strategies.fsdp2_layout import lay_out
from sim.strategies.units import EXPERT_SHARD, Unit, dtypes
from sim.study.candidates import Candidate
from sim.units import DTYPE_BYTES

#: no unit of parameters depends on these
BATCH = frozenset((
    "name", "micro_batch", "gradient_accumulation", "global_batch", "activation_checkpointing",
    "tokens", "steps", "samples", "epochs", "data", "evaluation", "phases", "deadline", "sources",
))  # fmt: skip
_WRAPS = ("block+root", "torchtitan")
_KEPT = Checkpointing(kind="none")


class UnderWay(NamedTuple):
    """Gathers and reductions of a step, on one rank.

    Attributes
    ----------
    seconds : float
        That some are under way, but for these. [s]
    before_s, after_s : float
        Before the first kernels of micro-steps, and behind the last ones of them or of a block. [s]
    sms : int
        That kernels beside them lack. [1]
    """

    seconds: float = 0.0
    before_s: float = 0.0
    after_s: float = 0.0
    sms: int = 0


class Copies(NamedTuple):
    """Copies on the stream that computes, of a step: micro-batches m take once + m each. [s]"""

    once_s: float = 0.0
    each_s: float = 0.0


class _Wires(NamedTuple):
    """Collectives of a micro-step with how many there are, stream by stream; the ends. [s]"""

    gathers: Sequence[tuple[CollectiveCost, int]]
    reductions: Sequence[tuple[CollectiveCost, int]]
    sums: Sequence[tuple[CollectiveCost, int]]  # over replicas
    before_s: float
    after_s: float
    summed_s: float  # of `after_s`, over replicas too
    waited_s: float  # of `reductions`, between two parts of a block
    sms: int


@dataclass(slots=True)
class ParameterBounds:
    """Bounds of candidates; what they share is asked once."""

    _copies: dict[Hashable, tuple[Copies, ...]] = field(default_factory=dict)
    _wires: dict[Hashable, _Wires] = field(default_factory=dict)

    def copies(self, candidate: Candidate) -> tuple[Copies, ...]:
        """Of each stage of a pipeline; of the whole model where there is none."""
        workload, topology = candidate.workload, candidate.topology
        mesh = mesh_of(topology, workload)
        gpu, calibration = topology.first_gpu, topology.calibration
        key = (gpu, calibration, mesh, *fields_but(workload, BATCH))
        if key not in self._copies:
            found = (Copies(),) * len(blocks_of(workload))
            if known(workload, mesh) or (mesh.pp > 1 and in_blocks(workload)):
                model, units = cost_model(gpu, calibration), units_of(workload, mesh)
                alone = mesh.size("fsdp") == 1
                found = tuple(
                    _copied(model, workload, own, alone) for own in _staged(units, workload)
                )
            self._copies[key] = found
        return self._copies[key]

    def under_way(self, candidate: Candidate) -> UnderWay:
        """Of a step; of a pipeline what lies open at its ends alone."""
        workload, topology = candidate.workload, candidate.topology
        p, mesh = workload.parallelism, mesh_of(topology, workload)
        if not known(workload, mesh):
            return UnderWay()
        key = (candidate.machine.kind, topology.nodes, candidate.extra, p)
        if key not in self._wires:
            self._wires[key] = _wires(candidate, mesh)
        wires = self._wires[key]
        if mesh.pp > 1:
            return UnderWay(0.0, wires.before_s, wires.after_s, wires.sms)
        gathered, reduced, summed = _repeats(workload, workload.gradient_accumulation)
        streams = (wires.gathers, gathered), (wires.reductions, reduced), (wires.sums, summed)
        on_link: dict[int, float] = {}
        for costs, micro in streams:
            for cost, times in costs:
                at, moved_s = cost.limit_resource, cost.work / cost.limit_bytes_per_s
                on_link[at] = on_link.get(at, 0.0) + micro * times * moved_s
        alone = [micro * sum(n * c.time_s for c, n in costs) for costs, micro in streams]
        before_s = gathered * wires.before_s
        after_s = reduced * wires.after_s + summed * wires.summed_s
        waited_s = reduced * wires.waited_s
        # replicas add up gradients of other units beside those of the last one
        beside = waited_s + (before_s + after_s if wires.sums else 0.0)
        most = max(*alone, *on_link.values(), beside) - beside
        return UnderWay(most, before_s, after_s + waited_s, wires.sms)


def in_blocks(workload: Workload) -> bool:
    """Whether a job runs under FSDP2 in units of blocks."""
    p = workload.parallelism
    return p.strategy == "fsdp2" and p.wrap in _WRAPS


def known(workload: Workload, mesh: Mesh) -> bool:
    """Whether there are bounds of what shards a job: FSDP2 in units of blocks."""
    return in_blocks(workload) and mesh.size("fsdp") > 1


def units_of(workload: Workload, mesh: Mesh) -> tuple[Unit, ...]:
    """Units of a model, those of stages each apart."""
    knobs: dict[str, object] = {
        "pipeline_schedule": "1f1b", "virtual_stages": None, "context_parallel": 1,
        "pipeline_parallel": min(mesh.pp, 2), "replicate": 1, "shard": None,
    }  # fmt: skip
    if mesh.pp > 1:
        knobs |= {"wrap": "torchtitan", "reshard_after_forward": False}
    update = {
        "parallelism": workload.parallelism.model_copy(update=knobs), "micro_batch": 1,
        "gradient_accumulation": 1, "global_batch": None, "activation_checkpointing": _KEPT,
    }  # fmt: skip
    return _units(workload.model_copy(update=update), mesh.size("fsdp"))


@lru_cache(maxsize=256)
def _units(workload: Workload, shard: int) -> tuple[Unit, ...]:
    """Those of all cuts and batches whose units are the same."""
    return tuple(lay_out(workload, tree_of(workload), shard, dtypes(workload)).units)


def _staged(units: Sequence[Unit], workload: Workload) -> list[list[Unit]]:
    """Units of each stage; of the blocks between embedding and head where there are none."""
    stages = blocks_of(workload)
    if len(stages) == 1:
        stages = (range(1, workload.model.layers + 1),)
    return [[unit for unit in units if unit.block in blocks] for blocks in stages]


def _kinds(units: Iterable[Unit], workload: Workload) -> Counter[tuple[Unit, bool]]:
    """Units that move as much, and whether backward gathers them again; with how many there are.

    It does not reach what lies below all that is trained.
    """
    again = [
        workload.parallelism.reshard_after_forward is True and kind.state != "passive"
        for kind in layer_kinds(workload.model, workload.method, workload.precision.bf16_ends)
    ]
    inside = range(1, len(again) + 1)
    return Counter(
        (unit._replace(name="", block=0), unit.block in inside and again[unit.block - 1])
        for unit in units
    )


def _repeats(workload: Workload, micro: int) -> tuple[int, int, int]:
    """Micro-steps that gather parameters, that reduce gradients, and that sum replicas'."""
    p = workload.parallelism
    reduced = micro if reduces_each(workload) else 1
    summed = reduced if p.requires_all_reduce == "every" else 1
    return micro if p.reshard_after_backward else 1, reduced, summed


def _copied(model: CostModel, workload: Workload, units: Iterable[Unit], alone: bool) -> Copies:
    """Copies of some units; of a rank that shards with none, what adds up gradients alone."""
    p, types = workload.parallelism, dtypes(workload)
    width, wide = DTYPE_BYTES[types.compute], DTYPE_BYTES[types.reduce]

    def seconds(traffic: float) -> float:
        return model.cost(copy_kernel("copy", traffic)).time_s if traffic > 0.0 else 0.0

    once = each = 0.0
    for (unit, again), times in _kinds(units, workload).items():
        out, grads = seconds(2 * unit.gather_bytes), unit.grad_numel
        if p.pipeline_parallel > 1:
            added = seconds(grads * (width + 2 * wide))
            first = seconds(grads * (width + wide)) if width != wide else 0.0
            once += times * ((0.0 if alone else out + first) - added)
            each += times * added
            continue
        gathered, reduced, _ = _repeats(workload, 2)
        more = times * seconds(grads * (width + wide))
        for many, copies_s in ((gathered, times * out * (1 + again)), (reduced, more)):
            if many > 1:
                each += copies_s
            else:
                once += copies_s
    return Copies(once, each)


def _wires(candidate: Candidate, mesh: Mesh) -> _Wires:
    workload, topology = candidate.workload, candidate.topology
    p, types = workload.parallelism, dtypes(workload)
    fabric, nccl = compile_fabric(topology), Nccl.of(workload.stack)
    groups = groups_of(workload, mesh)
    model = cost_model(topology.first_gpu, topology.calibration)
    wide, units = DTYPE_BYTES[types.reduce], units_of(workload, mesh)

    def cost(op: str, group: str, size: float) -> CollectiveCost:
        return cost_of(fabric, op, Sisters.among(groups[group], 0, mesh.pp), size, nccl)

    def gather(unit: Unit) -> CollectiveCost:
        return cost("all_gather", unit.over, unit.gather_bytes)

    def reduction(unit: Unit) -> CollectiveCost:
        return cost("reduce_scatter", unit.over, unit.grad_numel * wide)

    def summed(unit: Unit) -> CollectiveCost:
        return cost("all_reduce", "replicate", unit.grad_numel * wide / groups[unit.over].size)

    [own, *_] = _staged(units, workload)
    first, last = units[0], own if mesh.pp > 1 else units[:1]
    last = [unit for unit in last if unit.grad_numel]
    several = mesh.dp_replicate > 1
    after_s = sum(reduction(unit).time_s for unit in last)
    summed_s = sum(summed(unit).time_s for unit in last if several and mesh.pp == 1)
    one = p.reduce_scatter_max_input_buffers == 1
    kinds = _kinds(own if mesh.pp == 1 else (), workload)
    gathers = [(gather(unit), times * (1 + again)) for (unit, again), times in kinds.items()]
    trained = [(unit, times) for (unit, _), times in kinds.items() if unit.grad_numel]
    experts = [(unit, times) for unit, times in trained if one and unit.over == EXPERT_SHARD]
    waited_s = sum(times * reduction(unit).time_s for unit, times in experts)
    reductions = [(reduction(unit), times) for unit, times in trained]
    sums = [(summed(unit), times) for unit, times in trained if several]
    asked = [c for c, _ in (*gathers, *reductions)]
    sms = min((sms_taken(model, c) for c in asked), default=0)
    return _Wires(gathers, reductions, sums, gather(first).time_s, after_s, summed_s,
                  waited_s, sms)  # fmt: skip
