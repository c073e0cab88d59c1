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
from sim.study.executors import Task
from sim.study.grid import grid_of
from sim.study.sweep import sweep

pytest.importorskip("distributed", reason="Dask is not installed: scaling-sim[distributed]")
# what Dask's own tear-down warns of is not ours to mend
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed"),
]

ROOT = Path(__file__).parents[2]
JOB = "{name: small, model: gpt2, sequence_length: 512, tokens: 1e8, parallelism: fsdp2}"
SLOW = """
import os, time
def work(context, payload):
    time.sleep(0.01)
    return payload, os.getpid()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Cluster:
    """A scheduler and two workers on loopback, started as a person would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{free_port()}"
        port = self.address.rsplit(":", 1)[1]
        self.processes = [self.start("scheduler", "--host", "127.0.0.1", "--port", port,
                                     "--dashboard-address", ":0")]  # fmt: skip
        self.workers: list[subprocess.Popen[bytes]] = []
        for _ in range(2):
            self.add_worker()

    def start(self, kind: str, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + kind, *arguments],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{self.folder}"}, start_new_session=True,
        )  # fmt: skip

    def add_worker(self) -> None:
        worker = self.start(
            "worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
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

    with Client(running.address, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
    yield running
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


def test_a_worker_killed_in_the_middle_loses_nothing(cluster, monkeypatch):
    from sim.study.dask_executor import DaskPool

    monkeypatch.syspath_prepend(str(cluster.folder))
    import slow_work

    pool = DaskPool(slow_work.work, None, scheduler=cluster.address)
    answers, victim = {}, None
    for answer in pool.run(Task(i, i) for i in range(600)):
        answers[answer.place] = answer
        if victim is None:  # the one that answered first, so that both have worked
            victim = next(w for w in cluster.workers if w.pid == answer.value[1])
            cluster.workers.remove(victim)
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait()
    assert sorted(answers) == list(range(600))
    assert all(a.status == "ok" and a.value[0] == i for i, a in answers.items())
    pids = [a.value[1] for a in answers.values()]
    assert 0 < pids.count(victim.pid) < 300
    assert len(set(pids)) == 2
    cluster.add_worker()


def test_an_embedded_cluster_works_too(tmp_path):
    asked = grid(tmp_path, "nodes=1,2", "micro_batch=1,2")
    outcome = sweep(asked, tmp_path / "s.sqlite", workers=1)
    assert [row.status for row in outcome.rows] == ["ok"] * 4


def test_a_scheduler_that_is_not_there_is_bad_input(monkeypatch):
    monkeypatch.setattr("sim.study.dask_executor.CONNECT_S", 0.5)
    from sim.study.dask_executor import DaskPool

    began = time.monotonic()
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        DaskPool(len, None, scheduler=f"tcp://127.0.0.1:{free_port()}")
    assert time.monotonic() - began < 20


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    from sim.study.dask_executor import DaskPool

    with pytest.raises(InputError, match=r"pip install 'scaling-sim\[distributed\]'"):
        DaskPool(len, None, scheduler="tcp://127.0.0.1:1")
