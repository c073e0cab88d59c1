"""Two real runs whose path between GPUs was far below what was declared; LLaMA-Factory issues."""

import json

import pytest

from sim import diagnose

JOB = {
    "model": "llama-3-8b",
    "sequence_length": 1024,
    "micro_batch": 1,
    "gradient_accumulation": 2,
    "steps": 100,
    "optimizer": "adamw",
    "activation_checkpointing": {"full": {"reentrant": True}},
    "attention": "sdpa",
    "loss": "huggingface",
    "stack": {"torch": "2.3", "cuda": "12.1", "nccl": "2.20"},
}


@pytest.fixture
def files(tmp_path):
    def write(name, content):
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps({"name": name, **content}))
        return str(path)

    return write


def test_sockets_over_an_overlay(files):
    """Issue 5014: ZeRO-3 LoRA, 4 s a step on one node, 90 s on two by 10 GbE."""
    machine = {
        "nodes": 2,
        "node": {
            "gpu": "a800-sxm-80gb",
            "nvlink": {"generation": 3, "links_per_gpu": 8},
            "pcie": {"generation": 4, "gpus_per_switch": 2, "nics_per_switch": 2},
            "nics": {"count": 8, "rate": "200 Gb/s"},
        },
    }
    job = JOB | {
        "method": {"lora": {"rank": 8, "targets": "all-linear", "dropout": 0}},
        "parallelism": {"strategy": "zero3", "overlap_comm": True},
    }
    found = diagnose(files("a800", machine), files("job", job), measured="step_time_s=90")
    first = found.explanations[0]
    assert first.cause.key == "tcp"
    assert first.probability > 0.9


def test_three_cards_without_peer_to_peer(files):
    """Issues 3499 and 3520: ZeRO-2 0.85 s a step, ZeRO-3 60 s."""
    machine = {
        "node": {
            "gpu": "a100-pcie-80gb",
            "gpus": 3,
            "pcie": {"generation": 4, "gpus_per_switch": 0, "nics_per_switch": 0},
        },
    }
    job = JOB | {
        "method": {"lora": {"rank": 8, "targets": ["q", "v"], "dropout": 0}},
        "precision": "fp16",
        "parallelism": {"strategy": "zero3", "overlap_comm": True},
    }
    found = diagnose(
        files("a100", machine), files("job", job), measured="step_time_s=60",
        also=["step_time_s=0.85 parallelism.strategy=zero2"],
    )  # fmt: skip
    assert found.explanations[0].cause.key == "host-path"
