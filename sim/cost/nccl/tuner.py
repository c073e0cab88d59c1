"""NCCL's tuner: which algorithm and protocol it chooses, by its own cost table.

The cost is NCCL's own and optimistic; it serves to choose as NCCL would, never as a time.

Source: NVIDIA/nccl src/graph/tuning.cc, enqueue.cc (v2.30.7; older versions where the constants
say so).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from sim.cost.nccl.algorithm import Algorithm
from sim.cost.nccl.algorithms import algorithm_named, names
from sim.cost.nccl.communicator import LL, LL128, PROTOCOLS, SIMPLE, Communicator, constants
from sim.records import NamedTuple


class Choice(NamedTuple):
    """What NCCL runs."""

    algorithm: str
    protocol: str
    channels: int  # thread blocks, so SMs
    estimate_s: float  # NCCL's own estimate


class Line(NamedTuple):
    """An algorithm in one protocol (index), and what NCCL's table says of it."""

    algorithm: Algorithm
    protocol: int
    latency: float  # [us]
    bandwidth: float  # [GB/s]

    @classmethod
    def of(cls, comm: Communicator, op: str, algorithm: Algorithm, protocol: int) -> Line:
        """As the algorithm says."""
        latency = algorithm.latency_us(comm, op, protocol)
        return cls(algorithm, protocol, latency, algorithm.bandwidth(comm, op, protocol))

    def estimate_us(self, comm: Communicator, op: str, size: float) -> float:
        """NCCL's own estimate for one operation of `size` total bytes. [us]

        Notes
        -----
        t = latency + bytes / (1000 bandwidth), both as the algorithm corrects them for the size.
        """
        line = self.latency, self.bandwidth
        latency, bandwidth = self.algorithm.corrected(comm, op, self.protocol, size, line)
        return latency + size / (1000.0 * bandwidth)


@functools.lru_cache(maxsize=4096)
def weighed(comm: Communicator, op: str) -> tuple[Line, ...]:
    """NCCL's table for an operation: the algorithms and protocols it weighs by default."""
    every = [algorithm_named(name) for name in names()]
    pairs = [(a, p) for a in every if op in a.operations for p in a.weighed(comm, op)]
    whole = ll128_allowed(comm)
    plain = comm.nodes > 1 and comm.efa in comm.plugin.get("simple_only", ())
    return tuple(
        Line.of(comm, op, a, p)
        for a, p in pairs
        if (whole or p != LL128) and (p == SIMPLE or not plain)
    )


def ll128_allowed(comm: Communicator) -> bool:
    """LL128 needs NVLink in the node, GPUDirect behind it, and a network that keeps 128 B whole.

    Notes
    -----
    NCCL takes the way of a superchip to its NIC for one over a host bridge until it knows C2C.
    """
    if comm.local_ranks > 1 and comm.link != "nvlink":
        return False
    if comm.nodes == 1:
        return comm.version < tuple(comm.row.get("ll128_in_node_before", (math.inf,)))
    if comm.superchip and comm.version < tuple(constants("nccl_tuner")["superchips"]["near_from"]):
        return False
    ordered = comm.nic_kind in ("infiniband", "roce")
    ordered = ordered or 0 < comm.plugin.get("ll128_from", math.inf) <= comm.efa
    return comm.gpudirect and ordered


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
    lines = weighed(comm, op)
    if algorithm is None and protocol is None:
        lines = _by_plugin(comm, op, size, _by_path(comm, lines))
    if algorithm is not None:
        asked = algorithm_named(algorithm)
        lines = tuple(line for line in lines if line.algorithm is asked)
        if not lines:
            lines = _forced(comm, op, asked)
    if protocol is not None:
        wanted = PROTOCOLS.index(protocol)
        kept = tuple(line for line in lines if line.protocol == wanted)
        if not kept and wanted == LL128:  # NCCL_PROTO overrides the default rule
            other = (line.algorithm for line in lines if line.protocol == LL)
            kept = tuple(Line.of(comm, op, found, LL128) for found in other)
        if not kept:
            message = f"{algorithm or op} does not run with protocol {protocol}"
            raise ValueError(message)
        lines = kept
    best, best_us = lines[0], math.inf
    for line in lines:
        us = line.estimate_us(comm, op, size)
        if us < best_us:
            best, best_us = line, us
    channels = best.algorithm.active_channels(comm, op, best.protocol, size)
    return Choice(best.algorithm.name, PROTOCOLS[best.protocol], channels, best_us * 1e-6)


def _by_path(comm: Communicator, lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """What a program's buffers are for, where it can run; NCCL does not weigh it against others.

    Source: NVIDIA/nccl src/sym_kernels.cc, ce_coll.cc, transport/nvls.cc.
    """
    kept = tuple(line for line in lines if comm.path in line.algorithm.paths)
    return kept or lines


def _by_plugin(
    comm: Communicator, op: str, size: float, lines: tuple[Line, ...]
) -> tuple[Line, ...]:
    """What the tuner of a vendor's plugin leaves: the one of its region, or all where it has none.

    Notes
    -----
    Regions lie in (bytes, ranks): one choice up to a border, another above. The border runs
    straight between its known points, in logarithms, and goes on beyond the last.

    Source: aws/aws-ofi-nccl src/tuner/nccl_ofi_regions.cpp.
    """
    for region in comm.plugin.get("regions", ()):
        if op not in region["op"] or comm.efa not in region["efa"] or comm.nodes == 1:
            continue
        if comm.local_ranks != region["gpus_a_node"]:
            continue
        place = "below" if size <= border(region["ranks"], region["bytes"], comm.ranks) else "above"
        name, protocol = region[place]
        kept = tuple(
            line
            for line in lines
            if line.algorithm.name == name and PROTOCOLS[line.protocol] == protocol
        )
        return kept or lines
    return lines


def border(ranks: Sequence[float], sizes: Sequence[float], at: int) -> float:
    """Bytes at a number of ranks, on the line through points in logarithms. [B]"""
    last = max(1, len(ranks) - 1)
    i = next((i for i in range(1, last) if at <= ranks[i]), last)
    low, high = (math.log(ranks[i - 1]), math.log(ranks[i]))
    share = (math.log(at) - low) / (high - low)
    return math.exp(math.log(sizes[i - 1]) * (1.0 - share) + math.log(sizes[i]) * share)


def _forced(comm: Communicator, op: str, asked: Algorithm) -> tuple[Line, ...]:
    """What NCCL would not weigh by itself, or why it cannot run."""
    protocols = asked.forced(comm, op) if op in asked.operations else ()
    if not protocols:
        raise ValueError(asked.needs)
    return tuple(Line.of(comm, op, asked, protocol) for protocol in protocols)
