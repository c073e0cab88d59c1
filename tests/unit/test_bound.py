"""What fits: largest batches, longest sequences, fewest nodes, and changes that make a job fit."""

import json

import pytest
from click.testing import CliRunner

from sim import simulate
from sim.commands.memory import command
from sim.errors import InfeasibleError
from sim.inputs.gpu import Gpu
from sim.inputs.topology import Cpu, Node, NvLink, Pcie, Topology
from sim.inputs.workload import Checkpointing, Parallelism
from sim.memory.bound import solve
from sim.memory.report import memory
from sim.result.trials import smaller, timed
from sim.step.run import run_step
from tests.unit.fitting_jobs import FULL, topology, workload


def test_largest_micro_batch_is_exact():
    bound = solve(topology(), workload(length=4096), "micro_batch")
    assert bound.report.fits
    assert not bound.beyond.fits
    again = memory(topology(), workload(length=4096, micro_batch=bound.value))
    assert again == bound.report


def test_longest_sequence():
    bound = solve(topology(), workload(), "sequence_length")
    assert bound.value % 256 == 0
    assert bound.report.fits
    assert not bound.beyond.fits
    chunked = solve(topology(), workload(loss="fused-linear"), "sequence_length")
    assert chunked.value > bound.value
    learned = solve(topology(gpus=1), workload("gpt2"), "sequence_length")
    assert learned.value == 1024  # the position table ends there
    assert learned.beyond is None


def test_fewest_nodes():
    job = workload("llama-3.1-70b", 4096)
    bound = solve(topology(), job, "nodes")
    assert bound.value > 1
    assert bound.report.fits
    assert not memory(topology(bound.value - 1), job).fits


def test_nothing_fits_is_an_answer():
    with pytest.raises(InfeasibleError, match="micro_batch 1 already needs"):
        solve(topology(), workload("llama-3.1-405b", 4096), "micro_batch")
    with pytest.raises(InfeasibleError, match="nodes are not enough"):
        solve(topology(), workload(length=1 << 20, micro_batch=4), "nodes")


def test_fixes_are_ranked_and_true():
    job = workload("llama-3.1-70b", 4096)
    found = smaller(topology(), job)
    before = memory(topology(), job).needed_bytes
    assert found
    order = [(not f.fits, f.changes_training, f.time_cost) for f in found]
    assert order == sorted(order)
    for fix in found:
        assert fix.saved_bytes == before - fix.needed_bytes > 0
    offload = next(f for f in found if f.change == {"parallelism.offload": "all"})
    changed = job.model_copy(update={"parallelism": Parallelism(offload="all")})
    assert offload.needed_bytes == memory(topology(), changed).needed_bytes


def test_fixes_are_priced_by_simulation():
    """GPU-seconds a token of the changed job over those of the job, both simulated in full."""
    job = workload(length=8192, micro_batch=2, activation_checkpointing=Checkpointing())
    node = topology().node.model_copy(update={"nvlink": NvLink(generation=4, links_per_gpu=18)})
    switched = topology().model_copy(update={"node": node})
    found = {f.description: f for f in smaller(switched, job)}
    again = job.model_copy(update={"activation_checkpointing": FULL})
    # with what the allocator's retries take, near capacity
    base = timed(switched, job)[1] * 2 * 8192
    assert 1.0 < base / run_step(switched, job).time_s < 1.02
    cost = run_step(switched, again).time_s / base - 1
    assert found["full activation checkpointing"].time_cost == pytest.approx(cost, abs=1e-4)
    assert cost > 0.15
    assert found["loss in chunks"].time_cost < 0.02


def test_changes_together_where_none_suffices():
    job = workload(length=8192, micro_batch=2)
    tight = topology(size=26e9)
    found = smaller(tight, job)
    alone = [f for f in found if " + " not in f.description and not f.changes_training]
    assert not any(f.fits for f in alone)
    together = next(f for f in found if " + " in f.description)
    assert together.fits
    assert len(together.change) >= 2
    assert together.needed_bytes < min(f.needed_bytes for f in alone)


def test_command():
    run = CliRunner().invoke(command, ["dgx-h100", "llama3-8b-sft", "--max", "micro_batch"])
    assert run.exit_code == 0, run.output
    assert "Fits:" in run.output
    assert "Largest micro batch that fits:" in run.output
    data = CliRunner().invoke(command, ["dgx-a100", "llama3-70b-full", "--format", "json"])
    parsed = json.loads(data.output)
    assert parsed["schema"] == "scaling-sim/memory/1"
    assert parsed["memory"]["fits"] is False
    failed = CliRunner().invoke(command, ["dgx-a100", "llama3-70b-full", "--require", "fits"])
    assert failed.exit_code == 4
    for form, name in (("csv", "optimizer_states"), ("md", "optimizer states")):
        text = CliRunner().invoke(command, ["dgx-h100", "llama3-8b-sft", "--format", form]).output
        assert name in text


def test_host_memory_is_part_of_the_verdict():
    """Offloading 70B takes 16 bytes a parameter of host memory: 1.13 TB, here of 0.5.

    Pinned in powers of two: 112 MiB of an FFN's matrix take 128, 501 of a table 512.
    """
    small = Cpu(memory=0.5e12)
    node = Node(gpu=Gpu(name="h100"), gpus=8, pcie=Pcie(generation=5), cpu=small)
    offload = Parallelism(offload="all")
    report = memory(Topology(name="t", node=node), workload("llama-3.1-70b", parallelism=offload))
    assert report.peak_reserved_bytes < report.capacity_bytes
    rounded = 80 * 3 * (128 - 112) * 2**20 + 2 * (512 - 501) * 2**20
    bare = 16 * 70_553_706_496 + 8 * 4e9
    assert report.host_bytes == pytest.approx(bare + 8 * 2 * rounded, rel=1e-6)
    assert not report.fits


def test_traps_reach_the_result():
    """A run's document warns of what `memory` warns of."""
    method = {"lora": {"rank": 16, "targets": "all-linear"}}
    job = {
        "name": "trap", "model": "llama-3.1-8b", "method": method, "sequence_length": 2048,
        "steps": 10, "parallelism": {"strategy": "zero3"},
        "activation_checkpointing": {"full": {"reentrant": True}},
    }  # fmt: skip
    result = simulate("dgx-h100", job, scaling=False, fixes=False)
    codes = [w.code for w in result.warnings]
    assert "memory.zero3-frozen-weights-pile-up" in codes


@pytest.mark.parametrize(
    ("batch", "said"), [(1, "What would save memory, cheapest"), (64, "Fixes, those that make it")]
)
def test_only_a_job_that_does_not_fit_is_made_to(batch, said):
    args = ["a100-x1", "mistral-7b-lora", "--set", f"micro_batch={batch}"]
    text = CliRunner().invoke(command, args).output
    assert said in text
    assert ("Does not fit" in text) is ("make it fit" in text) is (batch == 64)
