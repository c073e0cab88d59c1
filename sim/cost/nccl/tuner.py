"""NCCL's tuner: its channel search, its cost table, its choice.

The cost is NCCL's own and optimistic; it serves to choose as NCCL would, never as a time.

Source: NVIDIA/nccl src/graph/tuning.cc, search.cc, connect.cc, enqueue.cc (v2.30.7; older versions
where the constants say so).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from sim.cost.nccl.communicator import PROTOCOLS, Communicator, constants

REDUCING = ("reduce_scatter", "all_reduce")
RING_BOUND = ("all_gather", "reduce_scatter")


class Search(NamedTuple):
    """Result of NCCL's search for one pattern."""

    channels: int  # before doubling
    intra: float  # one channel's bandwidth inside a node [GB/s]
    inter: float  # and between nodes [GB/s]


class Choice(NamedTuple):
    """What NCCL runs."""

    algorithm: str
    protocol: str
    channels: int  # thread blocks, so SMs
    estimate_s: float  # NCCL's own estimate


def _fit(speeds: list[float], rate: float, most: int) -> tuple[int, float]:
    """Channels of the speed that uses most of `rate`; the faster speed on a tie. [GB/s]"""
    best, used = (1, min(rate, speeds[-1])), 0.0
    for speed in speeds:
        count = min(int(rate / speed + 1e-9), most)
        if count * speed > used * (1 + 1e-9):
            best, used = (count, speed), count * speed
    return best


@functools.lru_cache(maxsize=4096)
def search(comm: Communicator, pattern: str) -> Search:
    """Channels and speeds for a pattern, "ring", "tree" or "nvls".

    Notes
    -----
    One node: the fastest speed first (6 x 40 GB/s on A100, 6 x 60 on H100), then channels are
    duplicated at half the speed where that pays (12 x 20, 12 x 30). Several nodes: each channel
    leaves on a NIC, so speed and count are the NICs'; trees over two nodes may be faster inside.
    """
    row = constants("nccl")["generations"][comm.generation]
    intra_rate = comm.intra_rate / 1e9
    if pattern == "nvls":
        heads = comm.local_ranks
        bus = row.get("nvls_bus_per_head", 0.0)
        inter = comm.nic_rate * comm.nics / heads / 1e9 if comm.nodes > 1 else bus
        return Search(heads, bus, inter)
    if comm.nodes == 1:
        count, speed = _fit(row["intra_speeds"], intra_rate, 16)
        if speed >= row["duplicate_from"] and count <= 16:
            count, speed = 2 * count, speed / 2
        return Search(count, speed, speed)
    nics = max(comm.nics, 1)
    per_nic, speed = _fit(row["inter_speeds"], comm.nic_rate / 1e9, 4)
    count = nics * per_nic
    local = comm.local_ranks
    # of each channel, the rank at the node's door does not use its NVLink or PCIe neighbour
    room = intra_rate * local / (local - 1) if local > 1 else float("inf")
    if count * speed > room:
        count = max(1, int(room / speed))
        if count * speed < 0.5 * room:
            speed = max((s for s in row["inter_speeds"] if s <= room), default=room)
            count = max(1, int(room / speed))
    intra = speed
    if pattern == "tree" and comm.nodes == 2 and comm.local_ranks > 1:
        intra = max(
            (s for s in row["intra_speeds"] if s * count <= intra_rate * (1 + 1e-9)), default=speed
        )
        intra = max(intra, speed)
    return Search(count, intra, speed)


@functools.lru_cache(maxsize=4096)
def thread_blocks(comm: Communicator, algorithm: str) -> int:
    """Channels a large message runs on: one thread block, so one SM, each.

    Notes
    -----
    The searched rings are doubled (A100 node: 12 -> 24; 8 x 400 Gb/s: 8 -> 16). NVLS has its own
    count. Cap 64 (32 before 2.25).
    """
    table = constants("nccl")
    row = table["generations"][comm.generation]
    if algorithm in ("nvls", "nvls_tree"):
        return int(row["nvls_channels"][min(comm.nodes, 2) - 1])
    cap = table["channels"]["cap" if comm.version >= (2, 25) else "cap_before_2_25"]
    return int(min(2 * search(comm, "ring").channels, cap))


def inter_steps(comm: Communicator, op: str) -> int:
    """Ring steps between nodes as NCCL counts them in this version."""
    if comm.nodes == 1:
        return 0
    if op == "all_reduce":
        old = (2, 12) <= comm.version <= (2, 22)
        return 2 * comm.nodes if old else 2 * (comm.nodes - 1)
    return comm.nodes - 1


def ring_steps(ranks: int, op: str) -> int:
    """Steps of a ring."""
    if op == "all_reduce":
        return 2 * (ranks - 1)
    return ranks if op == "broadcast" else ranks - 1


def _hop(comm: Communicator, algorithm: str, protocol: int) -> tuple[float, float]:
    """Latency of a hop inside a node and between nodes. [us]"""
    table = constants("nccl")["hop_latency_us"]
    intra = table["nvlink" if comm.link == "nvlink" else "pcie"][algorithm][protocol]
    key = algorithm
    if algorithm == "ring" and comm.local_ranks == 1:
        key = "tree"
    if algorithm == "nvls_tree" and (2, 21) <= comm.version <= (2, 27):
        key = "nvls_tree_2_21_to_2_27"
    return intra, table["network"][key][protocol]


def latency_us(comm: Communicator, op: str, algorithm: str, protocol: int) -> float:
    """NCCL's latency term. [us]"""
    table = constants("nccl")
    base_table = table["base_latency_us"]
    if comm.version < (2, 13) and algorithm in ("tree", "ring"):
        base_table = table["base_latency_us_before_2_13"]
    base = base_table[algorithm][protocol]
    intra, inter = _hop(comm, algorithm, protocol)
    local, nodes = comm.local_ranks, comm.nodes
    if algorithm == "ring":
        steps, between = ring_steps(comm.ranks, op), inter_steps(comm, op)
        overhead = 0.0
        if nodes > 1:
            overhead = table["network_overhead_us"][comm.cpu_vendor]
            overhead *= 3.0 if PROTOCOLS[protocol] == "simple" else 1.0
        return float(base + (steps - between) * max(intra, overhead) + between * inter)
    if algorithm == "tree":
        return float(base + 2 * ((local - 1) * intra + int(math.log2(nodes)) * inter))
    if algorithm == "nvls":
        return float(base + intra + (inter if nodes > 1 else 0.0))
    if algorithm == "nvls_tree":
        return float(base + intra + 2 * math.log2(nodes) * inter)
    if algorithm == "pat":
        return float(base + math.log2(nodes) * (inter / 3.5) + 2.8 * comm.ranks)
    if algorithm == "collnet_direct":
        return float(base + 2 * (min(1, local - 1) * intra + 0.4 * (local - 1)) + inter)
    return float(base + 2 * (local - 1) * intra + inter)


def _bus(comm: Communicator, algorithm: str, protocol: int) -> float:
    """NCCL's bus bandwidth, by GPU and direction. [GB/s]"""
    row = constants("nccl")["generations"][comm.generation]
    scale = comm.scale
    name = PROTOCOLS[protocol]
    if algorithm in ("nvls", "nvls_tree"):
        found = search(comm, "nvls")
        heads, per_head = found.channels, found.intra
        if algorithm == "nvls_tree":
            between = found.inter * (2.0 if comm.nodes == 2 else 1.0)
            cap = row["nvls_tree_per_channel"][scale] * thread_blocks(comm, "ring") / 2 / heads
            per_head = min(per_head, between, max(cap, 1e-3))
        return float(heads * per_head)
    found = search(comm, "tree" if algorithm == "tree" else "ring")
    speed = found.intra if comm.nodes <= 2 else found.inter
    bus = found.channels * speed
    ll_max = _ll_max(comm)
    if algorithm == "tree":
        bus = min(0.92 * bus, found.channels * row["tree_per_channel"][scale])
        if name == "ll":
            return float(min(bus / 3.8, ll_max))
        if name == "ll128":
            factor = 7 / 9 if comm.nodes == 1 else 120 / 128
            return float(min(bus * factor, found.channels * row["tree_ll128_per_channel"][scale]))
        return float(bus)
    if algorithm == "pat":
        return float(0.75 * bus)
    if algorithm.startswith("collnet"):
        return float(0.85 * bus if comm.generation in ("hopper", "blackwell") else bus)
    if name == "ll":
        return float(min(ll_max, 0.5 * bus))
    if name == "ll128":
        old = comm.version <= (2, 21) and comm.local_ranks < 2
        factor = 0.7 if old else 0.92
        return float(min(factor * bus, found.channels * row["ring_ll128_per_channel"][scale]))
    return float(bus)


def _ll_max(comm: Communicator) -> float:
    """LL's ceiling: by GPU on one node; by CPU, rows Volta (Intel) and Ampere (AMD), on more."""
    rows = constants("nccl")["generations"]
    if comm.nodes == 1 or comm.generation in ("hopper", "blackwell"):
        return float(rows[comm.generation]["ll_max"][comm.scale])
    row = "volta" if comm.cpu_vendor == "intel" else "ampere"
    return float(rows[row]["ll_max"][comm.scale])


def available(comm: Communicator, op: str) -> list[tuple[str, int]]:
    """Pairs of algorithm and protocol (index) that NCCL weighs for an operation by default."""
    nvls = constants("nccl")["nvls"]
    pairs = [("ring", p) for p in (0, 1, 2)]
    if op == "all_reduce" and comm.ranks > 2:
        pairs += [("tree", p) for p in (0, 1, 2)]
        if comm.nvls and comm.local_ranks > 2 and comm.version >= tuple(nvls["first_version"]):
            if comm.nodes == 1:
                pairs.append(("nvls", 2))
            elif comm.version >= tuple(nvls["tree_first_version"]):
                pairs.append(("nvls_tree", 2))
    one_gpu_nodes = comm.local_ranks == 1 and comm.nodes > 1
    if op in RING_BOUND and one_gpu_nodes and comm.version >= tuple(nvls["pat_first_version"]):
        pairs.append(("pat", 2))
    if op == "all_reduce" and comm.collnet and comm.nodes > 1:
        pairs += [("collnet_direct", 2), ("collnet_chain", 2)]
    if not ll128_allowed(comm):
        pairs = [pair for pair in pairs if pair[1] != 1]
    return pairs


def ll128_allowed(comm: Communicator) -> bool:
    """LL128 needs NVLink in the node, GPUDirect behind it, and a network that keeps 128 B whole."""
    if comm.local_ranks > 1 and comm.link != "nvlink":
        return False
    ordered = comm.nic_kind in ("infiniband", "roce")
    return comm.nodes == 1 or (comm.gpudirect and ordered)


@functools.lru_cache(maxsize=65536)
def _line(comm: Communicator, op: str, algorithm: str, protocol: int) -> tuple[float, float]:
    """NCCL's latency [us] and algorithm bandwidth [GB/s]."""
    bus = _bus(comm, algorithm, protocol)
    n = comm.ranks
    if algorithm in ("ring", "nvls", "nvls_tree"):
        bandwidth = bus * n / max(ring_steps(n, op), 1)
    elif op == "all_reduce":
        bandwidth = bus * 0.5
    else:
        bandwidth = bus
    return latency_us(comm, op, algorithm, protocol), bandwidth


def estimate_us(comm: Communicator, op: str, algorithm: str, protocol: int, size: float) -> float:
    """NCCL's own estimate for one operation of `size` total bytes. [us]

    Notes
    -----
    t = latency + bytes / (1000 bandwidth), with the table for small all-reduce trees and the
    plateau of rings between nodes (latency x 1.4, x 1.9 before Ampere, when Simple, large).
    """
    latency, bandwidth = _line(comm, op, algorithm, protocol)
    if algorithm == "tree" and op == "all_reduce":
        place = int(math.log2(size / 64)) if size >= 64 else 0
        table: dict[str, Any] = constants("nccl")["tree_all_reduce_correction"]
        row = table[PROTOCOLS[protocol]]
        if place < 23:
            bandwidth *= row[place]
    plateau = algorithm == "ring" and protocol == 2 and op == "all_reduce" and comm.nodes > 1
    if plateau and size / (search(comm, "ring").channels * comm.ranks) >= 64:
        latency *= 1.9 if comm.generation == "volta" else 1.4
    return latency + size / (1000.0 * bandwidth)


def active_channels(comm: Communicator, algorithm: str, protocol: int, size: float) -> int:
    """Channels a message of `size` bytes uses: fewer while each would get too little.

    Notes
    -----
    NCCL drops channels while bytes < channels x threads x threshold.
    """
    channels = thread_blocks(comm, algorithm)
    if algorithm in ("nvls", "nvls_tree"):
        return channels
    return int(max(1, min(channels, size // full_channel(comm, algorithm, protocol))))


def full_channel(comm: Communicator, algorithm: str, protocol: int) -> int:
    """Bytes below which NCCL gives a message no further channel. [B]"""
    table = constants("nccl")["channels"]
    name = PROTOCOLS[protocol]
    threads = int(table[f"threads_{name}"])
    if name == "ll":
        sharers = comm.ranks if algorithm == "ring" else 1
        return threads * int(table["threshold_ll_per_rank"]) * sharers
    return threads * int(table[f"threshold_{name}"])


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
        If what was asked for cannot run this operation on this comm.
    """
    if op in ("all_to_all", "send_recv"):
        if algorithm not in (None, "p2p") or protocol not in (None, "simple"):
            message = f"{op} is built from sends and receives; it takes no other algorithm"
            raise ValueError(message)
        return Choice("p2p", "simple", p2p_channels(comm), 0.0)
    pairs = available(comm, op)
    if algorithm is not None:
        pairs = [pair for pair in pairs if pair[0] == algorithm] or _forced(comm, op, algorithm)
    if protocol is not None:
        wanted = PROTOCOLS.index(protocol)
        kept = [pair for pair in pairs if pair[1] == wanted]
        if not kept and protocol == "ll128" and any(pair[1] == 0 for pair in pairs):
            kept = [
                (name, 1) for name, p in pairs if p == 0
            ]  # NCCL_PROTO overrides the default rule
        if not kept:
            message = f"{algorithm or op} does not run with protocol {protocol}"
            raise ValueError(message)
        pairs = kept
    best, best_us = pairs[0], math.inf
    for pair in pairs:
        us = estimate_us(comm, op, pair[0], pair[1], size)
        if us < best_us:
            best, best_us = pair, us
    channels = active_channels(comm, best[0], best[1], size)
    return Choice(best[0], PROTOCOLS[best[1]], channels, best_us * 1e-6)


def _forced(comm: Communicator, op: str, algorithm: str) -> list[tuple[str, int]]:
    """Pairs for an algorithm NCCL would not weigh by itself, or why it cannot run."""
    if algorithm == "nvls" and comm.nvls and comm.nodes == 1 and op in (*RING_BOUND, "all_reduce"):
        return [("nvls", 2)]
    reasons = {
        "tree": "tree runs all_reduce only",
        "nvls": "NVLS needs one node whose NVSwitches reduce (NVLink 4), and NCCL 2.17",
        "nvls_tree": "NVLS tree needs NVSwitches that reduce, all_reduce, several nodes, NCCL 2.18",
        "pat": "PAT needs all_gather or reduce_scatter, nodes of one GPU, NCCL 2.23",
        "p2p": "p2p is for all_to_all and send_recv",
    }
    message = reasons.get(algorithm, "CollNet needs all_reduce and a network that reduces")
    raise ValueError(message)


@functools.lru_cache(maxsize=1024)
def p2p_channels(comm: Communicator) -> int:
    """Channels of sends and receives.

    Notes
    -----
    2 over PCIe, up to 2 for each NVLink, enough for 14 GB/s each over a network.
    """
    table = constants("nccl")["channels"]
    if comm.nodes > 1:
        need = comm.nic_rate * comm.nics / comm.local_ranks
        return int(max(2, math.ceil(need / table["p2p_network_bytes_per_s"])))
    if comm.link != "nvlink":
        return int(table["p2p_pcie"])
    link = constants("links")["nvlink"][str(comm.link_generation)]["effective"]
    links = round(comm.intra_rate / link)
    channels = table["p2p_per_nvlink"] * max(1, links)
    return int(min(32, 2 ** int(math.log2(channels))))
