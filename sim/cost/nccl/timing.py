"""How long a collective takes by itself: our own physics, for the algorithm NCCL chose.

    t = base + spread + hops between nodes + beside(hops in a node, u')
        + sum of ramp u / (u + ramp_time)

- ``rate``: total bytes a second that the slowest resource on the routes lets through; u = S / rate.
- ``u'`` = (1 + edge / steps) u / efficiency: what the bytes take once all is under way.
- ``base``: the launch. ``spread``: what LL needs more once a message fills a channel and is spread
  over several. ``hops``: a latency for each serial step, by link and protocol. In Simple those in a
  node pass beside slices that are on their way: ``beside(l, u)`` = (l^p + u^p)^(1/p), the longer of
  both where one is much longer, their sum where p = 1.
- ``efficiency``: what a protocol keeps of the link; of NVLS in a node, when trees join nodes, the
  ``share``.
- ``edge``: share of a step that a ring on one node spends on the rank's own part, which crosses
  HBM only.
- ``ramp``: time lost while a pipeline of slices is short of its steady state, reached after about
  ``ramp_time``; pipelines in a node and between nodes follow each other, so both are lost.

Constants: ``sim/data/constants/network_timing.toml``, by generation of link and kind of NIC,
fitted by ``bench/fit/fit_collectives.py`` on ``sim/data/measured/collectives.csv``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.cost.nccl.algorithms import algorithm_named
from sim.cost.nccl.communicator import LL, PROTOCOLS, SIMPLE, Communicator, constants
from sim.records import NamedTuple


class CollectiveTime(NamedTuple):
    """Time alone, split as the engine wants it. [s]"""

    latency_s: float  # fixed, unshared
    transfer_s: float  # S / bound


def link_key(comm: Communicator, table: Mapping[str, Any]) -> str:
    """Row of ``links`` for the links inside a node: own generation, or the nearest of the kind."""
    skip, wanted = len(comm.link), comm.link_generation
    kind: list[str] = [name for name in table["links"] if name.startswith(comm.link)]
    return min(kind, key=lambda name: abs(int(name[skip:]) - wanted))


def network_key(comm: Communicator, table: Mapping[str, Any]) -> str:
    """Row of ``network``: by kind of NIC; the generations of EFA that differ have their own."""
    if comm.nic_kind in ("infiniband", "roce"):  # one NCCL plugin
        return "rdma"
    own = f"efa{comm.efa}"
    return own if comm.nic_kind == "efa" and own in table["network"] else comm.nic_kind


def duration(
    comm: Communicator,
    op: str,
    algorithm: str,
    protocol: str,
    size: float,
    rate: float,
    network_bound: bool,
    table: Mapping[str, Any] | None = None,
) -> CollectiveTime:
    """Time of one collective that has its resources to itself.

    Parameters
    ----------
    comm : Communicator
    op, algorithm, protocol : str
    size : float
        Total bytes. [B]
    rate : float
        Total bytes a second that the slowest resource on the algorithm's routes lets through. [B/s]
    network_bound : bool
        Whether that resource belongs to the network.
    table : mapping, optional
        Constants, for fitting; the shipped ones by default.

    Returns
    -------
    Duration
        Never below ``size / rate``.
    """
    table = table if table is not None else constants("network_timing")
    place = PROTOCOLS.index(protocol)
    chosen = algorithm_named(algorithm)
    link = table["links"][link_key(comm, table)]
    intra, between = chosen.hops(comm, op)
    base, efficiency, ramp, ramp_time = chosen.pace(link, op, place)
    filling = chosen.filling(comm, table)
    fills = [(filling * ramp, filling * ramp_time)]
    latency = base
    if place == LL and size >= chosen.full_channel(comm, place):
        latency += link["spread_us"]
    latency += chosen.peers_us(comm, op, table)
    if between:
        network = table["network"][network_key(comm, table)]
        latency += between * network["hop_us"][place]
        efficiency *= chosen.joined(table)
        if network_bound:
            efficiency = network["efficiency"][place]
        if place == SIMPLE:
            passes = 2 if op == "all_reduce" else 1
            fills.append((passes * network["ramp_us"], network["ramp_time_us"]))
    ideal = size / rate * 1e6
    steady = ideal * (1.0 + chosen.edge(comm, op, table, link)) / efficiency
    hops = intra * max(link["hop_us"][place], chosen.least_hop_us(comm, place))
    if place == SIMPLE:
        power = table["hop_overlap"]
        hops = float((hops**power + steady**power) ** (1.0 / power)) - steady
    transfer = steady + sum(lost * ideal / (ideal + time) for lost, time in fills)
    latency += hops
    return CollectiveTime(latency * 1e-6, transfer * 1e-6)
