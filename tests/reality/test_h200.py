"""Kernels and steps of one H200, measured by scripts of this project; no step is fitted to them.

`bench/gpu/h200` has the tables as `bench/gpu/measure_kernels.py` and `measure_steps.py` wrote them.
"""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.fit import attention, elementwise
from sim import simulate
from sim.blocks.kernels import Kernel
from sim.cost.gemm import gemm_times
from sim.cost.kernel_cost import CostModel
from sim.inputs import catalogue

TABLES = Path(__file__).parents[2] / "bench/gpu/h200"


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
    rate, knee = attention.by_head_size()["flash2", 64]
    table = CostModel(catalogue.gpu("h100-sxm-80gb")).constants.attention
    wide, narrow = (table["flash2", "backward", size] for size in (128, 64))
    assert rate * wide.rate == pytest.approx(narrow.rate, rel=0.03)
    assert knee * wide.knee == pytest.approx(narrow.knee, rel=0.15)


@pytest.mark.parametrize("dim", [64, 256])
def test_head_sizes_that_ship_from_the_second_board(dim):
    """cuDNN's backward, as it ships: rate to three places, knee to tens."""
    rate, knee = attention.by_head_size()["cudnn", dim]
    table = CostModel(catalogue.gpu("h100-sxm-80gb")).constants.attention
    wide, other = (table["cudnn", "backward", size] for size in (128, dim))
    assert rate * wide.rate == pytest.approx(other.rate, rel=0.005)
    assert knee * wide.knee == pytest.approx(other.knee, rel=0.01)


# errors of the two ways of a cast, which have one constant: to fp32 is slower than to bf16
CASTS = {("cast_fp32", "torch", "forward"): -0.26, ("cast_fp32", "torch", "backward"): 0.52}


def moved(model, case):
    """Seconds predicted and measured of each row of a case, (n, 2)."""
    need = Counter()
    for access, size in elementwise.SECOND_CASES[case].items():
        need["cast" if access in ("up", "down") else access] += size
    return np.array([
        (
            sum(
                model.cost(Kernel("x", "x", "elementwise", bytes=n * b, access=access)).time_s
                for access, b in need.items()
            ),
            measured,
        )
        for key, _, n, measured in elementwise.second_rows()
        if key == case
    ])  # fmt: skip


@pytest.mark.parametrize(
    "case", [case for case in elementwise.SECOND_CASES if case not in CASTS], ids=" ".join
)
def test_kernels_that_move_bytes(model, case):
    """Of more than half a GB. Shares of the H100's memory alone were up to 37 % too fast."""
    predicted_s, measured_s = moved(model, case).T
    assert len(measured_s)
    assert np.abs(predicted_s / measured_s - 1).max() < 0.16


def test_casts_are_as_measured_in_pairs(model):
    pairs = [moved(model, case) for case in CASTS]
    for (predicted_s, measured_s), error in zip(np.concatenate(pairs), CASTS.values(), strict=True):
        assert predicted_s / measured_s - 1 == pytest.approx(error, abs=0.01)
    predicted_s, measured_s = np.sum(pairs, axis=0).T
    assert predicted_s == pytest.approx(measured_s, rel=0.05)


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
        "stack": {"torch": "2.11", "transformers": "5.17"},
    }
    machine = "h200-x1" if job["ranks"] == 1 else "dgx-h200"
    return simulate(
        machine, workload, overrides=[f"node.gpus={job['ranks']}"], scaling=False, fixes=False
    )


def test_steps():
    """Llama, Mistral, LoRA and full, alone and as a rank of FSDP1 whose links are its memory.

    Of most allocated it says what the loop and all before it ever had: forward needs no more.
    """
    errors = []
    for job in steps():
        result = predicted(job)
        errors.append(result.step.time_s / float(np.median(job["step_s"][1:])) - 1)
        assert result.memory.by_moment["forward"] < job["peak_allocated"]
    assert len(errors) >= 8
    assert np.abs(errors).mean() < 0.019
    assert np.abs(errors).max() < 0.04
