"""NCCL's rings: the search for channels, their bandwidth, their steps. Most algorithms reuse them.

Source: NVIDIA/nccl src/graph/search.cc, connect.cc, tuning.cc (v2.30.7).
"""

from __future__ import annotations

import functools

from sim.cost.nccl.communicator import Communicator, constants
from sim.records import NamedTuple


class Search(NamedTuple):
    """Result of NCCL's search for one pattern."""

    channels: int  # before doubling
    intra: float  # one channel's bandwidth inside a node [GB/s]
    inter: float  # and between nodes [GB/s]

    def bus(self, comm: Communicator) -> float:
        """Bus bandwidth of all channels, by GPU and direction. [GB/s]"""
        return self.channels * (self.intra if comm.nodes <= 2 else self.inter)


def _fit(speeds: list[float], rate: float, most: int) -> tuple[int, float]:
    """Channels of the speed that uses most of `rate`; the faster speed on a tie. [GB/s]

    Once a speed fits, the search goes on to slower ones while they are more than 0.49 of it.
    """
    best, used, found = (1, min(rate, speeds[-1])), 0.0, 0.0
    for speed in speeds:
        if speed <= 0.49 * found:
            break
        if rate >= speed and not found:
            found = speed
        count = min(int(rate / speed + 1e-9), most)
        if count * speed > used * (1 + 1e-9):
            best, used = (count, speed), count * speed
    return best


@functools.lru_cache(maxsize=4096)
def search(comm: Communicator) -> Search:
    """Channels and speeds of rings.

    Notes
    -----
    One node: the fastest speed first (6 x 40 GB/s on A100, 6 x 60 on H100), then channels are
    duplicated at half the speed where that pays (12 x 20, 12 x 30). Several nodes: each channel
    leaves on a NIC, so speed and count are the NICs'.
    """
    row, intra_rate = comm.row, comm.intra_rate / 1e9
    if comm.nodes == 1:
        count, speed = _fit(row["intra_speeds"], intra_rate, 16)
        if speed >= row["duplicate_from"] and count <= 16:
            count, speed = 2 * count, speed / 2
        return Search(count, speed, speed)
    per_nic, speed = _fit(row["inter_speeds"], comm.nic_rate / 1e9, 4)
    count = max(comm.nics, 1) * per_nic
    local = comm.local_ranks
    # of each channel, the rank at the node's door does not use its NVLink or PCIe neighbour
    room = intra_rate * local / (local - 1) if local > 1 else float("inf")
    if count * speed > room:
        count = max(1, int(room / speed))
    return Search(count, speed, speed)


def ring_channels(comm: Communicator) -> int:
    """Channels a large message runs on: the searched rings doubled (A100 node: 12 -> 24).

    Cap 64 (32 before 2.25).
    """
    table = constants("nccl_tuner")["channels"]
    cap = table["cap" if comm.version >= (2, 25) else "cap_before_2_25"]
    return int(min(2 * search(comm).channels, cap))


def ring_steps(ranks: int, op: str) -> int:
    """Steps of a ring."""
    if op == "all_reduce":
        return 2 * (ranks - 1)
    return ranks if op == "broadcast" else ranks - 1


def ring_bandwidth(comm: Communicator, op: str, bus: float) -> float:
    """Algorithm bandwidth of a ring, or of what NCCL counts like one. [GB/s]"""
    return bus * comm.ranks / max(ring_steps(comm.ranks, op), 1)


def ll_ceiling(comm: Communicator) -> float:
    """LL's: by GPU on one node; by CPU, rows Volta (Intel) and Ampere (AMD), on more. [GB/s]"""
    if comm.nodes == 1 or comm.generation in ("hopper", "blackwell"):
        return float(comm.row["ll_max"][comm.scale])
    row = "volta" if comm.cpu_vendor == "intel" else "ampere"
    return float(constants("nccl_tuner")["generations"][row]["ll_max"][comm.scale])
