"""Measurements that tell causes apart: each predicts what it would show under a cause."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sim.calibration.cause import Changed
from sim.cost.collectives import plan_collective
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.inputs.scaled import at_nodes
from sim.inputs.shares import batch_of
from sim.inputs.topology import Topology
from sim.memory.report import memory
from sim.quantities import duration, gib, percent
from sim.step.breakdown import Breakdown
from sim.step.pressure import retries, retry_s
from sim.step.step import step
from sim.units import GIB


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement.

    Attributes
    ----------
    title : str
        What to do.
    noise : float
        How well it can be read, and predicted: standard error of its logarithm.
    predict : callable
        (job under a cause, its simulated step) to the figure; nan where it cannot be made.
    show : callable
        The figure as text.
    """

    title: str
    noise: float
    predict: Callable[[Changed, Breakdown], float]
    show: Callable[[float], str]


def _busbw(topology: Topology, nodes: int) -> float:
    if topology.node is None or topology.nodes < nodes:
        return math.nan
    moved = topology.model_copy(update={"nodes": nodes})
    if moved.world_size < 2:
        return math.nan
    cost = plan_collective(compile_fabric(moved), "all_gather", range(moved.world_size), GIB)
    return cost.busbw_bytes_per_s


def _latency(changed: Changed, _: Breakdown) -> float:
    topology = changed.topology
    if topology.node is None or topology.nodes < 2:
        return math.nan
    moved = topology.model_copy(update={"nodes": 2})
    return plan_collective(compile_fabric(moved), "all_reduce", range(moved.world_size), 8.0).time_s


def _one_node(changed: Changed, _: Breakdown) -> float:
    if changed.topology.node is None or changed.topology.nodes < 2:
        return math.nan
    moved = at_nodes(changed.topology, changed.workload, 1)
    if moved is None or not memory(*moved).fits:
        return math.nan
    try:
        alone = step(*moved).breakdown
    except InputError:
        return math.nan
    return batch_of(*moved).tokens / changed.time(alone) / moved[0].world_size


def _whole(changed: Changed, under: Breakdown) -> float:
    """What a stopwatch shows for a step. [s]"""
    return under.time_s if changed.adds in ("count", "tokens") else changed.time(under)


def _synthetic(changed: Changed, under: Breakdown) -> float:
    seconds = under.time_s if changed.adds == "wait" else _whole(changed, under)
    return batch_of(*changed[:2]).tokens / seconds / changed.topology.world_size


def _kernels(*kinds: str) -> Callable[[Changed, Breakdown], float]:
    def seconds(_: Changed, under: Breakdown) -> float:
        found = sum(under.kernels.get(kind, 0.0) for kind in kinds)
        return found if found > 0 else math.nan

    return seconds


def _idle(changed: Changed, under: Breakdown) -> float:
    """Share of the step without any kernel or collective, from 1 %."""
    whole = _whole(changed, under)
    added = 0.0 if changed.adds == "exposed" else whole - under.time_s
    return max(0.01, (under.host_s + added) / whole)


def _communicating(changed: Changed, under: Breakdown) -> float:
    """Share of the step in which the GPU only communicates, from 1 %."""
    whole = _whole(changed, under)
    added = whole - under.time_s if changed.adds == "exposed" else 0.0
    return max(0.01, (under.exposed_s + added) / whole)


def _peak(changed: Changed, _: Breakdown) -> float:
    return memory(changed.topology, changed.workload).peak_allocated_bytes


def _retries(changed: Changed, under: Breakdown) -> float:
    added = changed.time(under) - under.time_s if changed.adds == "step" else 0.0
    declared = retries(changed.workload, memory(changed.topology, changed.workload).verdict)
    return 1.0 + declared + added / retry_s(changed.workload, changed.topology)


def _spread(changed: Changed, _: Breakdown) -> float:
    known = changed.topology.calibration
    return 1.0 / known.slowest_gpu if known is not None else 1.0


def _gb(value: float) -> str:
    return f"{value / 1e9:.1f} GB/s"


PROBES: tuple[Probe, ...] = (
    Probe(
        "nccl-tests all_reduce_perf of 8 B over the GPUs of two nodes: time", 0.3, _latency,
        duration,
    ),
    Probe(
        "nccl-tests all_gather_perf of 1 GiB over the GPUs of two nodes: busbw", 0.10,
        lambda changed, _: _busbw(changed.topology, 2), _gb,
    ),
    Probe(
        "nccl-tests all_gather_perf of 1 GiB over the GPUs of one node: busbw", 0.10,
        lambda changed, _: _busbw(changed.topology, 1), _gb,
    ),
    Probe(
        "the same job on one node: tokens/s per GPU", 0.15, _one_node, lambda v: f"{v:,.0f}",
    ),
    Probe(
        "the same job on synthetic data, all tokens counted: tokens/s per GPU", 0.15, _synthetic,
        lambda v: f"{v:,.0f}",
    ),
    Probe(
        "PyTorch profiler: GEMM kernels a step", 0.12, _kernels("gemm"), duration,
    ),
    Probe(
        "PyTorch profiler: attention kernels a step", 0.15, _kernels("attention"), duration,
    ),
    Probe(
        "PyTorch profiler: share of the step with nothing on the GPU", 0.5, _idle,
        lambda v: percent(v, 0),
    ),
    Probe(
        "PyTorch profiler: share of the step in which only NCCL runs", 0.4, _communicating,
        lambda v: percent(v, 0),
    ),
    Probe(
        "torch.cuda.max_memory_allocated()", 0.12, _peak, gib,
    ),
    Probe(
        'torch.cuda.memory_stats()["num_alloc_retries"] a step', 0.7, _retries,
        lambda v: f"{v - 1:.0f}",
    ),
    Probe(
        "one GEMM timed on every GPU: slowest over fastest", 0.05, _spread, lambda v: f"{v:.2f}",
    ),
)  # fmt: skip
