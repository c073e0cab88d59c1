"""A step of few micro-steps, the one before the last counted again, against the step in full."""

import os

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.inputs.loader import load
from sim.step.kept import forget, measures_kept
from sim.step.measures import AskedOf, simulated
from sim.step.micro_repeat import micro_steps_repeat
from sim.step.rhythm import MICRO_STEPS
from sim.step.run import run_step
from sim.step.step import micro_steps
from sim.step.variation import Variation
from tests.differential.test_rhythm import equal, measures

# Thousands of micro-steps in plain Python take minutes; tests/unit/test_engine_cycling.py holds the
# loop itself there.
pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="played by machine code alone"
)

ASKED = AskedOf("compiled", True, True)
#: whose second micro-step still works off the host's lag of the first
LAGGING = [
    ("h100-x1", {"model": "llama-3.2-3b", "parallelism": {"strategy": "ddp"}}),
    ("h100-x1", {"model": "mistral-7b"}),
    ("dgx-h100", {"model": "llama-3.2-3b", "sequence_length": 512}),
]


def job(topology, **knobs):
    workload = {
        "name": "t", "sequence_length": 256, "micro_batch": 2, "steps": 10,
        "gradient_accumulation": 8, "parallelism": {"strategy": "fsdp2"},
    }  # fmt: skip
    return load(topology, workload | knobs, [])[:2]


def in_full(pair):
    return run_step(*pair, engine="compiled", all_micro_steps=True)


def same(found, whole):
    """To what is left where streams run ahead of each other: far below 1e-4."""
    mine, theirs = measures(found), measures(whole)
    assert mine["time_s"] == pytest.approx(theirs["time_s"], rel=1e-5)
    for name in mine.keys() | theirs.keys():
        least = 1e-5 * theirs["time_s"]
        assert mine.get(name, 0.0) == pytest.approx(theirs.get(name, 0.0), rel=1e-4, abs=least)


@st.composite
def jobs(draw):
    """Hosts that are late, as late as the GPU, or far ahead of it."""
    strategy = draw(st.sampled_from(("fsdp2", "fsdp1", "zero2", "zero3", "ddp", "single")))
    machine = "h100-x1" if strategy == "single" else draw(
        st.sampled_from(("h100-x1", "a100-x1", "dgx-h100", "dgx-a100", "l40s-8"))
    )  # fmt: skip
    parallelism = {"strategy": strategy}
    if strategy in ("fsdp2", "fsdp1", "ddp"):
        parallelism["gradient_sync"] = draw(st.sampled_from(("every", "last")))
    knobs = {
        "model": draw(st.sampled_from(("llama-3.2-1b", "llama-3.2-3b", "mistral-7b"))),
        "sequence_length": draw(st.sampled_from((256, 512, 1024, 2048))),
        "micro_batch": draw(st.integers(1, 2)),
        "gradient_accumulation": draw(st.integers(4, 64)),
        "activation_checkpointing": draw(st.sampled_from(("none", "full"))),
        "compile": draw(st.booleans()), "parallelism": parallelism,
        "method": draw(st.sampled_from(("full", "lora"))),
    }  # fmt: skip
    return machine, knobs


@given(jobs())
@settings(max_examples=25, derandomize=True, deadline=None)
def test_what_is_left_out_is_as_if_played(drawn):
    machine, knobs = drawn
    try:
        pair = job(machine, **knobs)
    except InputError:
        assume(False)
        raise
    same(run_step(*pair, engine="compiled").breakdown, in_full(pair).breakdown)


@pytest.mark.parametrize(("machine", "knobs"), LAGGING)
def test_lag_of_the_host_is_not_counted_again(machine, knobs):
    """It was: 8 micro-steps of the first 8.4 % too long, 32 of them 13 %."""
    pair = job(machine, **knobs)
    whole = in_full(pair)
    short = run_step(*pair, engine="compiled")
    assert pair[1].gradient_accumulation - short.repeats > MICRO_STEPS
    equal(measures(short.breakdown), measures(whole.breakdown), whole.time_s)
    [found] = simulated([pair], ASKED, None)
    equal(measures(found.whole.breakdown), measures(whole.breakdown), whole.time_s)


def test_a_host_that_is_ahead_or_as_late_again_is_seen_at_once():
    for knobs in ({"sequence_length": 4096, "micro_batch": 1}, {"micro_batch": 1}):
        short = run_step(*job("dgx-h100", model="llama-3-8b", **knobs), engine="compiled")
        assert short.repeats == 8 - MICRO_STEPS
        assert micro_steps_repeat(short.lowered, short.timeline).all()


def test_batches_engines_and_levels_agree():
    counts = (3, 5, 24)
    pairs = [job(name, gradient_accumulation=n, **own) for name, own in LAGGING for n in counts]
    forget()
    together = [one.whole.breakdown.time_s for one in measures_kept(pairs, ASKED)]
    forget()
    alone = [measures_kept([pair], ASKED)[0].whole.breakdown.time_s for pair in reversed(pairs)]
    assert together == pytest.approx(alone[::-1], rel=1e-9)
    plain = [run_step(*pair, engine="python").time_s for pair in pairs]
    assert together == pytest.approx(plain, rel=1e-9)
    ranks = [run_step(*pair, level="ranks").time_s for pair in pairs[-3:]]
    assert together[-3:] == pytest.approx(ranks, rel=1e-6)


def test_the_micro_step_of_a_lagging_job_is_none():
    machine, knobs = LAGGING[0]
    found = micro_steps([job(machine, **knobs), job("dgx-h100", model="llama-3-8b")])
    assert found[0].breakdown.time_s == 0.0
    assert found[1].breakdown.time_s > 0.0


def test_drawn_steps_find_their_rhythm_too():
    machine, knobs = LAGGING[2]
    pair = job(machine, gradient_accumulation=24, **knobs)
    varied = Variation(jitter=0.02, replicas=2)
    short = run_step(*pair, level="ranks", variation=varied)
    whole = run_step(*pair, level="ranks", variation=varied, all_micro_steps=True)
    assert short.repeats
    assert short.time_s == pytest.approx(whole.time_s, rel=1e-6)
