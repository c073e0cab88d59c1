"""Fine-tuning runs beside the model: GPU counts, fits with rows left out, simple methods."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from sim.calibration import baselines
from sim.calibration.baselines import BOOSTED, SPLITS, compared_rows, features, roof_s, roofline
from sim.calibration.cross_validation import NOISE, fit, without
from sim.calibration.validate_finetune import ScalingSeries, machine_of
from sim.published.finetune import table_rows
from sim.report.validation_finetune import _beaten


def point(measured, predicted, gpus):
    row = SimpleNamespace(tokens_per_s_per_gpu=measured / gpus, gpus=gpus)
    return SimpleNamespace(row=row, predicted=predicted / gpus)


def test_the_fastest_number_of_gpus():
    """Of the whole job, within the noise of a measurement."""
    one, two, four = point(100, 100, 1), point(150, 190, 2), point(140, 180, 4)
    assert ScalingSeries((one, two, four)).right
    assert ScalingSeries((one, two, four)).fewer
    assert not ScalingSeries(
        (one, two, point(140, 200, 4))
    ).right  # four said to be fastest: 7 % less
    assert ScalingSeries((one, two, point(148, 200, 4))).right  # 1.3 % less
    assert not ScalingSeries((one, two, point(160, 200, 4))).fewer


def test_a_fit_of_one_constant():
    """y = x b with a prior: b = x.y / (x.x + (noise / prior)^2); 0.3 is clipped to 0.1."""
    points = [SimpleNamespace(error=math.expm1(e), share=s) for e, s in ((0.1, 0.5), (0.3, 0.8))]
    name = ("all", "host")

    def of(p):
        return {name: p.share}

    found = fit(points, of, {"host": 0.3}, "training")
    expected = (0.5 * 0.1 + 0.8 * 0.1) / (0.5**2 + 0.8**2 + (NOISE / 0.3) ** 2)
    assert found == {name: pytest.approx(expected)}
    left = without(points, ["a", "b"], of, {"host": 0.3}, "finetune")
    # the first by the second: 0.1 less 0.5 b; a row of fine-tuning is worth 0.3
    b = 0.8 * 0.3 / (0.8**2 + (0.3 / 0.3) ** 2)
    assert math.log1p(left[0].error) == pytest.approx(0.1 - 0.5 * b)


def row_of(model, machine, gpus, tokens):
    """A run of full fine-tuning."""
    return next(
        r for r in table_rows()
        if r.workload.model.name == model and r.workload.method.kind == "full"
        and r.topology.name == machine and r.gpus == gpus
        and r.workload.sequence_length * r.workload.micro_batch == tokens
    )  # fmt: skip


def test_the_roof():
    """Arithmetic on one A100 SXM; PCIe between two L40S at one short sample each."""
    layers, head, scores = 8030261248 - 2 * 128256 * 4096, 128256 * 4096, 32 * 4096 * 8192
    # 6 a weight and causal score, 8 with recompute, which stops short of each layer's last product
    model, hardware = 6 * (layers + head + scores), 8 * (layers + scores) + 6 * head
    roof = roof_s(row_of("llama-3.1-8b", "a100-sxm", 1, 8192)) * 312e12
    assert model < 0.95 * roof
    assert 0.8 * hardware < roof < hardware
    # two gathers of bf16 weights, a reduce-scatter in four micro-steps; half crosses
    sent = (2 + 1 / 4) * 2 * 7241732096 / 2
    assert roof_s(row_of("mistral-7b", "l40s", 2, 512)) == pytest.approx(sent / 512 / (16 * 1.97e9))


def test_the_roofline_fits_the_median(monkeypatch):
    """An efficiency a GPU and method, of the other fifths; of a method never seen, of all."""
    shares = [0.4, 0.5, 0.6, 0.5, 0.5, 0.7]
    rows = [SimpleNamespace(tokens_per_s_per_gpu=s, kind="full") for s in shares]
    rows[5].kind = "lora"
    monkeypatch.setattr(baselines, "roof_s", lambda row: 1.0)
    monkeypatch.setattr(baselines, "machine_of", lambda row: "a100")
    monkeypatch.setattr(baselines, "method_of", lambda row: row.kind)
    errors = roofline(rows, "rows")
    assert errors[0] == pytest.approx(0.5 / 0.4 - 1)
    assert errors[5] == pytest.approx(0.5 / 0.7 - 1)


def test_the_regressor_s_file_is_of_these_rows():
    known = json.loads(BOOSTED.read_text())
    assert known["splits"].keys() == SPLITS.keys()
    for split in known["splits"].values():
        assert split.keys() == {row.id for row in compared_rows()}


def test_the_regressor_is_reproduced():
    """One group again: H100 PCIe, left out."""
    ensemble = pytest.importorskip("sklearn.ensemble", reason="scikit-learn is for developers")
    known = json.loads(BOOSTED.read_text())
    rows = compared_rows()
    out = np.array([machine_of(r) == "h100-pcie" for r in rows])
    x = np.array([features(r) for r in rows])
    y = np.array([math.log(roof_s(r) * r.tokens_per_s_per_gpu) for r in rows])
    trained = ensemble.GradientBoostingRegressor(**known["settings"]).fit(x[~out], y[~out])
    found = trained.predict(x[out]) - y[out]
    kept = [known["splits"]["GPU kinds"][r.id] for r, o in zip(rows, out, strict=True) if o]
    assert np.abs(found - kept).max() < 1e-3


def test_where_they_are_better_is_said():
    better = baselines.MethodErrors("one GPU", 3, (0.05, 0.04), (0.06, 0.03), (0.07, 0.06))
    worse = baselines.MethodErrors("all", 9, (0.05, 0.04), (0.06, 0.06), (0.07, 0.06))
    assert _beaten("models", (worse, better)) == [
        "whole models left out, the roofline: one GPU (median: 6.0 % and 3.0 % against 5.0 % and "
        "4.0 %)."
    ]
    assert _beaten("models", (worse,)) == ["whole models left out: nowhere."]
