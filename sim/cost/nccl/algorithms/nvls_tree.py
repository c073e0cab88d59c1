"""NVLS tree: NVLS in the node, both binary trees from every GPU over its own rail between nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sim.cost.nccl.algorithms.nvls import Nvls
from sim.cost.nccl.communicator import SIMPLE, Communicator
from sim.cost.nccl.loads import Demand, both_ways, tree_edges
from sim.cost.nccl.rings import ring_channels
from sim.fabric.alike import nodes_of
from sim.fabric.fabric import Fabric


class NvlsTree(Nvls):
    """NVLS of several nodes, for all-reduce."""

    name = "nvls_tree"
    operations = ("all_reduce",)
    needs = "NVLS tree needs NVSwitches that reduce, all_reduce, several nodes, NCCL 2.18"

    def weighed(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """Simple, on several nodes."""
        return (SIMPLE,) if comm.nodes > 1 and self.switched(comm, op) else ()

    def forced(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """Nowhere else."""
        return ()

    def latency_us(self, comm: Communicator, op: str, protocol: int) -> float:
        """NVLS, and the depth of the trees both ways."""
        intra, inter = self.hop_us(comm, protocol)
        base = self.base_us(comm, protocol)
        return float(base + intra + 2 * math.log2(comm.nodes) * inter)

    def bus(self, comm: Communicator, protocol: int) -> float:
        """NVLS's, as far as each head's NIC and channels go; twice the NIC over two nodes."""
        row, heads = comm.row, comm.local_ranks
        inter = comm.nic_rate * comm.nics / heads / 1e9
        between = inter * (2.0 if comm.nodes == 2 else 1.0)
        cap = row["nvls_tree_per_channel"][comm.scale] * ring_channels(comm) / 2 / heads
        per_head = min(row.get("nvls_bus_per_head", 0.0), between, max(cap, 1e-3))
        return float(heads * per_head)

    def hops(self, comm: Communicator, op: str) -> tuple[float, float]:
        """The depth, both ways."""
        return 0.0, 2.0 * math.ceil(math.log2(comm.nodes))

    def joined(self, table: Mapping[str, Any]) -> float:
        """A share of NVLS's efficiency."""
        return float(table["nvls_tree"]["share"])

    def loads(self, fabric: Fabric, group: Sequence[int], op: str) -> Demand:
        """NVLS's, and binary trees of each head between nodes."""
        nodes = nodes_of(fabric, group)
        heads = min(len(kind.local) for kind in nodes.kinds)
        trees = tree_edges(nodes.heads(fabric, i) for i in range(heads))
        between = both_ways(fabric, trees, 0.5 / heads)
        return self.with_hbm(fabric, [self.ports(fabric, group, op), between], group, op)


ALGORITHM = NvlsTree()
