"""What gradients and the optimizer take at the ends of micro-steps, at the least, of the mean rank.

1. Under FSDP2 gradients in host memory are added up there from the second micro-step on. For every
   unit the CPU waits until it is reduced and sent, and adds it, before it launches what comes next:
   kernels that were launched have ended by then, and no others run.
2. The optimizer's pass comes after the last kernel of backward, on the host or, under FSDP2, on the
   GPU, with the norm of gradients before it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import field

from sim.blocks.parameters import count_parameters
from sim.blocks.update import clip_kernels, host_update_bytes, optimizer_kernels, shard_of
from sim.cost.host_update import host_rate, update_s
from sim.cost.kernel_cost import cost_model
from sim.inputs.strategy import strategy_of
from sim.inputs.trainer import reduces_each
from sim.inputs.workload import Workload
from sim.job.basis import links_of
from sim.records import NamedTuple, dataclass
from sim.strategies.units import dtypes
from sim.study.candidates import Candidate
from sim.units import DTYPE_BYTES

#: rounding must not make a bound exceed what it bounds
_SAFETY = 0.999


class UpdateTime(NamedTuple):
    """Of a step, while kernels of blocks stand still. [s]"""

    accumulating_s: float = 0.0
    update_s: float = 0.0


@dataclass(slots=True)
class UpdateBounds:
    """Bounds of candidates; what they share is asked once."""

    _on_gpu: dict[Hashable, float] = field(default_factory=dict)
    _sent: dict[Hashable, float] = field(default_factory=dict)

    def of(self, candidate: Candidate) -> UpdateTime:
        """Of a step; nothing is said of pipelines."""
        p = candidate.workload.parallelism
        if p.pipeline_parallel > 1:
            return UpdateTime()
        if p.offload in ("optimizer", "all"):
            return self._on_host(candidate)
        if p.strategy != "fsdp2" or candidate.workload.optimizer_in_backward:
            return UpdateTime()
        topology = candidate.topology
        gpu, calibration = topology.first_gpu, topology.calibration
        key = gpu, calibration, candidate.extra, p.replicate, p.clip_gradients, candidate.gpus
        if key not in self._on_gpu:
            shard = shard_of(candidate.workload, _elements(candidate), 1)
            kernels = optimizer_kernels(candidate.workload, shard)
            kernels += clip_kernels(shard) * p.clip_gradients
            model = cost_model(gpu, calibration)
            self._on_gpu[key] = sum(model.cost(kernel).time_s for kernel in kernels)
        return UpdateTime(0.0, self._on_gpu[key])

    def _on_host(self, candidate: Candidate) -> UpdateTime:
        workload, node = candidate.workload, candidate.topology.node
        assert node is not None
        elements = _elements(candidate)
        update = update_s(
            workload, node.cpu, node.gpus, host_update_bytes(workload) * elements, elements
        )
        passes = workload.gradient_accumulation - 1
        if not passes or not _adds_each(workload):
            return UpdateTime(0.0, update)
        size = DTYPE_BYTES[dtypes(workload).master] * elements
        rate = host_rate(node.cpu, node.gpus, workload.stack.omp_num_threads)
        each = 3 * size / rate + size / self._sent_rate(candidate)
        return UpdateTime(passes * each, update)

    def _sent_rate(self, candidate: Candidate) -> float:
        """From a GPU to its host, while the others send nothing. [B/s]"""
        topology = candidate.topology
        key = topology.node, topology.calibration
        if key not in self._sent:
            self._sent[key] = links_of(topology.model_copy(update={"nodes": 1})).host
        return self._sent[key]


def _elements(candidate: Candidate) -> float:
    """Parameters that a rank updates. [1]"""
    workload = candidate.workload
    trained = count_parameters(workload.model, workload.method).trainable
    return _SAFETY * trained * workload.parallelism.replicate / candidate.gpus


def _adds_each(workload: Workload) -> bool:
    """Whether each micro-step's gradients are added to those in host memory."""
    p = workload.parallelism
    whole = p.replicate == 1 or p.requires_all_reduce == "every"
    return strategy_of(workload).accumulates_on_host and whole and reduces_each(workload)
