"""Tree: a chain inside each node, two binary trees between them; up to reduce, down to broadcast.

No node sends more than 2 S.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sim.cost.nccl.algorithm import Algorithm
from sim.cost.nccl.communicator import LL, LL128, PROTOCOLS, SIMPLE, Communicator
from sim.cost.nccl.loads import Demand, both_ways, hbm, hbm_passes, inside, total, tree_edges
from sim.cost.nccl.rings import Search, ll_ceiling, search
from sim.fabric.alike import nodes_of
from sim.fabric.fabric import Fabric


class DoubleTree(Algorithm):
    """NCCL weighs it from three ranks on."""

    name = "tree"
    operations = ("all_reduce",)
    needs = "tree runs all_reduce only"

    def weighed(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """All protocols."""
        return (LL, LL128, SIMPLE) if comm.ranks > 2 else ()

    def latency_us(self, comm: Communicator, op: str, protocol: int) -> float:
        """The chain and the depth of the trees, both ways."""
        intra, inter = self.hop_us(comm, protocol)
        depth = (comm.local_ranks - 1) * intra + int(math.log2(comm.nodes)) * inter
        return float(self.base_us(comm, protocol) + 2 * depth)

    def bus(self, comm: Communicator, protocol: int) -> float:
        """The channels', 0.92 of them, and a cap for each."""
        found = _search(comm)
        row, count = comm.row, found.channels
        bus = min(0.92 * found.bus(comm), count * row["tree_per_channel"][comm.scale])
        if protocol == LL:
            return float(min(bus / 3.8, ll_ceiling(comm)))
        if protocol == LL128:
            factor = 7 / 9 if comm.nodes == 1 else 120 / 128
            return float(min(bus * factor, count * row["tree_ll128_per_channel"][comm.scale]))
        return float(bus)

    def corrected(
        self, comm: Communicator, op: str, protocol: int, size: float, line: tuple[float, float]
    ) -> tuple[float, float]:
        """NCCL's table for small messages."""
        latency, bandwidth = line
        place = int(math.log2(size / 64)) if size >= 64 else 0
        row = self.numbers["all_reduce_correction"][PROTOCOLS[protocol]]
        return latency, bandwidth * row[place] if place < 23 else bandwidth

    def hops(self, comm: Communicator, op: str) -> tuple[float, float]:
        """The chain and the depth, both ways."""
        return 2.0 * (comm.local_ranks - 1), 2.0 * math.ceil(math.log2(comm.nodes))

    def loads(self, fabric: Fabric, group: Sequence[int], op: str) -> Demand:
        """A chain and a place in both trees for each channel."""
        orders, nodes = fabric.rings(group).orders, nodes_of(fabric, group)
        share = 1.0 / len(orders)
        parts = [hbm(fabric, group, 2.0 * hbm_passes(op))]
        for kind in nodes.kinds:
            first = nodes.start[kind.place[0]]
            through = orders[:, first : first + len(kind.local)]
            chain = np.stack([through[:, 1:].ravel(), through[:, :-1].ravel()], axis=1)
            parts.append(inside(fabric, kind, both_ways(fabric, chain, share)))
        for order in orders:
            trees = tree_edges([order[nodes.start[:-1]]])
            parts.append(both_ways(fabric, trees, share / 2))
        return total(parts)


def _search(comm: Communicator) -> Search:
    """The rings' channels; over two nodes they may be faster inside."""
    found = search(comm)
    if comm.nodes != 2 or comm.local_ranks == 1:
        return found
    room = comm.intra_rate / 1e9 * (1 + 1e-9)
    fits = (s for s in comm.row["intra_speeds"] if s * found.channels <= room)
    return found._replace(intra=max(max(fits, default=found.intra), found.intra))


ALGORITHM = DoubleTree()
