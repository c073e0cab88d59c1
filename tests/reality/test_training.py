"""Published training runs: the error may not grow, seen or unseen, and bands must cover it."""

import math
import re
import statistics

import pytest

from sim.calibration.cross_validation import coverage, cross_validate, memory_coverage
from sim.calibration.validate_memory import validate_memory
from sim.calibration.validate_training import validate_training
from sim.calibration.validation import validation
from sim.memory.band import memory_residuals
from sim.report.formats import FORMATS, rendered
from sim.report.validation import view
from sim.report.validation_plots import PLOTS, plots_of
from sim.result.likeness import residuals

#: mean |error| of a source's complete rows: a little above what `scaling-sim validate` prints
SOURCES = {
    "atorch": 0.05, "internevo": 0.07, "llm-foundry": 0.02, "llm-foundry-2023": 0.022,
    "qwen": 0.06, "qwen-qlora": 0.10, "qwen-zero3": 0.06, "torchao": 0.065,
}  # fmt: skip


@pytest.fixture(scope="module")
def groups():
    return {(g.dimension, g.value): g for g in validate_training().groups}


def test_llm_foundry_within_two_per_cent(groups):
    g = groups["all", "llm-foundry, both editions"]
    assert g.rows >= 130
    assert g.mean < 0.020
    assert g.p90 < 0.040
    assert abs(g.bias) < 0.01


@pytest.mark.parametrize("source", SOURCES)
def test_every_source(groups, source):
    assert groups["source", source].mean < SOURCES[source]


def test_no_other_source_is_complete(groups):
    assert {value for dimension, value in groups if dimension == "source"} == set(SOURCES)


@pytest.mark.parametrize(
    ("scheme", "limit"), [("models", 0.021), ("GPU counts", 0.030), ("sources", 0.031)]
)
def test_rows_left_out_of_the_fits(scheme, limit):
    left = [x for x in cross_validate(scheme) if x.point.row.group.startswith("llm-foundry")]
    assert statistics.fmean(abs(x.error) for x in left) < limit


@pytest.mark.parametrize(
    ("what", "pairs", "limit"), [("H100 / A100", 10, 0.03), ("FP8 / bf16", 3, 0.06)]
)
def test_ratios_of_like_runs(what, pairs, limit):
    errors = [abs(p.error) for p in validate_training().pairs if p.what == what]
    assert len(errors) >= pairs
    assert statistics.median(errors) < limit


def test_bands_cover_what_they_say():
    """80 % bands, made without a row's model, or without its whole source."""
    for by_source in (False, True):
        everything = coverage(by_source)[0]
        assert everything.rows >= 1150
        assert 0.68 <= everything.share <= 0.90
    memory = memory_coverage()[0]
    assert memory.rows > 100
    assert 0.70 <= memory.share <= 0.90


def test_residuals_are_of_this_model():
    """`scripts/residuals.py` has been run since the last change that moved a prediction."""
    kept = {r.id: r.without_model for r in residuals()}
    fresh = {x.point.row.id: x.error for x in cross_validate("models")}
    assert fresh.keys() <= kept.keys()
    moved = [abs(kept[key] - error) for key, error in fresh.items()]
    assert statistics.fmean(moved) < 0.01
    peaks = {r.id: r.error for r in memory_residuals()}
    found = {p.row.id: math.log1p(p.error) for p in validate_memory().peaks}
    assert peaks == pytest.approx(found, abs=1e-4)


def test_every_run_that_ran_fits():
    assert not validate_memory().refused


def test_peaks_of_atorch():
    """Eight runs of full fine-tuning and LoRA on 8 to 64 GPUs, no figure fitted to them."""
    errors = [p.error for p in validate_memory().peaks if p.row.group == "atorch"]
    assert len(errors) == 8
    assert max(map(abs, errors)) < 0.02


@pytest.mark.parametrize("form", FORMATS)
def test_formats(form):
    found = rendered(view(validation(cross=True), misses=5), form)
    assert "llm-foundry-2023" in found
    assert "oci-h100-x2" in found


def test_plots():
    drawn = plots_of(validation(("training",)).training.complete)
    assert drawn.keys() == PLOTS.keys()
    assert all(svg.count("<circle") > 150 for svg in drawn.values())


def test_most_gpus_are_drawn_where_they_are():
    """Runs on 256, 512 and 1,024 GPUs at places of their own."""
    points = validation(("training",)).training.complete
    across = {}
    for x, name in re.findall(
        r'<circle cx="([0-9.]+)"[^>]*><title>([^<]*)', plots_of(points)["gpus"]
    ):
        across.setdefault(name.rsplit(":", 1)[0], x)
    places = {p.row.gpus: across[p.row.id] for p in points}
    assert len(set(places.values())) == len(places)
