"""Conventions of the published sources beside llm-foundry, one function a table.

Each turns a CSV row into a record of `training.jsonl`, or into None where the model has no word for
what ran (tensor or pipeline parallelism, adapters that are not LoRA, GPUs it does not know).
"""

from __future__ import annotations

from typing import Any

from measured_rows import GB, GIB, LLAMA2, NVLINK3, ROCE_4X100, Record, Row, number, record
from measured_small import small


def atorch(row: Row) -> Record | None:
    """Llama2-7B with FSDP1 and Transformers; tokens/s from the hardware TFLOPs that it prints.

    Its code counts a decoder layer's forward (attention in full), the logits once more, twice or
    (LoRA) once as much in backward, and the layers again for recompute.
    """
    if not row["strategy"].startswith("FSDP"):
        return None
    h, ffn, s, layers, vocab = 4096, 11008, 4096, 32, 32000
    layer = 8 * h * h + 4 * s * h + 6 * h * ffn
    forward = layers * layer + 2 * h * vocab
    lora = row["method"] == "lora"
    flops = forward * (2 if lora else 3) + layers * layer
    gpus = int(row["n_gpus"])
    # as transformers 4 loads weights where a script names no dtype; its peaks say so
    adapters = {"rank": 16, "targets": ["q", "k", "v", "o"], "frozen_dtype": "fp32"}
    return record(
        row, "atorch", "dgx-a100", [f"nodes={gpus // 8}", "node.gpu=a100-sxm-80gb",
        "node.nics.count=4", "node.nics.rate=200 Gb/s", "node.pcie.nics_per_switch=1"],
        {
            "model": "llama-2-7b",
            "method": {"lora": adapters} if lora else "full",
            "sequence_length": s,
            "micro_batch": 4,
            "parallelism": {"strategy": "fsdp1", "wrap": "block+root", "reduce_dtype": "bf16"},
            "activation_checkpointing": "full",
            "attention": "flash2",
            "fused_kernels": "norm",
            "optimizer_implementation": "foreach",
            "loss": "huggingface",
            "trainer": "accelerate",  # a loop of its own, which keeps the model's output
            # the printed peak is that of the last save: see docs/memory.md
            "checkpoint": {"mode": "full", "offload_to_cpu": False},
            "stack": {"torch": "2.0", "cuda": "11.8", "nccl": "2.14"},
        },
        "complete",
        "norms taken for fused (atorch replaces modules), 800 Gb/s for 4 x 200 Gb/s; "
        "tokens/s from hardware TFLOPs by its own formula",
        tokens=number(row, "tflops_per_gpu") * 1e12 / flops,
        memory=number(row, "mem_gb") * GIB, figure="allocated",
    )  # fmt: skip


def qwen(row: Row) -> Record | None:
    """Qwen-7B by its finetune scripts: batch 1, eight micro-steps an iteration, checkpointing."""
    base: Record = {
        "model": "qwen-7b",
        "sequence_length": int(row["seq_len"]),
        "micro_batch": 1,
        "gradient_accumulation": 8,
        "activation_checkpointing": {"full": {"reentrant": True}},
        "attention": "flash2",
        "fused_kernels": "norm",
        "optimizer_implementation": "foreach",
        "stack": {"torch": "2.0", "cuda": "11.7", "nccl": "2.14"},
    }
    tokens, memory = number(row, "tokens_per_s_per_gpu"), number(row, "mem_gb") * GB
    # finetune.py: LoRA 64 on c_attn, both c_proj, w1, w2; its norms are flash-attn's
    lora = {"rank": 64, "targets": "all-linear"}
    kind = row["row_id"].rsplit("-", 1)[0]
    rounded = "printed to 0.1 s an iteration" if number(row, "step_time_s") < 6 else ""
    if kind == "7B-LoRA":
        work = {**base, "method": {"lora": lora}, "parallelism": {"strategy": "ddp"}}
        return record(row, "qwen", "a100-x1", [], work, "complete", rounded, tokens=tokens,
                      memory=memory)  # fmt: skip
    if kind == "7B-Q-LoRA":
        method = {"qlora": {**lora, "quantization": "gptq-int4"}}
        work = {**base, "method": method, "precision": "fp16", "parallelism": {"strategy": "ddp"}}
        return record(row, "qwen-qlora", "a100-x1", [], work, "complete", rounded, tokens=tokens,
                      memory=memory)  # fmt: skip
    if kind == "7B-Full-parameter":
        work = {**base, "parallelism": {"strategy": "zero3", "deepspeed_version": "0.10.3"}}
        return record(row, "qwen-zero3", "a100-x1", ["node.gpus=2", *NVLINK3], work, "complete",
                      rounded, tokens=tokens, memory=memory)  # fmt: skip
    if kind == "7B-LoRA (multinode)":
        work = {**base, "method": {"lora": lora}, "parallelism": {"strategy": "zero2"}}
        network = ["node.nics.count=1", "node.nics.rate=25 Gb/s", "node.nics.kind=tcp"]
        return record(row, "qwen-multinode", "a100-x1", ["nodes=2", "node.gpus=2", *NVLINK3,
                      *network], work, "incomplete", "interconnect not stated, 25 Gb/s assumed",
                      tokens=tokens, memory=memory)  # fmt: skip
    return None


def internevo(row: Row) -> Record | None:
    """InternLM-7B, ZeRO-1 over all ranks (-1) or within a node (8), gradients overlapped."""
    if "TP1" not in row["strategy"] or not row["tokens_per_s_per_gpu"]:
        return None
    gpus = int(row["n_gpus"])
    everywhere = "zero1=-1" in row["strategy"]
    far = gpus > 128 and everywhere
    note = "an own framework that broadcasts parameters"
    # where nodes lay is not said; Ethernet of 2023 hashes flows
    shared = ["network.placement=random", "network.routing=ecmp"] if gpus > 8 else []
    machine = [f"nodes={gpus // 8}", "node.gpu=a100-sxm-80gb", *ROCE_4X100, *shared]
    return record(
        row, "internevo", "dgx-a100", machine,
        {
            "model": "internlm-7b",
            "sequence_length": 2048,
            "micro_batch": int(row["micro_batch_per_gpu"]),
            "gradient_accumulation": int(row["grad_accum"]),
            "precision": "bf16",
            "parallelism": {
                "strategy": "zero1", "overlap_comm": True,
                **({} if everywhere else {"replicate": gpus // 8}),
            },
            "activation_checkpointing": row["activation_checkpointing"],
            "attention": "triton",  # FlashAttention 1.0.5, as fast as MPT's port of it
            "fused_kernels": "norm",  # apex; the gate is F.silu(w1 x) * (w3 x)
            "loss": "compiled",  # flash-attn's cross-entropy
            "optimizer_implementation": "fused",
            "stack": {"torch": "1.13", "cuda": "11.7", "nccl": "2.14"},
        },
        "incomplete" if far else "complete",
        f"{note}, here one by one to more than 128 ranks" if far else note,
        tokens=number(row, "tokens_per_s_per_gpu"),
    )  # fmt: skip


def xtuner(row: Row) -> Record | None:
    """Full fine-tuning with Ulysses sequence parallelism; ZeRO stage and network not stated."""
    if not row["micro_batch_per_gpu"]:
        return None
    zero: Record = {"strategy": "zero3", "deepspeed_version": "0.10.3"}
    if not row["strategy"].endswith(" 1"):  # Ulysses stands beside FSDP2 alone
        zero = {"strategy": "fsdp2", "context_parallel_kind": "ulysses",
                "context_parallel": int(row["strategy"].split()[-1])}  # fmt: skip
    model = {"yi-34b": YI_34B, **LLAMA2}[row["model"]]
    gpus = int(row["n_gpus"])
    return record(
        row, "xtuner", "dgx-a100", [f"nodes={gpus // 8}", "node.gpu=a100-sxm-80gb"],
        {
            "model": model,
            "sequence_length": int(row["seq_len"]),
            "micro_batch": 1,
            "gradient_accumulation": int(float(row["grad_accum"])),
            "parallelism": zero,
            "activation_checkpointing": "full",
            "attention": "flash2",
            "fused_kernels": "all",
            # torch 1.13 by the source; FSDP2, taken for sequence parallelism, asks for a later one
            "stack": {"torch": "2.5", "cuda": "12.1", "nccl": "2.18"},
        },
        "incomplete", "ZeRO stage and network between nodes not stated",
        tokens=number(row, "tokens_per_s_per_gpu"),
    )  # fmt: skip


YI_34B = {
    "name": "yi-34b", "layers": 60, "hidden_size": 7168, "heads": 56, "kv_heads": 8,
    "head_dim": 128, "ffn_size": 20480, "ffn": "swiglu", "norm": "rmsnorm", "positions": "rope",
    "vocab_size": 64000, "max_positions": 200000,
}  # fmt: skip


def litgpt(row: Row) -> Record | None:
    """LoRA of Llama 2 on A100-40GB: memory alone, for the samples vary in length (at most 1304)."""
    if row["method"] != "lora" or row["model"] not in LITGPT or not row["mem_gb"]:
        return None
    return _litgpt(row, memory=number(row, "mem_gb") * GB, figure="allocated")


def litgpt_out_of_memory(row: Row) -> Record | None:
    """Its rows that print OOM instead."""
    if row["method"] != "lora" or row["model"] not in LITGPT or "mem 'OOM'" not in row["notes"]:
        return None
    return {**_litgpt(row), "ran": False}


LITGPT = {**LLAMA2, "Falcon 40 B": "falcon-40b"}


def _litgpt(row: Row, **figures: Any) -> Record:
    gpus, micro_batch = int(row["n_gpus"]), int(row["micro_batch_per_gpu"])
    # finetune/lora.py and lightning-fabric's FSDPStrategy: bf16-true reduces in bf16, 16 samples a
    # step are accumulated under no_sync, which keeps gradients of the whole flat parameters
    several = {
        "gradient_accumulation": 16 // gpus // micro_batch,
        "parallelism": {"strategy": "fsdp1", "reduce_dtype": "bf16", "gradient_sync": "last"},
        "activation_checkpointing": "full",
    }
    one = {"parallelism": {"strategy": "ddp"}, "activation_checkpointing": "none"}
    kind, lora = "lora", {"rank": 8, "targets": ["q", "v"]}
    if "nf4" in row["precision"]:
        kind = "qlora"
        lora |= {"quantization": "nf4", "double_quantization": "dq" in row["precision"]}
    return record(
        row, "litgpt", "a100-x1", ["node.gpu=a100-sxm-40gb", f"node.gpus={gpus}",
        *(NVLINK3 if gpus > 1 else [])],
        {
            "model": LITGPT[row["model"]],
            "method": {kind: lora},
            "sequence_length": 1304 if row["model"] in LLAMA2 else 1079,
            "micro_batch": micro_batch,
            "precision": {"bf16": {"master": "bf16"}},
            **(several if gpus > 1 else one),
            "attention": "sdpa",
            "stack": {"torch": "2.2", "cuda": "12.1", "nccl": "2.18", "bitsandbytes": "0.41"},
        },
        "incomplete", "samples of at most so many tokens: memory of the longest, no speed",
        **figures,
    )  # fmt: skip


def fsdp_qlora(row: Row) -> Record | None:
    """LoRA and QLoRA under FSDP1 or DDP with Transformers; time of a script over 1,024 samples."""
    machine = {
        "A100 40GB SMX": ("dgx-a100", ["node.gpu=a100-sxm-40gb"]),
        "H100 80GB SXM": ("dgx-h100", []),
        "RTX4090": ("workstation-4x4090", []),
        "RTX3090": ("workstation-4x4090", ["node.gpu=rtx-3090-24gb"]),  # memory alone
    }.get(row["gpu"])
    model = {"Llama-2 7B": "llama-2-7b", "llama2-70b": "llama-2-70b", "Llama-2 70B": "llama-2-70b",
             "Yi 34B": YI_34B}.get(row["model"])  # fmt: skip
    if machine is None or model is None or not row["tokens_per_s_per_gpu"]:
        return None
    gpus, micro = int(row["n_gpus"]), int(row["micro_batch_per_gpu"])
    sets = [*machine[1], f"node.gpus={gpus}"]
    if gpus < 8 and machine[0].startswith("dgx"):
        sets += [f"node.nics.count={gpus}", "node.pcie.gpus_per_switch=1",
                 "node.pcie.nics_per_switch=1"]  # fmt: skip
    # what its script takes for all
    lora: Record = {"rank": 64, "targets": ["q", "k", "v", "gate", "up", "down"]}
    method: Record = {"lora": lora}
    if row["method"] == "qlora":
        method = {"qlora": {**lora, "quantization": "nf4"}}
    strategy: Record = {"strategy": "ddp"}
    if row["strategy"].startswith("FSDP"):
        strategy = {"strategy": "fsdp1", "wrap": "peft", "reduce_dtype": "bf16",
                    "use_orig_params": False}  # fmt: skip
        if "CPU offload" in row["strategy"]:
            strategy["offload"] = "parameters"
    # train.py has a loop of its own, whose `no_sync` is off unless it is asked for
    strategy["gradient_sync"] = "every"
    return record(
        row, "fsdp-qlora", machine[0], sets,
        {
            "model": model,
            "method": method,
            "sequence_length": int(row["seq_len"]),
            "micro_batch": micro,
            "gradient_accumulation": max(1, 32 // (gpus * micro)),
            "parallelism": strategy,
            "activation_checkpointing": "full",
            "attention": "sdpa",
            "loss": "huggingface",
            "trainer": "accelerate",  # train.py, a loop of its own, which keeps the model's output
            "stack": {"torch": "2.2", "cuda": "12.1", "nccl": "2.19", "transformers": "4.38"},
        },
        "incomplete", "time of the whole script, start included; global batch about 32",
        # its script divides by 2**30
        tokens=0.0 if row["gpu"] == "RTX3090" else number(row, "tokens_per_s_per_gpu"),
        memory=number(row, "mem_gb") * GIB,
    )  # fmt: skip


OUT_OF_MEMORY = {"litgpt.csv": litgpt_out_of_memory}

TABLES = {
    "atorch_dlrover.csv": atorch, "qwen.csv": qwen, "internevo.csv": internevo,
    "xtuner.csv": xtuner, "litgpt.csv": litgpt, "fsdp_qlora.csv": fsdp_qlora,
    "small_sources.csv": small,
}  # fmt: skip
