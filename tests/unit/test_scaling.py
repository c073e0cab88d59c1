"""A job on more nodes: the same global batch, cut for more ranks."""

import pytest

from sim.inputs.loader import load
from sim.inputs.scaled import at_batch
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
