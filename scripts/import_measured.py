"""Carry published training measurements over into `sim/data/measured`.

    python scripts/import_measured.py FOLDER_OF_CSVS

Each row becomes what a user would write down: a topology, a workload, the figure, and whether the
source specifies the run completely. Conventions of llm-foundry stand below, of the other sources
in `measured_*.py`; those of the 1,101 rows of `finetune.csv`, in `finetune.toml`, of the
layouts of `mesh.csv`, in `mesh.toml`.
"""

import csv
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from measured_finetune import FINETUNE, asked
from measured_small import falcon
from measured_sources import OUT_OF_MEMORY, TABLES

MEASURED = Path(__file__).parents[1] / "sim" / "data" / "measured"
OUT = MEASURED / "training.jsonl"
FINETUNE_TABLE = MEASURED / "finetune.csv"  # what ran is in finetune.toml
MESH_TABLE = MEASURED / "mesh.csv"  # what ran is in mesh.toml

Convert = Callable[[dict[str, str]], "dict[str, object] | None"]

MPT = {
    "ffn": "gelu", "norm": "layernorm", "positions": "learned", "bias": True, "fused_qkv": True,
    "tied_embeddings": True,
}  # fmt: skip
COMPOSER = {
    "strategy": "fsdp1", "wrap": "block+root", "backward_prefetch": "pre",
    "limit_all_gathers": True, "gradient_sync": "every",
}  # fmt: skip
ANOMALIES = {
    ("mpt-30b", "8192"): "near memory capacity, 22-29 % slow in every edition",
    ("mpt-760m", "H100", "8"): "9 % slow beside its neighbours",
    "L208": "15-20 % below the same job in the 2023 edition",
    "L209": "15-20 % below the same job in the 2023 edition",
}


def llm_foundry(row: dict[str, str], edition: str) -> dict[str, object]:
    """MPT pretraining with Composer: FSDP1, DecoupledAdamW, clipping, triton attention."""
    d = int(row["d_model"])
    seq, n_gpus = int(row["seq_len"]), int(row["n_gpus"])
    hopper = row["gpu"].startswith("H100")
    pure = "MP mode=PURE" in row["notes"] or row["precision"] == "bf16"
    nodes = max(1, n_gpus // 8)
    old = edition == "2023"
    workload: dict[str, object] = {
        "name": f"{row['model']}-{seq}",
        "model": {
            "name": row["model"], "layers": int(row["n_layers"]), "hidden_size": d,
            "heads": int(row["n_heads"]), "kv_heads": int(row["n_heads"]),
            "head_dim": d // int(row["n_heads"]), "ffn_size": int(row["d_ff"]),
            "vocab_size": int(row["vocab"]), "max_positions": seq, **MPT,
        },
        "sequence_length": seq,
        "micro_batch": int(row["micro_batch_per_gpu"]),
        "gradient_accumulation": int(row["grad_accum"]),
        "precision": "bf16" if "fp8" not in row["precision"] else {"fp8": {"recipe": "te-delayed"}},
        "optimizer_implementation": "for-loop",
        "parallelism": {**COMPOSER, "reduce_dtype": "bf16" if pure else "fp32"},
        "activation_checkpointing": "full" if row["activation_checkpointing"] == "full" else "none",
        "attention": "triton",
        "loss": "compiled",  # flash-attn's cross-entropy
        "trainer": "composer",
        "train_metrics": 2,  # Composer: LanguageCrossEntropy and LanguagePerplexity
        "stack": {
            "torch": "1.13" if old else "2.1", "cuda": "11.7" if old else "12.1",
            "nccl": "2.14" if old else "2.18",
        },
    }  # fmt: skip
    if "fp8" in row["precision"]:
        workload["stack"]["transformer_engine"] = "1.0"  # type: ignore[index]
    anomaly = (
        ANOMALIES.get((row["model"], row["seq_len"]))
        or ANOMALIES.get((row["model"], row["gpu"][:4], row["n_gpus"]))
        or (ANOMALIES.get(row["row_id"]) if not old else None)
    )
    return {
        "id": f"llm-foundry{'-2023' if old else ''}:{row['row_id']}",
        "source": row["source"],
        "topology": "dgx-h100" if hopper else "oci-bm-gpu-a100-v2-8",
        "sets": [f"nodes={nodes}"],
        "workload": workload,
        "gpus": n_gpus,
        "tokens_per_s_per_gpu": float(row["tokens_per_s_per_gpu"]),
        "status": "anomaly" if anomaly else "complete",
        "note": anomaly or "",
    }


SOURCES = {
    "llm_foundry.csv": lambda row: llm_foundry(row, "head"),
    "llm_foundry_2023_a100.csv": lambda row: llm_foundry(row, "2023"),
    **TABLES,
}


FINETUNE_MODELS = {
    "llama2-70b": "llama-2-70b", "llama3.1-8b": "llama-3.1-8b", "mistral-7b-v0.1": "mistral-7b",
}  # fmt: skip
FINETUNE_GPUS = {
    "NVIDIA-A100-80GB-PCIe": "a100-pcie", "NVIDIA-H100-PCIe": "h100-pcie", "L40S": "l40s",
    "NVIDIA-A100-SXM4-80GB": "a100-sxm",
}  # fmt: skip
FINETUNE_FLAGS = {
    "avoid": "memory-edge", "pair": "pair-placement", "network slow": "network-slow",
    "network fast": "network-fast",
}  # fmt: skip


def finetune(row: dict[str, str]) -> dict[str, str]:
    """A run of LLMFineTuningBench in the columns of finetune.csv."""
    flags = [flag for start, flag in FINETUNE_FLAGS.items() if row["flag"].startswith(start)]
    return {
        "model": FINETUNE_MODELS.get(row["model_name"], row["model_name"]),
        "method": row["method"],
        "gpu": FINETUNE_GPUS[row["gpu_model"]],
        "length": row["tokens_per_sample"],
        "batch": row["batch_size"],
        "gpus": row["number_gpus"],
        "nodes": row["number_nodes"],
        "campaign": row["campaign"],
        "tokens_per_s": f"{float(row['tokens_per_second']):.2f}",
        "flag": flags[0] if row["flag"] else "",
    }


MESH = ("model", "nodes", "dp", "pp", "tp", "zero_stage", "micro_batch")


def layout(row: dict[str, str]) -> dict[str, str]:
    """A run of the Ultra-Scale Playbook in the columns of mesh.csv."""
    found = {name: row[name] for name in MESH}
    found["accumulation"] = row["grad_accum"]
    return found | {name: row[name] for name in ("tokens_per_s_per_gpu", "memory_gb", "ran")}


def _place(row: dict[str, str]) -> tuple[object, ...]:
    models = ("1B", "3B", "8B", "80B")
    counts = ("nodes", "pp", "tp", "zero_stage", "micro_batch")
    speed = row["tokens_per_s_per_gpu"]
    return (models.index(row["model"]), *(int(row[name]) for name in counts), speed)


def main(folder: Path) -> None:
    """Write all rows that a source's convention can express."""
    with (folder / "finetune.csv").open(encoding="utf-8", newline="") as file:
        _table(FINETUNE_TABLE, [finetune(row) for row in csv.DictReader(file)])
    with (folder / "mesh_h100.csv").open(encoding="utf-8", newline="") as file:
        _table(MESH_TABLE, sorted((layout(row) for row in csv.DictReader(file)), key=_place))
    _write(OUT, folder, SOURCES, falcon())
    _write(MEASURED / "finetune.jsonl", folder, FINETUNE, [])
    _write(MEASURED / "out_of_memory.jsonl", folder, OUT_OF_MEMORY, asked())


def _table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write(
    path: Path, folder: Path, sources: Mapping[str, Convert], more: list[dict[str, object]]
) -> None:
    with path.open("w", encoding="utf-8") as out:
        for name, convert in sources.items():
            with (folder / name).open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    found = convert(row)
                    if found is not None:
                        out.write(json.dumps(found) + "\n")
        for found in more:
            out.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
