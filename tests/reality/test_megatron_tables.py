"""Steps of Megatron-LM before FlashAttention, its own softmax kernel between two products."""

import pytest

from sim import simulate

#: Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (arXiv
#: 2205.05198), tables 3 and 5, "full recompute": layers, width, heads, tensor and pipeline parallel
#: ranks, virtual stages, micro-batch, micro-steps, seconds. A100 80 GB, 2,048 tokens, 51,200 words
KORTHIKANTI = {
    "22B": (48, 6144, 64, 8, 1, 1, 4, 1, 1.42),
    "175B": (96, 12288, 96, 8, 8, 3, 1, 64, 18.13),
    "530B": (105, 20480, 128, 8, 35, 3, 1, 280, 49.05),
    "1T": (128, 25600, 160, 8, 64, 1, 1, 512, 94.42),
}


@pytest.mark.parametrize("size", KORTHIKANTI)
def test_full_recompute(size):
    layers, width, heads, tensor, pipeline, virtual, micro, steps, seconds = KORTHIKANTI[size]
    axes = {"strategy": "megatron", "tensor_parallel": tensor, "sequence_parallel": False}
    if pipeline > 1:
        schedule = "interleaved-1f1b" if virtual > 1 else "1f1b"
        axes |= {"pipeline_parallel": pipeline, "pipeline_schedule": schedule}
    if virtual > 1:
        axes["virtual_stages"] = virtual
    job = {
        "name": size, "sequence_length": 2048, "micro_batch": micro, "steps": 100,
        "gradient_accumulation": steps, "activation_checkpointing": "full", "attention": "eager",
        "model": {
            "name": size, "layers": layers, "hidden_size": width, "heads": heads,
            "kv_heads": heads, "head_dim": width // heads, "ffn_size": 4 * width, "ffn": "gelu",
            "norm": "layernorm", "bias": True, "positions": "learned", "max_positions": 2048,
            "tied_embeddings": True, "vocab_size": 51200,
        },
        "parallelism": axes, "stack": {"torch": "1.11"},
    }  # fmt: skip
    nodes = tensor * pipeline // 8
    found = simulate("dgx-a100", job, overrides=[f"nodes={nodes}"], scaling=False, fixes=False)
    assert found.memory.fits
    assert found.step.time_s == pytest.approx(seconds, rel=0.08)
