"""Conventions of sources of a few rows each, as in `measured_sources`."""

from __future__ import annotations

from typing import Any

from measured_rows import GB, GIB, NVLINK3, Record, Row, number, record


def small(row: Row) -> Record | None:
    """torchao's trios and the single figures of other projects."""
    source = row["source"].split()[0]
    for name, convert in _SMALL.items():
        if source.endswith(name):
            return convert(row)
    return None


_CAPPED = ["node.gpu=h100-hbm2e-96gb"]


_AC = {
    "none": "none", "full": "full", "selective (every 2nd layer)": {"selective": 2},
    "selective (per-op SAC)": {"selective": "op"},
}  # fmt: skip


def _torchao(row: Row) -> Record | None:
    stated = row["model"] == "llama3-8b"
    text, compiled = row["precision"], row["compile"] == "yes"
    precision: Any = "bf16"
    if "rowwise" in text:
        precision = {"fp8": {"recipe": "rowwise"}}
    elif "float8" in text:
        gather = "fp8" if "float8 all-gather" in text else "bf16"
        precision = {"fp8": {"recipe": "tensorwise", "all_gather": gather}}
    if not compiled and precision != "bf16":
        return None  # hand-written kernels of a prototype
    return record(
        row, "torchao" if stated else "torchao-eager", "dgx-h100", _CAPPED,
        {
            "model": "llama-3-8b",
            "sequence_length": int(number(row, "seq_len")),
            "micro_batch": 1,
            "precision": precision,
            "parallelism": {"strategy": "fsdp2", "wrap": "torchtitan"},
            "activation_checkpointing": _AC[row["activation_checkpointing"]],
            "attention": "sdpa",
            "compile": compiled,
            "loss": "eager",  # torchtitan 0.0.2 compiles the layers alone
            "stack": {"torch": "2.7" if stated else "2.6", "cuda": "12.6", "nccl": "2.25"},
        },
        "complete" if stated else "incomplete",
        "H100 taken for torchtitan's, of HBM2e and 500 W"
        + ("" if stated else "; model and batch not stated, Llama 3 8B and 1 assumed"),
        # torchtitan prints max_reserved in GiB: 47.65 was 50.16 % of this part's 95 GiB
        tokens=number(row, "tokens_per_s_per_gpu"), memory=number(row, "mem_gb") * GIB,
    )  # fmt: skip


def _tinyllama(row: Row) -> Record:
    return record(
        row, "tinyllama", "dgx-a100", ["nodes=2", "node.gpu=a100-sxm-40gb"],
        {
            "model": "tinyllama-1.1b",
            "sequence_length": 2048,
            "micro_batch": 8,
            "gradient_accumulation": 4,
            "parallelism": {"strategy": "fsdp1", "reduce_dtype": "bf16", "gradient_sync": "last"},
            "activation_checkpointing": "none",
            "attention": "flash2",
            "fused_kernels": "all",
            "loss": "compiled",
            "stack": {"torch": "2.1", "cuda": "11.8", "nccl": "2.18"},
        },
        "incomplete", "prose; accumulation and network not stated",
        tokens=number(row, "tokens_per_s_per_gpu"),
    )  # fmt: skip


def _aws(row: Row) -> Record | None:
    if not row["model"].startswith("Llama 3.1 8B"):
        return None
    return record(
        row, "aws", "aws-p5", ["nodes=4"],
        {
            "model": "llama-3.1-8b",
            "sequence_length": 8192,
            "micro_batch": 1,
            "parallelism": {"strategy": "fsdp1", "reduce_dtype": "bf16"},
            "activation_checkpointing": "full",
            "attention": "sdpa",
            "stack": {"torch": "2.5", "cuda": "12.4", "nccl": "2.21"},
        },
        "incomplete", "first batches of a log, warm-up included",
        tokens=number(row, "tokens_per_s_per_gpu"),
    )  # fmt: skip


def _granite(row: Row) -> Record | None:
    if not row["row_id"].startswith("hf-ds-fsdp"):
        return None
    zero = "ZeRO" in row["strategy"]
    return record(
        row, "hf-blog", "a100-x1", ["node.gpus=4", *NVLINK3],
        {
            "model": "llama-2-7b",
            "sequence_length": 4096,
            "micro_batch": 8,
            "parallelism": (
                {"strategy": "zero3"} if zero else {"strategy": "fsdp1", "reduce_dtype": "bf16"}
            ),
            "activation_checkpointing": "full",
            "attention": "flash2",
            "stack": {"torch": "2.3", "cuda": "12.1", "nccl": "2.20"},
        },
        "incomplete", "sequence, batch, GPU and checkpointing presumed",
        tokens=number(row, "tokens_per_s_per_gpu"),
    )  # fmt: skip


def _llm_c(row: Row) -> Record | None:
    sizes = {"run_gpt2_350M.sh": "gpt2-medium", "run_gpt2_774M.sh": "gpt2-large",
             "run_gpt2_1558M.sh": "gpt2-xl", "run_gpt2_124M.sh": "gpt2"}  # fmt: skip
    model = sizes.get(row["row_id"])
    if model is None:
        return None
    return record(
        row, "llm.c", "dgx-h100" if row["gpu"].startswith("H100") else "dgx-a100",
        [] if row["gpu"].startswith("H100") else ["node.gpu=a100-sxm-80gb"],
        {
            "model": {"base": model, "vocab_size": 50304},
            "sequence_length": 1024,
            "micro_batch": int(number(row, "micro_batch_per_gpu")),
            "gradient_accumulation": int(number(row, "grad_accum")),
            "precision": "bf16",
            "parallelism": {"strategy": "zero1"},
            "attention": "cudnn",
            "compile": True,
            "loss": "compiled",
            "stack": {"torch": "2.5", "cuda": "12.4", "nccl": "2.21"},
        },
        "incomplete",
        "C and CUDA, no PyTorch; vocabulary padded to 50,304; rounded comments of a script",
        tokens=number(row, "tokens_per_s_per_gpu"),
    )  # fmt: skip


_SMALL = {
    "/ao": _torchao, "TinyLlama": _tinyllama, "awsome-distributed-training": _aws,
    "huggingface/blog": _granite, "llm.c": _llm_c,
}  # fmt: skip


def falcon() -> list[Record]:
    """deepspeedai/DeepSpeed#3901: Falcon-7B, 8 A100-40GB; batch not stated, 2 assumed.

    With 2 x 4,096 tokens FSDP's time and memory and ZeRO-3's time agree, with 1 the times are half.
    Against it: ZeRO-3's memory is 25 % low (that of 4, which take twice the time), and the two
    offloaded rows are 2.2 and 2.6 times as fast as measured.
    """
    rows, zero3 = [], {"strategy": "zero3", "deepspeed_version": "0.9.5"}
    for name, seconds, memory, keys in (
        ("fsdp", 2.93, 23.8, {"strategy": "fsdp1", "reduce_dtype": "bf16"}),
        ("zero3", 2.86, 38.0, zero3),
        ("zero3-parameters-offloaded", 6.05, 0.0, zero3 | {"offload": "parameters"}),
        ("zero3-all-offloaded", 13.70, 0.0, zero3 | {"offload": "all"}),
    ):
        row = {"row_id": name, "n_gpus": "8", "source": "deepspeedai/DeepSpeed#3901"}
        work = {
            "model": "falcon-7b",
            "sequence_length": 4096,
            "micro_batch": 2,
            "parallelism": keys,
            "activation_checkpointing": "full",
            "attention": "sdpa",
            "stack": {"torch": "2.0", "cuda": "11.8", "nccl": "2.14"},
        }
        rows.append(
            record(row, "deepspeed-3901", "dgx-a100", ["node.gpu=a100-sxm-40gb"], work,
                   "incomplete", "batch, checkpointing and attention not stated, 2 x 4,096 assumed",
                   tokens=2 * 4096 / seconds, memory=memory * GB)
        )  # fmt: skip
    return rows
