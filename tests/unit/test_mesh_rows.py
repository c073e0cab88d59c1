"""Measured layouts: the shipped table, which rows others contradict, and how they are graded."""

import csv
from pathlib import Path

import pytest

from sim.calibration import validate_mesh as graded
from sim.calibration.mesh import MeasuredLayout, at_odds, held_up, kept_copies, layouts, measured
from sim.calibration.validate_training import predict
from sim.calibration.validation import Validation
from sim.inputs.pipeline import stage_layers
from sim.report.formats import rendered
from sim.report.validation import view

SHARED = Path(__file__).parents[2].parent / "shared" / "measured" / "mesh_h100.csv"


def layout(**changes):
    row = MeasuredLayout("3B", 1, 4, 2, 1, 1, 1, 64, 15567.0, 41.5, True)
    return row._replace(**changes)


def test_slots_and_rows_at_odds():
    """64 micro-batches of 4,096 tokens on two GPUs each: 65 slots."""
    row = layout()
    assert row.slot_s == pytest.approx(64 * 4096 / (2 * 15567.0) / 65)
    larger = layout(nodes=4, dp=16, micro_batch=2, accumulation=8, tokens_per_s_per_gpu=14210.0)
    slow = layout(tokens_per_s_per_gpu=3000.0)
    assert at_odds([row, larger]) == frozenset()
    assert at_odds([slow, larger]) == {slow}
    assert at_odds([slow, layout(tp=2)]) == frozenset()  # another share of matrices


def test_the_table_is_whole():
    rows = layouts()
    assert len(rows) == 1079
    assert sum(row.ran for row in rows) == 747
    assert all(row.dp * row.pp * row.tp == 8 * row.nodes for row in rows)
    held = {row.cell for row in rows if row.held}
    assert len(held) == 5
    if not SHARED.exists():
        pytest.skip("the source is not here")
    with SHARED.open(encoding="utf-8") as file:
        theirs = sum(float(r["tokens_per_s_per_gpu"] or 0) for r in csv.DictReader(file))
    lost = 6  # whose batch is another
    assert theirs - sum(r.tokens_per_s_per_gpu or 0 for r in rows) < lost * 20_000


def test_a_row_as_a_workload():
    row = next(r for r in layouts() if (r.nodes, r.pp, r.tp, r.zero) == (1, 4, 1, 1) and r.ran)
    found = measured(row)
    assert stage_layers(found.workload) == (8, 8, 8, 4)
    assert found.workload.parallelism.use_distributed_optimizer
    assert predict(found).error == pytest.approx(0.0, abs=0.08)
    assert predict(found).memory.needed_bytes == pytest.approx(found.memory_bytes, rel=0.08)


def test_order_and_regret(monkeypatch):
    assert graded.spearman([1.0, 2.0, 3.0], [10.0, 20.0, 15.0]) == pytest.approx(0.5)
    assert graded.spearman([1.0, 2.0, 2.0, 3.0], [1.0, 2.0, 2.0, 3.0]) == pytest.approx(1.0)
    rows = [r for r in layouts() if r.ran and r.cell == "3B, 1 nodes"]
    rows = [r for r in rows if r.tp == r.micro_batch == 1]
    monkeypatch.setattr(graded, "layouts", lambda: rows)
    found = graded.validate_mesh()
    (cell,) = found.cells
    assert cell.rows == len(rows) == 6
    assert cell.median < 0.06
    assert cell.regret < 0.03
    assert cell.order is not None
    assert not found.refused
    document = Validation(mesh=found)
    assert document.parts == ("mesh",)
    assert [row["id"] for row in document.records()] == [row.id for row in rows]
    content = document.to_dict()["mesh"]
    assert content["cells"][0]["rows"] == 6
    assert content["left_out"] == []
    text = rendered(view(document, misses=2), "md")
    assert "Of 6 layouts that ran 0 (0.0 %) are said not to fit, 0 to be at risk." in text
    assert text.count("mesh:3B-n1-") == 2


def test_a_pipeline_over_nodes_waits_for_agreements():
    """3B, t = 8, p = 2 on 4 nodes: 24 ms a layer on the CPU, with one sequence or four."""
    at = {"nodes": 4, "dp": 2, "pp": 2, "tp": 8, "zero": 1}
    rows = [r for r in layouts() if r.ran and all(getattr(r, k) == v for k, v in at.items())]
    found = {r.micro_batch: predict(measured(r)).error for r in rows if r.micro_batch in (1, 2, 4)}
    assert found == pytest.approx({1: 0.0, 2: 0.0, 4: 0.0}, abs=0.12)


def alike(**at):
    """Rows that ran with these values."""
    return [r for r in layouts() if r.ran and all(getattr(r, k) == v for k, v in at.items())]


def test_layouts_of_one_node_in_their_order():
    """8B on one node: five layouts within 14 % of each other, in a cell held back."""
    found = [predict(measured(r)) for r in alike(model="8B", nodes=1)]
    assert [f.error for f in found] == pytest.approx([0.0] * 5, abs=0.08)
    measured_ = [f.row.tokens_per_s_per_gpu for f in found]
    assert graded.spearman(measured_, [f.predicted for f in found]) == pytest.approx(0.9)


def test_stages_of_few_layers_wait_no_longer_for_a_layer():
    """3B on one node, t = 1: layers wait for the CPU alike, 28 on a rank or 3 of 8 stages."""
    rows = alike(model="3B", nodes=1, tp=1, micro_batch=1)
    errors = [predict(measured(r)).error for r in rows]
    assert len(rows) == 6
    assert max(errors) - min(errors) < 0.025


def test_memory_tells_runs_that_are_held_up():
    """3B, t = 16, p = 8 on 32 nodes: 1, 4 and 16 sequences kept what was gathered, 2 and 8 not."""
    rows = alike(model="3B", nodes=32, pp=8, tp=16)
    found = {r.micro_batch: kept_copies(r) for r in rows}
    assert found == pytest.approx({1: 1.77, 2: 0.18, 4: 1.77, 8: 0.12, 16: 1.60}, abs=0.02)
    assert {r.micro_batch for r in rows if held_up(r)} == {2, 8}
    errors = [predict(measured(r)).error for r in rows if r.micro_batch in (4, 8)]
    assert errors == pytest.approx([0.0, 0.0], abs=0.08)  # 7.0 and 25.0 s a step
    assert not at_odds(layouts()) & set(rows)


def test_memory_tells_them_without_a_pipeline_too():
    """3B, t = 16 on 16 nodes, ZeRO-1: with 8 sequences 1.47 s a micro-batch, 0.73 with 16."""
    rows = {r.micro_batch: r for r in alike(model="3B", nodes=16, pp=1, tp=16, zero=1)}
    eight, sixteen = rows[8], rows[16]
    for row, held, least in ((eight, True, -0.2), (sixteen, False, 1.7)):
        assert held_up(row) is held
        assert kept_copies(row) == pytest.approx(least, abs=0.15)
        found = predict(measured(row))
        assert found.error == pytest.approx(0.0, abs=0.1)
        assert found.memory.peak_allocated_bytes == pytest.approx(row.memory_gb * 1e9, rel=0.1)


def test_which_other_runs_are_held_up():
    """All pipelines on 64 nodes, of t = 32 and over 70 GB, and many micro-batches without ZeRO."""
    assert held_up(layout(nodes=64, dp=128, tp=2))
    assert held_up(layout(nodes=8, dp=1, tp=32))
    assert held_up(layout(nodes=2, dp=8, memory_gb=76.7))
    assert not held_up(layout(tp=4, memory_gb=76.7))  # one node
    assert not held_up(layout(nodes=64, dp=64, pp=1, tp=8))
    assert held_up(layout(nodes=64, dp=128, pp=1, tp=4))  # where memory does not tell
    assert not held_up(layout(nodes=2, dp=4, tp=2))  # two stages: memory does not tell
    many = layout(nodes=8, dp=32, zero=0, accumulation=16)
    assert held_up(many)
    assert not held_up(many._replace(accumulation=8))
    assert not held_up(many._replace(nodes=4))
    assert not held_up(many._replace(dp=1))


def test_a_last_stage_with_the_head_alone():
    """28 layers on 32 stages: the rhythm of the others stands for its own."""
    at = {"model": "3B", "nodes": 16, "pp": 32, "tp": 4, "ran": True}
    (row,) = [r for r in layouts() if all(getattr(r, k) == v for k, v in at.items())]
    assert predict(measured(row)).predicted == pytest.approx(2055, rel=0.02)
