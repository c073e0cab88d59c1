"""Extrapolation in depth against full simulation."""

import pytest

from sim.inputs.loader import load
from sim.step.quick import quick_breakdown
from sim.step.run import run_step

CASES = [
    ("dgx-h100", "llama3-8b-sft", []),  # compute-bound
    ("dgx-h100", "llama3-8b-sft", ["sequence_length=128", "micro_batch=1"]),  # launch-bound
    ("aws-p4d", "llama3-8b-sft", ["nodes=4", "sequence_length=512", "micro_batch=1"]),  # network
    ("pcie5-h100-8", "mistral-7b-lora", []),
    ("dgx-a100", "mpt-30b-pretrain", []),
]


@pytest.mark.parametrize(("topology", "workload", "sets"), CASES)
def test_depth_extrapolation_equals_the_full_model(topology, workload, sets):
    loaded = load(topology, workload, sets)
    full = run_step(loaded.topology, loaded.workload, engine="python").breakdown
    quick = quick_breakdown(loaded.topology, loaded.workload, engine="python")
    assert quick.time_s == pytest.approx(full.time_s, rel=1e-5)
    assert quick.compute_s == pytest.approx(full.compute_s, rel=1e-5)
    assert quick.exposed_s == pytest.approx(full.exposed_s, rel=1e-3, abs=1e-4 * full.time_s)
    assert sum(quick.kernels.values()) == pytest.approx(quick.compute_s, rel=1e-9)


@pytest.mark.parametrize(("topology", "workload", "sets"), CASES)
def test_rough_extrapolation_is_enough_to_rank_by(topology, workload, sets):
    loaded = load(topology, workload, sets)
    full = run_step(loaded.topology, loaded.workload, engine="python").breakdown
    rough = quick_breakdown(loaded.topology, loaded.workload, engine="python", rough=True)
    assert rough.time_s == pytest.approx(full.time_s, rel=3e-3)


def test_repeating_the_middle_micro_step_equals_simulating_all():
    loaded = load("dgx-h100", "llama3-8b-sft", ["gradient_accumulation=7"])
    some = run_step(loaded.topology, loaded.workload, engine="python").breakdown
    every = run_step(
        loaded.topology, loaded.workload, engine="python", all_micro_steps=True
    ).breakdown
    assert some.time_s == pytest.approx(every.time_s, rel=1e-6)
    assert some.exposed_s == pytest.approx(every.exposed_s, rel=1e-3)
    assert some.collectives["all_gather"]["count"] == every.collectives["all_gather"]["count"]
    assert some.collectives["reduce_scatter"]["bytes"] == pytest.approx(
        every.collectives["reduce_scatter"]["bytes"]
    )


def test_steps_that_differ_in_accumulation_share_their_micro_steps():
    loaded = load("dgx-h100", "llama3-8b-sft", ["gradient_accumulation=4"])
    four = quick_breakdown(loaded.topology, loaded.workload, engine="python")
    many = loaded.workload.model_copy(update={"gradient_accumulation": 9})
    nine = quick_breakdown(loaded.topology, many, engine="python")
    full = run_step(loaded.topology, many, engine="python").breakdown
    assert nine.time_s == pytest.approx(full.time_s, rel=1e-5)
    assert nine.collectives["all_gather"]["count"] == full.collectives["all_gather"]["count"]
    # what is shared is not changed by adding to it
    again = quick_breakdown(loaded.topology, loaded.workload, engine="python")
    assert again == four
