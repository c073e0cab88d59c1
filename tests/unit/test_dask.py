"""Sweeps over Dask: a scheduler and workers in processes of their own, one killed in the middle."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.errors import InputError
from sim.study.dask_executor import CONNECT_S, DaskPool
from sim.study.executors import FIRST_CHUNK, Task
from sim.study.grid import grid_of
from sim.study.sweep import sweep
from tests.clock import HANG_S

pytest.importorskip("distributed", reason="Dask is not installed: scaling-sim[distributed]")
# what Dask's own tear-down warns of is not ours to mend
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed"),
]

ROOT = Path(__file__).parents[2]
JOB = "{name: small, model: gpt2, sequence_length: 512, tokens: 1e8, parallelism: fsdp2}"
#: a worker answers a chunk, and then waits until one of them was killed
SLOW = f"""
import os, time
answered = []
def work(killed, payload):
    while len(answered) >= {FIRST_CHUNK} and not os.path.exists(killed):
        time.sleep(0.01)
    answered.append(payload)
    return payload, os.getpid()
"""


class Cluster:
    """A scheduler and two workers on loopback, started as a person would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known = folder / "scheduler.json"  # where it is, written by itself
        self.processes = [self.start("scheduler", "--host", "127.0.0.1", "--port", "0",
                                     "--dashboard-address", ":0")]  # fmt: skip
        self.workers: list[subprocess.Popen[bytes]] = []
        for _ in range(2):
            self.add_worker()

    def start(self, kind: str, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + kind, *arguments,
             "--scheduler-file", str(self.known)],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{self.folder}"}, start_new_session=True,
        )  # fmt: skip

    def add_worker(self) -> None:
        worker = self.start(
            "worker", "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--local-directory", str(self.folder),
        )  # fmt: skip
        self.workers.append(worker)
        self.processes.append(worker)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dask")
    (folder / "slow_work.py").write_text(SLOW)
    running = Cluster(folder)
    from distributed import Client

    try:
        while not running.known.exists():
            assert running.processes[0].poll() is None
            time.sleep(0.02)
        with Client(scheduler_file=str(running.known), timeout=HANG_S) as client:
            running.address = client.scheduler.address
            client.wait_for_workers(2, timeout=HANG_S)
        yield running
    finally:
        running.close()


def grid(folder, *varied):
    (folder / "small.yaml").write_text(JOB)
    return grid_of(["dgx-h100", str(folder / "small.yaml")], varied)


def test_a_scheduler_gives_the_rows_of_one_process(cluster, tmp_path):
    asked = grid(tmp_path, "nodes=1..6", "micro_batch=1,2,x")
    alone = sweep(asked, tmp_path / "a.sqlite")
    spread = sweep(asked, tmp_path / "b.sqlite", scheduler=cluster.address)
    assert [(r.key, r.status, r.measures) for r in alone.rows] == [
        (r.key, r.status, r.measures) for r in spread.rows
    ]
    assert spread.failed == 6


def test_a_worker_killed_in_the_middle_loses_nothing(cluster, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(cluster.folder))
    import slow_work

    killed = tmp_path / "killed"
    pool = DaskPool(slow_work.work, str(killed), scheduler=cluster.address)
    answers, victim = {}, None
    for answer in pool.run(Task(i, i) for i in range(600)):
        answers[answer.place] = answer
        if victim is None:  # the one that answered first
            victim = next(w for w in cluster.workers if w.pid == answer.value[1])
            cluster.workers.remove(victim)
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait()
            killed.touch()
    assert sorted(answers) == list(range(600))
    assert all(a.status == "ok" and a.value[0] == i for i, a in answers.items())
    pids = [a.value[1] for a in answers.values()]
    assert pids.count(victim.pid) == FIRST_CHUNK
    assert len(set(pids)) == 2
    cluster.add_worker()


def test_an_embedded_cluster_works_too(tmp_path):
    asked = grid(tmp_path, "nodes=1,2", "micro_batch=1,2")
    outcome = sweep(asked, tmp_path / "s.sqlite", workers=1)
    assert [row.status for row in outcome.rows] == ["ok"] * 4


def test_a_scheduler_that_is_not_there_is_bad_input(monkeypatch):
    assert CONNECT_S <= 10
    monkeypatch.setattr("sim.study.dask_executor.CONNECT_S", 0.5)
    with socket.socket() as deaf:  # bound, so that no other program listens there
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match=r"no Dask scheduler answers .* 0\.5 s"):
            DaskPool(len, None, scheduler=f"tcp://127.0.0.1:{deaf.getsockname()[1]}")


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'scaling-sim\[distributed\]'"):
        DaskPool(len, None, scheduler="tcp://127.0.0.1:1")
