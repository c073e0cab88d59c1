"""What of a micro-step every plan of it runs at the least, and where it runs alone."""

from __future__ import annotations

from functools import lru_cache
from math import lcm
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.blocks.kernels import Kernel
from sim.blocks.unroll import PARTS, Templates, unroll
from sim.cost.host import pace_of
from sim.cost.kernel_cost import CostModel, cost_model
from sim.inputs.modelling import tensor_style
from sim.inputs.rows import Computed, run_on, varied
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Parallelism, Workload
from sim.records import NamedTuple
from sim.step.breakdown import Breakdown
from sim.step.ready import told_slowest
from sim.step.shares import WITHIN
from sim.step.slowest import lost_to_slowest
from sim.step.straggle import hands_on
from sim.step.variation import Variation
from sim.study.candidates import Candidate

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]

#: kernels that every plan of a micro-batch and checkpointing runs alike
_ALIKE = ("gemm", "attention", "scan", "norm", "loss", "embedding")
#: and those of a strategy whose blocks do nothing else in any layout
_WITHIN = ("elementwise", "reduction", "copy")
#: rounding, where blocks stand for others, must not make a bound exceed what it bounds
SAFETY = 0.999


#: a job of one stage in the middle of whose steps no parameters or gradients move
_QUIET = {
    "strategy": "fsdp2", "replicate": 1, "shard": None, "offload": "none", "pipeline_parallel": 1,
    "reshard_after_forward": False, "reshard_after_backward": False, "gradient_sync": "last",
}  # fmt: skip


#: knobs that blocks ask (`sim.blocks.from_workload`), but for the one that may be left open
_CUT = (
    "context_parallel", "context_parallel_kind", "context_parallel_rotation",
    "context_parallel_load_balance", "tensor_parallel", "sequence_parallel", "loss_parallel",
    "tp_comm_overlap", "expert_parallel", "expert_dispatch",
)  # fmt: skip

Within = dict[tuple[str, bool], float]


class Micro(NamedTuple):
    """Least times of the kernels of one micro-step of the whole model. [s]"""

    kernels: dict[str, float]  # by kind
    seconds: F8  # of every kernel, all times that it runs
    curves: I4  # rows of `CostModel.curves`
    parts: dict[tuple[str, str], float]  # of one block of a kind, by phase; backward in `PARTS`


class Paced(NamedTuple):
    """The same on ranks that wait for the slowest of them. [s]"""

    kernels: dict[str, float]
    exchanges_s: float
    forward_s: float  # of `exchanges_s`, at the least
    block_s: float  # lost in each block
    slower: float  # kernels, than those of `Micro` [1]

    @property
    def busy_s(self) -> float:
        """Kernels and exchanges, but for what blocks lose."""
        return sum(self.kernels.values()) + self.exchanges_s


def cut_of_blocks(candidate: Candidate) -> dict[str, Any]:
    """How blocks are cut, and what ranks that share one exchange: all that blocks ask of knobs."""
    workload = candidate.workload
    cut = {knob: getattr(workload.parallelism, knob) for knob in _CUT}
    return cut | {"tensor_parallel_style": tensor_style(workload) or None}


def alone(candidate: Candidate) -> tuple[Topology, Workload]:
    """Micro-steps on one node, or on as many as share a block, in which nothing is gathered.

    The more ranks, the slower the slowest of them: one node of the same size bounds them all.
    Parameters and gradients that move share links with exchanges, which then take no less. What
    a strategy answers for its blocks (whose code they are, how long its rows) is asked before
    another runs them.
    """
    topology = candidate.topology
    nodes = ranks_alone(candidate) // topology.gpus_per_node
    topology = topology.model_copy(update={"nodes": nodes})
    workload = run_on(topology, candidate.workload)
    knobs = workload.parallelism if strategy_of(workload).blocks_alike else Parallelism()
    cut = _QUIET | cut_of_blocks(candidate)
    update = {
        "parallelism": knobs.model_copy(update=cut), "trainer": trainer_of(workload).name,
        "global_batch": None,
    }  # fmt: skip
    return topology, workload.model_copy(update=update)


def rows_alone(candidate: Candidate) -> tuple[float, ...]:
    """How long rows of micro-steps `alone` are, where samples differ in length. [tokens]"""
    if varied(candidate.workload):
        _, rows = alone(candidate)
        if isinstance(rows, Computed):
            return rows.sequence_length, rows.attended, rows.attended_share
    return ()


def ranks_alone(candidate: Candidate) -> int:
    """Ranks of the nodes that share a sequence, or the experts of a block."""
    p = candidate.workload.parallelism
    shared = p.context_parallel * p.tensor_parallel
    return lcm(candidate.topology.gpus_per_node, shared, p.expert_parallel)


def exchanging(candidate: Candidate) -> bool:
    """Whether ranks that share a block exchange anything within it."""
    p = candidate.workload.parallelism
    return max(p.tensor_parallel, p.context_parallel, p.expert_parallel) > 1


def micro_of(candidate: Candidate) -> Micro:
    """What of a micro-step every plan of it runs."""
    kinds = _ALIKE + strategy_of(candidate.workload).blocks_alike * _WITHIN
    topology, workload = alone(candidate)
    model = cost_model(topology.first_gpu, topology.calibration)
    return _kernels(model, unroll(run_on(topology, workload)), kinds)


class _Sums(NamedTuple):
    """Kernels of a template together. [s]"""

    places: dict[tuple[str, int], float]  # by kind and curve
    parts: tuple[float, float]  # as `PARTS`


@lru_cache(maxsize=1024)
def _summed(model: CostModel, kernels: tuple[Kernel, ...], kinds: tuple[str, ...]) -> _Sums:
    """Those of some kinds, once; jobs that checkpoint in other ways share them."""
    costs = model.costs(kernels)
    places: dict[tuple[str, int], float] = {}
    parts = [0.0, 0.0]
    for kernel, seconds, curve in zip(
        kernels, costs.time_s.tolist(), costs.curve.tolist(), strict=True
    ):
        if kernel.kind in kinds and not kernel.waits:
            place = kernel.kind, curve
            places[place] = places.get(place, 0.0) + seconds
            parts[kernel.direction == "wgrad"] += seconds
    return _Sums(places, (parts[0], parts[1]))


@lru_cache(maxsize=512)
def _kernels(model: CostModel, templates: Templates, kinds: tuple[str, ...]) -> Micro:
    """Kernels of some kinds of a micro-step; those of a kind and a curve together."""
    found: dict[tuple[str, int], float] = {}
    parts: dict[tuple[str, str], float] = {}
    for (block, phase), times in templates.runs().items():
        sums = _summed(model, templates.of(block, phase), kinds)
        for place, seconds in sums.places.items():
            found[place] = found.get(place, 0.0) + times * seconds
        if phase == "backward":
            parts |= {(block, part): SAFETY * s for part, s in zip(PARTS, sums.parts, strict=True)}
        else:
            parts[block, phase] = SAFETY * sum(sums.parts)
    by_kind = dict.fromkeys(kinds, 0.0)
    for (kind, _), seconds in found.items():
        by_kind[kind] += SAFETY * seconds
    seconds_of, curves = np.array(list(found.values())), [curve for _, curve in found]
    return Micro(by_kind, SAFETY * seconds_of, np.array(curves, np.int32), parts)


def within_of(step: Breakdown) -> Within:
    """Exposed exchanges of a micro-step, by what is split and whether forward asks for them. [s]"""
    found: Within = {}
    for label, seconds in step.exposed.items():
        what, phase = WITHIN.get(label.split()[0]), label.split()[-1]
        if what:
            key = what, in_forward(phase)
            found[key] = found.get(key, 0.0) + SAFETY * float(seconds)  # no scalar of numpy
    return found


def in_forward(phase: str) -> bool:
    """Whether a collective of a phase is one of forward or of the loss."""
    return phase not in ("backward", "recompute")


def paced_of(candidate: Candidate, micro: Micro, within: Within) -> Paced:
    """What of a micro-step the slowest of equal ranks does: bound 5 of `sim.study.bounds`."""
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
    hidden = {"context": share * micro.kernels["attention"]}
    forward = {what: within.get((what, True), 0.0) for what, _ in within}
    both = {what: s + within.get((what, False), 0.0) for what, s in forward.items()}
    left_s, forward_s = (
        sum(max(0.0, s - hidden.get(what, 0.0)) for what, s in found.items())
        for found in (both, forward)
    )
    return Paced(kernels, left_s, forward_s, unit_s, 1.0 + share)
