"""Symmetric kernels: buffers at the same address on every GPU of an NVLink domain.

All-gather writes to every peer and reduce-scatter reads from every peer in one step; all-reduce has
the NVSwitches add up. Few channels fill the links, and no step waits for a neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sim.cost.nccl.algorithm import Algorithm, Pace
from sim.cost.nccl.algorithms.nvls import Nvls
from sim.cost.nccl.communicator import SIMPLE, Communicator
from sim.cost.nccl.loads import Demand, hbm, total
from sim.cost.nccl.pairs import all_pairs
from sim.fabric.fabric import Fabric
from sim.units import GIB


class Symmetric(Algorithm):
    """In one node, where the program keeps its buffers in windows; all-reduce needs NVLS.

    Source: NVIDIA/nccl src/sym_kernels.cc (2.27): rate = softmin(channels x rate of one, peak).
    """

    name = "symmetric"
    operations: ClassVar[tuple[str, ...]] = ("all_reduce", "all_gather", "reduce_scatter")
    needs = "symmetric kernels need one node of NVLink 4 or newer, NCCL 2.27 and windows"
    paths: ClassVar[tuple[str, ...]] = ("symmetric", "copy-engine")

    def weighed(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """One node, where its buffers are; copy engines gather where they are asked for."""
        gathers = comm.path == "copy-engine" and op == "all_gather"
        return self.forced(comm, op) if comm.path in self.paths and not gathers else ()

    def forced(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """Wherever NCCL has numbers for the GPU."""
        known = comm.version >= tuple(self.numbers["first_version"])
        known = known and comm.link == "nvlink" and comm.nodes == 1
        switched = comm.nvls or op != "all_reduce"
        return (SIMPLE,) if known and switched and "symmetric_peak_gib" in comm.row else ()

    def bandwidth(self, comm: Communicator, op: str, protocol: int) -> float:
        """NCCL's peak, of the algorithm."""
        n = comm.ranks
        bus = 2.0 * (n - 1) / n if op == "all_reduce" else (n - 1) / n
        return float(comm.row["symmetric_peak_gib"][op]) * GIB / 1e9 / bus

    def active_channels(self, comm: Communicator, op: str, protocol: int, size: float) -> int:
        """So many as reach the peak: NCCL holds 2.5 % of a time against each."""
        peak: float = comm.row["symmetric_peak_gib"][op]
        each: float = comm.row["symmetric_gib_per_channel"][op]
        return math.ceil(peak / each)

    def hops(self, comm: Communicator, op: str) -> tuple[float, float]:
        """None beyond the launch."""
        return 0.0, 0.0

    def pace(self, link: Mapping[str, Any], op: str, protocol: int) -> Pace:
        """Columns of its own."""
        what = "symmetric_reduce_efficiency" if op == "all_reduce" else "symmetric_efficiency"
        return Pace(link["symmetric_base_us"], link[what], 0.0, 1.0)

    def loads(self, fabric: Fabric, group: Sequence[int], op: str) -> Demand:
        """A part from every rank to every other; all-reduce as the switches do it."""
        if op == "all_reduce":
            amounts = Nvls.ports(fabric, group, op)
            return Nvls.with_hbm(fabric, [amounts], group, op)
        amounts = all_pairs(fabric, group, 1.0 / len(group))
        return total([amounts, hbm(fabric, group, 1.0 + 1.0 / len(group))])


ALGORITHM = Symmetric()
