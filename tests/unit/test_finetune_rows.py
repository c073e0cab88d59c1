"""Published fine-tuning runs: what a row of the table turns into."""

import csv
from pathlib import Path

import pytest

from sim.calibration.validate_finetune import machine_of, method_of
from sim.inputs.loader import load
from sim.published.finetune import finetune_rows, merged, table_rows

SHARED = Path(__file__).parents[2].parent / "shared" / "measured" / "finetune.csv"


def test_every_row_is_a_job():
    """1,101 rows of the table and 44 of other sources; a flag keeps a row out of headlines."""
    rows = table_rows()
    assert len(rows) == 1101
    assert sum(r.status == "complete" for r in rows) == 916
    assert len(finetune_rows()) == 1101 + 44
    assert len({r.id for r in finetune_rows()}) == 1145
    # 32 of them repeat another
    assert len({(id(r.topology), id(r.workload)) for r in rows}) == 1069


def test_every_row_of_the_table_passes_the_checks_of_a_job():
    """One of each kind is checked as it is read: a job that cannot be raises here."""
    for row in table_rows():
        found = load(row.topology, row.workload)
        assert (found.topology, found.workload) == (row.topology, row.workload)


def test_a_row_of_two_nodes():
    """granite LoRA on several GPUs: c_attn and both c_proj, PEFT's units, accumulation unsynced."""
    row = next(r for r in table_rows() if r.topology.nodes == 2 and method_of(r) == "lora")
    assert row.gpus == row.topology.world_size == 2 * row.topology.groups[0].node.gpus
    assert (
        row.topology.groups[0].node.cpu.cores == row.gpus
    )  # two a GPU, of half as many GPUs a node
    assert row.workload.parallelism.wrap == "peft"
    assert row.workload.parallelism.gradient_sync == "last"
    granite = next(
        r for r in table_rows() if "granite" in r.workload.model.name and method_of(r) == "lora"
    )
    assert granite.workload.method.targets == ("q", "k", "v", "o", "down")


@pytest.mark.skipif(not SHARED.exists(), reason="the published table is not here")
def test_the_table_is_the_published_one():
    with SHARED.open(encoding="utf-8", newline="") as file:
        published = list(csv.DictReader(file))
    for row, there in zip(table_rows(), published, strict=True):
        w = row.workload
        assert row.gpus == int(there["number_gpus"])
        assert row.topology.nodes == int(there["number_nodes"])
        assert w.sequence_length == int(there["tokens_per_sample"])
        assert w.micro_batch * row.gpus == int(there["batch_size"])
        assert w.gradient_accumulation == int(there["grad_accum"])
        assert method_of(row) == there["method"].removesuffix("-lora")
        speed = float(there["tokens_per_second"]) / row.gpus
        assert row.tokens_per_s_per_gpu == pytest.approx(speed, abs=0.01)
        assert machine_of(row).split("-")[0] in there["gpu_model"].lower()
        assert (row.status == "anomaly") == bool(there["flag"])


def test_merged():
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}}, {"d": {"e": 5}}) == {
        "a": {"b": 4, "c": 2}, "d": {"e": 5},
    }  # fmt: skip
