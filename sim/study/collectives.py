"""What the network of a machine gives, size by size, and on variants of the machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from sim.cost.collectives import CollectiveCost, plan_collective
from sim.cost.nccl.communicator import ASKED, Nccl
from sim.documents import SCHEMAS, Document
from sim.errors import InputError
from sim.fabric.fabric import Fabric, compile_fabric
from sim.fabric.held import let_go
from sim.inputs.arguments import Argument
from sim.inputs.loader import load_topology
from sim.inputs.topology import Topology
from sim.inputs.versions import older, versions
from sim.quantities import gib
from sim.step.bounds import most_bytes
from sim.step.variation import Progress, silent
from sim.study.axes import Axis, Grid, checked
from sim.units import GIB, KIB, MIB, TIB

_SUFFIX = {"": 1.0, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SOURCE, _VARY, _PATH = "--sizes", "--vary", "--nccl-path"
PLAIN = "plain"
_MOST_BYTES = 2.0**50
#: of each GPU of a machine at work, and of each row, written as JSON: 2 to 4 kB, 5 kB measured [B]
_GPU_BYTES, _ROW_BYTES = 4_000, 5_000
#: resources of machines that are kept among variants: some 250 MB
_KEPT = 1_000_000


@dataclass(frozen=True, slots=True)
class Collective:
    """What is asked: an operation, total bytes, and what NCCL would choose itself.

    Attributes
    ----------
    op : str
        ``all_gather``, ``reduce_scatter``, ``all_reduce``, ``broadcast``, ``all_to_all`` or
        ``send_recv``.
    sizes : tuple of int
        Total bytes, as nccl-tests counts them. [B]
    ranks : int or None
        Only the first so many GPUs.
    nccl : str
        Its version.
    algorithm, protocol : str or None
        Instead of NCCL's choice.
    path : str
        What the program registers its buffers for (``stack.nccl_path``).
    """

    op: str = "all_gather"
    sizes: tuple[int, ...] = tuple(1 << k for k in range(10, 34))
    ranks: int | None = None
    nccl: str = "2.21"
    algorithm: str | None = None
    protocol: str | None = None
    path: str = "plain"


@dataclass(frozen=True, slots=True)
class SizeCost:
    """What one size takes: figures alone, which hold no machine.

    Attributes
    ----------
    size_bytes : int
        Total bytes, as nccl-tests counts them. [B]
    time_s, latency_s : float
        Duration, and the part of it that no byte more lengthens. [s]
    algbw_bytes_per_s, busbw_bytes_per_s : float
        Algorithm and bus bandwidth as nccl-tests defines them.
    limit_busbw_bytes_per_s : float
        Bus bandwidth that the data-sheet rates allow this algorithm.
    algorithm, protocol : str
        As NCCL names them.
    channels : int
        SMs held on every rank.
    limit : str
        What holds it back, as of `sim.cost.collectives.CollectiveCost`.
    """

    size_bytes: int
    time_s: float
    latency_s: float
    algbw_bytes_per_s: float
    busbw_bytes_per_s: float
    limit_busbw_bytes_per_s: float
    algorithm: str
    protocol: str
    channels: int
    limit: str


@dataclass(frozen=True, slots=True)
class CollectiveSweep(Document):
    """Costs of one operation over sizes.

    Attributes
    ----------
    topology : str
        Name of the machine.
    op, ranks, nccl
        As asked; `ranks` is all of its GPUs if no number was.
    nodes : int
        On which these ranks are.
    staging : (float, float)
        How far rates through host memory differ among machines that look alike, as a factor.
    costs : tuple of SizeCost
        One a size.
    """

    schema: ClassVar[str] = SCHEMAS["collective"]

    topology: str
    op: str
    ranks: int
    nodes: int
    nccl: str
    staging: tuple[float, float]
    costs: tuple[SizeCost, ...]

    def content(self) -> dict[str, Any]:
        """What ran where, and a row a size."""
        return {
            "topology": self.topology,
            "op": self.op,
            "ranks": self.ranks,
            "nccl": self.nccl,
            "rows": self.costs,
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a size, first in the units of nccl-tests: microseconds and 1e9 bytes a second."""
        return [
            {
                "size_bytes": cost.size_bytes,
                "time_us": cost.time_s * 1e6,
                "algbw_gb_per_s": cost.algbw_bytes_per_s / 1e9,
                "busbw_gb_per_s": cost.busbw_bytes_per_s / 1e9,
                "algorithm": cost.algorithm,
                "protocol": cost.protocol,
                "channels": cost.channels,
                "limit": cost.limit,
                **asdict(cost),
            }
            for cost in self.costs
        ]


@dataclass(frozen=True, slots=True)
class CollectiveVariants(Document):
    """Sweeps over sizes, one for each variant of the machine."""

    schema: ClassVar[str] = SCHEMAS["collective-variants"]

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    sweeps: tuple[CollectiveSweep, ...]

    def content(self) -> dict[str, Any]:
        """Changes and sweep of every variant."""
        pairs = zip(self.values, self.sweeps, strict=True)
        return {
            "variants": [{"changes": self._changes(values)} | s.to_dict() for values, s in pairs]
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a variant and size."""
        return [
            {**self._changes(values), "ranks": found.ranks, **row}
            for values, found in zip(self.values, self.sweeps, strict=True)
            for row in found.records()
        ]

    def _changes(self, values: tuple[str, ...]) -> dict[str, str]:
        return dict(zip(self.keys, values, strict=True))


def parse_sizes(text: str) -> tuple[int, ...]:
    """Read "1K:8G" (powers of two, both ends included) or "1024,65536,1M".

    Returns
    -------
    tuple of int
        Bytes; K is 1024, as in nccl-tests.

    Raises
    ------
    InputError
        With all that is wrong.
    """
    if ":" in text:
        ends = text.split(":")
        if len(ends) != 2:
            raise InputError.single(_SOURCE, f"{text!r} is not a range such as 1K:8G")
        low, high = (_size(end) for end in ends)
        if low > high:
            raise InputError.single(_SOURCE, f"{text!r} runs from more to less")
        sizes = []
        size = low
        while size <= high:
            sizes.append(size)
            size *= 2
        return tuple(sizes)
    return tuple(_size(part) for part in text.split(","))


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        message = f"{text.strip()!r} is not a size; write bytes, or 64K, 1M, 8G (K = 1024)"
        raise InputError.single(_SOURCE, message)
    size = float(match.group(1)) * _SUFFIX[match.group(2).upper()]
    if size < 1 or size != int(size) or size > _MOST_BYTES:
        message = f"{text.strip()!r} is not a whole number of bytes from 1 to 1024T"
        raise InputError.single(_SOURCE, message)
    return int(size)


def collective_sweep(fabric: Fabric, asked: Collective) -> CollectiveSweep:
    """Cost of an operation over a machine's GPUs, for each size.

    Raises
    ------
    InputError
        The machine has not so many GPUs; a path that this NCCL has not, or that nothing takes here.
    """
    found = _swept(fabric, asked)
    if not _served(fabric, asked, found):
        raise _unserved(asked)
    return found


def _served(fabric: Fabric, asked: Collective, found: CollectiveSweep) -> bool:
    """Whether the path that was asked for, if any was, changes a cost on a machine."""
    plain = replace(asked, path=PLAIN)
    return asked.path == PLAIN or found.costs != _swept(fabric, plain).costs


def _unserved(asked: Collective) -> InputError:
    message = f"{asked.path} changes nothing here: {asked.op} is as plain at each of its sizes"
    return InputError.single(_PATH, f"{message}; leave it out")


def _swept(fabric: Fabric, asked: Collective) -> CollectiveSweep:
    count = fabric.n_ranks if asked.ranks is None else asked.ranks
    if not 2 <= count <= fabric.n_ranks:
        message = f"{count} is not from 2 to the {fabric.n_ranks} GPUs of {fabric.topology.name}"
        raise InputError.single(fabric.topology.name, message, "ranks")
    _check_path(asked)
    nccl = Nccl(asked.nccl, asked.path)
    costs = tuple(
        _figures(plan_collective(
            fabric, asked.op, range(count), size, nccl, algorithm=asked.algorithm,
            protocol=asked.protocol,
        ))
        for size in asked.sizes
    )  # fmt: skip
    nodes = int(fabric.rank_node[count - 1]) + 1  # ranks stand node by node
    name, staging = fabric.topology.name, fabric.staging_range()
    return CollectiveSweep(name, asked.op, count, nodes, asked.nccl, staging, costs)


def _check_path(asked: Collective) -> None:
    """Refuse a path that NCCL of this version has not."""
    if asked.path not in ASKED:
        return
    need = versions()["feature"][f"nccl-{asked.path}"]["nccl"]
    if older(asked.nccl, need):
        message = f"{asked.path} is in NCCL {need} and newer, not in {asked.nccl}"
        raise InputError.single(_PATH, f"{message}; write --nccl {need} too")


def _figures(cost: CollectiveCost) -> SizeCost:
    return SizeCost(
        int(cost.work), cost.time_s, cost.latency_s, cost.algbw_bytes_per_s, cost.busbw_bytes_per_s,
        cost.limit_busbw_bytes_per_s, cost.algorithm, cost.protocol, cost.channels, cost.limit,
    )  # fmt: skip


def collective_variants(
    topology: Argument, axes: Sequence[Axis], overrides: Iterable[str], asked: Collective,
    progress: Progress | None = None,
) -> CollectiveVariants:  # fmt: skip
    """Cost of an operation on every combination of the axes' values.

    Raises
    ------
    InputError
        If a variant is no machine, all of them need more memory than there is to spare, or the
        path that was asked for changes nothing on any.
    """
    grid = checked(Grid("collective", axes=tuple(axes)), "collective")
    progress = progress or silent
    fixed = tuple(overrides)

    def machine(changes: Mapping[str, Any]) -> Topology:
        return load_topology(topology, [*fixed, *(f"{k}={v}" for k, v in changes.items())])

    # ranges end where machines are largest: what is too much is known before the first is done
    ends = [dict(zip(grid.keys, grid.at(place), strict=True)) for place in (0, -1)]
    _check_variants(len(grid), [machine(changes).world_size for changes in ends], asked)
    values, sweeps, served = [], [], False
    progress(0, len(grid))
    for changes in grid.points():
        let_go(_KEPT)  # none is asked for again
        fabric = compile_fabric(machine(changes))
        sweeps.append(_swept(fabric, asked))
        served = served or _served(fabric, asked, sweeps[-1])
        values.append(tuple(_short(str(value)) for value in changes.values()))
        progress(len(sweeps), len(grid))
    if not served:
        raise _unserved(asked)
    return CollectiveVariants(grid.keys, tuple(values), tuple(sweeps))


def _check_variants(machines: int, ends: Sequence[int], asked: Collective) -> None:
    """Refuse variants that need too much memory, by the GPUs of the first and of the last."""
    needed = max(ends) * _GPU_BYTES + machines * len(asked.sizes) * _ROW_BYTES
    if needed > (most := most_bytes(needed)):
        message = (
            f"{machines:,} machines of {ends[0]:,} to {ends[1]:,} GPUs need about {gib(needed)} of "
            f"memory, more than {gib(most)}; vary fewer values, as low..high..step does"
        )
        raise InputError.single(_VARY, message)


def _short(value: str) -> str:
    """``{kind: fat-tree, oversubscription: 4}`` without its braces."""
    return value.strip().removeprefix("{").removesuffix("}")
