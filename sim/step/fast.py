"""The few figures of a configuration that searches compare, as fast as they can be had."""

from __future__ import annotations

from typing import NamedTuple

from sim.inputs.shares import batch_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.memory.report import memory
from sim.step.quick import quick_breakdown


class Measures(NamedTuple):
    """Figures of one configuration."""

    step_time_s: float
    tokens_per_s: float
    exposed_communication_s: float
    communication_s: float
    memory_bytes: float  # peak reserved on a GPU
    fits: bool
    usd_per_million_tokens: float | None  # GPU hours at the offer's price; None without one


def evaluate(topology: Topology, workload: Workload, *, engine: str = "auto") -> Measures:
    """Simulate a configuration, extrapolated in depth, and walk its memory.

    Plans, programs, kernels, collectives and classes of ranks are kept between calls: neighbours in
    a sweep cost a few milliseconds each with the compiled engine. Call `Prepared.vary` for specs.

    Parameters
    ----------
    topology, workload : specs
        Checked by the loader.
    engine : str
        ``auto | reference | python | compiled``; ``compiled`` for more than a few dozen.

    Returns
    -------
    Measures
        A job that does not fit has all of them too.
    """
    step = quick_breakdown(topology, workload, engine=engine)
    needed = memory(topology, workload)
    world = topology.world_size
    tokens = batch_of(topology, workload).tokens
    price = topology.offer.price_per_gpu_hour if topology.offer else None
    return Measures(
        step_time_s=step.time_s,
        tokens_per_s=tokens / step.time_s,
        exposed_communication_s=step.exposed_s,
        communication_s=step.communication_s,
        memory_bytes=needed.peak_reserved_bytes,
        fits=needed.fits,
        usd_per_million_tokens=(
            None if price is None else price * world * step.time_s / 3600 / tokens * 1e6
        ),
    )
