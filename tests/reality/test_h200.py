"""Kernels and steps of one H200, measured by scripts of this project; no step is fitted to them.

`bench/gpu/h200` has the tables as `bench/gpu/measure_kernels.py` and `measure_steps.py` wrote them.
"""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from sim import simulate
from sim.blocks.kernels import Kernel
from sim.cost.gemm import gemm_times
from sim.cost.kernel_cost import CostModel
from sim.inputs import catalogue

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "bench/gpu/h200"


@pytest.fixture(scope="module")
def model():
    return CostModel(catalogue.gpu("h200-sxm-141gb"))


def rows(name):
    with (TABLES / name).open() as f:
        return list(csv.DictReader(f))


@pytest.mark.parametrize(("dtype", "short"), [("bfloat16", "bf16"), ("fp8", "fp8")])
def test_products(model, dtype, short):
    """Forward, dgrad and wgrad of 4,096 rows and more, in loops of 20 ms with pauses.

    Such loops hold about the quoted clock; training, at 700 W all the time, holds 0.82 of it.
    """
    shapes, measured = [], []
    for r in rows("gemm.csv"):
        m, n, k = (int(r[x]) for x in "mnk")
        if r["dtype"] == dtype and m >= 4096:
            shape = {"forward": (m, n, k), "dgrad": (m, k, n), "wgrad": (n, k, m)}[r["layout"]]
            shapes.append((*shape, 1))
            measured.append(float(r["latency_us"]) * 1e-6)
    gpu, size = model.gpu, 2 if short == "bf16" else 1
    quoted = gemm_times(
        np.array(shapes, dtype=float), size, 2, model.peak(short), gpu.memory_bandwidth, gpu.sms,
        model.constants.gemm[short],
    )  # fmt: skip
    error = quoted.seconds / measured - 1
    assert len(error) >= 140
    assert np.abs(error).mean() < 0.07
    sustained = [
        model.cost(Kernel("w", "w", "gemm", shape=shape, dtype=short)).time_s for shape in shapes
    ]
    assert (np.array(sustained) > 0.98 * np.array(measured)).mean() > 0.95


@pytest.mark.parametrize(("way", "shortest"), [("fwd", 1024), ("bwd", 2048)])
def test_attention(model, way, shortest):
    """FlashAttention-2 in PyTorch; of shorter sequences it is up to a fifth slower than here."""
    errors = []
    for r in rows("attention.csv"):
        s, dim = int(r["seqlen"]), int(r["head_dim"])
        if r["impl"] != "FA2" or r["pass"] != way or s < shortest:
            continue
        heads, batch = int(r["n_heads"]), int(r["batch"])
        flops = 4 * batch * heads * s * s * dim / 2 * (1 if way == "fwd" else 2.5)
        kernel = Kernel(
            "attention", "attention", "attention", flops, access="flash2",
            direction="forward" if way == "fwd" else "backward",
            shape=(batch, heads, heads, s, s, dim, 1, 0),
        )  # fmt: skip
        errors.append(model.cost(kernel).time_s / (float(r["time_ms"]) * 1e-3) - 1)
    assert len(errors) >= 12
    assert np.abs(errors).mean() < 0.06
    assert np.abs(errors).max() < 0.16


def test_a_head_size_from_another_is_as_measured():
    """Backward of head size 64 by the H200's proportion, beside what the H100's own table gives."""
    spec = importlib.util.spec_from_file_location("h200_attention", ROOT / "bench/fit/attention.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rate, knee = script.by_head_size()["flash2", 64]
    table = CostModel(catalogue.gpu("h100-sxm-80gb")).constants.attention
    wide, narrow = (table["flash2", "backward", size] for size in (128, 64))
    assert rate * wide.rate == pytest.approx(narrow.rate, rel=0.03)
    assert knee * wide.knee == pytest.approx(narrow.knee, rel=0.15)


CASES = {
    # bytes an element by way of access
    ("rms_norm", "torch", "forward"): {"cast": 12, "composite": 20, "stream": 4},
    ("swiglu_gate", "torch", "forward"): {"stream": 10},
    ("swiglu_gate", "torch", "backward"): {"stream": 18},
    ("residual_add", "torch", "forward"): {"stream": 6},
    ("layer_norm", "torch", "forward"): {"rows": 4},
    ("layer_norm", "torch", "backward"): {"rows": 10},
    ("swiglu_gate", "torch_compile", "forward"): {"fused": 6},
    ("cross_entropy", "torch", "backward"): {"cast": 6, "reduce": 16},
    ("adamw", "fused", "step"): {"multi": 28},
    ("clip_grad_norm", "foreach", "step"): {"multi": 12},
}


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_kernels_that_move_bytes(model, case):
    """Of more than half a GB. Shares of the H100's memory alone were up to 37 % too fast."""
    errors = []
    for r in rows("nongemm.csv"):
        if (r["kernel_name"], r["kernel_provider"], r["kernel_operation_mode"]) != case:
            continue
        tokens = json.loads(r["extra_benchmark_config_str"]).get("T", 1)
        n = float(r["x_value"]) * (2048 if case[0] == "cross_entropy" else tokens)
        if n * sum(CASES[case].values()) < 500e6:
            continue
        time = sum(
            model.cost(Kernel("x", "x", "elementwise", bytes=n * b, access=access)).time_s
            for access, b in CASES[case].items()
        )
        errors.append(time / (float(r["y_value_50"]) * 1e-3) - 1)
    assert errors
    assert np.abs(errors).max() < 0.16


def steps():
    for line in (TABLES / "steps.jsonl").read_text().splitlines():
        job = json.loads(line)
        # launch-bound jobs time the host of that virtual machine
        if job["what"] == "job" and "step_s" in job and job["batch"] * job["sequence"] >= 4096:
            yield job


def predicted(job):
    lora = {"lora": {"rank": 4, "targets": ["q", "v"]}}
    parallelism = {"strategy": "single"}
    if job["strategy"] == "fsdp1":
        parallelism = {"strategy": "fsdp1", "reduce_dtype": "bf16", "gradient_sync": "last"}
    workload = {
        "name": "h200",
        "model": job["model"],
        "method": "full" if job["method"] == "full" else lora,
        "sequence_length": job["sequence"],
        "micro_batch": job["batch"],
        "precision": {"bf16": {"master": "bf16"}},
        "activation_checkpointing": "full",
        "attention": "sdpa",  # cuDNN in that release
        "loss": "huggingface",
        "fused_kernels": "none",
        "trainer": "none",
        "optimizer_implementation": "foreach",
        "parallelism": parallelism,
        "stack": {"torch": "2.11"},
    }
    machine = "h200-x1" if job["ranks"] == 1 else "dgx-h200"
    result = simulate(
        machine, workload, overrides=[f"node.gpus={job['ranks']}"], scaling=False, fixes=False
    )
    return result.step.time_s


def test_steps():
    """Llama, Mistral, LoRA and full, alone and as a rank of FSDP1 whose links are its memory."""
    errors = [predicted(j) / float(np.median(j["step_s"][1:])) - 1 for j in steps()]
    assert len(errors) >= 8
    assert np.abs(errors).mean() < 0.015
    assert np.abs(errors).max() < 0.04
