"""One million tokens on 8 H100: the kernel of PyTorch's attention, and logits that do not exist.

Qwen3-8B, full fine-tuning, FSDP2, ring context parallelism, checkpoints on the host, fused linear
loss. Sources: huggingface/transformers PR 48324 and 48163, huggingface/trl PR 6845 and 6846;
pytorch/pytorch PR 138522 and 162073.
"""

import pytest

from sim import simulate

JOB = {
    "name": "qwen3-8b-1m", "model": "qwen3-8b", "sequence_length": 1_048_576, "steps": 12,
    "precision": {"bf16": {"master": "bf16"}}, "optimizer": "adamw-bf16",
    "parallelism": {"strategy": "fsdp2", "context_parallel": 8},
    "activation_checkpointing": {"full": {"offload": True}}, "loss": "fused-linear",
    "attention": "sdpa",
    "stack": {"torch": "2.11", "cuda": "12.8", "nccl": "2.27", "transformers": "5.0"},
}  # fmt: skip


def run(*sets):
    return simulate("dgx-h100", JOB, overrides=["nodes=1", *sets], scaling=False, fixes=False)


@pytest.mark.parametrize(
    ("sets", "seconds"),
    [
        (["stack.torch=2.10"], 606.0),  # FlashAttention 2
        ([], 376.0),  # cuDNN, which 2.11 prefers on Hopper: 373 to 380
        (["nodes=2", "parallelism.context_parallel=16", "sequence_length=2097152"], 696.0),
    ],
)
def test_step_by_release(sets, seconds):
    assert run(*sets).step.time_s == pytest.approx(seconds, rel=0.08)


def test_memory_has_no_whole_logits():
    """56.2 GB; whole logits of 131,072 tokens and 151,936 words would be 37 GiB more."""
    assert run().memory.peak_reserved_bytes == pytest.approx(56.2e9, rel=0.05)
