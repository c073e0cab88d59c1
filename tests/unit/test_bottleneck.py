"""Which part of a step holds it back, by shares that are set here."""

from dataclasses import replace

import pytest

import sim
from sim.result.bottleneck import classify


@pytest.fixture(scope="module")
def result():
    return sim.simulate("dgx-h100", "mistral-7b-lora", scaling=False, fixes=False)


@pytest.mark.parametrize(
    ("parts", "kind", "said"),
    [
        # each within its bound: a third for memory-bound kernels, a sixth for others
        ({"gemm": 60, "elementwise": 30, "host": 10}, "compute",
         "compute-bound: 60 % of the step is matrix products and attention; another 30 % goes to "
         "memory-bound kernels"),
        ({"gemm": 92, "elementwise": 8}, "compute", "matrix products and attention"),
        # the largest is within its bound, and a smaller one past its own
        ({"gemm": 54, "elementwise": 28, "host": 18}, "host",
         "launch-bound: for 18 % of the step the GPU waits for the CPU to launch kernels"),
        ({"gemm": 52, "elementwise": 30, "optimizer": 18}, "optimizer",
         "optimizer-bound: 18 % of the step is the optimizer and gradient clipping"),
        # several are past theirs: the largest of them, and the others beside it
        ({"gemm": 25, "elementwise": 35, "host": 22, "optimizer": 18}, "memory-bandwidth",
         "rather than multiply; another 22 % goes to the host and 18 % goes to the optimizer"),
        # none is, and products are less than half all the same
        ({"gemm": 45, "elementwise": 30, "host": 12, "waiting": 13}, "memory-bandwidth",
         "memory-bandwidth-bound: 30 % of the step"),
    ],
)  # fmt: skip
def test_what_passes_its_own_bound_is_named(result, parts, kind, said):
    breakdown = {key: float(value) for key, value in parts.items()}
    step = replace(
        result.step, time_s=100.0, breakdown=breakdown, exposed_communication_s=0.0,
        optimizer_s=breakdown.get("optimizer", 0.0),
    )  # fmt: skip
    found = classify(step, result.memory)
    assert found.kind == kind
    assert said in found.explanation
    named = "gemm" if kind == "compute" else {"memory-bandwidth": "elementwise"}.get(kind, kind)
    assert found.share == pytest.approx(parts[named] / 100)


def test_a_lora_job_whose_kernels_wait_for_launches():
    """Memory-bound kernels take 30 % of it, as of many a step; the host a sixth and more."""
    found = sim.simulate("dgx-h100", "mistral-7b-lora", scaling=False, fixes=False,
                         overrides=["parallelism.strategy=zero3"])  # fmt: skip
    assert found.bottleneck.kind == "host"
    assert 1 / 6 <= found.bottleneck.share < 1 / 3
