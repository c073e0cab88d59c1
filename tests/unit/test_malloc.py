"""glibc keeps large blocks in processes that are ours, in no others, and no figure moves for it."""

import ctypes
import json
import os
import platform
import subprocess
import sys

import pytest
from click.testing import CliRunner

import sim
from sim import malloc
from sim.cli import group
from sim.study import executors
from sim.study.executors import LocalPool, Task

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")

# pages touched anew by twenty arrays of 64 MiB, one after the other
_FAULTS = """
import resource, sys
import numpy as np
from sim.malloc import keep_large_blocks
kept = keep_large_blocks() if sys.argv[1] == "kept" else None
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.empty(8 << 20).fill(1.0)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, **said):
    environ = {k: v for k, v in os.environ.items() if "MALLOC" not in k and k != "GLIBC_TUNABLES"}
    environ |= {"NUMPY_MADVISE_HUGEPAGE": "0", **said}
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, how],
        capture_output=True, text=True, check=True, env=environ,
    )  # fmt: skip
    kept, count = done.stdout.split()
    return kept, int(count) * os.sysconf("SC_PAGE_SIZE") / (64 << 20)


@glibc
def test_a_freed_array_is_the_next_one():
    assert faults("left")[1] == pytest.approx(20, rel=0.05)
    kept, arrays = faults("kept")
    assert kept == "True"
    assert arrays == pytest.approx(1, rel=0.05)


@glibc
@pytest.mark.parametrize(
    "said",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ],
)
def test_what_the_environment_says_holds(said):
    kept, arrays = faults("kept", **said)
    assert kept == "False"
    assert arrays == pytest.approx(20, rel=0.05)


@pytest.fixture
def unsaid(monkeypatch):
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)


def library(mallopt):
    return lambda name: type("Library", (), {"mallopt": staticmethod(mallopt)})


def test_an_older_glibc_takes_no_threshold_above_32_mib(unsaid, monkeypatch):
    asked = []

    def mallopt(what, value):
        asked.append((what, value))
        return int(what == -1 or value <= 32 << 20)

    monkeypatch.setattr(ctypes, "CDLL", library(mallopt))
    assert malloc.keep_large_blocks()
    assert asked == [(-3, 1 << 30), (-3, 32 << 20), (-1, 512 << 20)]


def windows(name):
    raise TypeError(name)


@pytest.mark.parametrize("load", [windows, lambda name: object(), library(lambda what, value: 0)])
def test_another_library_is_left_alone(unsaid, monkeypatch, load):
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert malloc.keep_large_blocks() is False


@pytest.mark.parametrize(
    ("arguments", "times"),
    [(["--help"], 0), (["--version"], 0), (["list", "gpus"], 1), (["run", "dgx-h100", "x"], 1)],
)
def test_a_verb_says_so_once_and_help_never(monkeypatch, arguments, times):
    said = []
    monkeypatch.setattr(malloc, "keep_large_blocks", lambda: said.append(True))
    CliRunner().invoke(group, arguments)
    assert len(said) == times


def test_a_program_that_imports_us_keeps_its_allocator(tmp_path, monkeypatch):
    for home in (malloc, executors):
        monkeypatch.setattr(home, "keep_large_blocks", lambda: pytest.fail("called"))
    varied = {"vary": "micro_batch=1,2", "store": tmp_path / "s.sqlite", "processes": 1}
    swept = sim.sweep("dgx-h100", "llama3-8b-sft", **varied)
    assert len(swept.rows) == 2


def kept(context, payload):
    """What a worker finds: pages of twenty arrays, in arrays."""
    import resource

    import numpy as np

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty(8 << 20).fill(1.0)
    count = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return count * os.sysconf("SC_PAGE_SIZE") / (64 << 20)


@glibc
def test_workers_of_a_sweep_keep_them(unsaid):
    (outcome,) = LocalPool(kept, None, 1).run([Task(0, None)])
    assert outcome.value < 2  # 20 where they are given back


def test_no_figure_moves():
    command = [sys.executable, "-m", "sim", "run", "dgx-h100", "llama3-8b-sft", "--json"]
    left = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072"}
    answers = [
        json.loads(subprocess.run(command, capture_output=True, check=True, env=env).stdout)
        for env in (None, left)
    ]
    assert answers[0] == answers[1]
