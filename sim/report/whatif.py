"""What a collective gives on many variants of a machine, in one table."""

from __future__ import annotations

from sim.report.collectives import CSV_COLUMNS, meaning_of, row_of
from sim.study.collectives import CollectiveVariants


def rendered(found: CollectiveVariants, form: str) -> str:
    """Text in one of the formats table, csv, json, md; one line for each variant and size."""
    if form == "json":
        return found.to_json()
    lines = [
        (values, s, cost)
        for values, s in zip(found.values, found.sweeps, strict=True)
        for cost in s.costs
    ]
    if form == "csv":
        head = [*found.keys, *CSV_COLUMNS]
        cells = [[*(f'"{v}"' if "," in v else v for v in vs), *row_of(c)] for vs, _, c in lines]
        return "\n".join(",".join(row) for row in [head, *cells])
    head = [*found.keys, "GPUs", "size (B)", "time (us)", "busbw", "limit*", "algorithm",
            "held back by"]  # fmt: skip
    table = []
    for values, s, cost in lines:
        size, time, _, bus, algorithm, _, _, limit = row_of(cost)
        wire = f"{cost.limit_busbw_bytes_per_s / 1e9:.1f}"
        table.append([*values, str(s.ranks), size, time, bus, wire, algorithm, limit])
    numbers = range(len(found.keys), len(found.keys) + 5)
    if form == "md":
        rule = ["---:" if i in numbers else "---" for i in range(len(head))]
        return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *table])
    widths = [max(len(row[i]) for row in [head, *table]) for i in range(len(head))]
    text = [
        "  ".join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *table]
    ]
    first = found.sweeps[0]
    title = f"{first.fabric.topology.name}: {first.op}, NCCL {first.nccl}"
    note = (
        f"busbw, limit in GB/s (1e9). size: {meaning_of(first.op)}. "
        "limit*: busbw if the tightest link ran at its data-sheet rate."
    )
    return "\n".join([title, "", *text, "", note])
