"""Lower bounds of a plan's step, which no plan can beat.

1. Its FLOPs (recompute included) at the dense peak of the dtype.
2. Its matrix products, attention and norms as the cost model times them alone, cut as the plan cuts
   them: the same kernels run whatever the number of nodes or the sharding, and collectives can only
   slow them. Exchanges inside blocks lie between, as on one node (or on as many as share a
   sequence or a block's experts), where a micro-step is simulated for them.
3. A rank of a pipeline runs its share of m micro-batches, after the first one has come down to it
   and before the last one has gone back from it through the stages before its own: m w_r + sum of
   w_s, s < r. Of equal ranks with v stages each the last one is bound most: m + (p - 1) / v shares.
   Schedules that split backward fill the way back with gradients of weights, not the way down.
4. Gradients that are added up in host memory, and the optimizer (`sim.study.update_bounds`): no
   kernel of a block runs beside.
5. Ranks that wait for each other are as slow as the slowest is in the mean.
6. Parameters are gathered, copied and reduced (`sim.study.parameter_bounds`). Kernels beside that
   lose SMs, and what no kernel hides lies open.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from math import lcm
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.blocks.flops import token_flops
from sim.blocks.layer import layer_kinds
from sim.blocks.unroll import Templates, unroll
from sim.cost.host import pace_of
from sim.cost.kernel_cost import CostModel, cost_model
from sim.inputs.check_mesh import shape_of, stage_layers
from sim.inputs.rows import run_on
from sim.inputs.shares import batch_on
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Parallelism, Workload
from sim.pipeline.schedules import SCHEDULES
from sim.records import dataclass
from sim.result.peak import peak_of
from sim.step.ready import told_slowest
from sim.step.shares import shares
from sim.step.step import micro_steps
from sim.step.straggle import hands_on, lost_to_slowest
from sim.step.variation import Variation
from sim.study.candidates import Candidate
from sim.study.parameter_bounds import Copies, ParameterBounds, UnderWay
from sim.study.update_bounds import UpdateBounds

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]

#: kernels that every plan of a micro-batch and checkpointing runs alike
_ALIKE = ("gemm", "attention", "norm", "loss", "embedding")
#: and those of a strategy whose blocks do nothing else in any layout
_WITHIN = ("elementwise",)
#: rounding, where blocks stand for others, must not make a bound exceed what it bounds
_SAFETY = 0.999
#: a rank of a pipeline has less than the mean of all by so much
_EVEN = 0.95
#: forward is so much of a micro-step at the least: two ninths of attention that is run again
_DOWN = 0.2
#: its product is so much slower or quicker by the FLOP than those of blocks
_HEAD = 1.25


#: a job of one stage in the middle of whose steps no parameters or gradients move
_QUIET = {
    "strategy": "fsdp2", "replicate": 1, "shard": None, "offload": "none", "pipeline_parallel": 1,
    "reshard_after_forward": False, "reshard_after_backward": False, "gradient_sync": "last",
}  # fmt: skip


class LeastTime(NamedTuple):
    """Least time of a step, and of the kernels of a rank in it by kind. [s]"""

    step_s: float
    kernels: dict[str, float]


class _Micro(NamedTuple):
    """Least times of the kernels of one micro-step of the whole model. [s]"""

    kernels: dict[str, float]  # by kind
    seconds: F8  # of every kernel, all times that it runs
    curves: I4  # rows of `CostModel.curves`


class _Paced(NamedTuple):
    """The same on ranks that wait for the slowest of them. [s]"""

    kernels: dict[str, float]
    exchanges_s: float
    block_s: float  # lost in each block

    @property
    def busy_s(self) -> float:
        """Kernels and exchanges, but for what blocks lose."""
        return sum(self.kernels.values()) + self.exchanges_s


@dataclass(slots=True)
class Bounds:
    """Bounds of candidates; what they share is simulated once."""

    _micro: dict[Hashable, _Micro] = field(default_factory=dict)
    _within: dict[Hashable, dict[str, float]] = field(default_factory=dict)
    _peaks: dict[Any, float] = field(default_factory=dict)
    _parameters: ParameterBounds = field(default_factory=ParameterBounds)
    _updates: UpdateBounds = field(default_factory=UpdateBounds)

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

    def of(
        self, candidate: Candidate, exchanges: bool = True, parameters: bool = True
    ) -> LeastTime:
        """All but the first.

        Parameters
        ----------
        candidate : Candidate
            The plan.
        exchanges : bool
            Those within blocks, too; where there are any, a micro-step is simulated for them.
        parameters : bool
            The sixth, too; it takes longest.
        """
        workload = candidate.workload
        micro, steps = self._micro_of(candidate), workload.gradient_accumulation
        within = self._within_of(candidate) if exchanges else {}
        stages = workload.parallelism.pipeline_parallel
        each = (_EVEN if stages > 1 else 1.0) * steps / stages
        kernels = {kind: each * seconds for kind, seconds in micro.kernels.items()}
        paced = _paced(candidate, micro, within)
        copies: Sequence[Copies] = (Copies(),) * len(stage_layers(workload))
        under_way = UnderWay()
        if parameters:
            copies = self._parameters.copies(candidate)
            under_way = self._parameters.under_way(candidate)
        update = self._updates.of(candidate)
        if stages > 1:
            apart = stages if paced.block_s > 0.0 else 0
            lost = paced.block_s * max(0, workload.model.layers - apart)
            mean = each * (paced.busy_s + lost) * _filling(workload)
            gpu = max(mean, _busiest(workload, paced, copies)) + under_way.before_s
            if not SCHEDULES[workload.parallelism.pipeline_schedule].splits:
                gpu += under_way.after_s
        else:
            [own] = copies
            lost = workload.model.layers * paced.block_s
            beside = own.once_s + steps * (own.each_s + paced.exchanges_s) + update.accumulating_s
            pace = steps * sum(paced.kernels.values()) / micro.seconds.sum()
            gpu = beside + steps * (sum(paced.kernels.values()) + lost)
            gpu += _beside_s(candidate, micro, pace, under_way, beside)
        return LeastTime(gpu + update.update_s, kernels)

    def known(self, candidate: Candidate) -> bool:
        """Whether it needs no simulation, or that of its micro-step is known already."""
        return not _exchanging(candidate) or self._key(candidate, True) in self._within

    def ask(self, candidates: Iterable[Candidate]) -> None:
        """Simulate together the micro-steps that candidates need and that are not known."""
        asked = {self._key(c, True): c for c in candidates if _exchanging(c)}
        missing = {key: c for key, c in asked.items() if key not in self._within}
        found = micro_steps([_alone(c) for c in missing.values()])
        for key, one in zip(missing, found, strict=True):
            within = shares(one.breakdown, one.ranks).within_s
            self._within[key] = {what: _SAFETY * seconds for what, seconds in within.items()}

    def _within_of(self, candidate: Candidate) -> dict[str, float]:
        """Exposed exchanges of a micro-step of the whole model, by what is split. [s]"""
        if not _exchanging(candidate):
            return {}
        key = self._key(candidate, True)
        if key not in self._within:
            self.ask([candidate])
        return self._within[key]

    def _micro_of(self, candidate: Candidate) -> _Micro:
        key = self._key(candidate, False)
        if key not in self._micro:
            self._micro[key] = _micro(candidate)
        return self._micro[key]

    def _key(self, candidate: Candidate, wired: bool) -> Hashable:
        """What its micro-step depends on, of kernels alone or where GPUs are `wired`.

        Hosts issue kernels of the same length.
        """
        workload, topology = candidate.workload, candidate.topology
        node = topology.node
        assert node is not None
        wires: Hashable = None
        if wired:
            wires = (node.nvlink, node.pcie, node.virtual, node.p2p_level)
            if _ranks_alone(candidate) > node.gpus:
                wires = node, topology.network
        return (
            strategy_of(workload).blocks_alike, node.gpu, node.gpus, topology.calibration, wires,
            candidate.extra, workload.micro_batch, workload.activation_checkpointing,
            tuple(_cut(candidate).values()),
        )  # fmt: skip


def _cut(candidate: Candidate) -> dict[str, Any]:
    """How blocks are cut."""
    p = candidate.workload.parallelism
    return {
        "context_parallel": p.context_parallel, "tensor_parallel": p.tensor_parallel,
        "sequence_parallel": p.sequence_parallel, "loss_parallel": p.loss_parallel,
        "expert_parallel": p.expert_parallel,
    }  # fmt: skip


def _alone(candidate: Candidate) -> tuple[Topology, Workload]:
    """Micro-steps on one node, or on as many as share a block, in which nothing is gathered.

    The more ranks, the slower the slowest of them: one node of the same size bounds them all.
    Parameters and gradients that move share links with exchanges, which then take no less.
    """
    workload = candidate.workload
    cut = _cut(candidate)
    knobs = workload.parallelism if strategy_of(workload).blocks_alike else Parallelism()
    one = workload.model_copy(
        update={"parallelism": knobs.model_copy(update=_QUIET | cut), "global_batch": None}
    )
    nodes = _ranks_alone(candidate) // candidate.topology.gpus_per_node
    return candidate.topology.model_copy(update={"nodes": nodes}), one


def _ranks_alone(candidate: Candidate) -> int:
    """Ranks of the nodes that share a sequence, or the experts of a block."""
    p = candidate.workload.parallelism
    shared = p.context_parallel * p.tensor_parallel
    return lcm(candidate.topology.gpus_per_node, shared, p.expert_parallel)


def _exchanging(candidate: Candidate) -> bool:
    """Whether ranks that share a block exchange anything within it."""
    p = candidate.workload.parallelism
    return max(p.tensor_parallel, p.context_parallel, p.expert_parallel) > 1


def _micro(candidate: Candidate) -> _Micro:
    """What of a micro-step every plan of it runs."""
    kinds = _ALIKE + strategy_of(candidate.workload).blocks_alike * _WITHIN
    topology, workload = _alone(candidate)
    model = cost_model(topology.first_gpu, topology.calibration)
    return _kernels(model, unroll(run_on(topology, workload)), kinds)


@lru_cache(maxsize=512)
def _kernels(model: CostModel, templates: Templates, kinds: tuple[str, ...]) -> _Micro:
    """Kernels of some kinds of a micro-step; those of a kind and a curve together."""
    found: dict[tuple[str, int], float] = {}
    for (block, phase), times in templates.runs().items():
        kernels = templates.of(block, phase)
        costs = model.costs(kernels)
        rows = zip(kernels, costs.time_s.tolist(), costs.curve.tolist(), strict=True)
        for kernel, seconds, curve in rows:
            if kernel.kind in kinds:
                place = kernel.kind, curve
                found[place] = found.get(place, 0.0) + times * seconds
    by_kind = dict.fromkeys(kinds, 0.0)
    for (kind, _), seconds in found.items():
        by_kind[kind] += _SAFETY * seconds
    seconds_of, curves = np.array(list(found.values())), [curve for _, curve in found]
    return _Micro(by_kind, _SAFETY * seconds_of, np.array(curves, np.int32))


def _paced(candidate: Candidate, micro: _Micro, within: Mapping[str, float]) -> _Paced:
    """Bound 5."""
    workload, topology = candidate.workload, candidate.topology
    node = topology.node
    share = unit_s = 0.0
    if not told_slowest(topology, Variation()):
        assert node is not None
        pace = pace_of(node.cpu, node.gpus)
        share, unit_s = lost_to_slowest(topology.first_gpu, pace, candidate.gpus)
    if not hands_on(workload):
        unit_s = 0.0
    p = workload.parallelism
    if p.pipeline_parallel > 1 or not p.reshard_after_backward:
        unit_s = min(0.0, unit_s)  # not every micro-step gathers all
    kernels = {kind: (1.0 + share) * seconds for kind, seconds in micro.kernels.items()}
    # the slower the kernels, the more of what is sent beside attention they hide
    hidden = share * micro.kernels["attention"]
    exchanges = {
        what: max(0.0, seconds - hidden * (what == "context")) for what, seconds in within.items()
    }
    return _Paced(kernels, sum(exchanges.values()), unit_s)


def _beside_s(
    candidate: Candidate, micro: _Micro, pace: float, under_way: UnderWay, idle_s: float
) -> float:
    """Bound 6: what kernels lose to collectives of parameters, or wait for them. [s]

    Parameters
    ----------
    candidate, micro
        What runs, a micro-step of it.
    pace : float
        Of all its micro-steps, over `micro`. [1]
    under_way : UnderWay
        The collectives.
    idle_s : float
        In which they cost no kernel anything. [s]
    """
    topology = candidate.topology
    model = cost_model(topology.first_gpu, topology.calibration)
    open_s = under_way.before_s + under_way.after_s
    left = under_way.seconds - idle_s
    if left <= 0.0:
        return open_s
    rates = model.curves()[micro.curves, model.gpu.sms - under_way.sms]
    order = np.argsort(-rates)
    # those that lose least first: what is under way beside the others costs more
    longer = pace * micro.seconds[order] / rates[order]
    ended = np.cumsum(longer)
    beside = np.clip(left - (ended - longer), 0.0, longer)
    return float(open_s + beside @ (1.0 - rates[order]) + max(0.0, left - ended[-1]))


def _filling(workload: Workload) -> float:
    """Least time of a pipeline over that of its rank alone; 1 without one."""
    p = workload.parallelism
    if p.pipeline_parallel == 1 or SCHEDULES[p.pipeline_schedule].splits:
        return 1.0
    shape = shape_of(workload)
    return 1.0 + (shape.ranks - 1) / (shape.virtual * shape.micro)


def _busiest(workload: Workload, micro: _Paced, copies: Sequence[Copies]) -> float:
    """Bound 3 of the rank that it binds most, where blocks are alike; 0 elsewhere. [s]"""
    alike = len(set(layer_kinds(workload.model))) == 1
    some = workload.activation_checkpointing.kind == "selective-blocks"
    if not alike or some:
        return 0.0
    schedule, shape = SCHEDULES[workload.parallelism.pipeline_schedule], shape_of(workload)
    least = _stages_s(workload, micro)
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


def _stages_s(workload: Workload, micro: _Paced) -> list[float]:
    """Least time of a micro-step of each stage, forward and backward. [s]"""
    model, flops = workload.model, token_flops(workload)
    head = 3 * 2 * model.hidden_size * model.vocab_size / (flops.model - flops.attention)
    loss, gemm = micro.kernels["loss"], micro.kernels["gemm"]
    outside = loss + micro.kernels["embedding"] + min(1.0, _HEAD * head) * gemm
    block = (micro.busy_s - outside) / model.layers + micro.block_s
    last = loss + min(1.0, head) / _HEAD * gemm
    found = [block * layers for layers in stage_layers(workload)]
    found[-1] += last
    return found
