"""Lower bounds of a plan's step, which no plan can beat.

1. Its FLOPs (recompute included) at the dense peak of the dtype.
2. Its matrix products, attention and norms as the cost model times them alone, cut as the plan cuts
   them: the same kernels run whatever the number of nodes or the sharding, and collectives can only
   slow them. Exchanges inside blocks lie between, as on one node (or on as many as share a
   sequence), where a micro-step is simulated for them.
3. A rank of a pipeline runs its share of m micro-batches, after the first one has come down to it
   and before the last one has gone back from it through the stages before its own: m w_r + sum of
   w_s, s < r. Of equal ranks with v stages each the last one is bound most: m + (p - 1) / v shares.
   Schedules that split backward fill the waiting with gradients of weights.
4. Gradients that are accumulated in host memory, and an optimizer there, are passes of the CPU over
   a rank's share. The optimizer's comes after the last kernel of backward.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from math import gcd, lcm
from typing import Any, NamedTuple

from sim.blocks.flops import token_flops
from sim.blocks.layer import layer_kinds
from sim.blocks.parameters import count_parameters
from sim.blocks.unroll import unroll
from sim.blocks.update import host_update_bytes
from sim.cost.host_update import host_rate, update_s
from sim.cost.kernel_cost import cost_model
from sim.inputs.check_mesh import blocks_of, shape_of
from sim.inputs.rows import as_run
from sim.inputs.shares import batch_on
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.pipeline.schedules import SCHEDULES
from sim.result.peak import peak_of
from sim.step.shares import shares
from sim.step.step import WindowMeasures, unpressed
from sim.strategies.units import dtypes
from sim.study.candidates import Candidate
from sim.units import DTYPE_BYTES

#: kernels that every plan of a micro-batch and checkpointing runs alike
_ALIKE = ("gemm", "attention", "norm", "loss", "embedding")
#: and those of a strategy whose blocks do nothing else in any layout
_WITHIN = ("elementwise",)
#: rounding of the extrapolation in depth must not make a bound exceed what it bounds
_SAFETY = 0.999
#: the same where the plan has more ranks for its experts than a node
_FEWER_EXPERTS = 0.9
#: exchanges between matrix products share links with others on one node that may lie elsewhere
_EXCHANGES = 0.9
#: a rank of a pipeline has less than the mean of all by so much
_EVEN = 0.95
#: its product is so much slower or quicker by the FLOP than those of blocks
_HEAD = 1.25


class LeastTime(NamedTuple):
    """Least time of a step, and of the kernels of a rank in it by kind. [s]"""

    step_s: float
    kernels: dict[str, float]


class _Micro(NamedTuple):
    """Least times of one micro-step of the whole model. [s]"""

    kernels: dict[str, float]
    exchanges_s: float


@dataclass(slots=True)
class Bounds:
    """Bounds of candidates; what they share is simulated once."""

    _micro: dict[Any, _Micro] = field(default_factory=dict)
    _peaks: dict[Any, float] = field(default_factory=dict)

    def peak_s(self, candidate: Candidate) -> float:
        """Bounds 1 and 3, at once. [s]"""
        workload = candidate.workload
        policy = workload.activation_checkpointing
        key = (candidate.topology.first_gpu.name, candidate.extra, policy)
        if key not in self._peaks:
            # of one token alone: attention's share depends on what a kernel skips under the mask
            flops = token_flops(workload.model_copy(update={"sequence_length": 1}))
            single = candidate.topology.model_copy(update={"nodes": 1})
            self._peaks[key] = _SAFETY * flops.hardware / peak_of(single, workload).flops_per_s
        tokens = batch_on(workload, candidate.gpus).tokens
        return self._peaks[key] * tokens / candidate.gpus * _filling(workload)

    def of(self, candidate: Candidate) -> LeastTime:
        """Bounds 2 to 4; where blocks are shared, after the simulation of a micro-step."""
        workload = candidate.workload
        micro, steps = self._micro_of(candidate), workload.gradient_accumulation
        stages = workload.parallelism.pipeline_parallel
        each = (_EVEN if stages > 1 else 1.0) * steps / stages
        kernels = {kind: each * seconds for kind, seconds in micro.kernels.items()}
        busy = sum(kernels.values()) + each * micro.exchanges_s
        accumulating, update = _on_host_s(candidate)
        gpu = max(busy * _filling(workload), _busiest(workload, micro))
        return LeastTime(max(gpu, accumulating) + update, kernels)

    def known(self, candidate: Candidate) -> bool:
        """Whether it needs no simulation, or that of its micro-step is known already."""
        return not _exchanging(candidate) or self._key(candidate) in self._micro

    def ask(self, candidates: Iterable[Candidate]) -> None:
        """Simulate together the micro-steps that candidates need and that are not known."""
        asked = {self._key(c): c for c in candidates}
        missing = {key: c for key, c in asked.items() if key not in self._micro}
        alone = {key: _alone(c) for key, c in missing.items()}
        exchanging = [key for key, c in missing.items() if _exchanging(c)]
        found = dict(zip(exchanging, unpressed([alone[k] for k in exchanging]), strict=True))
        for key, c in missing.items():
            self._micro[key] = _micro(c, alone[key], found.get(key))

    def _micro_of(self, candidate: Candidate) -> _Micro:
        key = self._key(candidate)
        if key not in self._micro:
            self.ask([candidate])
        return self._micro[key]

    def _key(self, candidate: Candidate) -> Hashable:
        """What its micro-step on one node depends on; hosts issue kernels of the same length."""
        workload, node = candidate.workload, candidate.topology.node
        assert node is not None
        return (
            strategy_of(workload).blocks_alike, node.gpu, node.gpus, candidate.extra,
            workload.micro_batch, workload.activation_checkpointing,
            tuple(_cut(candidate).values()),
        )  # fmt: skip


def _cut(candidate: Candidate) -> dict[str, Any]:
    """How blocks are cut, experts no further than over a node."""
    p = candidate.workload.parallelism
    return {
        "context_parallel": p.context_parallel, "tensor_parallel": p.tensor_parallel,
        "sequence_parallel": p.sequence_parallel, "loss_parallel": p.loss_parallel,
        "expert_parallel": gcd(p.expert_parallel, candidate.topology.gpus_per_node),
    }  # fmt: skip


def _alone(candidate: Candidate) -> tuple[Topology, Workload]:
    """A micro-step on one node, or on as many as share a sequence.

    The more ranks, the slower the slowest of them: one node of the same size bounds them all.
    """
    workload = candidate.workload
    p = workload.parallelism
    whole = {"replicate": 1, "shard": None, "offload": "none", "pipeline_parallel": 1}
    cut = _cut(candidate)
    plain = p.model_copy(update=whole | {"expert_parallel": cut["expert_parallel"]})
    if not strategy_of(workload).blocks_alike:
        plain = type(p)().model_copy(update=cut)
    one = workload.model_copy(
        update={"parallelism": plain, "gradient_accumulation": 1, "global_batch": None}
    )
    node = candidate.topology.gpus_per_node
    ranks = lcm(node, p.context_parallel * p.tensor_parallel)
    return candidate.topology.model_copy(update={"nodes": ranks // node}), one


def _exchanging(candidate: Candidate) -> bool:
    """Whether ranks that share a block exchange anything within it."""
    p = candidate.workload.parallelism
    return max(p.tensor_parallel, p.context_parallel, p.expert_parallel) > 1


def _micro(
    candidate: Candidate, alone: tuple[Topology, Workload], simulated: WindowMeasures | None
) -> _Micro:
    """What of a micro-step every plan of it runs, exchanges as they were simulated."""
    kinds = _ALIKE + strategy_of(candidate.workload).blocks_alike * _WITHIN
    # fewer experts a rank are quicker
    fewer = candidate.workload.parallelism.expert_parallel > candidate.topology.gpus_per_node
    share = _FEWER_EXPERTS if fewer else _SAFETY
    alike = _kernels_s(*alone)
    kernels = {kind: share * alike.get(kind, 0.0) for kind in kinds}
    within = 0.0
    if simulated is not None:
        within = sum(shares(simulated.breakdown, simulated.ranks).within_s.values())
    return _Micro(kernels, _EXCHANGES * within)


def _kernels_s(topology: Topology, workload: Workload) -> dict[str, float]:
    """Kernels of a micro-step by kind, each alone on its GPU. [s]"""
    templates = unroll(as_run(workload, topology.world_size))
    model = cost_model(topology.first_gpu, topology.calibration)
    found: dict[str, float] = {}
    for (kind, phase), times in templates.runs().items():
        kernels = templates.of(kind, phase)
        for kernel, seconds in zip(kernels, model.costs(kernels).time_s.tolist(), strict=True):
            found[kernel.kind] = found.get(kernel.kind, 0.0) + times * seconds
    return found


def _on_host_s(candidate: Candidate) -> tuple[float, float]:
    """Least time that the CPU accumulates gradients and updates, of the mean rank. [s]"""
    workload, node = candidate.workload, candidate.topology.node
    p, strategy = workload.parallelism, strategy_of(workload)
    if p.offload not in ("optimizer", "all") or p.pipeline_parallel > 1:
        return 0.0, 0.0
    assert node is not None
    trained = count_parameters(workload.model, workload.method).trainable
    elements = _SAFETY * trained * p.replicate / candidate.gpus
    update = update_s(
        workload, node.cpu, node.gpus, host_update_bytes(workload) * elements, elements
    )
    if not strategy.accumulates_on_host or p.gradient_sync == "last":
        return 0.0, update
    each = 3 * DTYPE_BYTES[dtypes(workload).master] * elements
    passes = workload.gradient_accumulation - 1
    rate = host_rate(node.cpu, node.gpus, workload.stack.omp_num_threads)
    return passes * each / rate, update


def _filling(workload: Workload) -> float:
    """Least time of a pipeline over that of its rank alone; 1 without one."""
    p = workload.parallelism
    if p.pipeline_parallel == 1 or SCHEDULES[p.pipeline_schedule].splits:
        return 1.0
    shape = shape_of(workload)
    return 1.0 + (shape.ranks - 1) / (shape.virtual * shape.micro)


def _busiest(workload: Workload, micro: _Micro) -> float:
    """Bound 3 of the rank that it binds most, where blocks are alike; 0 elsewhere. [s]"""
    alike = len(set(layer_kinds(workload.model))) == 1
    some = workload.activation_checkpointing.kind == "selective-blocks"
    if workload.parallelism.pipeline_parallel == 1 or not alike or some:
        return 0.0
    schedule, shape = SCHEDULES[workload.parallelism.pipeline_schedule], shape_of(workload)
    least = _stages_s(workload, micro)
    bounds = []
    for rank in range(shape.ranks):
        own = schedule.stages_of(shape, rank)
        waits = 0.0 if schedule.splits else sum(least[: own[0]])
        bounds.append(shape.micro * sum(least[stage] for stage in own) + waits)
    return max(bounds)


def _stages_s(workload: Workload, micro: _Micro) -> list[float]:
    """Least time of a micro-step of each stage, forward and backward. [s]"""
    model, flops = workload.model, token_flops(workload)
    head = 3 * 2 * model.hidden_size * model.vocab_size / (flops.model - flops.attention)
    loss, gemm = micro.kernels["loss"], micro.kernels["gemm"]
    outside = loss + micro.kernels["embedding"] + min(1.0, _HEAD * head) * gemm
    block = (sum(micro.kernels.values()) - outside + micro.exchanges_s) / model.layers
    last = loss + min(1.0, head) / _HEAD * gemm
    stages = blocks_of(workload)
    return [
        block * sum(0 < b <= model.layers for b in own) + last * (model.layers + 1 in own)
        for own in stages
    ]
