"""Carry recordings of a device mesh (shared/mesh) over into the terms of this project.

python scripts/carry_mesh_recordings.py ../shared/mesh tests/data/mesh_recordings.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

COLLECTIVES = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all")
GROUPS = {
    "dp_shard": "shard", "dp_replicate": "replicate", "tp": "tensor", "cp": "context",
    "dp_shard_cp": "shard", "fsdp": "shard", "efsdp": "expert-shard", "ep": "expert",
}  # fmt: skip
CHECKPOINTING = {"full": "full", "sel": "selective-op"}
PHASES = {"idle": "forward"}  # issued by a loss in chunks before the first
STYLES = {"titan": "dtensor", "naive": "dtensor-per-linear"}
ROTATIONS = {"allgather": "all-gather", "alltoall": "all-to-all"}
SCHEDULES = {
    "GPipe": "gpipe", "1F1B": "1f1b", "Interleaved1F1B": "interleaved-1f1b",
    "LoopedBFS": "looped-bfs", "InterleavedZeroBubble": "interleaved-zero-bubble",
    "ZBVZeroBubble": "zbv", "DualPipeV": "dualpipev",
}  # fmt: skip
SOURCE = (
    "Recorded by running torch 2.13's parallelize_module, context_parallel, pipelining and "
    "fully_shard, and torchtitan, on a fake process group (shared/mesh, index.json), carried over "
    'into the terms of this project: each op is "collective phase group dtype bytes-in bytes-out", '
    "bytes per rank"
)


def carried(recording: dict[str, Any]) -> dict[str, Any] | None:
    """A run of torch's plans as a job of ours and what it issued; None for one left out."""
    config = recording["config"]
    if config["kind"] not in ("tp", "cp"):
        return None
    whole = bool(config.get("fsdp")) or config["kind"] == "tp"
    found = {
        "model": model_of(config, config["model_cfg"]),
        "world": config["ws"],
        "sequence_length": config.get("seq", 64 if config["kind"] == "cp" else 16),
        "micro_batch": config.get("bs", 1),
        "gradient_accumulation": config.get("accum", 1),
        "parallelism": {
            "wrap": "torchtitan",
            "tensor_parallel": config.get("tp", 1),
            "sequence_parallel": config.get("sp", True),
            "tensor_parallel_style": STYLES[config.get("plan", "titan")],
            "loss_parallel": config.get("lp", config["kind"] == "tp"),
            "context_parallel": config.get("cp", 1),
            "context_parallel_rotation": ROTATIONS[config.get("rotate", "allgather")],
            "context_parallel_load_balance": config.get("lb", True),
            "replicate": config.get("replicate", 1),
            "gradient_sync": "last" if config.get("nosync") else "every",
            "reshard_after_forward": config.get("raf", True),
            "clip_gradients": config["kind"] == "tp",
        },
        "checkpointing": CHECKPOINTING.get(config.get("ac"), "none"),
        "attention": "sdpa",
        # without FSDP bf16 weights, as nobody casts them
        "master": "fp32" if config.get("fsdp") or config["kind"] == "cp" else "bf16",
        "ops": ops_of(recording["events"]),
    }
    return found if whole else found | {"only": "context"}  # recorded without FSDP


def titan(recording: dict[str, Any]) -> dict[str, Any] | None:
    """A run of torchtitan's own models as a job of ours; None for another recording.

    Torch 2.13's FSDP cannot read the annotations that make it sum norms' gradients.
    """
    config = recording["config"]
    if config["kind"] != "titan":
        return None
    model, plain = titan_model(config), config.get("backend") == "spmd_types"
    partial = (
        f"all_reduce backward tensor bf16 {2 * model['hidden_size']} {2 * model['hidden_size']}"
    )
    return {
        "model": model,
        "world": config["ws"],
        "sequence_length": config["tokens_local"] * config.get("cp", 1),
        "micro_batch": 1,
        "gradient_accumulation": config.get("accum", 1),
        "parallelism": {
            "wrap": "torchtitan",
            "tensor_parallel": config.get("tp", 1),
            "sequence_parallel": config.get("sp", True),
            "context_parallel": config.get("cp", 1),
            "context_parallel_kind": "all-gather",
            "expert_parallel": config.get("ep", 1),
            "replicate": config.get("replicate", 1),
            "clip_gradients": False,
        },
        "checkpointing": CHECKPOINTING.get(config.get("ac"), "none"),
        "loss_chunks": config.get("chunked", 0),
        "ops": ops_of(recording["events"]),
    } | ({"missing": partial} if plain and config.get("sp", True) else {})


def titan_model(config: dict[str, Any]) -> dict[str, Any]:
    """A model of torchtitan's families in our words; defaults as its recorder has them."""
    given = config.get("cfg", {})

    def size(key: str, default: int) -> int:
        return int(given.get(key, default))

    heads, dim = size("heads", 8), size("dim", 64)
    found = {
        "name": config["model"], "layers": size("layers", 2), "hidden_size": dim,
        "heads": heads, "kv_heads": size("kv", 4), "head_dim": size("hd", dim // heads),
        "ffn_size": size("ffn", 192), "vocab_size": size("vocab", 512),
    }  # fmt: skip
    if config["model"] == "llama":
        return found
    found |= {
        "head_dim": size("hd", 16), "qk_norm": True, "experts": size("experts", 8),
        "experts_per_token": size("topk", 2), "expert_ffn_size": size("moe_ffn", 48),
    }  # fmt: skip
    if config["model"] == "qwen3moe":
        return found
    turned = size("rope", 8)
    return found | {
        "kv_heads": heads, "head_dim": size("nope", 16) + turned, "rope_head_dim": turned,
        "v_head_dim": size("vd", 16), "kv_lora_rank": size("kv_lora", 32),
        "q_lora_rank": size("q_lora", 0), "qk_norm": False, "ffn_size": size("dense_ffn", 192),
        "shared_experts": size("shared", 1), "dense_layers": size("dense", 1),
    }  # fmt: skip


def ops_of(events: list[dict[str, Any]]) -> list[str]:
    """Collectives of a rank in order."""
    return [
        f"{operation(e)} {PHASES.get(e['phase'], e['phase'])} {group_of(e)} {e['dtype']} "
        f"{e['bytes_in']} {e['bytes_out']}"
        for e in events
        if e.get("op") in COLLECTIVES
    ]


def operation(event: dict[str, Any]) -> str:
    """The collective; an all-to-all that has one peer is a send and a receive."""
    splits = event.get("splits")
    one = splits and all(s["max"] == s["sum"] for s in splits)
    return "send_recv" if one and event["group"] == "cp" else event["op"]


def group_of(event: dict[str, Any]) -> str:
    """The group of a collective; one over all ranks is known by what runs on it."""
    if event["group"] == "ep+fsdp(world)":
        return "expert" if event["op"] == "all_to_all" else "shard"
    return GROUPS[event["group"]]


def pipeline(recording: dict[str, Any]) -> dict[str, Any] | None:
    """A run of a pipeline as a job of ours and what each rank issued; None for one left out.

    None has an optimizer; without FSDP nobody has summed the norms' gradients before it.
    """
    config = recording["config"]
    if config["kind"] != "pp_run":
        return None
    model, tp = model_of(config, config["model_cfg"]), config.get("tp", 1)
    found = {
        "model": model,
        "world": config["pp"] * config.get("dp", 1) * tp,
        "sequence_length": config.get("seq", 16),
        "micro_batch": config.get("bs", 1),
        "gradient_accumulation": config["mb"],
        "parallelism": {
            "wrap": "torchtitan",
            "tensor_parallel": tp,
            "sequence_parallel": config.get("sp", True),
            "loss_parallel": config.get("lp", False),
            "pipeline_parallel": config["pp"],
            "pipeline_schedule": SCHEDULES[config["schedule"]],
            "virtual_stages": config.get("v"),
            "pipeline_defer_receives": "defer" in config["name"],
            "pipeline_reshard_after_forward": config.get("raf", False),
            "clip_gradients": False,
        },
        "checkpointing": CHECKPOINTING.get(config.get("ac"), "none"),
        "ops": {rank: pipeline_ops(events) for rank, events in recording["events"].items()},
    }
    if tp > 1 and config.get("sp", True) and "dp" not in config:
        size = 4 * model["hidden_size"]
        found["missing"] = f"all_reduce tensor fp32 {size} {size}"
    return found


def pipeline_ops(events: list[dict[str, Any]]) -> list[str]:
    """Messages and collectives of a rank in order; a coalesced batch is one."""
    found: list[str] = []
    batch: list[dict[str, Any]] | None = None
    for e in events:
        op = e.get("op")
        if op == "batch_begin":
            batch = []
        elif op == "batch_end":
            assert batch is not None
            found.append(f"{' '.join(x['op'] for x in batch)} {batch[0]['bytes_in']}")
            batch = None
        elif op in ("send", "recv") and batch is not None:
            batch.append(e)
        elif op in ("send", "recv"):
            found.append(f"{op} {e['bytes_in']}")
        elif op in COLLECTIVES:
            group = group_of(e)
            found.append(f"{op} {group} {e['dtype']} {e['bytes_in']} {e['bytes_out']}")
    return found


def kept(recording: dict[str, Any]) -> dict[str, Any] | None:
    """What autograd of each pipeline rank keeps after every action, in bytes."""
    config = recording["config"]
    if config["kind"] != "pp_mem":
        return None
    sizes = {"dim": 64, "layers": config["layers"], "heads": 8, "kv": 4, "ffn": 192, "vocab": 512}
    return {
        "model": model_of(config, sizes),
        "world": config["pp"],
        "sequence_length": 16,
        "micro_batch": 1,
        "gradient_accumulation": config["mb"],
        "parallelism": {
            "wrap": "torchtitan",
            "pipeline_parallel": config["pp"],
            "pipeline_schedule": SCHEDULES[config["schedule"]],
            "virtual_stages": config["v"],
        },
        "checkpointing": "none",
        "after": {
            rank: " ".join(f"{action}:{size}" for action, size in own["after_each_action"])
            for rank, own in recording["ranks"].items()
        },
    }


def in_flight(shared: Path) -> dict[str, Any]:
    """Most micro-batches of its stages that each rank keeps until their weight gradients."""
    counted = json.loads((shared / "mem" / "inflight.json").read_text(encoding="utf-8"))
    return {
        name: {rank: most for rank, (most, _) in ranks.items()}
        for name, ranks in counted["tables"].items()
    }


def table(recording: dict[str, Any]) -> dict[str, Any] | None:
    """The table of a schedule: what each rank computes, and what the runtime executes."""
    config = recording["config"]
    # torch's own table of 1F1B is not what it runs
    if config["kind"] != "pp_table" or config["schedule"] == "1F1B":
        return None
    return {
        "schedule": SCHEDULES[config["schedule"]],
        "shape": [config["pp"], config["mb"], config["v"]],
        "computed": {
            rank: " ".join(a for a in row.split() if a != "." and "REDUCE" not in a)
            for rank, row in recording["compute"].items()
        },
        "executed": recording.get("with_comms", {}),
        "deferred": digest(recording.get("with_comms_defer_pp_recv", {})),
    }


def digest(rows: dict[str, str]) -> str:
    """Of what each rank executes, where a table is nearly another one."""
    text = "\n".join(f"{rank} {row}" for rank, row in sorted(rows.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16] if rows else ""


def model_of(config: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """A recorded model's shape in our words."""
    return {
        "name": config["model"], "layers": sizes["layers"], "hidden_size": sizes["dim"],
        "heads": sizes["heads"], "kv_heads": sizes["kv"],
        "head_dim": sizes["dim"] // sizes["heads"], "ffn_size": sizes["ffn"],
        "vocab_size": sizes["vocab"],
    }  # fmt: skip


def main(shared: Path, out: Path) -> None:
    """Write every recording whose rules are modelled."""
    most = in_flight(shared)
    for name, carry in (
        ("mesh_recordings", carried), ("titan_recordings", titan),
        ("pipeline_recordings", pipeline),
        ("pipeline_tables", table), ("pipeline_memory", kept),
    ):  # fmt: skip
        found = {}
        for path in sorted((shared / "traces").glob("*.json")):
            run = carry(json.loads(path.read_text(encoding="utf-8")))
            if run is not None:
                found[path.stem] = run
                if carry is table:
                    run["in_flight"] = most[path.stem]
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(r)}" for key, r in found.items())
        text = f'{{"source": {json.dumps(SOURCE)}, "recordings": {{\n{lines}\n}}}}\n'
        (out / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
