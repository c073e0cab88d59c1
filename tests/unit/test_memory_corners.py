"""Corners of memory: what a mutation of its code would change, by hand."""

from types import SimpleNamespace

import pytest

from sim.blocks.parameters import build_tree
from sim.inputs.loader import load
from sim.memory import bound
from sim.memory.ledger import Ledger, Peak
from sim.memory.states import scale_bytes
from sim.memory.verdict import Verdict
from sim.strategies.terms import MOMENTS
from tests.unit.fitting_jobs import topology, workload


def machine_that_holds(monkeypatch, quantity, most, sure=None):
    """Memory in which a quantity fits up to `most`, and is sure to up to `sure`."""
    asked = []

    def answer(_, job):
        value = getattr(job, quantity)
        asked.append(value)
        risky = sure is not None and value > sure
        word = "at risk" if risky else "fits"
        verdict = SimpleNamespace(risk="odds" if risky else "", word=word)
        return SimpleNamespace(fits=value <= most, verdict=verdict, value=value)

    monkeypatch.setattr(bound, "memory", answer)
    return asked


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 1000, 2**16 - 2, 2**16 - 1, 2**16])
def test_the_largest_batch_is_found_wherever_it_is(monkeypatch, most):
    asked = machine_that_holds(monkeypatch, "micro_batch", most)
    found = bound.solve(topology(), workload(), "micro_batch")
    assert (found.value, found.report.value) == (most, most)
    assert max(asked) <= 2**16
    if most < 2**16:
        assert found.beyond.value == most + 1  # also where that is the largest asked for
    else:
        assert found.beyond is None


@pytest.mark.parametrize(
    ("model", "quantity", "largest"),
    [
        ("gpt2", "sequence_length", 1024),  # the position table ends there
        ("gpt2", "micro_batch", 2**16),  # which is no limit of a batch
        ("llama-3.1-8b", "sequence_length", 2**24),  # RoPE has no table
    ],
)
def test_what_always_fits_ends_at_its_limit(monkeypatch, model, quantity, largest):
    machine_that_holds(monkeypatch, quantity, 2**30)
    found = bound.solve(topology(), workload(model), quantity)
    assert (found.value, found.beyond) == (largest, None)


@pytest.mark.parametrize(("sure", "said"), [(0, None), (1, 1), (7, 7), (19, 19)])
def test_the_largest_that_is_sure_stands_beside_what_is_at_risk(monkeypatch, sure, said):
    asked = machine_that_holds(monkeypatch, "micro_batch", 20, sure)
    found = bound.solve(topology(), workload(), "micro_batch")
    assert (found.value, found.sure) == (20, said)
    assert min(asked) == 1  # never a batch of nothing


def test_a_ledger_goes_on_by_what_a_micro_step_adds():
    def ledger(total, terms):
        peaks = {moment: Peak(total, terms) for moment in MOMENTS}
        return Ledger(peaks, {"compute": total}, {"pinned": total}, total)

    before = ledger(10.0, {"a": 4.0})
    further = ledger(13.0, {"a": 5.0, "new": 2.0}).further(before, 3)
    peak = further.peaks[MOMENTS[0]]
    assert peak.total == 22.0
    assert peak.terms == {"a": 8.0, "new": 8.0}  # of what was not there before: all of it
    assert (further.pools, further.host) == ({"compute": 22.0}, {"pinned": 22.0})
    assert further.step_pooled == 22.0


@pytest.mark.parametrize(
    ("quantization", "double", "each"),
    [
        ("nf4", False, 4 / 64),
        ("nf4", True, 1 / 64 + 4 / (64 * 256)),
        ("gptq-int4", False, 2.5 / 128),
    ],
)
def test_scales_of_four_bit_weights(quantization, double, each):
    method = {"kind": "qlora", "quantization": quantization, "double_quantization": double}
    job = load("dgx-h100", "llama3-8b-lora").workload
    job = job.model_copy(update={"method": job.method.model_copy(update=method)})
    m = job.model
    kv = m.kv_heads * m.head_dim
    layer = 2 * m.hidden_size**2 + 2 * m.hidden_size * kv + 3 * m.hidden_size * m.ffn_size
    found = scale_bytes(job, build_tree(m, job.method), 8)
    assert found == pytest.approx(m.layers * layer * each, rel=1e-12)


def test_what_the_allocator_would_take_counts_what_is_in_flight():
    verdict = Verdict(70 * 2**30, 80 * 2**30, 78 * 2**30, in_flight_bytes=4 * 2**30)
    assert verdict.missing_bytes == 2 * 2**30
    assert "the allocator would take 82.0 GiB" in verdict.risk


def test_a_host_that_nothing_is_asked_of_has_room():
    assert Verdict(40.0, 80.0, 40.0, 0.0, 0.0).probability == Verdict(40.0, 80.0, 40.0).probability
