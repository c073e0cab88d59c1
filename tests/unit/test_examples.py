"""The example files of docs/sweeps.md run."""

from pathlib import Path

from sim.study.axes import read_grid
from sim.study.plan import fewest
from sim.study.size import size
from sim.study.sweep import sweep
from sim.study.target import Target

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_the_sweep(tmp_path):
    outcome = sweep(read_grid(EXAMPLES / "sweep.yaml"), tmp_path / "s.sqlite")
    assert (len(outcome.rows), outcome.filtered, outcome.failed) == (12, 4, 0)
    assert outcome.front


def test_the_week_needs_fewer_nodes_with_preemption():
    nodes = {p: fewest("dgx-h100", EXAMPLES / "week.yaml", policy=p).nodes
             for p in ("fifo", "priority")}  # fmt: skip
    assert nodes["priority"] == 8
    assert nodes["fifo"] > 8


def test_the_phases():
    report = size(EXAMPLES / "phases.yaml", Target(), topologies=["dgx-h100"], most_gpus=16)
    assert [p.kind for p in report.phases] == ["preprocess", "evaluate"]
    assert report.winner is not None
