"""A row of a published table as a record of `training.jsonl`, for the conventions of sources."""

from __future__ import annotations

from typing import Any

Row = dict[str, str]
Record = dict[str, Any]
GIB = 2.0**30
GB = 1e9
LLAMA2 = {"llama2-7b": "llama-2-7b", "llama2-13b": "llama-2-13b", "llama2-70b": "llama-2-70b"}
ROCE_4X100 = ["node.nics.count=4", "node.nics.rate=100 Gb/s", "node.nics.kind=roce",
              "node.pcie.nics_per_switch=1"]  # fmt: skip


def record(row: Row, group: str, topology: str, sets: list[str], workload: Record, status: str,
           note: str, *, tokens: float | None = None, memory: float | None = None,
           figure: str = "reserved") -> Record:  # fmt: skip
    """One line of the table."""
    out: Record = {
        "id": f"{group}:{row['row_id']}",
        "source": row["source"],
        "topology": topology,
        "sets": sets,
        "workload": {"name": f"{group}-{row['row_id']}".lower().replace(" ", "-"), **workload},
        "gpus": int(float(row["n_gpus"])),
        "status": status,
        "note": note,
    }
    if tokens:
        out["tokens_per_s_per_gpu"] = round(tokens, 2)
    if memory:
        out["memory_bytes"] = memory
        out["memory_figure"] = figure
    return out


def number(row: Row, key: str) -> float:
    """A cell as a number; 0 where it is empty."""
    return float(row[key]) if row[key] else 0.0


NVLINK3 = [
    "node.nvlink.generation=3",
    "node.nvlink.links_per_gpu=12",
    "node.nvlink.fabric=nvswitch",
]


FSDP1 = {
    "strategy": "fsdp1", "reduce_dtype": "bf16", "backward_prefetch": "pre",
    "gradient_sync": "last",
}  # fmt: skip
