"""How far kernel times alone explain published training rows: a closed form, no schedule engine.

    python bench/fit/training_closed_form.py TABLE.csv [A100|H100]

Step = micro-steps x max(kernels + contention, communication) + clip + optimizer, per row of a table
in the llm-foundry columns. Communication is bus-bandwidth arithmetic; while it runs, kernels keep a
share of their rate. The engine does better; this shows whether a kernel's physics is off.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict

import numpy as np

from sim.blocks.unroll import unroll
from sim.blocks.update import Shard, clip_kernels, optimizer_kernels
from sim.cost.kernel_cost import CostModel
from sim.inputs.gpu import Gpu
from sim.inputs.model import Model
from sim.inputs.workload import Checkpointing, Precision, Stack, Workload

A100 = Gpu(
    name="a100-sxm-80gb",
    architecture="ampere",
    sms=108,
    boost_clock=1.41e9,
    memory=80e9,
    memory_bandwidth=2.039e12,
    l2_cache=40e6,
    peak_bf16=312e12,
    peak_fp16=312e12,
    peak_tf32=156e12,
    peak_fp32=19.5e12,
    peak_fp8=None,
    power_limit=400.0,
    idle_power=55.0,
    compute_capability=8.0,
)
H100 = Gpu(name="h100-sxm-80gb")
BUS = {"A100": (232e9, 170e9), "H100": (362e9, 340e9)}
KEPT = 0.82  # of a kernel's rate beside a collective


def workload(r, triton="triton"):
    model = Model(
        name=r["model"],
        layers=int(r["n_layers"]),
        hidden_size=int(r["d_model"]),
        heads=int(r["n_heads"]),
        kv_heads=int(r["n_heads"]),
        head_dim=int(r["d_model"]) // int(r["n_heads"]),
        ffn_size=int(r["d_ff"]),
        ffn="gelu",
        norm="layernorm",
        positions="learned",
        bias=True,
        fused_qkv=True,
        tied_embeddings=True,
        vocab_size=int(r["vocab"]),
        max_positions=int(r["seq_len"]),
    )
    fp8 = r["precision"] == "amp_fp8"
    return Workload(
        name=r["row_id"],
        model=model,
        sequence_length=int(r["seq_len"]),
        micro_batch=int(r["micro_batch_per_gpu"]),
        gradient_accumulation=int(r["grad_accum"]),
        attention=triton,
        precision=Precision(kind="fp8", recipe="te-delayed") if fp8 else Precision(),
        activation_checkpointing=Checkpointing(kind=r["activation_checkpointing"]),
        stack=Stack(torch="2.1"),
    )


def parts(r, cost, w=None):
    """Seconds of one step by part."""
    w = w or workload(r)
    t = unroll(w)
    out = defaultdict(float)
    host = 0.0
    ga, layers = w.gradient_accumulation, w.model.layers
    for (kind, _), kernels in t.kernels.items():
        times = layers if kind.startswith("layer") else 1
        c = cost.costs(kernels)
        for k, s in zip(kernels, c.time_s, strict=True):
            name = "attention" if k.kind == "attention" else k.kind
            if k.kind in ("elementwise", "norm", "reduction", "copy"):
                name = "maps"
            out[name] += s * times * ga
        host += c.host_s.sum() * times * ga
    params = float(r["params_b"]) * 1e9
    n = int(r["n_gpus"])
    tensors = layers * 12 + 5
    shard = Shard(params / n, tensors)
    out["update"] = cost.costs((*clip_kernels(shard), *optimizer_kernels(w, shard))).time_s.sum()
    bus = BUS["A100" if "a100" in cost.gpu.name else "H100"][0 if n <= 8 else 1]
    pure = "PURE" in r["notes"]
    reduce_bytes = 2 if pure else 4
    comm = ga * params * (n - 1) / n * (2 + 2 + reduce_bytes) / bus
    # casts around collectives: copy-in of shards, copy of gradients to fp32
    out["fsdp"] = (
        ga
        * params
        * (2 + reduce_bytes + (4 / n))
        / (0.8 * cost.gpu.memory_bandwidth)
        * (0 if pure else 1)
    )
    out["comm"] = comm
    out["host"] = host
    return out


def step(p, kept=KEPT):
    kernels = sum(v for k, v in p.items() if k not in ("comm", "host", "update"))
    return max(kernels + (1 - kept) * min(p["comm"], kernels), p["comm"], p["host"]) + p["update"]


def main():
    with open(sys.argv[1]) as f:
        rows = [r for r in csv.DictReader(f) if int(r["n_gpus"]) <= 64]
    only = sys.argv[2:] or ["A100", "H100"]
    for name in only:
        cost = CostModel(A100 if name == "A100" else H100)
        errors = []
        for r in rows:
            if not r["gpu"].startswith(name) or r["gpu"] == "A100-40GB":
                continue
            p = parts(r, cost)
            t = step(p)
            measured = (
                float(r["global_batch_tokens"])
                / float(r["tokens_per_s_per_gpu"])
                / int(r["n_gpus"])
            )
            errors.append(measured / t - 1)
            share = " ".join(f"{k} {v / t:.2f}" for k, v in p.items() if v / t > 0.005)
            print(
                f"{r['row_id']:5s} {r['model']:9s} s{r['seq_len']:>6s} "
                f"n{r['n_gpus']:>3s} mb{r['micro_batch_per_gpu']:>3s} "
                f"{r['activation_checkpointing']:4s} {r['precision']:8s} {errors[-1]:+.1%}  {share}"
            )
        e = np.array(errors)
        print(
            f"{name}: {len(e)} rows, mean |error| {np.abs(e).mean():.1%}, mean {e.mean():+.1%}, "
            f"90th {np.percentile(np.abs(e), 90):.1%}"
        )


if __name__ == "__main__":
    main()
