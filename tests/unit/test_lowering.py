"""What `lower` leaves out of programs of many ranks changes no time."""

import numpy as np
import pytest

import sim
from sim.inputs.loader import load
from sim.lowering import lower
from sim.lowering import runs as lowering
from sim.lowering.parts import RowKinds
from sim.lowering.slack import Binding
from sim.step.run import run_step
from sim.step.variation import Variation

PAIRS = [
    ("dgx-h100", ["nodes=1"]),
    ("dgx-h100", ["nodes=2", "parallelism.replicate=2"]),
    ("dgx-a100", ["nodes=2", "network.oversubscription=4"]),
    ("pcie4-a100-8", []),
    ("pcie5-h100-8", ["parallelism.offload=all"]),
]


def steps_of(machine, sets, level="ranks", jitter=0.0):
    loaded = load(machine, "llama3-8b-sft", [*sets, "gradient_accumulation=2", "model.layers=3"])
    return run_step(
        loaded.topology, loaded.workload, engine="python", level=level,
        variation=Variation(jitter=jitter, seed=1),
    )  # fmt: skip


def everything(monkeypatch):
    found = lowering.may_bind

    def all_of_it(*args):
        binding = found(*args)
        return Binding(tuple(map(np.ones_like, binding.local)), np.ones_like(binding.resource))

    monkeypatch.setattr(lowering, "may_bind", all_of_it)


@pytest.mark.parametrize(("machine", "sets"), PAIRS)
@pytest.mark.parametrize(("level", "jitter"), [("ranks", 0.0), ("ranks", 0.05), ("steps", 0.0)])
def test_demands_that_cannot_bind_change_no_time(monkeypatch, machine, sets, level, jitter):
    few = steps_of(machine, sets, level, jitter)
    everything(monkeypatch)
    all_of_them = steps_of(machine, sets, level, jitter)
    fewer, more = few.lowered.program.demand_resource, all_of_them.lowered.program.demand_resource
    assert fewer.size < more.size
    # rates are the same; what is left of an op is reckoned at other moments, a rounding each
    assert few.timeline.end == pytest.approx(all_of_them.timeline.end, rel=1e-14)


@pytest.mark.parametrize(("machine", "sets"), PAIRS)
@pytest.mark.parametrize("jitter", [0.0, 0.05])
def test_hidden_launches_change_no_kernel(monkeypatch, machine, sets, jitter):
    few = steps_of(machine, sets, jitter=jitter)
    monkeypatch.setattr(
        lowering, "hidden_launches", lambda part, fastest: np.zeros(part.row_start.size, dtype=bool)
    )
    every = steps_of(machine, sets, jitter=jitter)
    assert few.lowered.program.lane.size < 0.7 * every.lowered.program.lane.size
    for mine, theirs in zip(few.lowered.views, every.lowered.views, strict=True):
        assert few.timeline.end[mine.compute] == pytest.approx(
            every.timeline.end[theirs.compute], rel=1e-12
        )


def test_launch_bound_segments_keep_their_launches(monkeypatch):
    """Tiny kernels wait for the host: nothing is hidden, and the step is the host's time."""
    found = []
    hidden = lowering.hidden_launches

    def spy(part, fastest):
        out = hidden(part, fastest)
        found.append(out[part.row_count > 2])
        return out

    monkeypatch.setattr(lowering, "hidden_launches", spy)
    loaded = load(
        "dgx-h100", "llama3-8b-sft",
        ["model.layers=2", "sequence_length=128", "micro_batch=1", "gradient_accumulation=1"],
    )  # fmt: skip
    ranks = run_step(loaded.topology, loaded.workload, engine="python", level="ranks")
    folded = run_step(loaded.topology, loaded.workload, engine="python")
    assert not found[0].all()
    assert ranks.time_s == pytest.approx(folded.time_s, rel=1e-9)


@pytest.mark.parametrize("gpus", [2, 4])
def test_copies_below_one_switch_weigh_the_same_rank_by_rank(gpus):
    """Beside a gather each copy has the rate at which all ranks copy, folded or not.

    Rank by rank it was that of one alone, twice as much: 4 % of the step of two L40S.
    """
    node = {"gpu": "l40s-pcie-48gb", "gpus": gpus, "pcie": {"gpus_per_switch": 2}}
    loaded = load({"name": "pairs", "node": node}, "llama3-8b-lora", [
        "model.layers=4", "micro_batch=1", "gradient_accumulation=1", "parallelism.offload=all",
        "sequence_length=512",
    ])  # fmt: skip
    ranks = run_step(loaded.topology, loaded.workload, engine="python", level="ranks")
    folded = run_step(loaded.topology, loaded.workload, engine="python")
    assert ranks.time_s == pytest.approx(folded.time_s, rel=1e-12)
    assert ranks.breakdown.slowdown_s == pytest.approx(folded.breakdown.slowdown_s, rel=1e-6)


def test_ranks_run_one_by_one_are_warned_of_the_same():
    """Threads of an optimizer on the host were not told of."""
    node = {"gpu": "l40s-pcie-48gb", "gpus": 2}
    job, alone = {"parallelism.offload": "all"}, {"scaling": False, "fixes": False}
    found = [
        sim.simulate({"name": "two", "node": node}, "mistral-7b-full", overrides=job, level=level,
                     **alone)
        for level in ("folded", "ranks")
    ]  # fmt: skip
    codes = [[warning.code for warning in each.warnings] for each in found]
    assert codes[0] == codes[1]
    assert "one-thread" in codes[0]


@pytest.mark.parametrize("fastest", [0.01, 0.5, 1.0])
def test_launches_are_hidden_where_none_can_be_needed_before_it_is_made(fastest):
    """Op by op as the docstring has it, with a host about as quick as kernels."""
    loaded = load("dgx-h100", "llama3-8b-sft", ["model.layers=2", "sequence_length=512"])
    (part,) = run_step(loaded.topology, loaded.workload, engine="python").priced.parts
    draw = np.random.default_rng(0)
    n = part.rows.work.size
    kinds = RowKinds(part.rows.kinds.category, draw.random(n) < 0.02)
    rows = part.rows._replace(kinds=kinds)
    alone = rows.latency_s + np.where(rows.work > 0.0, rows.work / rows.bound, 0.0)
    host_s = 0.5 / fastest * draw.uniform(0.1, 1.5, n) * np.roll(alone, 1)
    rows = rows._replace(host_s=host_s)
    expected = []
    for first, count in zip(part.row_start.tolist(), part.row_count.tolist(), strict=True):
        launched = host_s[first + 1 : first + count].cumsum()
        ready = 0.5 / fastest * alone[first : first + count].cumsum()
        late = launched > ready[:-1] * (1 + 1e-9)
        expected.append(not late.any() and not rows.waits[first : first + count].any())
    found = lowering.hidden_launches(part._replace(rows=rows), fastest)
    assert 0 < sum(expected) < len(expected)
    np.testing.assert_array_equal(found, expected)


def test_columns_of_one_value_are_shared_but_long_ones(monkeypatch):
    """A long program is not kept, and so leaves nothing behind."""
    monkeypatch.setattr(lower, "_alike", {})
    monkeypatch.setattr(lower, "_LONGEST", 5)
    one, other, long = (lower._same(-1, n) for n in (4, 5, 6))
    assert np.shares_memory(lower._same(-1, 4), other)
    assert not np.shares_memory(long, other)
    for column, n in ((one, 4), (other, 5), (long, 6), (lower._same(1, 3), 3)):
        assert column.tolist() == [column[0]] * n
    assert {value: column.size for value, column in lower._alike.items()} == {-1: 5, 1: 3}
