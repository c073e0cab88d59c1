"""PAT, parallel aggregated trees: log2 n rounds to peers at distances of powers of two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sim.cost.nccl.algorithm import Algorithm
from sim.cost.nccl.communicator import SIMPLE, Communicator
from sim.cost.nccl.loads import Demand, hbm, hbm_passes, on, ring_share, total
from sim.cost.nccl.rings import search
from sim.fabric.fabric import Fabric


class Pat(Algorithm):
    """For nodes of one GPU."""

    name = "pat"
    operations = ("all_gather", "reduce_scatter")
    needs = "PAT needs all_gather or reduce_scatter, nodes of one GPU, NCCL 2.23"

    def weighed(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """Simple."""
        known = comm.version >= tuple(self.numbers["first_version"])
        return (SIMPLE,) if comm.local_ranks == 1 and comm.nodes > 1 and known else ()

    def latency_us(self, comm: Communicator, op: str, protocol: int) -> float:
        """The rounds, and 2.8 us for each rank."""
        inter = self.hop_us(comm, protocol)[1]
        rounds = math.log2(comm.nodes) * (inter / 3.5)
        return float(self.base_us(comm, protocol) + rounds + 2.8 * comm.ranks)

    def bus(self, comm: Communicator, protocol: int) -> float:
        """Three quarters of the rings'."""
        return float(0.75 * search(comm).bus(comm))

    def hops(self, comm: Communicator, op: str) -> tuple[float, float]:
        """The rounds."""
        return 0.0, math.ceil(math.log2(comm.nodes))

    def loads(self, fabric: Fabric, group: Sequence[int], op: str) -> Demand:
        """In each round as many shards as the rank has by then."""
        ranks, n = np.asarray(group, np.int64), len(group)
        own = hbm(fabric, group, ring_share(op, n) * hbm_passes(op))
        parts, distance = [own], 1
        while distance < n:
            pairs = np.stack([ranks, np.roll(ranks, -distance)], axis=1)
            parts.append(on(fabric, pairs, min(distance, n - distance) / n))
            distance *= 2
        return total(parts)


ALGORITHM = Pat()
