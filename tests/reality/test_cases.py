"""Jobs of public threads that no other table here has: what they took, and what was to be said.

Memory of them is in `test_memory_cases`, unpacked samples in `test_unpacked`, slow paths in
`test_slow_paths`, a million tokens in `test_million_tokens`, offload in `test_offload`, collectives
in `test_public_fabrics`.
"""

import pytest

from sim import diagnose, simulate
from tests.reality import ladder


@pytest.mark.parametrize(
    ("measured", "changes"), ladder.SPEEDS, ids=[str(row[0]) for row in ladder.SPEEDS]
)
def test_speed_of_savings_on_one_gpu(measured, changes):
    job = ladder.JOB | changes
    found = simulate("a100-x1", job, scaling=False, fixes=False)
    assert found.throughput.tokens_per_s == pytest.approx(measured, rel=0.1)


MIXTURE = {
    "name": "qwen2-57b-a14b", "layers": 28, "hidden_size": 3584, "heads": 28, "kv_heads": 4,
    "head_dim": 128, "ffn_size": 18944, "qkv_bias": True, "vocab_size": 151936, "experts": 64,
    "experts_per_token": 8, "expert_ffn_size": 2560, "shared_experts": 8,
}  # fmt: skip


def looped(model, length=512):
    """LoRA under ZeRO-3 with Hugging Face's code on 8 H100, eight micro-steps; length unknown."""
    job = {
        "name": "moe", "model": model, "sequence_length": length, "gradient_accumulation": 8,
        "steps": 10, "method": {"lora": {"rank": 64, "targets": "all-linear", "dropout": 0.05}},
        "parallelism": {"strategy": "zero3", "overlap_comm": True, "deepspeed_version": "0.14.4"},
        "activation_checkpointing": {"full": {"reentrant": True}}, "loss": "huggingface",
        "attention": "sdpa", "stack": {"torch": "2.3", "cuda": "12.1", "nccl": "2.20"},
    }  # fmt: skip
    return simulate("dgx-h100", job, overrides=["nodes=1"], scaling=False, fixes=False)


@pytest.mark.parametrize(
    ("model", "seconds"), [("qwen2.5-7b", 10.1), ("qwen2.5-72b", 48.4), (MIXTURE, 271.0)]
)
def test_a_mixture_whose_experts_run_one_by_one(model, seconds):
    """QwenLM/Qwen3 issue 736: 57B, 14B active, takes 5.6 times as long as a dense 72B."""
    assert 0.5 < looped(model).step.time_s / seconds < 2.0
    assert looped(model, 5120).step.time_s == pytest.approx(seconds, rel=0.1)  # the CPU's but 72B's


def test_how_experts_are_taken_to_run_is_said():
    """hiyouga/LLaMA-Factory issues 7921, 8038: 30B, 3B active, 1.6 times as long as a dense 32B."""
    mixture, dense = looped("qwen3-30b-a3b"), looped("qwen3-32b")
    assert mixture.step.time_s > dense.step.time_s
    said = [w.code for w in mixture.warnings]
    assert "experts-one-by-one" in said
    assert "experts-one-by-one" not in [w.code for w in dense.warnings]


def test_thirteen_b_and_its_slow_variant():
    """Lightning-AI/lightning-thunder issue 420: 0.729 s, 0.868 s where the allocator retries."""
    job = {
        "name": "llama2-13b", "model": "llama-2-13b", "sequence_length": 4096, "steps": 45,
        "precision": {"bf16": {"master": "bf16"}}, "optimizer": "adamw-bf16", "compile": True,
        "parallelism": {
            "strategy": "fsdp1", "sharding_strategy": "shard-grad-op", "reduce_dtype": "bf16",
            "clip_gradients": False,
        },
        "loss": "compiled", "stack": {"torch": "2.4", "cuda": "12.4", "nccl": "2.21"},
    }  # fmt: skip
    found = simulate("dgx-h100", job, overrides=["nodes=1"], scaling=False, fixes=False)
    assert found.step.time_s == pytest.approx(0.729, rel=0.06)
    causes = diagnose("dgx-h100", job, measured="step_time_s=0.868", overrides=["nodes=1"])
    named = [explanation.cause.key for explanation in causes.explanations]
    assert "allocator" in named[:3]
    assert "eager-attention" not in named  # it would need 211 of 79 GiB
