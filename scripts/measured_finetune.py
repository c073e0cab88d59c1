"""Conventions of published fine-tuning runs beside `finetune.csv`, as in `measured_sources`."""

from __future__ import annotations

from typing import Any

from measured_rows import FSDP1, GB, GIB, NVLINK3, Record, Row, number, record

_PURE = {"bf16": {"master": "bf16"}}


def fms_acceleration(row: Row) -> Record:
    """Mistral 7B with the Hugging Face Trainer, eager (fw=none) and with fms-acceleration."""
    gpus = int(row["n_gpus"])
    notes = dict(part.strip().partition("=")[::2] for part in row["notes"].split(";"))
    framework, quantised = notes["fw"], notes["quant"]
    fused = "foak" in framework
    lora: Record = {"rank": 16, "targets": ["q", "k", "v", "o"]}
    method: Any = "full"
    if row["method"] == "lora":
        method = {"lora": lora}
    elif quantised != "none":
        # its plugin for bitsandbytes leaves out PEFT's upcast, as TRL does under FSDP; adapters of
        # 4-bit layers it fuses
        kind: Record = {
            "bnb": {"quantization": "nf4"},
            "gptq": {"quantization": "gptq-int4", "gptq_kernels": "triton"},
        }[quantised]
        if framework == "baseline-peft-bnb" and gpus == 1:
            # TRL then casts embeddings and the head back to bf16
            kind |= {"prepare_kbit": True, "frozen_dtype": "bf16"}
        if fused:
            kind["adapters"] = "fused"
        method = {"qlora": {**lora, **kind}}
    precision: Any = _PURE
    if "amp" in row["precision"]:
        precision = row["precision"].split()[0]
    half = "fp16" if precision == "fp16" else "bf16"
    parallelism: Record = {"strategy": "ddp"}
    if gpus > 1:
        parallelism = {**FSDP1, "reduce_dtype": half, "checkpoint_wrapper": "outside",
                       **({} if method == "full" else {"wrap": "peft"})}  # fmt: skip
    return record(
        row, "fms-acceleration", "a100-x1", [f"node.gpus={gpus}", *(NVLINK3 if gpus > 1 else [])],
        {
            "model": "mistral-7b",
            "method": method,
            "sequence_length": int(row["seq_len"]),
            "micro_batch": int(row["micro_batch_per_gpu"]),
            "precision": precision,
            "parallelism": parallelism,
            "activation_checkpointing": {"full": {"reentrant": True}},
            "attention": "flash2",
            "fused_kernels": "norm+rope" if fused else "none",
            "loss": "huggingface-fused" if fused else "huggingface",
            "trainer": "huggingface",
            "optimizer_implementation": "foreach",
            "stack": {
                "torch": "2.4.1", "cuda": "12.1", "nccl": "2.20.5", "bitsandbytes": "0.43.3",
                "transformers": "4.48.1",
            },
        },
        "complete", framework if framework != "none" else "",
        tokens=number(row, "tokens_per_s_per_gpu"), memory=number(row, "mem_gb") * GIB,
        figure="allocated",
    )  # fmt: skip


#: from 0.6 to 0.11 PEFT gave adapters the dtype of the layer beside them
_OLD_PEFT = {"adapter_dtype": "as-compute"}


def vectorlm(row: Row) -> Record:
    """Llama 3 8B, a trainer of its own on FSDP1 and PEFT; the best of micro-batches 2, 4, 8."""
    gpus = int(row["n_gpus"])
    lora = row["method"] == "lora"
    return record(
        row, "vectorlm", "a100-x1", [f"node.gpus={gpus}", *(NVLINK3 if gpus > 1 else [])],
        {
            "model": "llama-3-8b",
            "method": {"lora": {"rank": 8, "targets": ["q", "v"], "dropout": 0.1, **_OLD_PEFT}}
            if lora else "full",
            "sequence_length": int(row["seq_len"]),
            "micro_batch": int(row["micro_batch_per_gpu"]),
            "gradient_accumulation": int(row["grad_accum"]),
            "precision": _PURE,
            "parallelism": {**FSDP1, "forward_prefetch": 1, "use_orig_params": False,
                            "checkpoint_wrapper": "inside", **({"wrap": "peft"} if lora else {})},
            "activation_checkpointing": "full",
            "attention": "flash2",
            "loss": "huggingface",
            "optimizer_implementation": "foreach",
            "stack": {"torch": "2.2.1", "cuda": "12.1", "nccl": "2.19.3"},
        },
        "complete", "NVLink of the node not stated, taken for granted",
        tokens=number(row, "tokens_per_s_per_gpu"),
    )  # fmt: skip


def ms_swift(row: Row) -> Record:
    """Qwen2.5 14B with the Hugging Face Trainer and DeepSpeed, nothing overlapped."""
    zero = "zero3" if "ZeRO-3" in row["strategy"] else "zero2"
    buckets: Record = {"reduce_bucket_size": 200_000_000, "allgather_bucket_size": 200_000_000}
    if zero == "zero3":
        buckets = {"reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
                   "stage3_param_persistence_threshold": "auto"}  # fmt: skip
    return record(
        row, "ms-swift", "dgx-a100", ["node.gpu=a800-sxm-80gb", "node.nvlink.links_per_gpu=8"],
        {
            "model": "qwen2.5-14b",
            "sequence_length": int(row["seq_len"]),
            "micro_batch": int(row["micro_batch_per_gpu"]),
            "gradient_accumulation": int(row["grad_accum"]),
            "parallelism": {"strategy": zero, "overlap_comm": False, **buckets},
            "activation_checkpointing": {"full": {"reentrant": True}},
            "attention": "flash2",
            "loss": "huggingface",
        },
        "incomplete", "versions not stated; memory rounded",
        tokens=number(row, "tokens_per_s_per_gpu"), memory=number(row, "mem_gb") * GB,
        figure="device",
    )  # fmt: skip


def asked() -> list[Record]:
    """Jobs that ran out of memory, as people asked about them."""
    pure: Record = {"sequence_length": 4096, "activation_checkpointing": "full"}
    rows = []
    for source, topology, sets, work, note in (
        (
            "meta-llama/llama-cookbook#413",
            "a100-x1",
            [],
            {"model": "llama-2-7b"},
            "full fine-tuning on one A100-80GB",
        ),
        (
            "meta-llama/llama-cookbook#100",
            "l40s-8",
            ["node.gpu=rtx-3090-24gb"],
            {"model": "llama-2-7b", "parallelism": {"strategy": "fsdp1", "reduce_dtype": "bf16"}},
            "8 x RTX 3090, inside FSDP()",
        ),
        (
            "epfLLM/Megatron-LLM#52",
            "dgx-a100",
            [],
            {"model": "llama-2-70b", "parallelism": {"strategy": "fsdp1", "reduce_dtype": "bf16"}},
            "70B on 8 x A100-80GB: 32 are the least",
        ),
    ):
        row = {"row_id": source.split("/")[1], "n_gpus": "1" if topology == "a100-x1" else "8",
               "source": source}  # fmt: skip
        found = record(row, "asked", topology, sets, {**pure, **work}, "incomplete", note)
        rows.append({**found, "ran": False})
    return rows


#: fine-tuning as people run it, beside the table of `finetune.csv`
FINETUNE = {
    "fms_acceleration.csv": fms_acceleration, "vectorlm.csv": vectorlm, "ms_swift.csv": ms_swift,
}  # fmt: skip
