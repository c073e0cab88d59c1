"""Work is reckoned before it is done, and refused where it is absurd."""

import math
from unittest import mock

import pytest

from sim.errors import InputError
from sim.inputs.loader import load
from sim.pipeline.schedules import SCHEDULES
from sim.step import bounds
from sim.step.bounds import MAX_BYTES, OP_BYTES, ops_of, spare_bytes
from sim.step.cycling import cycled, few_of
from sim.step.ready import priced_of, reckoned
from sim.step.run import run_step
from sim.step.variation import Variation
from sim.units import MIB
from tests.clock import within


def job(nodes):
    found = load("dgx-h100", "llama3-8b-sft", [f"nodes={nodes}"])
    return found.topology, found.workload


MANY = Variation(jitter=0.05, replicas=10**6)
FEW = Variation(jitter=0.05)


@pytest.mark.parametrize(
    ("nodes", "how", "says"),
    [
        (
            1024,
            {"level": "ranks"},
            "ops, which need .* GiB of memory, more than 4.0 GiB; take fewer",
        ),
        (96, {"level": "steps"}, "steps of rings, .*; take fewer nodes, or level ranks"),
        (1, {"level": "ranks", "variation": MANY}, "--replicas .*; take fewer replicas"),
        (
            1024,
            {"level": "ranks", "variation": FEW},
            "--jitter .*more than 4.0 GiB; take fewer no[a-z]*$",
        ),
    ],
)
def test_too_much_is_refused_at_once(nodes, how, says):
    with within(5.0), pytest.raises(InputError, match=says):
        run_step(*job(nodes), **how)


def test_a_machine_with_little_memory_is_not_filled(monkeypatch):
    monkeypatch.setattr(bounds, "spare_bytes", lambda: 2.0**20)
    monkeypatch.setattr(bounds, "FREE_BYTES", 0.0)
    with pytest.raises(InputError, match=r"8 ranks .* more than 0.0 GiB; take fewer nodes"):
        run_step(*job(1), level="ranks")


def test_a_pipeline_that_only_fills_is_refused_before_it_is_recorded():
    sets = ["nodes=1", "parallelism={pipeline_parallel: 4, pipeline_schedule: gpipe}"]
    found = load("dgx-h100", "llama3-8b-sft", [*sets, "gradient_accumulation=65536"])
    says = r"ops, which need .* write fewer of them, fewer virtual_stages, or pipeline_schedule"
    with within(5.0), pytest.raises(InputError, match=says):
        run_step(found.topology, found.workload)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_step_is_counted_from_the_fewest_micro_batches(schedule):
    sets = f"nodes=8 parallelism.pipeline_parallel=8 parallelism.pipeline_schedule={schedule}"
    found = load("dgx-h100", "llama3-8b-sft", [*sets.split(), "gradient_accumulation=72"])
    few, times = reckoned(found.topology, found.workload, Variation(), "folded")
    whole = priced_of(found.topology, found.workload, Variation(), "folded")
    assert times * ops_of(few) == pytest.approx(ops_of(whole), rel=1e-12)


def many_stages(micro):
    """A job of 64 ranks, 16 stages each."""
    sets = "nodes=8 model.layers=1024 parallelism.pipeline_parallel=64"
    more = "parallelism.pipeline_schedule=interleaved-1f1b", "parallelism.virtual_stages=16"
    return load(
        "dgx-h100", "llama3-8b-sft", [*sets.split(), *more, f"gradient_accumulation={micro}"]
    )


def test_plans_are_counted_before_they_are_made(monkeypatch):
    """Ops alone would have been few enough, and plans took 1.5 GiB of what there was for them."""
    monkeypatch.setattr(bounds, "spare_bytes", lambda: 16.0 * 2.0**30)
    found = many_stages(192)
    few, times = reckoned(found.topology, found.workload, Variation(), "folded")
    assert times * ops_of(few) * OP_BYTES < MAX_BYTES
    with (
        mock.patch("sim.step.run.ready_of", side_effect=AssertionError),
        pytest.raises(InputError, match=r"all micro-batches of all stages .* need 4\.5 GiB"),
    ):
        run_step(found.topology, found.workload)


def test_many_stages_a_rank_are_counted_before_they_are_recorded(monkeypatch):
    monkeypatch.setattr(bounds, "spare_bytes", lambda: 2.0**30)
    found = many_stages(4096)
    few = few_of(found.workload)
    counted, _ = reckoned(found.topology, few, Variation(), "folded")
    with (
        mock.patch("sim.step.cycling.ready_of", side_effect=AssertionError),
        pytest.raises(InputError, match="ops, which need"),
    ):
        cycled(found.topology, found.workload, few, "auto", False, lambda ran: None)
    assert ops_of(counted) * OP_BYTES < 2.0**26


def test_the_reckoning_is_what_the_program_has():
    outcome = run_step(*job(1), level="ranks")
    reckoned = ops_of(outcome.priced)
    assert reckoned == pytest.approx(outcome.lowered.plan_op.size, rel=0.1)
    assert reckoned * OP_BYTES < min(MAX_BYTES, spare_bytes())


def test_a_limit_of_addresses_counts():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = bounds._said("/proc/self/status", "VmSize:")
    if math.isinf(taken):
        pytest.skip("nobody says how much is taken")
    for room, least, most in ((64 * MIB, 0.0, 64 * MIB), (-MIB, 0.0, 0.0)):
        resource.setrlimit(resource.RLIMIT_AS, (int(taken + room), before[1]))
        try:
            spare = spare_bytes()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        assert least <= spare <= most
