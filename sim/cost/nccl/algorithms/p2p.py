"""Sends and receives: all pairs, each rank to the next, or the first rank to the second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim.cost.nccl.algorithm import Algorithm
from sim.cost.nccl.communicator import SIMPLE, Communicator, constants
from sim.cost.nccl.loads import Demand, hbm, on, total
from sim.cost.nccl.pairs import all_pairs
from sim.fabric.fabric import Fabric


class P2p(Algorithm):
    """All that NCCL has for these operations, so its tuner has no opinion."""

    name = "p2p"
    operations = ("all_to_all", "send_recv", "send")
    needs = "p2p is for all_to_all, send_recv and send"
    in_kernel_name = False

    def weighed(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """Simple."""
        return (SIMPLE,)

    def latency_us(self, comm: Communicator, op: str, protocol: int) -> float:
        """Not estimated."""
        return 0.0

    def bandwidth(self, comm: Communicator, op: str, protocol: int) -> float:
        """Not estimated."""
        return math.inf

    def channels(self, comm: Communicator) -> int:
        """2 over PCIe, up to 2 for each NVLink, enough for 14 GB/s each over a network."""
        table = constants("nccl_tuner")["channels"]
        if comm.nodes > 1:
            need = comm.nic_rate * comm.nics / comm.local_ranks
            return int(max(2, math.ceil(need / table["p2p_network_bytes_per_s"])))
        if comm.link != "nvlink":
            return int(table["p2p_pcie"])
        link = constants("links")["nvlink"][str(comm.link_generation)]["effective"]
        links = round(comm.intra_rate / link)
        channels = table["p2p_per_nvlink"] * max(1, links)
        return int(min(32, 2 ** int(math.log2(channels))))

    def active_channels(self, comm: Communicator, op: str, protocol: int, size: float) -> int:
        """All, whatever the size."""
        return self.channels(comm)

    def hops(self, comm: Communicator, op: str) -> tuple[float, float]:
        """One, the longest."""
        return (0.0, 1.0) if comm.nodes > 1 else (1.0, 0.0)

    def peers_us(self, comm: Communicator, op: str, table: Mapping[str, Any]) -> float:
        """One peer, or all others."""
        return float(table["p2p_peer_us"] * ((comm.ranks - 1) if op == "all_to_all" else 1))

    def loads(self, fabric: Fabric, group: Sequence[int], op: str) -> Demand:
        """The routes of all that send; each byte is read once and written once."""
        n = len(group)
        if op == "send_recv":
            ranks = np.asarray(group, np.int64)
            amounts, sent = on(fabric, np.stack([ranks, np.roll(ranks, -1)], axis=1), 1.0), 1.0
        elif op == "send":
            amounts, sent = on(fabric, np.array([group[:2]], np.int64), 1.0), 0.5
        else:
            amounts, sent = all_pairs(fabric, group, 1.0 / n), (n - 1) / n
        return total([amounts, hbm(fabric, group, 2.0 * sent)])


ALGORITHM = P2p()
