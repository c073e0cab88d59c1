"""Sweeps: what they compute and repeat, workers that die, kill -9 and Ctrl-C."""

import gc
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from sim.cli import group
from sim.errors import InputError
from sim.inputs.loader import load
from sim.report.formats import rendered
from sim.report.sweep import view
from sim.study import executors
from sim.study.axes import Axis, Grid
from sim.study.executors import LocalPool, Task, run_here
from sim.study.export import write_parquet
from sim.study.grid import grid_of
from sim.study.measures import measures
from sim.study.sweep import sweep
from tests.clock import HANG_S

ROOT = Path(__file__).parents[2]
JOB = {
    "name": "small", "model": "gpt2", "sequence_length": 512, "tokens": "1e8",
    "parallelism": "fsdp2",
}  # fmt: skip


def job_file(folder: Path) -> Path:
    path = folder / "small.yaml"
    path.write_text("\n".join(f"{k}: {v}" for k, v in JOB.items()))
    return path


def small(folder: Path, *varied: str, **more: object) -> Grid:
    grid = grid_of(["dgx-h100", str(job_file(folder))], varied)
    return Grid(grid.name, grid.topology, grid.workload, grid.axes, **more)  # type: ignore[arg-type]


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


# --- workers -------------------------------------------------------------------------------------

SABOTAGE = """
import os, signal, time
def work(context, payload):
    if payload == "raise":
        raise ValueError("no such thing")
    if payload == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if payload == "die once":
        flag = context + "/died"
        if not os.path.exists(flag):
            open(flag, "w").close()
            os._exit(3)
    return payload
"""


def saboteur(folder, monkeypatch, name):
    (folder / f"{name}.py").write_text(SABOTAGE)
    monkeypatch.syspath_prepend(str(folder))
    return __import__(name).work


def test_workers_that_die_are_replaced_and_their_tasks_retried(tmp_path, monkeypatch):
    work = saboteur(tmp_path, monkeypatch, "sabotage_once")
    payloads = [f"p{i}" for i in range(30)]
    payloads[7], payloads[12] = "die once", "raise"
    pool = LocalPool(work, str(tmp_path), 2)
    answers = {a.place: a for a in pool.run(Task(i, p) for i, p in enumerate(payloads))}
    assert len(answers) == 30
    assert pool.restarts == 1
    assert answers[7].status == "ok"
    assert answers[7].attempts == 2
    assert (answers[12].status, answers[12].error) == ("failed", "ValueError: no such thing")
    assert all(answers[i].value == payloads[i] for i in range(30) if i != 12)
    assert multiprocessing.active_children() == []


def test_a_worker_that_cannot_be_started_is_done_without(tmp_path, monkeypatch):
    """The system starts one process and no more, neither a second nor one for one that died."""
    work = saboteur(tmp_path, monkeypatch, "sabotage_few")
    started = []

    def start(pool):
        started.append(pool)
        if len(started) > 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return usual(pool)

    usual = LocalPool._start
    monkeypatch.setattr(LocalPool, "_start", start)
    tasks = [Task(i, f"p{i}") for i in range(30)]
    answers = list(LocalPool(work, str(tmp_path), 3).run(tasks))
    assert sorted(a.value for a in answers) == sorted(f"p{i}" for i in range(30))
    assert len(started) == 3
    with pytest.raises(InputError, match="no worker process can be started"):
        list(LocalPool(work, str(tmp_path), 3).run(tasks))


def test_a_task_that_kills_every_worker_becomes_a_failed_answer(tmp_path, monkeypatch):
    work = saboteur(tmp_path, monkeypatch, "sabotage_always")
    payloads = ["a", "die", "b", "c"]
    pool = LocalPool(work, str(tmp_path), 1)
    answers = {a.place: a for a in pool.run(Task(i, p) for i, p in enumerate(payloads))}
    assert answers[1].status == "failed"
    assert "signal 9" in answers[1].error
    assert [answers[i].value for i in (0, 2, 3)] == ["a", "b", "c"]


def test_processes_give_the_rows_of_one(tmp_path):
    grid = small(tmp_path, "nodes=1,2,3", "micro_batch=1,2,4")
    alone = sweep(grid, tmp_path / "a.sqlite")
    both = sweep(grid, tmp_path / "b.sqlite", processes=2)
    assert [r.measures for r in alone.rows] == [r.measures for r in both.rows]


def test_while_tasks_run_objects_are_collected_seldom():
    before = gc.get_threshold()
    gc.set_threshold(700, *before[1:])  # whatever ran before
    try:
        seen = run_here(lambda _, payload: gc.get_threshold()[0], None, [Task(0, 2), Task(1, 2)])
        assert [answer.value for answer in seen] == [executors.COLLECTED_EVERY] * 2
        assert gc.get_threshold() == (700, *before[1:])
    finally:
        gc.set_threshold(*before)


def test_collection_that_was_switched_off_stays_off_while_tasks_run():
    before = gc.get_threshold()
    gc.set_threshold(0, *before[1:])
    try:
        seen = run_here(lambda context, payload: gc.get_threshold()[0], None, [Task(0, 2)])
        assert [outcome.value for outcome in seen] == [0]
        assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)


def asked_together(seconds, count):
    """How many tasks are given to `many` at a time where each takes so long."""
    clock, asked = [0.0], []

    def many(context, payloads):
        asked.append(len(payloads))
        clock[0] += sum(map(seconds, payloads))
        return payloads

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors.time, "perf_counter", lambda: clock[0])
        tasks = (Task(i, i) for i in range(count))
        answers = list(run_here(lambda _, payload: many(_, [payload])[0], None, tasks, many, 512))
    assert [answer.value for answer in answers] == list(range(count))
    return asked


def test_quick_tasks_are_soon_computed_together():
    assert asked_together(lambda _: 1e-3, 3000) == [4, 8, 16, 32, 64, 128, 256, 512, 512, 512, 512,
                                                    444]  # fmt: skip


def test_slow_tasks_are_answered_every_two_seconds():
    assert asked_together(lambda _: 0.4, 24) == [4, 5, 5, 5, 5]
    assert asked_together(lambda _: 3.0, 6) == [4, 1, 1]
    assert asked_together(lambda i: 3.0 if i < 4 else 0.1, 30) == [4, 1, 2, 4, 8, 11]


def test_tasks_can_be_run_here():
    answers = list(run_here(lambda context, payload: context + payload, 1, [Task(0, 2)]))
    assert answers[0].value == 3


# --- killed and interrupted ----------------------------------------------------------------------

#: at so many rows in the store, something happens to the sweep
AT_ROWS = """
import os, signal
from sim.cli import main
from sim.study.store import Store

def put(store, rows):
    usual(store, rows)
    (count,), = store._db.execute("select count(*) from results")
    if count >= {rows}:
        Store.put = usual
        {event}

usual, Store.put = Store.put, put
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
"""


def start(
    folder: Path, rows: int = 0, event: str = "pass", processes: int = 2
) -> "subprocess.Popen[str]":
    job_file(folder)
    script = folder / "cli.py"
    script.write_text(AT_ROWS.format(rows=rows, event=event))
    return subprocess.Popen(
        [sys.executable, str(script), "sweep", "dgx-h100", "small.yaml", "--vary", "nodes=1..12",
         "--vary", "micro_batch=1..6", "--vary", "gradient_accumulation=1..10",
         "--store", "s.sqlite", "-o", "out.csv", "-j", str(processes)],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def stored(path: Path) -> dict[str, float]:
    """Key and seconds of every row: a row computed twice would have another time."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return dict(db.execute("select key, seconds from results"))


def test_killed_with_9_it_resumes_and_repeats_nothing(tmp_path):
    store = tmp_path / "s.sqlite"
    first = start(tmp_path, 10, "os.killpg(0, signal.SIGKILL)")
    first.communicate(timeout=HANG_S)
    assert first.returncode == -signal.SIGKILL
    before = stored(store)
    assert 10 <= len(before) < 720
    second = start(tmp_path)
    _, notes = second.communicate(timeout=HANG_S)
    assert second.returncode == 0
    assert f"{720 - len(before)} computed, {len(before)} from" in notes
    after = stored(store)
    assert len(after) == 720
    assert {key: after[key] for key in before} == before
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 721


def test_workers_end_when_their_parent_is_killed(tmp_path):
    first = start(tmp_path, 4, "os.kill(os.getpid(), signal.SIGKILL)")  # the parent alone
    try:  # whoever is left holds the other ends of these pipes
        first.communicate(timeout=HANG_S)
    except subprocess.TimeoutExpired:
        os.killpg(first.pid, signal.SIGKILL)
        pytest.fail("workers outlived their parent")
    assert first.returncode == -signal.SIGKILL


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_keeps_what_is_done(tmp_path, processes):
    first = start(tmp_path, 5, "os.killpg(0, signal.SIGINT)", processes)
    _, notes = first.communicate(timeout=HANG_S)
    assert first.returncode == 130
    assert "Traceback" not in notes
    assert 5 <= len(stored(tmp_path / "s.sqlite")) < 720


#: each configuration takes half a second, and at the tenth something happens
AT_TENTH = """
import os, signal, types
from sim.cli import main
from sim.study import executors, sweep

def slow(jobs):
    for _ in jobs:
        clock.append(clock[-1] + 0.5)
        if len(clock) == 11:
            os.kill(os.getpid(), signal.{name})
    return usual(jobs)

clock = [0.0]
executors.time = types.SimpleNamespace(perf_counter=lambda: clock[-1])
usual, sweep.measures_of = sweep.measures_of, slow
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@pytest.mark.parametrize("more", [[], ["--screen", "mfu"]], ids=["all", "screen"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_loses_no_more_than_is_computed_together(name, more, tmp_path):
    """Of slow ones, two seconds' worth: the third chunk of four."""
    script = tmp_path / "cli.py"
    script.write_text(AT_TENTH.format(name=name))
    line = ["sweep", "dgx-h100", str(job_file(tmp_path)), "--vary", "micro_batch=1..6", "--vary",
            "nodes=1..12", "--store", "s.sqlite", "-j", "1", "--quiet", *more]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(script), *line], capture_output=True, text=True, timeout=HANG_S,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 128 + getattr(signal, name), done.stderr
    assert "Traceback" not in done.stderr
    assert len(stored(tmp_path / "s.sqlite")) == 8


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
