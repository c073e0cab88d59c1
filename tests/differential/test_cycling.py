"""A pipeline's step of cycles that come again and again, against the step in full."""

import os
from contextlib import suppress

import numpy as np
import pytest

from sim.inputs.loader import load
from sim.step import cycling
from sim.step.cycling import UnevenError, cycled, few_of
from sim.step.measures import AskedOf, WindowMeasures, simulated
from sim.step.run import run_step
from sim.step.waiting import waiting
from tests.differential.test_rhythm import MODEL, TABLES, equal, job, measures, waits

# Thousands of micro-steps in plain Python take minutes; tests/unit/test_engine_cycling.py holds the
# loop itself there.
pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="played by machine code alone"
)


def in_parts(topology, workload):
    """A step's measures, and how many parts it was simulated in."""
    parts = []

    def seen(ran):
        parts.append(ran.windows[0])
        return WindowMeasures(ran.whole[0], ())

    few = few_of(workload)
    if few is not None:
        with suppress(UnevenError):
            cycled(topology, workload, few, "compiled", True, seen)
    [found] = simulated([(topology, workload)], AskedOf("compiled", True, True), None)
    return found, parts


def same_as_in_full(topology, workload, who=True):
    found, parts = in_parts(topology, workload)
    whole = run_step(topology, workload, all_micro_steps=True, engine="compiled")
    equal(measures(found.whole.breakdown), measures(whole.breakdown), whole.time_s)
    if who:
        equal(waits(found.whole.ranks), waits(waiting(whole)), whole.time_s)
    return parts


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("ranks", "micro"), [(2, 90), (4, 84), (4, 200)])
def test_cycles_that_come_again_are_as_if_played(name, ranks, micro):
    parts = same_as_in_full(*job(micro, pipeline_parallel=ranks, pipeline_schedule=name))
    assert len(parts) > 1


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("knobs", [{"tensor_parallel": 2}, {"pipeline_defer_receives": True}])
def test_so_are_those_of_other_jobs(name, knobs):
    knobs = {**knobs, "pipeline_parallel": 4, "pipeline_schedule": name}
    same_as_in_full(*job(96, sequence=8192, **knobs))
    # where all wait for hosts, rounding says who of two came last
    same_as_in_full(*job(96, sequence=1024, **knobs), who=False)


@pytest.mark.parametrize("defer", [False, True])
@pytest.mark.parametrize("reshard", [False, True])
@pytest.mark.parametrize(
    ("name", "ranks", "virtual"),
    [
        *((name, 4, 2) for name in TABLES),
        *((name, 2, 4) for name in TABLES[:2]),  # gathered again without `reshard` too
        ("interleaved-1f1b", 4, 4),
    ],
)
def test_what_is_launched_far_ahead_begins_when_it_would(name, ranks, virtual, reshard, defer):
    """Gathers and receives are launched ahead of kernels that wait: hosts are held behind them."""
    knobs = {
        "pipeline_parallel": ranks, "virtual_stages": virtual, "pipeline_schedule": name,
        "pipeline_reshard_after_forward": reshard, "pipeline_defer_receives": defer,
    }  # fmt: skip
    # where all wait for hosts, rounding says who of two came last
    assert len(same_as_in_full(*job(64, 4096, **knobs), who=False)) > 1


@pytest.mark.parametrize("sequence", [64, 512])
@pytest.mark.parametrize("name", ["interleaved-1f1b", "interleaved-zero-bubble"])
@pytest.mark.parametrize(
    "knobs",
    [
        {"pipeline_parallel": 4, "pipeline_reshard_after_forward": True},
        {"pipeline_parallel": 2, "virtual_stages": 4},
        {"pipeline_parallel": 2, "virtual_stages": 4, "pipeline_reshard_after_forward": True},
        {"pipeline_parallel": 4, "tensor_parallel": 2},
    ],
)
def test_so_are_those_whose_micro_batches_are_not_alike(name, knobs, sequence):
    """Parameters are gathered in the first of a cycle, or in each."""
    # where all wait for hosts, rounding says who of two came last
    who = "tensor_parallel" not in knobs
    same_as_in_full(*job(96, sequence, pipeline_schedule=name, **knobs), who=who)


def test_a_cycle_waits_for_nothing_that_has_not_begun():
    """What is under way or to come when a cycle is measured did not end its gaps: clipping."""
    small = {"layers": 10, "hidden_size": 512, "heads": 8, "kv_heads": 8}
    layout = {"pipeline_parallel": 2, "pipeline_schedule": "interleaved-1f1b", "tensor_parallel": 4}
    written = {
        "name": "t", "model": MODEL | small, "sequence_length": 512, "micro_batch": 1, "steps": 10,
        "gradient_accumulation": 40, "parallelism": layout,
    }  # fmt: skip
    topology, workload = load("mixed-h100-a100", written)[:2]
    found = []

    def seen(ran):
        found.append(ran.whole[0].exposed.get("all_reduce clip", 0.0))

    cycled(topology, workload, few_of(workload), "compiled", False, seen)
    assert found[-1] > 0.0
    assert not any(found[:-1])


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("sequence", [512, 1024])
def test_a_rhythm_is_found_where_ranks_idle_at_a_pause(name, sequence):
    """A part runs up to the last kernel that has begun, not to one that is yet to begin."""
    knobs = {"sequence": sequence, "pipeline_parallel": 2, "pipeline_schedule": name}
    assert len(same_as_in_full(*job(200, **knobs), who=False)) < 15


def test_what_finds_no_rhythm_is_given_up(monkeypatch):
    monkeypatch.setattr(cycling, "_MOST_PARTS", 1)
    topology, workload = job(64, pipeline_parallel=4, pipeline_schedule="zbv")
    with pytest.raises(UnevenError):
        cycled(topology, workload, few_of(workload), "compiled", False, lambda ran: ran)


@pytest.mark.parametrize("name", TABLES)
def test_any_number_of_micro_batches_is_what_the_last_cycle_adds(name):
    """Once a rhythm is found: a cycle more takes as long as the one before."""
    times = []
    for micro in (1000, 1004, 1008):
        found, parts = in_parts(*job(micro, pipeline_parallel=4, pipeline_schedule=name))
        assert found.middle is not None
        times.append(found.whole.breakdown.time_s)
        assert len(parts[-2]) == 2
    first, second = np.diff(times)
    assert first == pytest.approx(second, rel=1e-9)


def test_few_micro_batches_are_played():
    name = "interleaved-zero-bubble"
    assert few_of(job(44, pipeline_parallel=4, pipeline_schedule=name)[1]) is None
    assert few_of(job(64, pipeline_parallel=4)[1]) is None
    few = few_of(job(64, pipeline_parallel=4, pipeline_schedule=name)[1])
    assert few.gradient_accumulation == 24


def test_what_does_not_repeat_is_simulated_in_full(monkeypatch):
    topology, workload = job(64, pipeline_parallel=4, pipeline_schedule="zbv")
    monkeypatch.setattr(cycling, "repeating", lambda *_: None)
    with pytest.raises(UnevenError):
        cycled(topology, workload, few_of(workload), "compiled", False, lambda ran: ran)
    [found] = simulated([(topology, workload)], AskedOf("compiled", False, False), None)
    whole = run_step(topology, workload, all_micro_steps=True, engine="compiled")
    assert found.whole.breakdown.time_s == pytest.approx(whole.time_s, rel=1e-9)


def test_a_rank_that_turns_out_to_end_last_is_looked_at(monkeypatch):
    topology, workload = job(64, pipeline_parallel=4, pipeline_schedule="zbv")
    asked = AskedOf("compiled", True, True)
    [expected] = simulated([(topology, workload)], asked, None)
    monkeypatch.setattr(cycling, "_last_to_end", lambda step, _: step.views[2])
    [found] = simulated([(topology, workload)], asked, None)
    scale = expected.whole.breakdown.time_s
    equal(measures(found.whole.breakdown), measures(expected.whole.breakdown), scale)


def test_progress_goes_up_to_the_end(monkeypatch):
    monkeypatch.setattr(cycling.watch, "LARGE", 1)
    said = []
    topology, workload = job(64, pipeline_parallel=4, pipeline_schedule="zbv")
    asked = AskedOf("compiled", False, False)
    simulated([(topology, workload)], asked, lambda done, of: said.append((done, of)))
    done, of = zip(*said, strict=True)
    assert done == tuple(sorted(done))
    assert done[0] == 0
    assert len(set(of)) == 1
    assert 0 < done[-1] < of[0]
