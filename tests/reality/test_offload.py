"""Steps whose optimizer runs on the host, beside what was measured.

meta-pytorch/torchtune README.md and PR 993: Llama 3.1 70B, full, 8 A100 80 GB, FSDP2 CPU offload,
pure bf16, fused CPU AdamW, compiled, full checkpointing; 2 x 2,048 packed and short samples.
"""

import pytest

from sim import simulate

JOB = {
    "name": "llama31-70b-offload", "model": "llama-3.1-70b", "sequence_length": 2048,
    "micro_batch": 2, "steps": 100, "precision": {"bf16": {"master": "bf16"}},
    "optimizer": "adamw-bf16", "activation_checkpointing": "full", "compile": True,
    "parallelism": {
        "strategy": "fsdp2", "wrap": "torchtitan", "offload": "all", "clip_gradients": False
    },
    "loss": "chunked", "stack": {"torch": "2.6", "cuda": "12.4", "nccl": "2.21"},
}  # fmt: skip


def run(*sets):
    return simulate("dgx-a100", JOB, overrides=["nodes=1", *sets], scaling=False, fixes=False)


@pytest.mark.parametrize(("sets", "seconds"), [([], 20.9), (["sequence_length=128"], 13.6)])
def test_step_of_a_70b_on_the_host(sets, seconds):
    assert run(*sets).step.time_s == pytest.approx(seconds, rel=0.12)


def test_memory_of_a_70b_on_the_host():
    assert run().memory.peak_allocated_bytes / 2**30 == pytest.approx(13.9, rel=0.08)


def test_one_thread_doubles_the_step():
    """torchrun's default, says the thread; the constant of a core is from it."""
    one = run("stack.omp_num_threads=1").step.time_s
    assert one == pytest.approx(2 * 20.9, rel=0.1)
