"""What NCCL sees of a communicator: ranks, nodes, links and their rates, NCCL's version."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from sim.data import table
from sim.inputs.spoken import value_of
from sim.inputs.versions import version
from sim.inputs.workload import Stack
from sim.records import NamedTuple, dataclass

PROTOCOLS = ("ll", "ll128", "simple")
LL, LL128, SIMPLE = range(3)
#: of all ranks, as nccl-tests measures them
COLLECTIVES = (
    "all_gather", "reduce_scatter", "all_reduce", "broadcast", "all_to_all", "send_recv",
)  # fmt: skip
OPERATIONS = (*COLLECTIVES, "send")
LATEST = (2, 30)
#: ways of NCCL that a program must ask for, and which release brought each (versions.toml)
ASKED = ("registered", "symmetric", "copy-engine")


def collective_named(word: str) -> str | None:
    """The operation that NCCL, nccl-tests and people call so: AllGather, all-gather_perf."""
    return value_of(word.lower().removesuffix("perf"), COLLECTIVES)


def constants(name: str) -> dict[str, Any]:
    """A file of constants: ``nccl_tuner``, ``network_timing`` or ``links``."""
    return table(f"constants/{name}")


@functools.cache
def parse_version(text: str) -> tuple[int, int]:
    """Read "2.21" or "2.21.5" as (2, 21).

    Raises
    ------
    ValueError
        If `text` is no NCCL version from 2.4 on.
    """
    found = version(text)
    if len(found) < 2:
        message = f"{text!r} is not an NCCL version such as 2.21"
        raise ValueError(message)
    if not (2, 4) <= found < (3, 0):
        message = f"NCCL {text} is not known; versions from 2.4 to 2.x are"
        raise ValueError(message)
    return found[0], found[1]


class Nccl(NamedTuple):
    """The library as a job sets it up."""

    version: str
    path: str = "plain"  # or one of `ASKED`

    @classmethod
    def of(cls, given: str | Nccl | Stack) -> Nccl:
        """As a job's stack has it; a version alone is NCCL as it comes."""
        if isinstance(given, Nccl):
            return given
        return cls(given) if isinstance(given, str) else cls(given.nccl, given.nccl_path)


@dataclass(frozen=True, slots=True)
class Communicator:
    """What NCCL sees of a group of ranks. Rates per direction. [B/s]

    Attributes
    ----------
    generation : str
        Key of ``generations`` in ``nccl_tuner.toml``: volta, ampere, hopper, blackwell.
    link : str
        Slowest kind of link between neighbours inside a node: "nvlink", "pcie", or "shm" (through
        host memory).
    link_generation : int
        Of NVLink or PCIe.
    intra_rate : float
        What one GPU can pass to its neighbours in the node, over all its links.
    nics : int
        Network devices of a node, as far as this communicator can use them; 0 on one node. A plugin
        may show several NICs beside a GPU as one.
    nic_rate : float
        Of each, or of the PCIe before it where that is slower. [B/s]
    nic_kind : str
        infiniband, roce, efa, slingshot, tcpx, tcp.
    efa : int
        Generation of an EFA; 0 for other NICs.
    nvls, collnet : bool
        Whether the NVSwitches, and the network's switches, can reduce.
    superchip : bool
        Whether GPUs reach their NICs over the CPU that they are joined to (C2C).
    path : str
        ``plain``, or what of `ASKED` the program has buffers for.
    """

    generation: str
    ranks: int
    nodes: int
    link: str
    link_generation: int
    intra_rate: float
    nics: int = 0
    nic_rate: float = 0.0
    nic_kind: str = "infiniband"
    efa: int = 0
    gpudirect: bool = True
    superchip: bool = False
    cpu_vendor: str = "intel"
    nvls: bool = False
    collnet: bool = False
    version: tuple[int, int] = LATEST
    path: str = "plain"

    @property
    def plugin(self) -> Mapping[str, Any]:
        """What a vendor's plugin changes for this kind of NIC; empty for NCCL's own transports."""
        found: Mapping[str, Any] = constants("nccl_tuner")["plugins"].get(self.nic_kind, {})
        return found

    @property
    def nic_latency_us(self) -> float:
        """Latency that the plugin tells NCCL. [us]"""
        told = self.plugin.get("latency_us")
        return float(told[self.efa - 1]) if told is not None and self.nodes > 1 else 0.0

    @property
    def local_ranks(self) -> int:
        """Ranks in a node (the fullest one)."""
        return -(-self.ranks // self.nodes)

    @property
    def row(self) -> Mapping[str, Any]:
        """NCCL's constants for this generation of GPU."""
        found: Mapping[str, Any] = constants("nccl_tuner")["generations"][self.generation]
        return found

    @property
    def scale(self) -> int:
        """Column of NCCL's tables: 0 one node, 1 two, 2 more."""
        return min(self.nodes, 3) - 1


def generation_of(compute_capability: float) -> str:
    """NCCL's row for a compute capability: the newest generation not newer than it."""
    rows = constants("nccl_tuner")["generations"]
    known = [name for name, row in rows.items() if row["compute_capability"] <= compute_capability]
    return str(known[-1] if known else next(iter(rows)))
