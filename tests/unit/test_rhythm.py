"""A few micro-batches of a 1F1B pipeline stand for many: the same step, for less."""

import pytest

from sim.step.rhythm import shortened
from sim.step.run import run_step
from sim.step.step import memory_of, step
from tests.differential.test_rhythm import job as staged


def job(micro, **knobs):
    return staged(micro, **{"pipeline_parallel": 4} | knobs)


@pytest.mark.parametrize(
    "knobs",
    [
        {"strategy": "megatron"},
        {"strategy": "megatron", "tensor_parallel": 2},
        {"strategy": "fsdp2", "wrap": "torchtitan"},
    ],
)
def test_a_short_step_stands_for_a_long_one(knobs):
    topology, workload = job(40, **knobs)
    whole = run_step(topology, workload, all_micro_steps=True)
    short = run_step(topology, workload)
    assert short.repeats >= 20
    assert whole.repeats == 0
    assert short.time_s == pytest.approx(whole.time_s, rel=1e-6)
    for name in ("compute_s", "exposed_s", "host_s", "communication_s"):
        mine, theirs = getattr(short.breakdown, name), getattr(whole.breakdown, name)
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4 * whole.time_s)
    assert step(topology, workload).breakdown.time_s == pytest.approx(whole.time_s, rel=1e-6)


def test_stages_that_catch_up_are_played_to_the_end():
    """The first two are 1.6 % slower, which the others notice after 30 micro-batches."""
    found = run_step(*job(40, strategy="megatron", tensor_parallel=2, pipeline_split="cost"))
    assert found.repeats == 0


def test_only_1f1b_has_a_period_of_one_micro_batch():
    tried = [w.gradient_accumulation for w in shortened(job(40)[1])]
    assert tried == [12, 20, 36, 40]
    assert len(list(shortened(job(40, pipeline_schedule="gpipe")[1]))) == 1
    assert [w.gradient_accumulation for w in shortened(job(8)[1])] == [8]
    assert [w.gradient_accumulation for w in shortened(job(8, pipeline_parallel=1)[1])] == [3, 6, 8]


def test_memory_of_1f1b_is_that_of_what_is_in_flight():
    """Megatron receives into what its first block keeps; FSDP2 has a buffer a micro-batch."""
    few, many = (memory_of(*job(m, strategy="megatron")).needed_bytes for m in (8, 64))
    assert few == many
    few, many = (memory_of(*job(m)).needed_bytes for m in (8, 64))
    assert many - few == pytest.approx(56 * 2048 * 1024 * 2, rel=0.05)  # of an end stage
