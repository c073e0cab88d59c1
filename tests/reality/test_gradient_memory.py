"""Gradients of a whole model: when they live, kept until the step or stepped within backward."""

import json
from pathlib import Path

import pytest

from sim.inputs.loader import load
from sim.memory.report import memory

RECORDED = json.loads(
    (Path(__file__).parents[1] / "data" / "gradient_memory.json").read_text(encoding="utf-8")
)


def predicted(case):
    """Bytes beside weights of the same decoder."""
    width, heads = case["width"], RECORDED["heads"]
    model = {
        "name": "m", "layers": RECORDED["layers"], "hidden_size": width, "heads": heads,
        "kv_heads": RECORDED["groups"], "head_dim": width // heads, "ffn_size": case["ffn"],
        "vocab_size": case["vocabulary"], "tied_embeddings": case["tied"],
    }  # fmt: skip
    job = {
        "name": "j", "model": model, "sequence_length": case["length"], "micro_batch": 1,
        "gradient_accumulation": 1, "steps": 10, "optimizer": "sgd", "attention": "sdpa",
        "precision": "bf16" if case["autocast"] else "fp32", "loss": "eager",
        "optimizer_implementation": "for-loop", "activation_checkpointing": "full",
        "optimizer_in_backward": case["within"],
        "parallelism": {"strategy": "single", "clip_gradients": False},
    }  # fmt: skip
    loaded = load("a100-x1", job)
    return memory(loaded.topology, loaded.workload).peak_allocated_bytes - case["weights"]


@pytest.mark.parametrize("case", RECORDED["cases"], ids=str)
def test_peaks_beside_weights_are_as_recorded(case):
    """A tied table has three for a moment: two gradients and their sum."""
    assert predicted(case) == pytest.approx(case["most"], rel=0.05)
