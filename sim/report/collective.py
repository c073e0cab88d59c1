"""The table nccl-tests prints, for a machine that may not exist or for variants of it."""

from __future__ import annotations

from sim.cost.collectives import bus_factor
from sim.quantities import counted
from sim.report.view import Cell, Column, Lines, Row, Table, View, left
from sim.study.collectives import CollectiveSweep, CollectiveVariants, SizeCost

_LIMIT = "limit*: busbw if the tightest link ran at its data-sheet rate."


def view(found: CollectiveSweep | CollectiveVariants) -> View:
    """What `scaling-sim collective` says."""
    return _sizes(found) if isinstance(found, CollectiveSweep) else _variants(found)


def _sizes(found: CollectiveSweep) -> View:
    columns = [
        *map(Column, ("size (B)", "time (us)", "algbw", "busbw", "limit*")),
        left("algorithm"), left("protocol"), Column("ch"), left("held back by"),
    ]  # fmt: skip
    rows: list[Row] = [
        [
            _size(c), _time(c), _rate(c.algbw_bytes_per_s), _rate(c.busbw_bytes_per_s), _wire(c),
            c.algorithm, c.protocol, Cell(str(c.channels), c.channels), c.limit,
        ]
        for c in found.costs
    ]  # fmt: skip
    where = counted(found.nodes, "node")
    title = (
        f"{found.topology}: {found.op} over {counted(found.ranks, 'GPU')} on {where}, "
        f"NCCL {found.nccl}"
    )
    best = max(found.costs, key=lambda cost: cost.busbw_bytes_per_s)
    factor = bus_factor(found.op, found.ranks)
    lines = [
        f"algbw, busbw, limit in GB/s (1e9). size: {_meaning(found.op)}. "
        f"busbw = algbw x {factor:.4g}.",
        f"{_LIMIT} ch: channels = SMs held.",
        f"best: {best.busbw_bytes_per_s / 1e9:.1f} GB/s of {best.limit_busbw_bytes_per_s / 1e9:.1f}"
        f" ({best.algorithm}, {best.protocol}).",
        *_doubt(found, best.busbw_bytes_per_s),
    ]
    return View(title, [Table(columns, rows, indent=0), Lines(lines, indent=0)], found)


def _doubt(found: CollectiveSweep, best: float) -> list[str]:
    """How far rates through host memory differ among machines that look alike."""
    low, high = found.staging
    if low == high:
        return []
    rates = f"{low * best / 1e9:.1f} to {high * best / 1e9:.1f} GB/s at best (80 %)"
    return [f"its GPUs meet in host memory, which machines like it differ in: {rates}."]


def _variants(found: CollectiveVariants) -> View:
    columns = [
        *map(left, found.keys),
        *map(Column, ("GPUs", "size (B)", "time (us)", "busbw", "limit*")),
        left("algorithm"), left("held back by"),
    ]  # fmt: skip
    rows: list[Row] = [
        [
            *values, Cell(str(sweep.ranks), sweep.ranks), _size(c), _time(c),
            _rate(c.busbw_bytes_per_s), _wire(c), c.algorithm, c.limit,
        ]
        for values, sweep in zip(found.values, found.sweeps, strict=True)
        for c in sweep.costs
    ]  # fmt: skip
    first = found.sweeps[0]
    title = f"{first.topology}: {first.op}, NCCL {first.nccl}"
    note = f"busbw, limit in GB/s (1e9). size: {_meaning(first.op)}. {_LIMIT}"
    return View(title, [Table(columns, rows, indent=0), Lines([note], indent=0)], found)


def _size(cost: SizeCost) -> Cell:
    return Cell(str(cost.size_bytes), float(cost.size_bytes), "B")


def _time(cost: SizeCost) -> Cell:
    return Cell(f"{cost.time_s * 1e6:.2f}", cost.time_s, "s")


def _rate(rate: float) -> Cell:
    return Cell(f"{rate / 1e9:.2f}", rate, "B/s")


def _wire(cost: SizeCost) -> Cell:
    rate = cost.limit_busbw_bytes_per_s
    return Cell(f"{rate / 1e9:.1f}", rate, "B/s")


def _meaning(op: str) -> str:
    """What the bytes of an operation count."""
    return {
        "all_gather": "all shards together", "reduce_scatter": "all shards together",
        "all_to_all": "what one GPU sends", "send_recv": "what one GPU sends",
    }.get(op, "the buffer")  # fmt: skip
