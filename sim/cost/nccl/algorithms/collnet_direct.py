"""CollNet: reduce inside the node, let the network's switches reduce between nodes: S on the NICs.

Direct: a node's GPUs reach the one at the NIC at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.cost.nccl.algorithm import Algorithm
from sim.cost.nccl.communicator import SIMPLE, Communicator
from sim.cost.nccl.loads import Demand, both_ways, hbm, hbm_passes, inside, total
from sim.cost.nccl.rings import search
from sim.fabric.alike import nodes_of
from sim.fabric.fabric import Fabric


class CollnetDirect(Algorithm):
    """Needs a topology with ``network: {sharp: true}``."""

    name = "collnet_direct"
    operations = ("all_reduce",)
    needs = "CollNet needs all_reduce and a network that reduces"

    def weighed(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """Simple, on several nodes."""
        return (SIMPLE,) if comm.collnet and comm.nodes > 1 else ()

    def latency_us(self, comm: Communicator, op: str, protocol: int) -> float:
        """A hop to the NIC's GPU and back, and 0.4 us for each GPU it serves."""
        intra, inter = self.hop_us(comm, protocol)
        local = comm.local_ranks
        inside = 2 * (min(1, local - 1) * intra + 0.4 * (local - 1))
        return float(self.base_us(comm, protocol) + inside + inter)

    def bus(self, comm: Communicator, protocol: int) -> float:
        """The rings', 0.85 of them from Hopper on."""
        bus = search(comm).bus(comm)
        return float(0.85 * bus if comm.generation in ("hopper", "blackwell") else bus)

    def hops(self, comm: Communicator, op: str) -> tuple[float, float]:
        """To the NIC's GPU and back; up to the switches and down."""
        return 2.0 * min(1, comm.local_ranks - 1), 2.0

    def loads(self, fabric: Fabric, group: Sequence[int], op: str) -> Demand:
        """S along a node's GPUs, both ways, and S over its NICs."""
        parts = [hbm(fabric, group, 2.0 * hbm_passes(op))]
        for kind in nodes_of(fabric, group).kinds:
            ranks = int(fabric.first_rank[kind.nodes[0]]) + np.array(kind.local, np.int64)
            along = both_ways(fabric, np.stack([ranks[:-1], ranks[1:]], axis=1), 1.0)
            parts.append(inside(fabric, kind, along))
            nics = sorted({nic for rank in ranks.tolist() for nic in fabric.nics(rank)})
            for node in kind.nodes.tolist():
                for nic in nics:
                    for ports in fabric.nic_ports(node, nic):
                        each = 1.0 / len(nics) / max(1, len(ports))
                        parts.append(Demand(ports, np.full(len(ports), each)))
        return total(parts)


ALGORITHM = CollnetDirect()
