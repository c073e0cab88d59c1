"""NVLS: the NVSwitches reduce and multicast, on one node.

S (1 + 1/n) each way on every port; the switch adds up, so bus bandwidth passes the wire. Where the
program registers its buffers, the switches read and write them in place, and a few channels do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sim.cost.nccl.algorithm import Algorithm, Pace
from sim.cost.nccl.communicator import SIMPLE, Communicator
from sim.cost.nccl.loads import Demand, hbm, inside, total
from sim.cost.nccl.rings import ring_bandwidth
from sim.fabric.alike import nodes_of
from sim.fabric.fabric import Fabric


class Nvls(Algorithm):
    """NCCL weighs it for all-reduce alone, unless buffers are registered."""

    name = "nvls"
    operations: ClassVar[tuple[str, ...]] = ("all_reduce", "all_gather", "reduce_scatter")
    needs = "NVLS needs one node whose NVSwitches reduce (NVLink 4), and NCCL 2.17"
    paths: ClassVar[tuple[str, ...]] = ("registered",)

    def switched(self, comm: Communicator, op: str) -> bool:
        """Whether NCCL would have the NVSwitches reduce."""
        known = comm.version >= tuple(self.numbers["first_version"])
        return op == "all_reduce" and comm.nvls and comm.local_ranks > 2 and known

    def weighed(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """Simple, on one node."""
        asked = comm.path in self.paths and comm.nvls
        return (SIMPLE,) if comm.nodes == 1 and (asked or self.switched(comm, op)) else ()

    def forced(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """Wherever one node's switches reduce."""
        return (SIMPLE,) if comm.nvls and comm.nodes == 1 else ()

    def latency_us(self, comm: Communicator, op: str, protocol: int) -> float:
        """One hop through the switches."""
        return float(self.base_us(comm, protocol) + self.hop_us(comm, protocol)[0])

    def bus(self, comm: Communicator, protocol: int) -> float:
        """A channel and so much for each GPU of a node."""
        return float(comm.local_ranks * comm.row.get("nvls_bus_per_head", 0.0))

    def bandwidth(self, comm: Communicator, op: str, protocol: int) -> float:
        """As of a ring."""
        return ring_bandwidth(comm, op, self.bus(comm, protocol))

    def channels(self, comm: Communicator) -> int:
        """A count of its own."""
        return int(comm.row["nvls_channels"][min(comm.nodes, 2) - 1])

    def active_channels(self, comm: Communicator, op: str, protocol: int, size: float) -> int:
        """All, whatever the size; registered buffers need so many as keep the switches busy.

        Source: NVIDIA/nccl src/transport/nvls.cc, ncclNvlsRegResourcesQuery.
        """
        if comm.path in self.paths and comm.nodes == 1:
            heads = comm.row["nvls_registered_heads"][op]
            return max(1, -(-int(heads) // comm.local_ranks))
        return self.channels(comm)

    def hops(self, comm: Communicator, op: str) -> tuple[float, float]:
        """None beyond the launch."""
        return 0.0, 0.0

    def pace(self, link: Mapping[str, Any], op: str, protocol: int) -> Pace:
        """Columns of its own."""
        fields = ("nvls_base_us", "nvls_efficiency", "nvls_ramp_us", "nvls_ramp_time_us")
        return Pace(*(link[field] for field in fields))

    def filling(self, comm: Communicator, table: Mapping[str, Any]) -> float:
        """A round has a chunk for each GPU of a node, and chunks shrink until there are many.

        Source: NVIDIA/nccl src/enqueue.cc: nChannels x nHeads chunks at a time, of 128 KiB only
        where a message has 64 rounds of them.
        """
        return max(1.0, comm.local_ranks / float(table["nvls_heads"]))

    def loads(self, fabric: Fabric, group: Sequence[int], op: str) -> Demand:
        """Ports of every GPU.

        Notes
        -----
        All-reduce: every GPU's buffer is read through the switch once and every GPU receives the
        whole result: S out and S in, plus S/n each way for the part the GPU itself reduces and
        multicasts.
        """
        return self.with_hbm(fabric, [self.ports(fabric, group, op)], group, op)

    @staticmethod
    def ports(fabric: Fabric, group: Sequence[int], op: str) -> Demand:
        """Bytes on the NVLink ports of the GPUs of every node."""
        parts: list[Demand] = []
        for kind in nodes_of(fabric, group).kinds:
            g = len(kind.local)
            out, into = {
                "all_reduce": (1.0 + 1.0 / g, 1.0 + 1.0 / g),
                "all_gather": (1.0 / g, 1.0),
                "reduce_scatter": (1.0, 1.0 / g),
            }[op]
            first = int(fabric.first_rank[kind.nodes[0]])
            for local in kind.local:
                sends, receives = fabric.nvlink_ports(first + local)
                for ports, size in ((sends, out), (receives, into)):
                    own = Demand(ports, np.full(len(ports), size / len(ports)))
                    parts.append(inside(fabric, kind, own))
        return total(parts)

    @staticmethod
    def with_hbm(fabric: Fabric, parts: Sequence[Demand], group: Sequence[int], op: str) -> Demand:
        """HBM is read and written once, by what the switches pass."""
        return total([*parts, hbm(fabric, group, 2.0 if op == "all_reduce" else 1.0)])


ALGORITHM = Nvls()
