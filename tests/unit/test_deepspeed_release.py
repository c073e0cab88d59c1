"""Which DeepSpeed a job has that says none."""

import pytest

from sim.inputs.loader import load
from sim.memory.report import memory

LORA_70B = {
    "name": "lora", "model": "llama-2-70b", "method": {"lora": {"rank": 16}}, "steps": 1,
    "sequence_length": 1024, "activation_checkpointing": {"full": {"reentrant": True}},
    "loss": "huggingface", "parallelism": "zero3",
}  # fmt: skip


@pytest.mark.parametrize(
    ("torch", "release", "fits"),
    [("2.3", "0.14.2", True), ("2.6", "0.16.4", True), ("2.9.1", "0.18.2", True),
     ("2.10", "0.19.8", False), (None, "0.19.8", False)],
)  # fmt: skip
def test_deepspeed_is_of_the_time_of_a_pytorch_that_is_written(torch, release, fits):
    """70B under LoRA and ZeRO-3 by PyTorch 2.6 did not fit eight A100: 152 GiB, not 24.

    DeepSpeed 0.19.8 keeps what it gathered for a recompute until backward ends, those of 2025 free
    it.
    """
    job = LORA_70B | ({"stack": {"torch": torch, "cuda": "12.4"}} if torch else {})
    found = load("dgx-a100", job)
    assert found.workload.parallelism.deepspeed_version == release
    assert memory(found.topology, found.workload).fits == fits
    assert f"workload.parallelism.deepspeed_version = {release}" in found.notes.assumptions()
    asked = load("dgx-a100", job, ["parallelism.deepspeed_version=0.19.2"])
    assert asked.workload.parallelism.deepspeed_version == "0.19.2"
