"""Bands of memory: peaks like a job's count most, what no peak shows widens."""

import math

import numpy as np
import pytest

from sim.inputs.loader import load
from sim.memory.band import (
    UNSEEN,
    MemoryResidual,
    PeakKind,
    effective,
    half_width,
    kind_of,
    memory_half_width,
    memory_residuals,
    quantile_of,
)

FULL = PeakKind("full", "fsdp", "none")


def peaks(n, size, source="s", kind=FULL):
    """Errors from size / n to size, either sign."""
    return [MemoryResidual(f"r{i}", source, kind, (-1) ** i * size * (i + 1) / n) for i in range(n)]


def test_quantile_of_equal_weights():
    """0.8 + 0.2 / 51 of a hundred sizes is the 81st; one alone is its own band."""
    sizes = np.arange(1.0, 101.0)
    assert quantile_of(sizes, np.ones(100)) == 81.0
    assert quantile_of(np.array([3.0]), np.ones(1)) == 3.0
    assert effective(np.array([2.0, 2.0, 0.0])) == pytest.approx(2.0)


def test_method_by_method():
    known = peaks(50, 0.02) + peaks(50, 0.3, "t", PeakKind("nf4", "fsdp", "none"))
    assert half_width(FULL, known) < 0.1 < 0.2 < half_width(PeakKind("nf4", "fsdp", "none"), known)


def test_unseen_adds_in_quadrature():
    known = peaks(100, 0.1)
    unseen = half_width(PeakKind("lora", "zero", "none"), known)
    expected = math.hypot(half_width(FULL, known), UNSEEN["method"], UNSEEN["shards"])
    assert unseen == pytest.approx(expected)


def test_kinds_of_jobs():
    def kind(*sets):
        return kind_of(load("dgx-a100", "llama3-8b-sft", sets).workload)[:2]

    assert kind("parallelism.strategy=fsdp2") == ("full", "fsdp")
    assert kind("parallelism={strategy: zero3}") == ("full", "zero")
    assert kind("parallelism={strategy: ddp}", "method={qlora: {rank: 8}}") == ("nf4", "nothing")


def test_shipped_rows():
    """Every published peak is in it, and the band of what was measured is narrower."""
    assert len(memory_residuals()) > 100
    known = memory_half_width(PeakKind("full", "fsdp", "huggingface"))
    assert 0.01 < known < memory_half_width(PeakKind("foo", "bar", "baz")) < 0.5


def test_without_rows_the_band_is_wide_and_a_trainer_that_no_row_has_adds_its_share():
    assert quantile_of(np.array([]), np.array([])) == 0.25
    assert effective(np.zeros(3)) == 0.0
    known = peaks(100, 0.1)
    for trainer in ("a", "z"):  # before and behind in the alphabet
        wide = half_width(FULL._replace(trainer=trainer), known)
        assert wide == pytest.approx(math.hypot(half_width(FULL, known), UNSEEN["trainer"]))
