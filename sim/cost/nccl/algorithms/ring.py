"""Ring: every rank passes to its successor; one ring a channel, each leaving by a rail of its own.

S (n-1)/n a rank for all-gather and reduce-scatter, twice that for all-reduce.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim.cost.nccl.algorithm import I8, Algorithm, Steps
from sim.cost.nccl.algorithms.tree import ALGORITHM as TREE
from sim.cost.nccl.communicator import LL, LL128, SIMPLE, Communicator, constants
from sim.cost.nccl.loads import Demand, hbm, hbm_passes, on, ring_share, total
from sim.cost.nccl.rings import ll_ceiling, ring_bandwidth, ring_steps, search
from sim.fabric.fabric import Fabric


class Ring(Algorithm):
    """Runs everywhere; NCCL always weighs it."""

    name = "ring"
    operations = ("all_gather", "reduce_scatter", "all_reduce", "broadcast")
    needs = "ring runs all_gather, reduce_scatter, all_reduce and broadcast only"
    shares_ll = True

    def weighed(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """All protocols."""
        return LL, LL128, SIMPLE

    def hop_us(self, comm: Communicator, protocol: int) -> tuple[float, float]:
        """Between nodes of one GPU, NCCL takes the tree's."""
        intra, inter = super().hop_us(comm, protocol)
        if comm.local_ranks == 1:
            inter = TREE.hop_us(comm, protocol)[1]
        return intra, inter

    def latency_us(self, comm: Communicator, op: str, protocol: int) -> float:
        """Every step in turn; a hop inside a node is no quicker than the network's overhead."""
        intra, inter = self.hop_us(comm, protocol)
        steps, between = ring_steps(comm.ranks, op), _steps_between(comm, op)
        overhead = self.least_hop_us(comm, protocol)
        base = self.base_us(comm, protocol)
        return float(base + (steps - between) * max(intra, overhead) + between * inter)

    def bus(self, comm: Communicator, protocol: int) -> float:
        """The rings', less what LL and LL128 spend on flags."""
        found = search(comm)
        bus = found.bus(comm)
        if protocol == LL:
            return float(min(ll_ceiling(comm), 0.5 * bus))
        if protocol == LL128:
            old = comm.version <= (2, 21) and comm.local_ranks < 2
            cap = found.channels * comm.row["ring_ll128_per_channel"][comm.scale]
            return float(min((0.7 if old else 0.92) * bus, cap))
        return float(bus)

    def bandwidth(self, comm: Communicator, op: str, protocol: int) -> float:
        """By the steps of the ring; until 2.18 LL was reckoned slower than half of the bus."""
        bus = self.bus(comm, protocol)
        if protocol == LL and comm.version <= (2, 18):
            share = 1 / 4 if comm.nodes > 1 or op == "all_reduce" else 1 / 3
            bus = min(bus, share * search(comm).bus(comm))
        return ring_bandwidth(comm, op, bus)

    def corrected(
        self, comm: Communicator, op: str, protocol: int, size: float, line: tuple[float, float]
    ) -> tuple[float, float]:
        """The plateau between nodes: latency x 1.4, x 1.9 before Ampere, when Simple and large."""
        latency, bandwidth = line
        plateau = protocol == SIMPLE and op == "all_reduce" and comm.nodes > 1
        if plateau and size / (search(comm).channels * comm.ranks) >= 64:
            latency *= 1.9 if comm.generation == "volta" else 1.4
        return latency, bandwidth

    def hops(self, comm: Communicator, op: str) -> tuple[float, float]:
        """Every step; of each pass, one hop into every other node."""
        n = comm.ranks
        steps = n - 1 if op == "broadcast" else ring_steps(n, op)
        between = (2 if op == "all_reduce" else 1) * (comm.nodes - 1)
        return steps - between, between

    def crossings(self, comm: Communicator, op: str) -> float:
        """Into every node and, where one has a second rank, back into the first.

        Of n links of a ring a chunk goes n - 1 in each pass. What arrives last has started behind a
        link inside a node, so it goes all that lead out of one. NCCL's count of hops, to which
        their constants are fitted, leaves one out.
        """
        steps, between = sum(self.hops(comm, op)), self.hops(comm, op)[1]
        if comm.nodes == 1 or op == "broadcast":
            return between
        return min((2 if op == "all_reduce" else 1) * comm.nodes, steps)

    def least_hop_us(self, comm: Communicator, protocol: int) -> float:
        """NCCL's network overhead, where a ring goes on over the network."""
        if comm.nodes == 1:
            return 0.0
        overhead = float(constants("nccl_tuner")["network_overhead_us"][comm.cpu_vendor])
        return overhead * (3.0 if protocol == SIMPLE else 1.0)

    def edge(
        self, comm: Communicator, op: str, table: Mapping[str, Any], link: Mapping[str, Any]
    ) -> float:
        """Of one step, on one node: by operation over NVLink, else by link."""
        if comm.nodes > 1 or op == "broadcast":
            return 0.0
        own = table["edge"][op] if comm.link == "nvlink" else link["edge"]
        return float(own / max(ring_steps(comm.ranks, op), 1))

    def loads(self, fabric: Fabric, group: Sequence[int], op: str) -> Demand:
        """All channel rings of a group together."""
        load = fabric.ring_load(group)
        share = ring_share(op, len(group))
        amounts = Demand(load.resource, load.demand * share)
        if op == "broadcast":  # nothing returns to the root
            orders = fabric.rings(group).orders
            amounts = on(fabric, _chain(orders), 1.0 / len(orders))
        return total([amounts, hbm(fabric, group, share * hbm_passes(op))])

    def steps(self, fabric: Fabric, group: Sequence[int], op: str) -> Steps | None:
        """A rank's hops on all rings together, after those of its predecessor in the first.

        Notes
        -----
        One kernel drives all rings and a late chunk on one holds up the rank: demands are the mean
        over the rings. A broadcast is a pipeline and stays one op.
        """
        if op == "broadcast":
            return None
        n = len(group)
        orders = fabric.rings(group).orders
        hops = fabric.ring_hops(group)
        place = np.zeros(fabric.n_ranks, dtype=np.int64)
        place[list(group)] = np.arange(n)
        before = np.empty(n, dtype=np.int64)
        before[place[orders[0]]] = place[np.roll(orders[0], 1)]
        return Steps(
            np.append(np.repeat(place[orders.ravel()], np.diff(hops.ptr)), np.arange(n)),
            np.append(hops.resource, fabric.hbm_of(group)),
            np.append(hops.demand / len(orders), np.full(n, hbm_passes(op))),
            before, ring_steps(n, op), 1.0 / n,
        )  # fmt: skip


def _steps_between(comm: Communicator, op: str) -> int:
    """Ring steps between nodes as NCCL counts them in this version."""
    if comm.nodes == 1:
        return 0
    if op == "all_reduce":
        old = (2, 12) <= comm.version <= (2, 22)
        return 2 * comm.nodes if old else 2 * (comm.nodes - 1)
    return comm.nodes - 1


def _chain(orders: I8) -> I8:
    """Pairs of ranks, (m, 2), one after the other in rings that are cut before the root."""
    starts = np.argmax(orders == orders[0, 0], axis=1)
    turned = [np.roll(order, -start) for order, start in zip(orders, starts, strict=True)]
    return np.concatenate([np.stack([one[:-1], one[1:]], axis=1) for one in turned])


ALGORITHM = Ring()
