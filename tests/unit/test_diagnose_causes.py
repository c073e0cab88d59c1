"""Single causes of a slow run: how strong they may be, and how common they are beside others."""

from __future__ import annotations

import pytest

from sim.calibration.causes import CAUSES
from sim.calibration.diagnose import diagnose
from sim.calibration.figures import Figure
from sim.inputs.loader import load
from sim.step.step import step

BY_KEY = {cause.key: cause for cause in CAUSES}


def test_retries_are_as_many_as_a_job_has_allocations() -> None:
    """Llama 2 7B, FSDP1, two samples a micro-step and 16 of these, on four A100 40 GB.

    At risk as declared, and a third slower: 8.3 s are some 460 retries of 18 ms, one in a layer
    and micro-step (32 x 16), and 96 are in the step as declared (three a layer, once a step).
    """
    job = {
        "name": "vicuna", "model": "llama-2-7b", "sequence_length": 2048, "micro_batch": 2,
        "gradient_accumulation": 16, "steps": 10, "parallelism": {"strategy": "fsdp1"},
        "activation_checkpointing": "full", "attention": "flash2", "loss": "huggingface",
        "trainer": "huggingface",
    }  # fmt: skip
    loaded = load({"name": "four", "node": {"gpu": "a100-sxm-40gb", "gpus": 4}}, job)
    seconds = step(loaded.topology, loaded.workload).time_s
    found = diagnose([Figure(loaded.topology, loaded.workload, seconds + 8.3)])
    named = [e.cause.key for e in found.explanations]
    assert "allocator" in named[:3]
    own = found.explanations[named.index("allocator")]
    assert own.explains
    assert own.strength * 32 * 16 == pytest.approx(8.3 / 18e-3, rel=0.05)
    assert own.detail.endswith("retries a step beside the 96 that are predicted")


def test_full_precision_keeps_tf32_and_is_rarer_than_sockets() -> None:
    """Without mixed precision a job that asks for TF32 has that: half of bf16's peak, not 1/16.

    Llama 2 7B under ZeRO-3 on two nodes of A100s, eleven times too slow: 25 GbE in place of
    InfiniBand (three times 13.5 GB at 2.8 GB/s are 14.5 s) before FP32, which is as slow by chance.
    """
    job = {
        "name": "seven", "model": "llama-2-7b", "sequence_length": 2048, "micro_batch": 2,
        "steps": 10, "parallelism": {"strategy": "zero3", "overlap_comm": True},
        "activation_checkpointing": "full", "loss": "huggingface", "trainer": "huggingface",
    }  # fmt: skip
    loaded = load("dgx-a100", job, ["nodes=2"])
    found = diagnose([Figure(loaded.topology, loaded.workload, 17.0)])
    named = [e.cause.key for e in found.explanations]
    assert named.index("tcp") < named.index("fp32")
    slow = {}
    for tf32 in (False, True):
        asked = load("dgx-a100", job | {"precision": {"bf16": {"tf32": tf32}}}, ["nodes=2"])
        changed = BY_KEY["fp32"].change(asked.topology, asked.workload, 1.0)
        assert changed is not None
        slow[tf32] = step(changed.topology, changed.workload).time_s
    assert slow[True] < 0.5 * slow[False]
