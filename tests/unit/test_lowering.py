"""What `lower` leaves out of programs of many ranks changes no time."""

import numpy as np
import pytest

from sim.inputs.loader import load
from sim.lowering import runs as lowering
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
