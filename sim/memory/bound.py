"""The inverse of `memory`: the largest batch or context, the fewest nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sim.documents import SCHEMAS, Document
from sim.errors import InfeasibleError
from sim.inputs.strategy import spread
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.memory.report import MemoryReport, memory
from sim.quantities import gib

Quantity = Literal["micro_batch", "sequence_length", "nodes"]
#: sequence lengths are answered in whole multiples of this [tokens]
LENGTH_STEP = 256
LARGEST = {"micro_batch": 1 << 16, "sequence_length": 1 << 24, "nodes": 1 << 10}


@dataclass(frozen=True, slots=True)
class Bound(Document):
    """Answer to an inverse question.

    Attributes
    ----------
    quantity : str
        ``micro_batch``, ``sequence_length`` or ``nodes``.
    value : int
        Largest (fewest nodes) that fits.
    report : MemoryReport
        Memory there.
    beyond : MemoryReport or None
        Memory one step further, where it no longer fits; None at the end of the search.
    """

    schema: ClassVar[str] = SCHEMAS["need"]

    quantity: str
    value: int
    report: MemoryReport
    beyond: MemoryReport | None


def solve(topology: Topology, workload: Workload, quantity: Quantity) -> Bound:
    """Largest micro-batch or sequence length, or fewest nodes, at which a job fits.

    Parameters
    ----------
    topology : Topology
        The machine.
    workload : Workload
        The job.
    quantity : {"micro_batch", "sequence_length", "nodes"}
        What may change.

    Returns
    -------
    Bound
        The answer, with the memory there and one step beyond.

    Raises
    ------
    InfeasibleError
        Nothing fits, with what is missing at the smallest value.
    """
    step = 1
    if quantity == "sequence_length":
        step = LENGTH_STEP * workload.parallelism.context_parallel
    if quantity == "nodes":
        return _fewest_nodes(topology, workload)

    def at(value: int) -> MemoryReport:
        return memory(topology, workload.model_copy(update={quantity: value}))

    limit = LARGEST[quantity]
    if quantity == "sequence_length" and workload.model.positions == "learned":
        limit = max(step, workload.model.max_positions)
    low = 1
    first = at(step)
    if not first.fits:
        message = f"nothing fits: {quantity} {step} already needs {_needs(first)}"
        raise InfeasibleError(message)
    high = low
    while high * step < limit and at(min(high * 2 * step, limit)).fits:
        high *= 2
    low, high = high, min(high * 2, limit // step) + 1
    low = min(low, limit // step)
    while high - low > 1:
        middle = (low + high) // 2
        if at(middle * step).fits:
            low = middle
        else:
            high = middle
    beyond = at((low + 1) * step) if (low + 1) * step <= limit else None
    return Bound(quantity, low * step, at(low * step), beyond)


def _needs(report: MemoryReport) -> str:
    """What does not fit: the GPU's memory or the host's."""
    if report.headroom_bytes < 0:
        return (
            f"{gib(report.peak_reserved_bytes)} of {gib(report.capacity_bytes)}, "
            f"mostly {report.dominating}"
        )
    host = max(report.host_bytes, report.host_loading_bytes)
    return f"{gib(host)} of the host's {gib(report.host_capacity_bytes)}"


def _fewest_nodes(topology: Topology, workload: Workload) -> Bound:
    if topology.graph is not None or topology.node is None:
        message = "an explicit graph has its own number of nodes; describe the machine by `node`"
        raise InfeasibleError(message)
    per_node = topology.node.gpus
    replicate = workload.parallelism.replicate

    def at(nodes: int) -> MemoryReport:
        world = nodes * per_node
        return memory(topology, spread(workload, world), world=world)

    least = max(1, -(-replicate // per_node))
    high = least
    while not at(high).fits:
        high *= 2
        if high > LARGEST["nodes"]:
            report = at(high // 2)
            message = (
                f"{high // 2} nodes are not enough: {report.dominating} shrinks no further; "
                f"it needs {_needs(report)}"
            )
            raise InfeasibleError(message)
    low = high // 2
    while high - low > least and low >= least:
        middle = (low + high) // 2
        if middle * per_node % replicate:
            middle += 1
        if at(middle).fits:
            high = middle
        else:
            low = middle
    return Bound("nodes", high, at(high), at(high - least) if high > least else None)
