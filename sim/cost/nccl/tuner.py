"""NCCL's tuner: which algorithm and protocol it chooses, by its own cost table.

The cost is NCCL's own and optimistic; it serves to choose as NCCL would, never as a time.

Source: NVIDIA/nccl src/graph/tuning.cc, enqueue.cc (v2.30.7; older versions where the constants
say so).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from sim.cost.nccl.algorithms import algorithm_named, names
from sim.cost.nccl.communicator import LL, LL128, PROTOCOLS, Communicator


class Choice(NamedTuple):
    """What NCCL runs."""

    algorithm: str
    protocol: str
    channels: int  # thread blocks, so SMs
    estimate_s: float  # NCCL's own estimate


def available(comm: Communicator, op: str) -> list[tuple[str, int]]:
    """Pairs of algorithm and protocol (index) that NCCL weighs for an operation by default."""
    every = [algorithm_named(name) for name in names()]
    pairs = [(a.name, p) for a in every if op in a.operations for p in a.weighed(comm, op)]
    return pairs if ll128_allowed(comm) else [pair for pair in pairs if pair[1] != LL128]


def ll128_allowed(comm: Communicator) -> bool:
    """LL128 needs NVLink in the node, GPUDirect behind it, and a network that keeps 128 B whole."""
    if comm.local_ranks > 1 and comm.link != "nvlink":
        return False
    ordered = comm.nic_kind in ("infiniband", "roce")
    return comm.nodes == 1 or (comm.gpudirect and ordered)


@functools.lru_cache(maxsize=65536)
def _line(comm: Communicator, op: str, algorithm: str, protocol: int) -> tuple[float, float]:
    """NCCL's latency [us] and algorithm bandwidth [GB/s]."""
    found = algorithm_named(algorithm)
    return found.latency_us(comm, op, protocol), found.bandwidth(comm, op, protocol)


def estimate_us(comm: Communicator, op: str, algorithm: str, protocol: int, size: float) -> float:
    """NCCL's own estimate for one operation of `size` total bytes. [us]

    Notes
    -----
    t = latency + bytes / (1000 bandwidth), both as the algorithm corrects them for the size.
    """
    line = _line(comm, op, algorithm, protocol)
    latency, bandwidth = algorithm_named(algorithm).corrected(comm, op, protocol, size, line)
    return latency + size / (1000.0 * bandwidth)


def choose(
    comm: Communicator,
    op: str,
    size: float,
    algorithm: str | None = None,
    protocol: str | None = None,
) -> Choice:
    """Algorithm, protocol and channels NCCL runs, or those asked for.

    Parameters
    ----------
    comm : Communicator
    op : str
    size : float
        Total bytes as nccl-tests counts them. [B]
    algorithm, protocol : str, optional
        Override, as NCCL_ALGO and NCCL_PROTO do.

    Raises
    ------
    ValueError
        If what was asked for cannot run this operation on this machine.
    """
    pairs = available(comm, op)
    if algorithm is not None:
        pairs = [pair for pair in pairs if pair[0] == algorithm] or _forced(comm, op, algorithm)
    if protocol is not None:
        wanted = PROTOCOLS.index(protocol)
        kept = [pair for pair in pairs if pair[1] == wanted]
        if not kept and wanted == LL128:  # NCCL_PROTO overrides the default rule
            kept = [(name, LL128) for name, p in pairs if p == LL]
        if not kept:
            message = f"{algorithm or op} does not run with protocol {protocol}"
            raise ValueError(message)
        pairs = kept
    best, best_us = pairs[0], math.inf
    for pair in pairs:
        us = estimate_us(comm, op, pair[0], pair[1], size)
        if us < best_us:
            best, best_us = pair, us
    channels = algorithm_named(best[0]).active_channels(comm, best[1], size)
    return Choice(best[0], PROTOCOLS[best[1]], channels, best_us * 1e-6)


def _forced(comm: Communicator, op: str, algorithm: str) -> list[tuple[str, int]]:
    """Pairs for an algorithm NCCL would not weigh by itself, or why it cannot run."""
    found = algorithm_named(algorithm)
    pairs = [(algorithm, p) for p in found.forced(comm, op)] if op in found.operations else []
    if not pairs:
        raise ValueError(found.needs)
    return pairs
