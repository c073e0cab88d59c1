"""Carry recordings of a device mesh (shared/mesh) over into the terms of this project.

python scripts/carry_mesh_recordings.py ../shared/mesh tests/data/mesh_recordings.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COLLECTIVES = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all")
GROUPS = {"dp_shard": "shard", "dp_replicate": "replicate", "tp": "tensor", "cp": "context"}
CHECKPOINTING = {"full": "full", "sel": "selective-op"}
SOURCE = (
    "Recorded by running torch 2.13's parallelize_module and fully_shard on a fake process group "
    "(shared/mesh, index.json), carried over into the terms of this project: each op is "
    '"collective phase group dtype bytes-in bytes-out", bytes per rank'
)


def carried(recording: dict[str, Any]) -> dict[str, Any] | None:
    """A recording as a job of ours and the collectives it issued; None for one left out."""
    config = recording["config"]
    if config["kind"] != "tp" or not config.get("fsdp") or config.get("plan"):
        return None
    sizes = config["model_cfg"]
    return {
        "model": {
            "name": config["model"], "layers": sizes["layers"], "hidden_size": sizes["dim"],
            "heads": sizes["heads"], "kv_heads": sizes["kv"],
            "head_dim": sizes["dim"] // sizes["heads"], "ffn_size": sizes["ffn"],
            "vocab_size": sizes["vocab"],
        },
        "world": config["ws"],
        "sequence_length": config.get("seq", 16),
        "micro_batch": config.get("bs", 1),
        "gradient_accumulation": config.get("accum", 1),
        "parallelism": {
            "wrap": "torchtitan",
            "tensor_parallel": config["tp"],
            "sequence_parallel": config.get("sp", True),
            "loss_parallel": config.get("lp", True),
            "replicate": config.get("replicate", 1),
            "gradient_sync": "last" if config.get("nosync") else "every",
            "reshard_after_forward": config.get("raf", True),
        },
        "checkpointing": CHECKPOINTING.get(config.get("ac"), "none"),
        "ops": [
            f"{e['op']} {e['phase']} {GROUPS[e['group']]} {e['dtype']} "
            f"{e['bytes_in']} {e['bytes_out']}"
            for e in recording["events"]
            if e.get("op") in COLLECTIVES
        ],
    }  # fmt: skip


def main(shared: Path, out: Path) -> None:
    """Write every recording whose rules are modelled."""
    found = {}
    for path in sorted((shared / "traces").glob("*.json")):
        kept = carried(json.loads(path.read_text(encoding="utf-8")))
        if kept is not None:
            found[path.stem] = kept
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(r)}" for name, r in found.items())
    text = f'{{"source": {json.dumps(SOURCE)}, "recordings": {{\n{lines}\n}}}}\n'
    out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
