"""What the network of a machine gives, size by size, and on variants of the machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.cost.collectives import CollectiveCost, plan_collective
from sim.cost.nccl.communicator import Nccl
from sim.documents import SCHEMAS, Document
from sim.errors import InputError
from sim.fabric.fabric import Fabric, compile_fabric
from sim.inputs.arguments import Argument
from sim.inputs.loader import load_topology
from sim.inputs.topology import Topology
from sim.quantities import gib
from sim.step.bounds import most_bytes
from sim.step.variation import Progress, silent
from sim.study.axes import Axis, Grid, checked
from sim.units import GIB, KIB, MIB, TIB

_SUFFIX = {"": 1.0, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SOURCE, _VARY = "--sizes", "--vary"
_MOST_BYTES = 2.0**50
#: kept of each GPU of a variant, and of each of its rows, as measured: 2.6 to 3.9 kB, 10 kB [B]
_GPU_BYTES, _ROW_BYTES = 4_000, 10_000


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
class CollectiveSweep(Document):
    """Costs of one operation over sizes."""

    schema: ClassVar[str] = SCHEMAS["collective"]

    fabric: Fabric
    op: str
    ranks: int
    nccl: str
    costs: tuple[CollectiveCost, ...]

    def content(self) -> dict[str, Any]:
        """What ran where, and a row a size."""
        return {
            "topology": self.fabric.topology.name,
            "op": self.op,
            "ranks": self.ranks,
            "nccl": self.nccl,
            "rows": self._rows(),
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a size, first in the units of nccl-tests: microseconds and 1e9 bytes a second."""
        return [
            {
                "size_bytes": row["size_bytes"],
                "time_us": row["time_s"] * 1e6,
                "algbw_gb_per_s": row["algbw_bytes_per_s"] / 1e9,
                "busbw_gb_per_s": row["busbw_bytes_per_s"] / 1e9,
                **{name: row[name] for name in ("algorithm", "protocol", "channels", "limit")},
                **row,
            }
            for row in self._rows()
        ]

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "size_bytes": int(c.work),
                "time_s": c.time_s,
                "latency_s": c.latency_s,
                "algbw_bytes_per_s": c.algbw_bytes_per_s,
                "busbw_bytes_per_s": c.busbw_bytes_per_s,
                "limit_busbw_bytes_per_s": c.limit_busbw_bytes_per_s,
                "algorithm": c.algorithm,
                "protocol": c.protocol,
                "channels": c.channels,
                "limit": c.limit,
            }
            for c in self.costs
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
        The machine has not so many GPUs.
    """
    count = fabric.n_ranks if asked.ranks is None else asked.ranks
    if not 2 <= count <= fabric.n_ranks:
        message = f"{count} is not from 2 to the {fabric.n_ranks} GPUs of {fabric.topology.name}"
        raise InputError.single(fabric.topology.name, message, "ranks")
    costs = tuple(
        plan_collective(
            fabric, asked.op, range(count), size, Nccl(asked.nccl, asked.path),
            algorithm=asked.algorithm, protocol=asked.protocol,
        )
        for size in asked.sizes
    )  # fmt: skip
    return CollectiveSweep(fabric, asked.op, count, asked.nccl, costs)


def collective_variants(
    topology: Argument, axes: Sequence[Axis], overrides: Iterable[str], asked: Collective,
    progress: Progress | None = None,
) -> CollectiveVariants:  # fmt: skip
    """Cost of an operation on every combination of the axes' values.

    Raises
    ------
    InputError
        If a variant is no machine, or all of them need more memory than there is to spare.
    """
    grid = checked(Grid("collective", axes=tuple(axes)), "collective")
    progress = progress or silent
    fixed = tuple(overrides)

    def machine(changes: Mapping[str, Any]) -> Topology:
        return load_topology(topology, [*fixed, *(f"{k}={v}" for k, v in changes.items())])

    # ranges end where machines are largest: what is too much is known before the first is done
    ends = [dict(zip(grid.keys, grid.at(place), strict=True)) for place in (0, -1)]
    _check_variants(len(grid), [machine(changes).world_size for changes in ends], asked)
    values, sweeps = [], []
    progress(0, len(grid))
    for changes in grid.points():
        sweeps.append(collective_sweep(compile_fabric(machine(changes)), asked))
        values.append(tuple(_short(str(value)) for value in changes.values()))
        progress(len(sweeps), len(grid))
    return CollectiveVariants(grid.keys, tuple(values), tuple(sweeps))


def _check_variants(machines: int, ends: Sequence[int], asked: Collective) -> None:
    """Refuse variants that need too much memory, by the GPUs of the first and of the last."""
    mean = sum(ends) / len(ends) if asked.ranks is None else asked.ranks
    needed = machines * (mean * _GPU_BYTES + len(asked.sizes) * _ROW_BYTES)
    if needed > (most := most_bytes(needed)):
        message = (
            f"{machines:,} machines of {ends[0]:,} to {ends[1]:,} GPUs need about {gib(needed)} of "
            f"memory, more than {gib(most)}; vary fewer values, as low..high..step does"
        )
        raise InputError.single(_VARY, message)


def _short(value: str) -> str:
    """``{kind: fat-tree, oversubscription: 4}`` without its braces."""
    return value.strip().removeprefix("{").removesuffix("}")
