"""Work is reckoned before it is done, and refused where it is absurd."""

import math

import pytest

from sim.errors import InputError
from sim.inputs.loader import load
from sim.step import bounds
from sim.step.bounds import MAX_BYTES, OP_BYTES, ops_of, spare_bytes
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
    says = r"ops, which need .* write fewer, or pipeline_schedule"
    with within(5.0), pytest.raises(InputError, match=says):
        run_step(found.topology, found.workload)


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
