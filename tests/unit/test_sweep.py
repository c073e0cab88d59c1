"""Sweeps: what they compute, repeat and say."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from sim.cli import group
from sim.errors import InputError
from sim.inputs.loader import load
from sim.report.formats import rendered
from sim.report.sweep import view
from sim.study.axes import Axis, Grid
from sim.study.export import write_parquet
from sim.study.measures import measures
from sim.study.sweep import sweep
from tests.clock import HANG_S
from tests.unit.sweeping import JOB, job_file, small

# --- a sweep in this process ---------------------------------------------------------------------


def test_rows_are_what_the_model_says_and_failures_are_rows(tmp_path):
    grid = small(tmp_path, "nodes=1,2", "micro_batch=4,x")
    outcome = sweep(grid, tmp_path / "s.sqlite")
    assert [row.status for row in outcome.rows] == ["ok", "invalid"] * 2
    assert "is not a whole number" in outcome.rows[1].error
    loaded = load("dgx-h100", JOB, ["nodes=2", "micro_batch=4"])
    assert outcome.rows[2].measures == measures(loaded.topology, loaded.workload)
    assert (outcome.computed, outcome.reused, outcome.failed) == (4, 0, 2)


def test_a_second_run_computes_nothing_and_a_wider_one_only_what_is_new(tmp_path):
    store = tmp_path / "s.sqlite"
    first = sweep(small(tmp_path, "nodes=1,2"), store)
    again = sweep(small(tmp_path, "nodes=1,2"), store)
    assert (again.computed, again.reused) == (0, 2)
    assert again.rows == first.rows
    wider = sweep(small(tmp_path, "nodes=1,2,3"), store)
    assert (wider.computed, wider.reused) == (1, 2)


def test_another_base_or_model_version_is_computed_anew(tmp_path, monkeypatch):
    store = tmp_path / "s.sqlite"
    grid = small(tmp_path, "nodes=1")
    sweep(grid, store)
    assert sweep(grid, store, sets=["sequence_length=256"]).computed == 1
    monkeypatch.setattr("sim.study.store.model_version", lambda: "another")
    assert sweep(grid, store).computed == 1


def test_conditions_filter_and_mark(tmp_path):
    grid = small(
        tmp_path, "nodes=1,2,4", "micro_batch=1,2", where=("gpus <= 16",),
        require=("fits and micro_batch == 2",), pareto=("cost_usd", "wall_clock_s"),
    )  # fmt: skip
    outcome = sweep(grid, tmp_path / "s.sqlite")
    assert (len(outcome.rows), outcome.filtered) == (4, 2)
    assert outcome.meets == (False, True, False, True)
    assert set(outcome.front) <= {1, 3}
    by_cost = [outcome.rows[i].measures["cost_usd"] for i in outcome.front]
    assert by_cost == sorted(by_cost)


def test_a_key_that_no_file_has_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match="unknown key"):
        sweep(small(tmp_path, "nodez=1,2"), tmp_path / "s.sqlite")
    with pytest.raises(InputError, match="no such measure"):
        sweep(small(tmp_path, "nodes=1", pareto=("beauty",)), tmp_path / "s.sqlite")
    nested = small(tmp_path, "parallelism.tensor=1,2", "nodes=1,2")
    with pytest.raises(InputError, match="tensor: unknown key; did you mean") as caught:
        sweep(nested, tmp_path / "s.sqlite")
    assert len(caught.value.faults) == 1


def test_machines_and_jobs_can_be_axes(tmp_path):
    job = job_file(tmp_path)
    grid = Grid(
        "s", "", str(job),
        (Axis(("topology",), (("dgx-h100",), ("dgx-a100",))), Axis(("nodes",), (("1",), ("2",)))),
    )  # fmt: skip
    outcome = sweep(grid, tmp_path / "s.sqlite")
    rates = [row.measures["tokens_per_s"] for row in outcome.rows]
    assert [row.status for row in outcome.rows] == ["ok"] * 4
    assert rates[0] >= rates[2]  # so small a job is its host's
    assert rates[1] > rates[0]


# --- export --------------------------------------------------------------------------------------


def test_formats_say_the_same(tmp_path):
    outcome = sweep(small(tmp_path, "nodes=1,2", "micro_batch=1,x"), tmp_path / "s.sqlite")
    rows = list(outcome.items())
    assert [json.loads(line) for line in rendered(view(outcome), "jsonl").splitlines()] == rows
    assert json.loads(rendered(view(outcome), "json")) == rows
    head, *lines = rendered(view(outcome), "csv").splitlines()
    assert head.startswith("nodes,micro_batch,fits,verdict,fit_probability,gpus,step_time_s")
    assert lines[0].split(",")[6] == repr(rows[0]["step_time_s"])
    assert rows[1]["step_time_s"] is None
    assert "is not a whole number" in rendered(view(outcome), "table")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    outcome = sweep(small(tmp_path, "nodes=1"), tmp_path / "s.sqlite")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        write_parquet(outcome, tmp_path / "a.parquet")
    monkeypatch.chdir(tmp_path)
    asked = ["dgx-h100", "mistral-7b-lora", "--vary", "nodes=1,2", "-o", "b.parquet"]
    ran = CliRunner().invoke(group, ["sweep", *asked])
    assert isinstance(ran.exception, InputError)
    assert [p.name for p in tmp_path.glob("*.sqlite")] == ["s.sqlite"]  # nothing was computed


def test_parquet_holds_the_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    outcome = sweep(small(tmp_path, "nodes=1,2"), tmp_path / "s.sqlite")
    write_parquet(outcome, tmp_path / "a.parquet")
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == list(outcome.records())


def test_parquet_is_handed_the_rows(tmp_path, monkeypatch):
    """By a stand-in for pyarrow; where there are no rows, a table without columns."""
    stand_in = SimpleNamespace(
        Table=SimpleNamespace(from_pylist=list), table=json.dumps,
        concat_tables=lambda tables, promote_options: json.dumps([*chain(*tables)]),
        parquet=SimpleNamespace(write_table=lambda table, out: out.write(table.encode())),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pyarrow", stand_in)
    outcome = sweep(small(tmp_path, "nodes=1,2"), tmp_path / "s.sqlite")
    write_parquet(outcome, tmp_path / "a.parquet")
    rows = json.loads((tmp_path / "a.parquet").read_text())
    assert [row["nodes"] for row in rows] == ["1", "2"]
    assert rows == list(outcome.records())
    write_parquet(replace(outcome, rows=()), tmp_path / "none.parquet")
    assert (tmp_path / "none.parquet").read_text() == "{}"


# --- the command ---------------------------------------------------------------------------------


def test_command_prints_a_table_and_a_summary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = job_file(tmp_path)
    arguments = ["sweep", "dgx-h100", str(job), "--vary", "nodes=1,2", "-j", "1"]
    result = CliRunner().invoke(group, [*arguments, "--pareto", "cost_usd,wall_clock_s"])
    assert result.exit_code == 0, result.output
    assert "Pareto front of cost_usd and wall_clock_s" in result.stdout
    assert "points a second" in result.stderr
    again = CliRunner().invoke(group, [*arguments, "--json"])
    assert len(json.loads(again.stdout)) == 2
    assert "0 computed, 2 from sweep.sweep.sqlite" in again.stderr


def test_a_sweep_without_a_result_fails_and_tells_an_error_once(tmp_path, monkeypatch):
    """Seven and nine sequences do not divide over eight GPUs, whatever the clipping."""
    monkeypatch.chdir(tmp_path)
    arguments = ["sweep", "dgx-h100", str(job_file(tmp_path)), "--vary", "global_batch=7,9"]
    arguments += ["--vary", "parallelism.clip_gradients=true,false", "-j", "1"]
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout.count("the same as above") == 2


def test_a_script_without_a_guard_may_sweep(tmp_path):
    """Workers do not run the caller's script again, as Python's own pools do."""
    path = tmp_path / "script.py"
    path.write_text(
        "import sim\n"
        "found = sim.sweep('dgx-h100', 'mistral-7b-lora', vary=['micro_batch=1,2'], processes=2)\n"
        "print([row.status for row in found.rows], found.computed, __spec__, __file__[-9:])\n"
    )
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=HANG_S, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("['ok', 'ok'] 2 None script.py\n", "")
