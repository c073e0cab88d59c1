"""Two real runs whose path between GPUs was far below what was declared; LLaMA-Factory issues."""

import json

import pytest

from sim import calibrate, collective, diagnose

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
THREE_A100 = {
    "node": {
        "gpu": "a100-pcie-80gb",
        "gpus": 3,
        "pcie": {"generation": 4, "gpus_per_switch": 0, "nics_per_switch": 0},
    },
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
    job = JOB | {
        "method": {"lora": {"rank": 8, "targets": ["q", "v"], "dropout": 0}},
        "precision": "fp16",
        "parallelism": {"strategy": "zero3", "overlap_comm": True},
    }
    found = diagnose(
        files("a100", THREE_A100), files("job", job), measured="step_time_s=60",
        also=["step_time_s=0.85 parallelism.strategy=zero2"],
    )  # fmt: skip
    assert found.explanations[0].cause.key == "host-path"


def test_cards_on_pcie_are_slow_by_their_path_before_their_data():
    """Eight L40S at a quarter of the speed, one figure: nodes so slow read text in time."""
    found = diagnose("l40s-8", "mistral-7b-lora", measured="tokens_per_s_per_gpu=400")
    first, second, *_ = [e.cause.key for e in found.explanations]
    assert (first, second) == ("host-path", "data")


def test_a_slow_path_that_nccl_tests_measured(files, tmp_path):
    """All-gathers at a tenth of what PCIe gives: taken as measured, not stopped at a bound."""
    sizes = [1 << 20, 1 << 24, 1 << 28, 1 << 30]
    busy = 1.3  # GB/s on the bus
    rows = [
        f"{n} {n // 12} float none -1 {n / (1.5e3 * busy):.1f} {1.5 * busy:.2f} {busy:.2f} 0"
        for n in sizes
    ]
    log = tmp_path / "all_gather.log"
    log.write_text("# size count type redop root time algbw busbw #wrong\n" + "\n".join(rows))
    topology = files("a100", THREE_A100)
    found = calibrate(topology, nccl_tests=[str(log)])
    assert not [note for note in found.notes if "bound" in note]
    known = found.calibration
    assert known.pcie_bandwidth == pytest.approx(0.11, abs=0.02)
    sets = [f"calibration.pcie_bandwidth={known.pcie_bandwidth}"]
    largest = collective(topology, op="all_gather", overrides=sets).costs[-1]
    assert largest.busbw_bytes_per_s == pytest.approx(busy * 1e9, rel=0.15)
