"""The inverse of `memory`: the largest batch or context, the fewest nodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from sim.choices import BoundQuantity
from sim.documents import SCHEMAS, Document
from sim.errors import InfeasibleError
from sim.inputs.scaled import spread
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.memory.report import MemoryReport, memory
from sim.quantities import counted, gib

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
    sure : int or None
        The largest (fewest) that fits without risk, where that is another.
    stopped : bool
        The search was stopped: more may fit, or fit without risk.
    too_many : int or None
        The least tried that does not fit, of a search that was stopped before it was one step more.
    """

    schema: ClassVar[str] = SCHEMAS["need"]

    quantity: str
    value: int
    report: MemoryReport
    beyond: MemoryReport | None
    sure: int | None = None
    stopped: bool = False
    too_many: int | None = None


def solve_each(
    topology: Topology, workload: Workload, quantities: Iterable[BoundQuantity]
) -> tuple[tuple[Bound, ...], tuple[str, ...]]:
    """`solve` for several quantities, each on its own.

    Returns
    -------
    tuple of Bound
        Those that have an answer.
    tuple of str
        Why others have none.

    Raises
    ------
    InfeasibleError
        None has one.
    """
    found: list[Bound] = []
    failed: list[InfeasibleError] = []
    for quantity in dict.fromkeys(quantities):
        try:
            found.append(solve(topology, workload, quantity))
        except InfeasibleError as error:
            failed.append(error)
    if failed and not found:
        raise failed[0]
    return tuple(found), tuple(map(str, failed))


def solve(
    topology: Topology, workload: Workload, quantity: BoundQuantity,
    told: Callable[[int, int], None] | None = None, stop: Callable[[], bool] = lambda: False,
) -> Bound:  # fmt: skip
    """Largest micro-batch or sequence length, or fewest nodes, at which a job fits.

    Parameters
    ----------
    quantity : {"micro_batch", "sequence_length", "nodes"}
        What may change.
    told : callable, optional
        Called with values walked and how many may be, of a micro-batch or sequence length.
    stop : callable, optional
        Asked before each of those but the first: once true, the answer is `stopped`.

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

    limit = LARGEST[quantity]
    if quantity == "sequence_length" and workload.model.positions == "learned":
        limit = max(step, workload.model.max_positions)
    # doubled to the end, halved to the answer, and again to the one that is sure
    walked, most = itertools.count(1), 3 * (limit // step).bit_length()

    misses, stopped = [], False  # values that do not fit; whether the search ended early

    def at(value: int) -> MemoryReport:
        report = memory(topology, workload.model_copy(update={quantity: value}))
        if not report.fits:
            misses.append(value)
        if told is not None:
            done = next(walked)
            told(done, max(done, most))
        return report

    def ends() -> bool:
        nonlocal stopped
        stopped = stopped or stop()
        return stopped

    low = 1
    first = at(step)
    if not first.fits:
        message = f"nothing fits: {quantity} {step} already needs {_needs(first)}"
        raise InfeasibleError(message)
    high = low
    while high * step < limit and not ends() and at(min(high * 2 * step, limit)).fits:
        high *= 2
    low, high = high, min(high * 2, limit // step) + 1
    low = min(low, limit // step)
    while high - low > 1 and not ends():
        middle = (low + high) // 2
        if at(middle * step).fits:
            low = middle
        else:
            high = middle
    found = at(low * step)
    if stopped:
        too_many = min(misses, default=None)
        return Bound(quantity, low * step, found, None, None, stopped, too_many)
    beyond = at((low + 1) * step) if (low + 1) * step <= limit else None
    sure = _largest_sure(lambda units: at(units * step), low, ends) if found.verdict.risk else None
    return Bound(quantity, low * step, found, beyond, sure and sure * step, stopped)


def _largest_sure(
    at: Callable[[int], MemoryReport], high: int, ends: Callable[[], bool]
) -> int | None:
    """The largest number below `high` that fits without risk; None where there is none."""
    low = 0
    while high - low > 1 and not ends():
        middle = (low + high) // 2
        if at(middle).verdict.word == "fits":
            low = middle
        else:
            high = middle
    return low or None


def _needs(report: MemoryReport) -> str:
    """What does not fit: the GPU's memory or the host's."""
    if report.headroom_bytes < 0:
        return (
            f"{gib(report.needed_bytes)} of {gib(report.capacity_bytes)}, "
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
                f"{counted(high // 2, 'node')} are not enough: {report.dominating} shrinks no "
                f"further; it needs {_needs(report)}"
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
    found, sure = at(high), None
    if found.verdict.risk:
        more = range(high + least, 4 * high + 1, least)
        sure = next((nodes for nodes in more if at(nodes).verdict.word == "fits"), None)
    return Bound("nodes", high, found, at(high - least) if high > least else None, sure)
