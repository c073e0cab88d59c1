"""The table nccl-tests prints, for a machine that may not exist, and why it reads as it does."""

from __future__ import annotations

from sim.cost.collectives import CollectiveCost, bus_factor
from sim.study.collectives import CollectiveSweep

CSV_COLUMNS = (
    "size_bytes", "time_us", "algbw_gb_per_s", "busbw_gb_per_s", "algorithm", "protocol",
    "channels", "limit",
)  # fmt: skip


def row_of(cost: CollectiveCost) -> tuple[str, ...]:
    """Cells of `CSV_COLUMNS`."""
    return (
        str(int(cost.work)), f"{cost.time_s * 1e6:.2f}", f"{cost.algbw_bytes_per_s / 1e9:.2f}",
        f"{cost.busbw_bytes_per_s / 1e9:.2f}", cost.algorithm, cost.protocol, str(cost.channels),
        cost.limit,
    )  # fmt: skip


def rendered(result: CollectiveSweep, form: str) -> str:
    """Text in one of the formats table, csv, json, md."""
    if form == "csv":
        return "\n".join([",".join(CSV_COLUMNS), *(",".join(row_of(c)) for c in result.costs)])
    if form == "json":
        return result.to_json()
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


def _title(result: CollectiveSweep) -> str:
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


def _notes(result: CollectiveSweep) -> list[str]:
    best = max(result.costs, key=lambda cost: cost.busbw_bytes_per_s)
    factor = bus_factor(result.op, result.ranks)
    return [
        f"algbw, busbw, limit in GB/s (1e9). size: {meaning_of(result.op)}. "
        f"busbw = algbw x {factor:.4g}.",
        "limit*: busbw if the tightest link ran at its data-sheet rate. ch: channels = SMs held.",
        f"best: {best.busbw_bytes_per_s / 1e9:.1f} GB/s of {best.limit_busbw_bytes_per_s / 1e9:.1f}"
        f" ({best.algorithm}, {best.protocol}).",
    ]
