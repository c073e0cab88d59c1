"""A job on more nodes: the same global batch, cut for more ranks."""

import json

import pytest

from sim import simulate
from sim.inputs.loader import load
from sim.inputs.scaled import at_batch
from sim.report.formats import rendered
from sim.report.run import view
from sim.result.scaling import strong_curve


def test_the_same_batch_on_more_nodes():
    """64 sequences a step: 2 x 4 for 8 GPUs, 2 x 2 for 16, 2 x 1 for 32, 1 x 1 for 64, no more."""
    found = load("dgx-h100", "llama3-8b-sft")
    cut = {}
    for nodes in (1, 2, 4, 8, 16):
        moved = at_batch(found.topology, found.workload, nodes)
        cut[nodes] = moved and (moved[1].micro_batch, moved[1].gradient_accumulation)
    assert cut == {1: (2, 4), 2: (2, 2), 4: (2, 1), 8: (1, 1), 16: None}
    # 48 sequences over 32 ranks do not divide
    odd = load("dgx-h100", "llama3-8b-sft", ["gradient_accumulation=3"])
    assert at_batch(odd.topology, odd.workload, 4) is None


def test_strong_scaling_is_throughput_of_one_batch():
    found = load("dgx-h100", "llama3-8b-sft", ["nodes=2"])
    curve = strong_curve(found.topology, found.workload)
    assert [p.nodes for p in curve.curve] == [1, 2, 4, 8]
    assert curve.kind == "strong"
    tokens = {round(p.tokens_per_s * p.step_time_s) for p in curve.curve}
    assert tokens == {128 * 8192}
    first, *_, last = curve.curve
    gain = first.step_time_s / last.step_time_s
    assert last.efficiency == pytest.approx(gain / 8)


def test_a_run_on_several_nodes_says_both():
    """64 GPUs of 8 x the batch, or of the same: 1/8 of the step, less what is hidden less."""
    one = simulate("dgx-h100", "llama3-8b-sft")
    assert one.strong_scaling is None
    assert "Scaling, strong" not in rendered(view(one), "table")
    two = simulate("dgx-h100", "llama3-8b-sft", nodes=2)
    curve = two.strong_scaling.curve
    at_home = next(p for p in curve if p.nodes == 2)
    assert at_home.step_time_s == pytest.approx(two.step.time_s)
    assert [p.nodes for p in curve] == [1, 2, 4, 8]
    text = rendered(view(two), "table")
    assert "Scaling, weak (the same work for each GPU; efficiency against 8 GPUs" in text
    assert "Scaling, strong (the same global batch; efficiency against 8 GPUs" in text
    assert json.loads(two.to_json())["strong_scaling"]["kind"] == "strong"
    assert simulate("dgx-h100", "llama3-8b-sft", nodes=2, scaling=False).strong_scaling is None


def test_more_than_all_of_the_baseline_is_explained():
    """Without communication eight GPUs do more than they do; one alone has none to be rid of."""
    told = {gpus: rendered(view(simulate(gpus, "llama3-8b-sft", fixes=False)), "table")
            for gpus in ("dgx-h100", "h200-x1")}  # fmt: skip
    assert "as they run: what" in told["dgx-h100"]
    assert "as they run" not in told["h200-x1"]
