"""Conventions of the published sources beside llm-foundry, one function a table.

Each turns a CSV row into a record of `training.jsonl`, or into None where the model has no word for
what ran (tensor or pipeline parallelism, adapters that are not LoRA, GPUs it does not know).
"""

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
    return record(
        row, "atorch", "dgx-a100", [f"nodes={gpus // 8}", "node.gpu=a100-sxm-80gb",
        "node.nics.count=4", "node.nics.rate=200 Gb/s", "node.pcie.nics_per_switch=1"],
        {
            "model": "llama-2-7b",
            "method": {"lora": {"rank": 16, "targets": ["q", "k", "v", "o"]}} if lora else "full",
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


NVLINK3 = [
    "node.nvlink.generation=3",
    "node.nvlink.links_per_gpu=12",
    "node.nvlink.fabric=nvswitch",
]


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


def small(row: Row) -> Record | None:
    """torchao's trios and the single figures of other projects."""
    source = row["source"].split()[0]
    for name, convert in _SMALL.items():
        if source.endswith(name):
            return convert(row)
    return None


_CAPPED = ["node.gpu={base: h100-sxm-80gb, power_limit: 500 W, memory_bandwidth: 2.4 TB/s}"]
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
        "H100 taken for a 500 W, 2.4 TB/s part"
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
            "model": model,
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
        "incomplete", "C and CUDA, no PyTorch; rounded comments of a script",
        tokens=number(row, "tokens_per_s_per_gpu"),
    )  # fmt: skip


_SMALL = {
    "/ao": _torchao, "TinyLlama": _tinyllama, "awsome-distributed-training": _aws,
    "huggingface/blog": _granite, "llm.c": _llm_c,
}  # fmt: skip


def falcon() -> list[Record]:
    """deepspeedai/DeepSpeed#3901: Falcon-7B, 8 A100-40GB; batch not stated, 1 assumed."""
    rows = []
    for name, seconds, memory, keys in (
        ("fsdp", 2.93, 23.8, {"strategy": "fsdp1", "reduce_dtype": "bf16"}),
        ("zero3", 2.86, 38.0, {"strategy": "zero3"}),
        ("zero3-parameters-offloaded", 6.05, 0.0, {"strategy": "zero3", "offload": "parameters"}),
        ("zero3-all-offloaded", 13.70, 0.0, {"strategy": "zero3", "offload": "all"}),
    ):
        row = {"row_id": name, "n_gpus": "8", "source": "deepspeedai/DeepSpeed#3901"}
        work = {
            "model": "falcon-7b",
            "sequence_length": 4096,
            "micro_batch": 1,
            "parallelism": keys,
            "activation_checkpointing": "full",
            "attention": "sdpa",
            "stack": {"torch": "2.0", "cuda": "11.8", "nccl": "2.14"},
        }
        rows.append(
            record(row, "deepspeed-3901", "dgx-a100", ["node.gpu=a100-sxm-40gb"], work,
                   "incomplete", "batch, checkpointing and attention not stated",
                   tokens=4096 / seconds, memory=memory * GB)
        )  # fmt: skip
    return rows


_FSDP1 = {
    "strategy": "fsdp1", "reduce_dtype": "bf16", "backward_prefetch": "pre",
    "gradient_sync": "last",
}  # fmt: skip
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
            kind["prepare_kbit"] = True
        if fused:
            kind["adapters"] = "fused"
        method = {"qlora": {**lora, **kind}}
    precision: Any = _PURE
    if "amp" in row["precision"]:
        precision = row["precision"].split()[0]
    half = "fp16" if precision == "fp16" else "bf16"
    parallelism: Record = {"strategy": "ddp"}
    if gpus > 1:
        parallelism = {**_FSDP1, "reduce_dtype": half, "checkpoint_wrapper": "outside",
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
            "parallelism": {**_FSDP1, "forward_prefetch": 1, "use_orig_params": False,
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

OUT_OF_MEMORY = {"litgpt.csv": litgpt_out_of_memory}

TABLES = {
    "atorch_dlrover.csv": atorch, "qwen.csv": qwen, "internevo.csv": internevo,
    "xtuner.csv": xtuner, "litgpt.csv": litgpt, "fsdp_qlora.csv": fsdp_qlora,
    "small_sources.csv": small,
}  # fmt: skip
