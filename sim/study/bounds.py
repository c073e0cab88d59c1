"""Lower bounds of a plan's step, which no plan can beat.

1. Its FLOPs (recompute included) at the dense peak of the dtype.
2. Its matrix products, attention and norms as the cost model times them alone, cut as the plan cuts
   them: the same kernels run whatever the number of nodes or the sharding, and collectives can only
   slow them. Exchanges inside blocks lie between, as on one node (or on as many as share a
   sequence or a block's experts): what kernels wait for is added up, and a micro-step is simulated
   where some run beside.
3. A rank of a pipeline runs its share of m micro-batches, after the first one has come down to it
   and before the last one has gone back from it through the stages before its own: m w_r + sum of
   w_s, s < r. Of equal ranks with v stages each the last one is bound most: m + (p - 1) / v shares.
   Schedules that split backward fill the way back with gradients of weights, not the way down.
   Closer is what its schedule takes with the least of each action (`sim.study.pipeline_bounds`).
4. Gradients that are added up in host memory, and the optimizer (`sim.study.update_bounds`): no
   kernel of a block runs beside.
5. Ranks that wait for each other are as slow as the slowest is in the mean.
6. Parameters are gathered, copied and reduced (`sim.study.parameter_bounds`). Kernels beside that
   lose SMs, and what no kernel hides lies open.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import field
from typing import Any

import numpy as np

from sim.blocks.flops import token_flops
from sim.cost.kernel_cost import cost_model
from sim.inputs.pipeline import shape_of, stage_layers
from sim.inputs.shares import batch_on
from sim.inputs.strategy import strategy_of
from sim.inputs.trainer import trainer_of
from sim.pipeline.schedules import SCHEDULES
from sim.records import NamedTuple, dataclass
from sim.result.peak import peak_of
from sim.step.kept import machine_key
from sim.step.step import micro_steps
from sim.study.candidates import Candidate
from sim.study.exchange_bounds import outside_s, waited_within
from sim.study.micro_bounds import (
    SAFETY,
    Micro,
    Paced,
    Within,
    alone,
    cut_of_blocks,
    exchanging,
    micro_of,
    paced_of,
    ranks_alone,
    rows_alone,
    within_of,
)
from sim.study.parameter_bounds import Copies, ParameterBounds, UnderWay
from sim.study.pipeline_bounds import busiest, filling, hops, played, stage_times
from sim.study.update_bounds import UpdateBounds

#: a rank of a pipeline has less than the mean of all by so much
_EVEN = 0.95


class LeastTime(NamedTuple):
    """Least time of a step, and of the kernels of a rank in it by kind. [s]"""

    step_s: float
    kernels: dict[str, float]


@dataclass(slots=True)
class Bounds:
    """Bounds of candidates; what they share is simulated once."""

    _micro: dict[Hashable, Micro] = field(default_factory=dict)
    _within: dict[Hashable, Within] = field(default_factory=dict)
    _peaks: dict[Any, float] = field(default_factory=dict)
    _outside: dict[Hashable, dict[bool, float]] = field(default_factory=dict)
    _parameters: ParameterBounds = field(default_factory=ParameterBounds)
    _updates: UpdateBounds = field(default_factory=UpdateBounds)
    #: of machines that differ in price, place or name alone too
    _known: dict[Hashable, LeastTime] = field(default_factory=dict)

    def peak_s(self, candidate: Candidate) -> float:
        """Bounds 1 and 3, at once. [s]"""
        workload = candidate.workload
        policy = workload.activation_checkpointing
        key = (candidate.topology.first_gpu.name, candidate.extra, policy)
        if key not in self._peaks:
            # of one token alone: attention's share depends on what a kernel skips under the mask
            flops = token_flops(workload.model_copy(update={"sequence_length": 1}))
            single = candidate.topology.model_copy(update={"nodes": 1})
            self._peaks[key] = SAFETY * flops.hardware / peak_of(single, workload).flops_per_s
        tokens = batch_on(workload, candidate.gpus).tokens
        return self._peaks[key] * tokens / candidate.gpus * filling(workload)

    def of(
        self, candidate: Candidate, exchanges: bool = True, parameters: bool = True,
        to_play: bool = True,
    ) -> LeastTime:  # fmt: skip
        """All but the first.

        Parameters
        ----------
        candidate : Candidate
            The plan.
        exchanges : bool
            Those within blocks, too; a micro-step may have to be simulated for them.
        parameters : bool
            The sixth, too; it takes longest.
        to_play : bool
            A pipeline's schedule is played.
        """
        machine = machine_key(candidate.topology)
        key = machine, candidate.workload, exchanges, parameters, to_play
        if key not in self._known:
            self._known[key] = self._of(candidate, exchanges, parameters, to_play)
        return self._known[key]

    def _of(
        self, candidate: Candidate, exchanges: bool, parameters: bool, to_play: bool
    ) -> LeastTime:
        workload = candidate.workload
        micro, steps = self._micro_of(candidate), workload.gradient_accumulation
        within = self._within_of(candidate) if exchanges else {}
        stages = workload.parallelism.pipeline_parallel
        each = (_EVEN if stages > 1 else 1.0) * steps / stages
        kernels = {kind: each * seconds for kind, seconds in micro.kernels.items()}
        paced = paced_of(candidate, micro, within)
        copies: tuple[Copies, ...] = (Copies(),) * len(stage_layers(workload))
        under_way = UnderWay()
        if parameters:
            copies = self._parameters.copies(candidate)
            under_way = self._parameters.under_way(candidate)
        update = self._updates.of(candidate)
        if stages > 1:
            apart = stages if paced.block_s > 0.0 else 0
            lost = paced.block_s * max(0, workload.model.layers - apart)
            mean = each * (paced.busy_s + lost) * filling(workload)
            gpu = max(mean, self._staged_s(candidate, micro, paced, copies, under_way, to_play))
            gpu += under_way.before_s
        else:
            [own] = copies
            lost = workload.model.layers * paced.block_s
            beside = own.once_s + steps * (own.each_s + paced.exchanges_s) + update.accumulating_s
            busy_s = steps * (sum(paced.kernels.values()) + lost)
            gpu = beside + busy_s
            gpu += _beside_s(candidate, micro, busy_s / micro.seconds.sum(), under_way, beside)
        return LeastTime(gpu + update.update_s, kernels)

    def known(self, candidate: Candidate) -> bool:
        """Whether nothing has to be asked: nothing is exchanged, or what that takes is known."""
        return not exchanging(candidate) or self._key(candidate, True) in self._within

    def ask(self, candidates: Iterable[Candidate]) -> None:
        """Learn what exchanges of candidates take; what is not clear is simulated together."""
        unclear: dict[Hashable, Candidate] = {}
        for candidate in candidates:
            if not self.known(candidate):
                key, waited = self._key(candidate, True), waited_within(candidate)
                if waited is None:
                    unclear[key] = candidate
                else:
                    self._within[key] = waited
        found = micro_steps([alone(c) for c in unclear.values()])
        for key, one in zip(unclear, found, strict=True):
            self._within[key] = within_of(one.breakdown)

    def _within_of(self, candidate: Candidate) -> Within:
        """Exposed exchanges of a micro-step of the whole model, by what is split. [s]"""
        if not exchanging(candidate):
            return {}
        key = self._key(candidate, True)
        if key not in self._within:
            self.ask([candidate])
        return self._within[key]

    def _staged_s(
        self, candidate: Candidate, micro: Micro, paced: Paced, copies: tuple[Copies, ...],
        under_way: UnderWay, to_play: bool,
    ) -> float:  # fmt: skip
        """Bound 3 where blocks are alike, with what comes after a pipeline's last backward. [s]"""
        workload = candidate.workload
        outside = {True: 0.0, False: 0.0}
        if exchanging(candidate) and paced.exchanges_s > 0.0:
            key = self._key(candidate, True)
            if key not in self._outside:
                self._outside[key] = outside_s(candidate)
            outside = self._outside[key]
        stages = stage_times(workload, micro, paced, outside)
        if not stages:
            return 0.0
        p, after_s = workload.parallelism, under_way.after_s
        least = busiest(workload, stages, copies)
        if not SCHEDULES[p.pipeline_schedule].splits:
            least += after_s
        if not to_play:
            return least
        between = hops(candidate.topology, workload)
        found = played(p.pipeline_schedule, shape_of(workload), stages, copies, between)
        return max(least, found.end_s, found.first_s + after_s)

    def _micro_of(self, candidate: Candidate) -> Micro:
        key = self._key(candidate, False)
        if key not in self._micro:
            self._micro[key] = micro_of(candidate)
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
            if ranks_alone(candidate) > node.gpus:
                wires = node, topology.network
        return (
            strategy_of(workload).blocks_alike, trainer_of(workload).name, rows_alone(candidate),
            node.gpu, node.gpus, topology.calibration, wires,
            candidate.extra, workload.micro_batch, workload.activation_checkpointing,
            tuple(cut_of_blocks(candidate).values()),
        )  # fmt: skip


def peak_alike(candidate: Candidate) -> Hashable:
    """What `Bounds.peak_s`, and what it makes of a plan, rest on in a search of one batch."""
    workload = candidate.workload
    return (
        candidate.topology, candidate.extra, workload.activation_checkpointing,
        workload.global_batch or workload, filling(workload),
    )  # fmt: skip


def _beside_s(
    candidate: Candidate, micro: Micro, pace: float, under_way: UnderWay, idle_s: float
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
