"""CollNet chain: CollNet with a node's GPUs in a chain."""

from __future__ import annotations

from sim.cost.nccl.algorithms.collnet_direct import CollnetDirect
from sim.cost.nccl.communicator import Communicator


class CollnetChain(CollnetDirect):
    """Loads the machine as CollNet direct does; more hops."""

    name = "collnet_chain"

    def latency_us(self, comm: Communicator, op: str, protocol: int) -> float:
        """The chain, both ways."""
        intra, inter = self.hop_us(comm, protocol)
        return float(self.base_us(comm, protocol) + 2 * (comm.local_ranks - 1) * intra + inter)

    def hops(self, comm: Communicator, op: str) -> tuple[float, float]:
        """The chain, both ways; up to the switches and down."""
        return 2.0 * (comm.local_ranks - 1), 2.0


ALGORITHM = CollnetChain()
