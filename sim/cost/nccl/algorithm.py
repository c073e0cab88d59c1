"""An algorithm of NCCL: every question that the rest of the program asks of one, and defaults.

The defaults are those of an algorithm that runs on the rings' channels, passes its hops one after
another and must be asked for. `docs/collectives.md` says how to add one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sim.cost.nccl.communicator import LL, PROTOCOLS, SIMPLE, Communicator, constants
from sim.cost.nccl.loads import Demand
from sim.cost.nccl.rings import ring_channels, search
from sim.fabric.fabric import Fabric
from sim.records import NamedTuple

I8 = npt.NDArray[np.int64]
F8 = npt.NDArray[np.float64]


class Pace(NamedTuple):
    """What a link inside a node gives an algorithm, columns of ``links`` in network_timing.toml."""

    base_us: float
    efficiency: float
    ramp_us: float
    ramp_time_us: float


class Steps(NamedTuple):
    """A group's collective as equal steps of every rank, each after its predecessor's."""

    place: I8  # (k,) in the group, whose demand it is
    resource: I8  # (k,)
    amount: F8  # (k,) per byte that a step moves
    before: I8  # (n,) place of the predecessor
    steps: int
    chunk: float  # share of the collective's bytes that one step moves


class Algorithm:
    """One algorithm. Protocols are places in `PROTOCOLS`, sizes total bytes as nccl-tests counts.

    Attributes
    ----------
    name : str
        Of its file in ``algorithms``, and of its constants.
    operations : tuple of str
        Collectives it can do.
    needs : str
        What to say where it was asked for and cannot run.
    shares_ll : bool
        Whether all ranks together fill an LL channel, rather than each.
    in_kernel_name : bool
        Whether NCCL's kernel is named after it.
    paths : tuple of str
        Of `sim.cost.nccl.communicator.ASKED`, those on which NCCL takes it where it can run.
    """

    name: ClassVar[str]
    operations: ClassVar[tuple[str, ...]]
    needs: ClassVar[str]
    shares_ll: ClassVar[bool] = False
    in_kernel_name: ClassVar[bool] = True
    paths: ClassVar[tuple[str, ...]] = ()

    # where it can run

    def weighed(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """Protocols in which NCCL weighs it by itself, for an operation it can do."""
        return ()

    def forced(self, comm: Communicator, op: str) -> tuple[int, ...]:
        """Protocols in which it runs when asked for, where NCCL weighs it in none."""
        return ()

    # what NCCL's tuner thinks

    @property
    def numbers(self) -> Mapping[str, Any]:
        """Its constants in nccl_tuner.toml."""
        found: Mapping[str, Any] = constants("nccl_tuner")["algorithms"][self.name]
        return found

    def known(self, comm: Communicator) -> Mapping[str, Any]:
        """The same as NCCL's release has them."""
        older = self.numbers.get("older", ())
        old = next((row for row in older if comm.version < tuple(row["before"])), None)
        return self.numbers if old is None else {**self.numbers, **old}

    def base_us(self, comm: Communicator, protocol: int) -> float:
        """NCCL's latency of a launch. [us]"""
        return float(self.known(comm)["base_us"][protocol])

    def hop_us(self, comm: Communicator, protocol: int) -> tuple[float, float]:
        """NCCL's latency of a hop inside a node and between nodes. [us]"""
        link = "nvlink" if comm.link == "nvlink" else "pcie"
        numbers = self.known(comm)
        # Simple waits for the network twice: data, and the flush behind it
        told = comm.nic_latency_us * (2.0 if protocol == SIMPLE else 1.0)
        return numbers[f"{link}_hop_us"][protocol], numbers["network_hop_us"][protocol] + told

    def latency_us(self, comm: Communicator, op: str, protocol: int) -> float:
        """NCCL's latency term. [us]"""
        intra, inter = self.hop_us(comm, protocol)
        inside, between = self.hops(comm, op)
        return self.base_us(comm, protocol) + inside * intra + between * inter

    def bus(self, comm: Communicator, protocol: int) -> float:
        """NCCL's bus bandwidth, by GPU and direction. [GB/s]"""
        return search(comm).bus(comm)

    def bandwidth(self, comm: Communicator, op: str, protocol: int) -> float:
        """NCCL's algorithm bandwidth. [GB/s]"""
        return self.bus(comm, protocol) * (0.5 if op == "all_reduce" else 1.0)

    def corrected(
        self, comm: Communicator, op: str, protocol: int, size: float, line: tuple[float, float]
    ) -> tuple[float, float]:
        """Latency [us] and bandwidth [GB/s] as NCCL corrects them for a size."""
        return line

    def channels(self, comm: Communicator) -> int:
        """Channels a large message runs on: one thread block, so one SM, each."""
        return ring_channels(comm)

    def active_channels(self, comm: Communicator, op: str, protocol: int, size: float) -> int:
        """Channels a message of `size` bytes uses: fewer while each would get too little.

        Notes
        -----
        NCCL drops channels while bytes < channels x threads x threshold.
        """
        most = self.channels(comm)
        return int(max(1, min(most, size // self.full_channel(comm, protocol))))

    def full_channel(self, comm: Communicator, protocol: int) -> int:
        """Bytes below which NCCL gives a message no further channel. [B]"""
        table = constants("nccl_tuner")["channels"]
        name = PROTOCOLS[protocol]
        threads = int(table[f"threads_{name}"])
        if protocol == LL:
            sharers = comm.ranks if self.shares_ll else 1
            return threads * int(table["threshold_ll_per_rank"]) * sharers
        return threads * int(table[f"threshold_{name}"])

    # how long it takes

    def hops(self, comm: Communicator, op: str) -> tuple[float, float]:
        """Serial hops inside a node and between nodes, as constants of a hop are fitted to them."""
        raise NotImplementedError

    def crossings(self, comm: Communicator, op: str) -> float:
        """Ways between nodes that what arrives last has gone, one after another."""
        return self.hops(comm, op)[1]

    def least_hop_us(self, comm: Communicator, protocol: int) -> float:
        """Latency below which no hop inside a node goes. [us]"""
        return 0.0

    def pace(self, link: Mapping[str, Any], op: str, protocol: int) -> Pace:
        """Launch, efficiency and ramp on a link; LL and LL128 have no ramp."""
        ramp = link["ramp_us"] if protocol == SIMPLE else 0.0
        base, efficiency = link["base_us"][protocol], link["efficiency"][protocol]
        return Pace(base, efficiency, ramp, link["ramp_time_us"])

    def filling(self, comm: Communicator, table: Mapping[str, Any]) -> float:
        """How much longer its ramps are than on the machines that they were fitted on."""
        return 1.0

    def peers_us(self, comm: Communicator, op: str, table: Mapping[str, Any]) -> float:
        """Latency for each peer that a rank must reach, beyond hops. [us]"""
        return 0.0

    def edge(
        self, comm: Communicator, op: str, table: Mapping[str, Any], link: Mapping[str, Any]
    ) -> float:
        """Share of the transfer to add for a rank's own part, which crosses HBM only."""
        return 0.0

    def joined(self, table: Mapping[str, Any]) -> float:
        """What its efficiency inside a node keeps when it joins nodes."""
        return 1.0

    # what it puts on the machine

    def loads(self, fabric: Fabric, group: Sequence[int], op: str) -> Demand:
        """Bytes on resources per byte of the collective."""
        raise NotImplementedError

    def steps(self, fabric: Fabric, group: Sequence[int], op: str) -> Steps | None:
        """Its equal steps, for level ``steps``; None if it stays one op."""
        return None
