"""The table nccl-tests prints, for a machine that may not exist, and why it reads as it does."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from sim.cost.collectives import CollectiveCost, bus_factor, plan_collective
from sim.errors import InputError
from sim.fabric.compiled import Fabric
from sim.units import GIB, KIB, MIB, TIB

_SUFFIX = {"": 1.0, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SOURCE = "--sizes"
_MOST_BYTES = 2.0**50
CSV_COLUMNS = (
    "size_bytes", "time_us", "algbw_gb_per_s", "busbw_gb_per_s", "algorithm", "protocol",
    "channels", "limit",
)  # fmt: skip


class Sweep(NamedTuple):
    """Costs of one operation over sizes."""

    fabric: Fabric
    op: str
    ranks: int
    nccl: str
    costs: tuple[CollectiveCost, ...]


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


def sweep(
    fabric: Fabric, op: str, sizes: Sequence[int], nccl: str, ranks: int | None = None,
    algorithm: str | None = None, protocol: str | None = None,
) -> Sweep:  # fmt: skip
    """Cost of an operation over the first `ranks` GPUs (all by default), for each size."""
    count = fabric.n_ranks if ranks is None else ranks
    if not 2 <= count <= fabric.n_ranks:
        message = f"{count} is not from 2 to the {fabric.n_ranks} GPUs of {fabric.topology.name}"
        raise InputError.single(fabric.topology.name, message, "ranks")
    costs = tuple(
        plan_collective(
            fabric, op, range(count), size, nccl, algorithm=algorithm, protocol=protocol
        )
        for size in sizes
    )
    return Sweep(fabric, op, count, nccl, costs)


def row_of(cost: CollectiveCost) -> tuple[str, ...]:
    """Cells of `CSV_COLUMNS`."""
    return (
        str(int(cost.work)), f"{cost.time_s * 1e6:.2f}", f"{cost.algbw_bytes_per_s / 1e9:.2f}",
        f"{cost.busbw_bytes_per_s / 1e9:.2f}", cost.algorithm, cost.protocol, str(cost.channels),
        cost.limit,
    )  # fmt: skip


def rendered(result: Sweep, form: str) -> str:
    """Text in one of the formats table, csv, json, md."""
    if form == "csv":
        return "\n".join([",".join(CSV_COLUMNS), *(",".join(row_of(c)) for c in result.costs)])
    if form == "json":
        return json.dumps(to_dict(result), indent=2)
    head = (
        "size (B)", "time (us)", "algbw", "busbw", "limit*", "algorithm", "protocol", "ch",
        "held back by",
    )  # fmt: skip
    rows = [
        (r[0], r[1], r[2], r[3], f"{c.limit_busbw_bytes_per_s / 1e9:.1f}", *r[4:])
        for r, c in ((row_of(c), c) for c in result.costs)
    ]
    if form == "md":
        lines = ["| " + " | ".join(head) + " |", "|---:|---:|---:|---:|---:|---|---|---:|---|"]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    left = {5, 6, 8}
    lines = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join([_title(result), "", *lines, "", *_notes(result)])


def _title(result: Sweep) -> str:
    nodes = len({int(result.fabric.rank_node[rank]) for rank in range(result.ranks)})
    where = "1 node" if nodes == 1 else f"{nodes} nodes"
    name = result.fabric.topology.name
    return f"{name}: {result.op} over {result.ranks} GPUs on {where}, NCCL {result.nccl}"


def meaning_of(op: str) -> str:
    """What the bytes of an operation count."""
    return {
        "all_gather": "all shards together", "reduce_scatter": "all shards together",
        "all_to_all": "what one GPU sends", "send_recv": "what one GPU sends",
    }.get(op, "the buffer")  # fmt: skip


def _notes(result: Sweep) -> list[str]:
    best = max(result.costs, key=lambda cost: cost.busbw_bytes_per_s)
    factor = bus_factor(result.op, result.ranks)
    return [
        f"algbw, busbw, limit in GB/s (1e9). size: {meaning_of(result.op)}. "
        f"busbw = algbw x {factor:.4g}.",
        "limit*: busbw if the tightest link ran at its data-sheet rate. ch: channels = SMs held.",
        f"best: {best.busbw_bytes_per_s / 1e9:.1f} GB/s of {best.limit_busbw_bytes_per_s / 1e9:.1f}"
        f" ({best.algorithm}, {best.protocol}).",
    ]


def to_dict(result: Sweep) -> dict[str, object]:
    """The sweep as JSON holds it, SI units."""
    return {
        "schema": "scaling-sim/collective/1",
        "topology": result.fabric.topology.name,
        "op": result.op,
        "ranks": result.ranks,
        "nccl": result.nccl,
        "rows": [
            {
                "size_bytes": int(c.work),
                "time_s": _digits(c.time_s),
                "latency_s": _digits(c.latency_s),
                "algbw_bytes_per_s": _digits(c.algbw_bytes_per_s),
                "busbw_bytes_per_s": _digits(c.busbw_bytes_per_s),
                "limit_busbw_bytes_per_s": _digits(c.limit_busbw_bytes_per_s),
                "algorithm": c.algorithm,
                "protocol": c.protocol,
                "channels": c.channels,
                "limit": c.limit,
            }
            for c in result.costs
        ],
    }


def _digits(value: float) -> float:
    return float(f"{value:.12g}")
