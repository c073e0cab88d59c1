"""Shares of a step add up, sentences say the same as the bar, and the fewest nodes are exact."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim
from sim.inputs.loader import load
from sim.memory.report import memory
from sim.quantities import whole_percents
from sim.report.formats.table import render
from sim.report.run import view
from sim.result.parts import parts_of, told


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=9))
def test_whole_percents_add_up(values):
    total = sum(values)
    shares = [v / total for v in values]
    found = whole_percents(shares)
    assert sum(found) == 100
    assert all(abs(f - 100 * s) < 1.0 for f, s in zip(found, shares, strict=True))


def test_whole_percents_by_hand():
    # 56.4 + 20.4 + 22.4 + 0.8: rounded one by one 56 + 20 + 22 + 1 = 99
    assert whole_percents([0.564, 0.204, 0.224, 0.008]) == [56, 20, 23, 1] or whole_percents(
        [0.564, 0.204, 0.224, 0.008]
    ) == [57, 20, 22, 1]
    assert whole_percents([1 / 3, 1 / 3, 1 / 3]) == [34, 33, 33]
    assert whole_percents([]) == []


@pytest.mark.parametrize(
    ("machine", "job", "sets"),
    [
        ("dgx-h100", "llama3-8b-sft", []),
        ("dgx-a100", "llama3-70b-full", ["nodes=4"]),
        ("aws-p4d", "llama3-8b-sft", ["nodes=4"]),
        ("workstation-4x4090", "llama3-8b-lora", []),
    ],
)
def test_verdict_and_bar_say_the_same(machine, job, sets):
    result = sim.simulate(machine, job, overrides=sets, scaling=False, fixes=False)
    text = " ".join(render(view(result)).split())
    shares = told(result.step)
    assert sum(shares.values()) == 100
    assert sum(parts_of(result.step).values()) == pytest.approx(result.step.time_s)
    bar = dict(re.findall(r"(GEMM|attention|other kernels|exposed comm) (\d+) %", text))
    assert bar == {name: str(shares[name]) for name in bar}
    compute = re.search(r"compute-bound: (\d+) % of the step is matrix products", text)
    assert compute is not None
    assert int(compute[1]) == shares["GEMM"] + shares["attention"]
    other = re.search(r"another (\d+) % goes to memory-bound kernels", text)
    assert other is None or int(other[1]) == shares["other kernels"]


def test_the_fewest_nodes_are_exact():
    """Between 2 nodes, where it does not fit, and 4, where it does, there is 3."""
    result = sim.simulate("dgx-h100", "llama3-70b-full", nodes=1, fixes=False)
    assert result.scaling.fewest_nodes == 3
    for nodes, fits in ((2, False), (3, True)):
        loaded = load("dgx-h100", "llama3-70b-full", [f"nodes={nodes}"])
        assert memory(loaded.topology, loaded.workload).fits == fits
    text = " ".join(render(view(result)).split())
    assert "unchanged, it fits on 3 nodes (24 GPUs) or more" in text
