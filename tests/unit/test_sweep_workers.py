"""Workers of sweeps: those that die, kill -9 and Ctrl-C."""

import gc
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sim.errors import InputError
from sim.malloc import COLLECTED_EVERY
from sim.study import executors
from sim.study.executors import LocalPool, Task, run_here
from sim.study.sweep import sweep
from tests.clock import HANG_S
from tests.unit.sweeping import ROOT, job_file, small

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
        assert [answer.value for answer in seen] == [COLLECTED_EVERY] * 2
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
