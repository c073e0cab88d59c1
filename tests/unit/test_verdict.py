"""Fits, at risk, does not fit: one object, one probability, every verb."""

import json
import math

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sim.blocks.from_workload import setting_of
from sim.blocks.tensor import workspace_bytes
from sim.cli import group
from sim.errors import InfeasibleError
from sim.inputs.loader import load
from sim.memory.bound import solve, solve_each
from sim.memory.report import memory
from sim.memory.states import constants
from sim.memory.verdict import SURE, Verdict, probability


def test_probability_is_of_the_band():
    """The 80 % band is 1.28 standard deviations wide to either side of the logarithm."""
    edge = math.exp(0.08)
    assert probability(1e9, 1e9, 0.08) == 0.5
    assert probability(1e9, edge * 1e9, 0.08) == pytest.approx(0.9, abs=1e-4)
    assert probability(edge * 1e9, 1e9, 0.08) == pytest.approx(0.1, abs=1e-4)


@given(st.floats(1e6, 1e13), st.floats(1e6, 1e13), st.floats(1.0, 2.0))
def test_more_memory_is_never_less_likely(needed, capacity, more):
    likely = probability(needed, capacity, 0.1)
    assert probability(needed, more * capacity, 0.1) >= likely
    assert probability(more * needed, capacity, 0.1) <= likely


@pytest.mark.parametrize(
    ("needed", "reserved", "host", "word"),
    [
        (70.0, 74.0, 0.0, "fits"),
        (76.0, 76.0, 0.0, "at risk"),  # the band
        (70.0, 90.0, 0.0, "at risk"),  # the allocator retries
        (81.0, 81.0, 0.0, "does not fit"),
        (70.0, 74.0, 99.0, "at risk"),
        (70.0, 74.0, 101.0, "does not fit"),
    ],
)
def test_words(needed, reserved, host, word):
    found = Verdict(needed, 80.0, reserved, host, 100.0)
    assert found.word == word
    assert found.fits == (word != "does not fit")
    assert bool(found.risk) == (word == "at risk")


def test_what_must_live_leaves_out_pools_of_streams():
    found = memory(*load("dgx-h100", "llama3-8b-sft")[:2])
    c = constants()
    kept = (1 + c["fragmentation"]) * found.peak_allocated_bytes
    assert found.needed_bytes == pytest.approx(kept + c["context"] + c["communicator"])
    assert found.needed_bytes < found.peak_reserved_bytes


def test_expandable_segments_need_less():
    plain = load("dgx-h100", "llama3-8b-sft")
    set_ = load("dgx-h100", "llama3-8b-sft", ["stack.expandable_segments=true"])
    assert memory(*set_[:2]).needed_bytes < memory(*plain[:2]).needed_bytes


def said(*words):
    """What a verb answers as JSON."""
    found = CliRunner().invoke(group, [*words, "--format", "json"])
    assert found.exit_code == 0, found.output
    return json.loads(found.output)


def tight():
    """Settings of a job at the edge of a DGX H100, and what it is called there."""
    sets = ["micro_batch=1", "gradient_accumulation=1"]
    loaded = load("dgx-h100", "llama3-8b-sft", sets)
    longest = solve(loaded.topology, loaded.workload, "sequence_length")
    assert longest.sure is not None
    assert longest.sure < longest.value
    return [*sets, f"sequence_length={longest.value}"], longest.report.verdict


def test_every_verb_says_the_same():
    sets, verdict = tight()
    options = [word for text in sets for word in ("--set", text)]
    assert verdict.word == "at risk"
    assert verdict.probability < SURE
    pair = ("dgx-h100", "llama3-8b-sft")
    expected = ("at risk", pytest.approx(verdict.probability))
    for found in (
        said("run", *pair, *options)["memory"],
        said("memory", *pair, *options)["memory"],
        said("compare", "dgx-h100", "dgx-h200", "llama3-8b-sft", *options)["variants"][0],
    ):
        found = found.get("result", found)
        found = found.get("memory", found)
        assert (found["verdict"], found["fit_probability"]) == expected


def test_a_risk_of_time_alone_is_not_said_as_one_of_memory():
    sure = Verdict(40e9, 80e9, 81e9, half_width=0.1)
    assert (sure.word, f"{sure.probability:.3f}") == ("at risk", "1.000")
    assert sure.risk.startswith("sure to run, but slower; the allocator would take")
    likely = Verdict(70e9, 80e9, 81e9, half_width=0.1)
    assert likely.risk.startswith(f"{100 * likely.probability:.0f} % likely to run; the allocator")


def test_what_fills_a_gpu_or_a_host_to_the_byte_fits():
    assert Verdict(80.0, 80.0, 70.0, 99.0, 99.0).fits
    assert not Verdict(80.0, 80.0, 70.0, 100.0, 99.0).fits
    assert Verdict(70.0, 80.0, 80.0).retries is False  # nothing is missing
    assert Verdict(70.0, 80.0, 81.0).retries


@pytest.mark.parametrize(("sets", "groups"), [
    ([], 1), (["parallelism.replicate=2"], 2), (["parallelism.context_parallel=2"], 2),
    (["parallelism.separate_reduce_scatter_group=true"], 2),
    (["parallelism.tensor_parallel=2", "parallelism.context_parallel=2"], 3),
    (["model=qwen3-30b-a3b", "parallelism.expert_parallel=8"], 2),
    (["model=qwen3-30b-a3b", "parallelism.expert_parallel=2"], 3),  # and the experts' own
])  # fmt: skip
def test_a_communicator_a_group(sets, groups):
    topology, workload, _ = load("dgx-h100", "llama3-8b-sft", ["nodes=1", *sets])
    found = memory(topology, workload)
    work = workspace_bytes(setting_of(workload))
    assert found.overheads["communicators"] == constants()["communicator"] * groups + work
    alone, single, _ = load("h100-x1", "llama3-8b-sft")
    assert memory(alone, single).overheads["communicators"] == work


def test_overheads_are_shares_of_the_pools():
    topology, workload, _ = load("dgx-h100", "llama3-8b-sft")
    found = memory(topology, workload)
    pooled = found.peak_allocated_bytes + found.overheads["stream_pools"]
    assert found.overheads["fragmentation"] == constants()["fragmentation"] * pooled
    assert found.overheads["cuda_context"] == constants()["context"]
    assert found.peak_reserved_bytes == pytest.approx(
        found.peak_allocated_bytes + sum(found.overheads.values())
    )


def test_of_two_questions_without_an_answer_the_first_is_told():
    topology, workload, _ = load("rtx-4090-x1", "llama3-70b-full", ["parallelism=single"])
    with pytest.raises(InfeasibleError) as first:
        solve(topology, workload, "micro_batch")
    with pytest.raises(InfeasibleError) as several:
        solve_each(topology, workload, ("micro_batch", "sequence_length"))
    assert str(several.value) == str(first.value)


def test_a_host_that_is_not_asked_about_holds_nothing_and_has_room():
    plain = Verdict(70.0, 80.0, 75.0)
    assert (plain.host_bytes, plain.host_capacity_bytes, plain.in_flight_bytes) == (
        0.0,
        math.inf,
        0,
    )
    assert probability(1.0, 0.0, 0.1) == 0.0
    assert probability(0.0, 0.0, 0.1) == 1.0


def test_what_saving_takes_is_not_of_the_step():
    sets = ["nodes=1", "sequence_length=512", "micro_batch=1"]
    plain = memory(*load("dgx-h100", "llama3-8b-sft", sets)[:2])
    full = "checkpoint={mode: full, offload_to_cpu: false}"
    saving = memory(*load("dgx-h100", "llama3-8b-sft", [*sets, full])[:2])
    assert saving.peak_moment == "save"
    assert saving.peak_reserved_bytes > 2 * plain.peak_reserved_bytes
    assert saving.step_reserved_bytes == pytest.approx(plain.peak_reserved_bytes)
    assert plain.step_reserved_bytes == pytest.approx(plain.peak_reserved_bytes)


def test_how_many_nodes_were_tried_is_said():
    topology, workload, _ = load("dgx-h100", "llama3-8b-sft", ["sequence_length=131072"])
    with pytest.raises(
        InfeasibleError, match=r"^1,024 nodes are not enough: .* shrinks no further"
    ):
        solve(topology, workload, "nodes")


def test_a_host_without_room_is_what_is_missing():
    sets = ["node.cpu.memory=64 GB", "sequence_length=512"]
    topology, workload, _ = load("h100-x1", "llama3-8b-offload", sets)
    with pytest.raises(InfeasibleError, match=r"GiB of the host's 59\.6 GiB"):
        solve(topology, workload, "micro_batch")
