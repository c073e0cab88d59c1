"""The longest context of a QLoRA on one GPU, as Unsloth measured its own and Hugging Face's.

Llama 3.1 8B, rank 32 on all linear layers, one sequence, 8-bit AdamW. Source: unslothai/unsloth
README.md, "Context length benchmarks" (December 2024; Transformers with FlashAttention 2).
"""

import pytest

from sim.inputs.loader import load
from sim.memory.bound import solve

CARDS = {
    "rtx-4080-16gb": (40_724, 2_551), "rtx-4090-24gb": (78_475, 5_789),
    "a100-sxm-40gb": (153_977, 12_264), "l40s-pcie-48gb": (191_728, 15_502),
    "a100-sxm-80gb": (342_733, 28_454),
}  # fmt: skip
ADAPTERS = {"rank": 32, "targets": "all-linear", "dropout": 0}
#: what its notebooks are read as, and PEFT's way with a plain Trainer
UNSLOTH = {
    "method": {"qlora": ADAPTERS | {"adapters": "fused"}}, "loss": "fused-linear",
    "fused_kernels": "all", "activation_checkpointing": {"full": {"offload": True}},
}  # fmt: skip
TRANSFORMERS = {
    "method": {"qlora": ADAPTERS | {"prepare_kbit": True}}, "loss": "huggingface",
    "activation_checkpointing": "full",
}  # fmt: skip


def longest(gpu, changes):
    job = {
        "name": "context", "model": "llama-3.1-8b", "sequence_length": 2048, "steps": 10,
        "optimizer": "adamw-8bit", "attention": "flash2", "trainer": "huggingface",
        "stack": {"torch": "2.5", "cuda": "12.4", "transformers": "4.46"},
    }  # fmt: skip
    machine = {"name": "m", "node": {"gpu": gpu, "gpus": 1, "cpu": {"memory": "1 TB"}}}
    found = load(machine, job | changes)
    return solve(found.topology, found.workload, "sequence_length").value


@pytest.mark.parametrize("gpu", CARDS)
def test_longest_context(gpu):
    unsloth, plain = CARDS[gpu]
    assert longest(gpu, UNSLOTH) == pytest.approx(unsloth, rel=0.10)
    assert longest(gpu, TRANSFORMERS) == pytest.approx(plain, rel=0.10)
