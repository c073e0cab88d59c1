"""Copy engines: all-gather and all-to-all as copies from GPU to GPU that take no SM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sim.cost.nccl.algorithm import Algorithm, Pace
from sim.cost.nccl.communicator import SIMPLE, Communicator, constants
from sim.cost.nccl.loads import Demand, hbm, total
from sim.cost.nccl.pairs import all_pairs
from sim.fabric.fabric import Fabric


class CopyEngine(Algorithm):
    """In one node, with windows and NCCL_CTA_POLICY_ZERO; what must add up stays a kernel's."""

    name = "copy_engine"
    operations: ClassVar[tuple[str, ...]] = ("all_gather", "all_to_all")
    needs = "copy engines need one node of NVLink, NCCL 2.28 and windows"
    in_kernel_name = False
    paths: ClassVar[tuple[str, ...]] = ("copy-engine",)

    def weighed(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """One node, where its buffers are."""
        return self.forced(comm, op) if comm.path in self.paths else ()

    def forced(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """One node of NVLink."""
        known = comm.version >= tuple(self.numbers["first_version"])
        return (SIMPLE,) if known and comm.nodes == 1 and comm.link == "nvlink" else ()

    def latency_us(self, comm: Communicator, op: str, protocol: int) -> float:
        """As it takes."""
        return float(self.pace({}, op, protocol).base_us)

    def channels(self, comm: Communicator) -> int:
        """No SM."""
        return 0

    def active_channels(self, comm: Communicator, op: str, protocol: int, size: float) -> int:
        """No SM."""
        return 0

    def hops(self, comm: Communicator, op: str) -> tuple[float, float]:
        """None beyond the launch."""
        return 0.0, 0.0

    def peers_us(self, comm: Communicator, op: str, table: Mapping[str, Any]) -> float:
        """A copy to each other rank."""
        return float(table["copy_engine"]["peer_us"] * (comm.ranks - 1))

    def pace(self, link: Mapping[str, Any], op: str, protocol: int) -> Pace:
        """Copies' own."""
        numbers = constants("network_timing")["copy_engine"]
        return Pace(numbers["base_us"], numbers["efficiency"], 0.0, 1.0)

    def loads(self, fabric: Fabric, group: Sequence[int], op: str) -> Demand:
        """A part from every rank to every other; each byte is read once and written once."""
        amounts = all_pairs(fabric, group, 1.0 / len(group))
        return total([amounts, hbm(fabric, group, 2.0 * (len(group) - 1) / len(group))])


ALGORITHM = CopyEngine()
