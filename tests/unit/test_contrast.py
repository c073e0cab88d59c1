"""Bands of ratios: as wide as what measured ratios of their kind missed by."""

import math

import pytest

from sim.published.lookup import find_row, known_ids, setting, speed
from sim.result.likeness import JobTraits, Residual, residuals
from sim.study.question.contrast import MEASURED_RATIO, Contrasts, differing

A100 = JobTraits(
    "a100", "fsdp1", "full", 8, 7e9, 8192.0, trainer="composer", link="nvlink", scale=0.08
)


@pytest.fixture(scope="module")
def contrasts():
    return Contrasts()


def test_what_two_jobs_differ_in():
    assert differing(A100, A100._replace(generation="h100", fp8=True)) == {"generation", "fp8"}
    assert differing(A100, A100._replace(parameters=8e9, tokens=1.0)) == frozenset()


def test_pairs_differ_in_nothing_but_their_features(contrasts):
    pairs = contrasts.pairs[frozenset({"generation"})]
    assert len(pairs) > 100
    for pair in pairs:
        first, second = (contrasts.rows[i] for i in pair[:2])
        assert (first.source, first.model) == (second.source, second.model)
        assert setting(first.id) == setting(second.id)
        assert pair.miss == pytest.approx(second.without_source - first.without_source)
    # llm-foundry's MPT 7B of 2,048 tokens, on A100 and on H100
    ids = {frozenset(contrasts.rows[i].id for i in p[:2]) for p in pairs}
    assert frozenset({"llm-foundry:L184", "llm-foundry:L118"}) in ids


def test_a_ratio_is_as_uncertain_as_measured_ones(contrasts):
    found = contrasts.width(A100, A100._replace(generation="h100"))
    assert found.pairs > 10
    assert MEASURED_RATIO <= found.half_width < 0.08
    shaky = A100._replace(scale=0.8)  # waits for its links: what constants decide is in doubt
    wide = contrasts.width(shaky, shaky._replace(generation="h100"))
    assert wide.half_width > 3 * found.half_width


def test_a_ratio_that_nobody_measured_has_no_pairs(contrasts):
    assert (
        contrasts.width(A100, A100._replace(trainer="torchtitan", fp8=True, method="nf4")) is None
    )
    assert contrasts.width(A100, A100) is None


def test_a_miss_of_the_study_itself_counts():
    """One pair of a method is all that is known of it: the band is as wide as its miss."""
    first = Residual("fsdp-qlora:L190", "fsdp-qlora", "x", A100._replace(method="nf4"), 0.0, 0.0)
    miss = math.log(2.5 / 1.9)
    job = first.job._replace(generation="h100")
    second = Residual("fsdp-qlora:L192", "fsdp-qlora", "x", job, miss, miss)
    known = Contrasts([first, second], [(first.id, second.id)])
    assert known.width(first.job, job).half_width == pytest.approx(miss)


def test_published_runs_by_id():
    assert {r.id for r in residuals()} <= known_ids()
    row = find_row("finetune:784")  # 8B LoRA, one A100, 8,192 tokens
    assert (row.gpus, row.workload.sequence_length) == (1, 8192)
    assert speed("finetune:784") == row.tokens_per_s_per_gpu == pytest.approx(3135.46)
    assert find_row("llm-foundry:L118").tokens_per_s_per_gpu == 10643
    assert find_row("fms-acceleration:fms-L34").workload.method.kind == "lora"
    assert speed("fsdp-qlora:L34") is None
    with pytest.raises(KeyError):
        find_row("llm-foundry:L0")
