"""Random jobs, as files would say them: whole, cut along every axis, of every kind of hardware."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from sim.errors import InputError
from sim.inputs.loader import Loaded, load

Written = tuple[dict[str, Any], dict[str, Any]]  # a topology and a workload

MACHINES = (
    ("h100-sxm-80gb", 4, 18, "nvswitch", 5), ("a100-sxm-80gb", 3, 12, "nvswitch", 4),
    ("h200-sxm-141gb", 4, 18, "nvswitch", 5), ("b200-sxm-180gb", 5, 18, "nvswitch", 5),
    ("a100-pcie-80gb", 0, 0, "", 4), ("l40s-pcie-48gb", 0, 0, "", 4),
    ("h100-pcie-80gb", 4, 12, "pairs", 5), ("a100-sxm-40gb", 3, 12, "mesh", 4),
)  # fmt: skip
MODELS = ("llama-3.2-1b", "llama-3-8b", "mistral-7b", "gpt2-xl", "qwen2.5-14b", "mixtral-8x7b")
KNOBS_OF = {
    "fsdp2": {"reshard_after_forward": (True, False), "wrap": (None, "torchtitan")},
    "fsdp1": {"limit_all_gathers": (True, False)},
    "ddp": {"gradient_as_bucket_view": (True, False)},
    "zero1": {"overlap_comm": (True, False)},
    "zero2": {"overlap_comm": (True, False)},
    "zero3": {"overlap_comm": (True, False)},
}


def job(draw: random.Random) -> Written:
    """A topology and a workload, as files would say them."""
    gpu, generation, links, fabric, pcie = draw.choice(MACHINES)
    gpus = draw.choice((2,) if fabric == "pairs" else (4,) if fabric == "mesh" else (1, 2, 4, 8))
    node: dict[str, Any] = {
        "gpu": gpu, "gpus": gpus,
        "pcie": {
            "generation": pcie, "gpus_per_switch": draw.choice((1, 2)),
            "nics_per_switch": draw.choice((1, 2)),
        },
        "cpu": {"sockets": draw.choice((1, 2)), "vendor": draw.choice(("intel", "amd"))},
        "nics": {
            "count": draw.choice((1, 2, 4, 8)), "rate": draw.choice(("100 Gb/s", "200 Gb/s")),
            "kind": draw.choice(("infiniband", "roce")),
        },
    }  # fmt: skip
    if generation:
        node["nvlink"] = {"generation": generation, "links_per_gpu": links, "fabric": fabric}
    kind = draw.choice(("rail-optimized", "fat-tree", "single-switch"))
    network = {"kind": kind}
    if kind != "single-switch":
        network["oversubscription"] = draw.choice((1.0, 2.0, 4.0))
    topology = {
        "name": "random", "nodes": draw.choice((1, 1, 2, 3, 4, 8)), "node": node, "network": network
    }  # fmt: skip
    strategy = draw.choice(tuple(KNOBS_OF))
    parallelism = {"strategy": strategy}
    for key, values in KNOBS_OF[strategy].items():
        value = draw.choice(values)
        if value is not None:
            parallelism[key] = value
    workload = {
        "name": "random", "model": draw.choice(MODELS), "parallelism": parallelism, "steps": 100,
        "sequence_length": draw.choice((512, 2048, 4096)), "micro_batch": draw.choice((1, 2, 4)),
        "gradient_accumulation": draw.choice((1, 2, 4)),
        "method": draw.choice(("full", {"lora": {"rank": 16, "targets": "all-linear"}})),
        "activation_checkpointing": draw.choice(("none", "full")),
        "compile": draw.choice((True, False)),
        "attention": draw.choice(("sdpa", "flash2", "eager")),
    }  # fmt: skip
    return topology, workload


#: ways to cut a model that `job` leaves alone, and to offload it; the last of a mixture
CUTS: tuple[dict[str, Any], ...] = (
    {"strategy": "fsdp2", "tensor_parallel": 2},
    {"strategy": "fsdp2", "tensor_parallel": 4, "tensor_parallel_style": "dtensor-async"},
    {"strategy": "fsdp2", "context_parallel": 2},
    {"strategy": "fsdp2", "context_parallel": 4, "context_parallel_kind": "ulysses"},
    {"strategy": "fsdp2", "pipeline_parallel": 2},
    {"strategy": "fsdp2", "pipeline_parallel": 2, "pipeline_schedule": "interleaved-1f1b"},
    {"strategy": "megatron", "tensor_parallel": 2, "pipeline_parallel": 2},
    {"strategy": "megatron", "tensor_parallel": 4},
    {"strategy": "zero3", "offload": "all"},
    {"strategy": "zero3", "offload": "all", "offload_device": "nvme"},
    {"strategy": "fsdp2", "offload": "all"},
    {"strategy": "fsdp2", "expert_parallel": 2},
)


def cut(draw: random.Random) -> Written:
    """A job of `job`, cut or offloaded, of another rank, on other hosts."""
    topology, workload = job(draw)
    node = topology["node"]
    node["pcie"]["lanes"] = draw.choice((8, 16))
    node["cpu"] |= {"cores": draw.choice((16, 48, 96)), "speed": draw.choice((0.5, 1.0))}
    node["storage"] = {"read": "2 GB/s", "write": "1 GB/s"}
    parallelism = dict(draw.choice(CUTS))
    workload |= {"parallelism": parallelism, "gradient_accumulation": draw.choice((4, 8))}
    if parallelism.get("expert_parallel"):
        workload["model"] = "mixtral-8x7b"
    split = {"tensor_parallel", "pipeline_parallel", "expert_parallel"} & parallelism.keys()
    lora = {"lora": {"rank": draw.choice((4, 64, 256)), "targets": "all-linear"}}
    workload["method"] = "full" if split else draw.choice(("full", lora))
    return topology, workload


def varied(draw: random.Random) -> Written:
    """A job of `job` with what that leaves alone: precisions, losses, offload, cuts."""
    machine, workload = job(draw)
    parallelism = workload["parallelism"]
    strategy = parallelism["strategy"]
    workload["precision"] = draw.choice(("bf16", "bf16", {"bf16": {"master": "bf16"}}, "fp16"))
    workload["optimizer"] = draw.choice(("adamw", "adamw", "adamw-8bit", "adafactor"))
    workload["loss"] = draw.choice(("eager", "huggingface", "chunked", "fused-linear"))
    workload["fused_kernels"] = draw.choice(("none", "norm", "all"))
    if draw.random() < 0.3:
        lora = {"rank": 16, "targets": draw.choice(("all-linear", "attention"))}
        workload["method"] = {"qlora": lora | {"quantization": "nf4"}}
    if draw.random() < 0.3:
        workload["sequence_length"] = draw.choice((16384, 65536))
    if strategy in ("fsdp1", "fsdp2", "zero3") and draw.random() < 0.3:
        parallelism["offload"] = "all"
    if strategy == "fsdp2" and draw.random() < 0.3:
        parallelism["tensor_parallel"] = draw.choice((2, 4))
    if draw.random() < 0.2:
        workload["stack"] = {"torch": draw.choice(("2.3", "2.5", "2.11"))}
    if draw.random() < 0.2:
        workload["data"] = {"packing": False, "mean_length": 300}
    return machine, workload


def terms(draw: random.Random) -> Written:
    """A job of `job` of some days, on a machine with a price, failures and a loader of its own."""
    machine, workload = job(draw)
    machine["offer"] = {
        "price_per_gpu_hour": "3 USD", "spot_price_per_gpu_hour": "1 USD",
        "capacity": draw.choice(("on-demand", "spot")), "egress_per_gb": "0.09 USD",
        "energy_per_kwh": draw.choice((0, "0.2 USD")), "storage_per_gb_month": "0.02 USD",
        "commitment": draw.choice(("0 h", "720 h")), "setup": draw.choice(("0 h", "1 h")),
        "preemption_mtbf": draw.choice(("2 h", "24 h", "500 h")),
        "preemption_notice": draw.choice(("0 s", "2 min")),
    }  # fmt: skip
    reliability = {
        "gpu_mtbf": draw.choice(("500 h", "50000 h")), "repair": draw.choice(("1 h", "100 h")),
        "restart": draw.choice(("1 min", "10 min")),
    }  # fmt: skip
    spares = draw.choice((None, 0, 1, 4))
    if spares is not None:
        reliability["spare_nodes"] = spares
    if draw.random() < 0.3:
        reliability["domains"] = [{"nodes": 2, "mtbf": "2000 h"}]
    if machine["nodes"] > 1 and draw.random() < 0.3:
        reliability["least_nodes"] = machine["nodes"] - 1
    machine["reliability"] = reliability
    machine["node"]["storage"] = {"read": draw.choice(("0.5 GB/s", "10 GB/s")), "write": "1 GB/s"}
    workload["steps"] = draw.choice((1000, 100_000))
    workload["data"] = {
        "workers": draw.choice((0, 1, 8)), "bytes_per_token": draw.choice((4, 1000)),
        "preprocess_tokens_per_s_per_worker": draw.choice((2e3, 2e5)),
    }  # fmt: skip
    save = {"interval": draw.choice(("5 min", "2 h")), "asynchronous": draw.choice((True, False))}
    if machine["nodes"] > 1 and draw.random() < 0.3:
        save |= {"memory_interval": "1 min", "peers": draw.choice((0, 1))}
    workload["checkpoint"] = save | {"mode": draw.choice(("sharded", "full"))}
    if draw.random() < 0.3:
        workload["evaluation"] = {"every": 100, "tokens": 1e6}
    return machine, workload


#: by word
DRAWN = {"whole": job, "cut": cut, "varied": varied, "terms": terms}


def jobs(
    count: int,
    seed: int = 0,
    drawn: Callable[[random.Random], Written] = job,
) -> Iterator[Loaded]:
    """So many jobs that pass the checks."""
    draw = random.Random(seed)
    while count:
        try:
            found = load(*drawn(draw))
        except InputError:
            continue
        count -= 1
        yield found
