"""`support`: what of a job is measured, modelled or not modelled."""

import json
import math
from operator import attrgetter

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.data import table
from sim.inputs.loader import load
from sim.memory.band import memory_residuals
from sim.result.likeness import residuals

MIXTURE = {
    "name": "moe", "model": "qwen3-30b-a3b", "sequence_length": 4096, "steps": 10,
    "parallelism": {"strategy": "fsdp2", "expert_parallel": 8},
}  # fmt: skip
#: versions by which this job is no other than by those that it has without
STACK = {"stack.torch": "2.8", "stack.cuda": "12.8", "stack.nccl": "2.26"}
JOBS = {
    "lora": (("dgx-h100", "llama3-8b-lora"), {"peak memory"}, ()),
    "one gpu": (("l40s-x1", "mistral-7b-lora"), set(), ()),
    "many": (("dgx-h100", "llama3-8b-sft", "nodes=512"), {"GPUs"}, ()),
    "mixture": (("dgx-h100", MIXTURE), {"mixture of experts", "expert parallelism"}, ()),
    "blackwell": (
        ("dgx-b200", "llama3-70b-full", *(f"{key}={version}" for key, version in STACK.items())),
        {"GPU kernels"}, (*STACK,),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("asked", "modelled", "idle"), JOBS.values(), ids=JOBS)
def test_what_is_not_measured_is_said(asked, modelled, idle):
    machine, job, *sets = asked
    found = sim.support(machine, job, overrides=sets)
    assert modelled <= {a.about for a in found.of("modelled")}
    assert tuple(a.about for a in found.of("not modelled")) == idle
    result = sim.simulate(machine, job, overrides=sets, scaling=False, fixes=False)
    assert found.band_s == result.uncertainty.step_time_s
    assert found.step_time_s == result.step.time_s


def test_rows_sources_and_errors_are_those_of_the_residuals():
    found = {a.about: a for a in sim.support("dgx-h100", "llama3-8b-lora").aspects}
    same = [r for r in residuals() if r.job.method == "lora"]
    method = found["method"]
    assert (method.rows, method.sources) == (len(same), len({r.source for r in same}))
    errors = [abs(math.exp(-r.without_source) - 1) for r in same]
    assert method.error == pytest.approx(sum(errors) / len(errors))
    full = sim.support("dgx-h100", "llama3-8b-sft").aspects
    peaks = next(a for a in full if a.about == "peak memory")
    assert peaks.rows == sum(r.kind == ("full", "fsdp", "torchtitan") for r in memory_residuals())


def test_what_a_file_asks_for_and_nothing_follows(tmp_path):
    file = tmp_path / "axolotl.yml"
    file.write_text(
        "base_model: meta-llama/Llama-3.1-8B\nsequence_len: 4096\nmicro_batch_size: 1\n"
        "max_steps: 10\ntiled_mlp: true\ndatasets: [{path: x, type: alpaca}]\n"
        "fsdp_version: 2\nfsdp_config: {reshard_after_forward: true}\n"
    )
    unfollowed = sim.support("dgx-h100", file).of("not modelled")
    assert any("tiled_mlp: MLPs over tiles" in a.evidence for a in unfollowed)
    done = CliRunner().invoke(group, ["support", "dgx-h100", str(file)])
    assert "not modelled" in done.stdout
    assert "tiled_mlp" in done.stdout


def test_the_document_and_its_rows():
    done = CliRunner().invoke(group, ["support", "dgx-h100", "llama3-8b-lora", "--json"])
    document = json.loads(done.stdout)
    assert document["schema"] == "scaling-sim/support/1"
    assert document["aspects"][0]["about"] == "GPU kernels"
    assert document["like"][0]["strategy"] == "fsdp2"
    refused = CliRunner().invoke(
        group, ["support", "dgx-h100", "llama3-8b-lora", "--require", "comparable_rows > 1e6"]
    )
    assert refused.exit_code == 4


def test_evidence_names_keys_that_there_are():
    job = load("dgx-h100", "llama3-8b-sft").workload
    for row in table("evidence")["aspect"]:
        assert row["status"] in {"measured", "modelled"}
        value = attrgetter(row["key"])(job)
        assert value is None or value == row["unless"], row["about"]
