"""Some of what `tests.hostile.sizes` asks: a wish beyond measure is answered or refused at once."""

import pytest

from tests.hostile.sizes import Size, cases, take

#: quick ones of each verb; all of them: python -m tests.hostile.sizes
QUICK = (
    "run nodes=1000000000", "run node.gpus=1000000", "run model.layers=1000000",
    "run sequence_length=1000000000000", "explain model.vocab_size=1000000000",
    "memory nodes=1000000000", "improve sequence_length=10000000", "support node.gpus=1000000",
    "run JOB --jitter 5% --replicas 1000000",
    "sweep JOB -j 1 --store :s: --vary nodes=1..1000000000",
    "collective dgx-h100 all_to_all --set nodes=32768", "200 MB of prices", "200 MB of nccl-tests",
    "200 MB of workload", "plan dgx-h100 JOBS --growth 1000000",
    "size llama3-8b-sft --deadline 1h --max-gpus 1000000000",
    "size llama3-8b-sft --deadline 1h --vary micro_batch=1..100000",
    "sweep JOB -j 1 --store :s: --screen step_time_s --vary nodes=1..64 --vary micro_batch=1..6",
)  # fmt: skip
CASES = {case.name: case for case in cases()}


@pytest.mark.parametrize("name", QUICK)
def test_absurd_sizes_are_refused_in_seconds(name, tmp_path):
    found = take(CASES[name], tmp_path)
    assert not found.fault, found
    assert found.words  # why


def test_what_is_said_at_a_terminal_is_seen_and_ctrl_c_obeyed(tmp_path):
    line = "sweep dgx-h100 llama3-8b-sft -j 1 --store :s: --vary micro_batch=1..64"
    many = " --vary sequence_length=128,256,512,1024,2048,4096 --vary nodes=1..64"
    found = take(Size("sweep", tuple((line + many).split())), tmp_path, until_progress=True)
    assert found.code == 130
    assert found.progress
    assert not found.fault


@pytest.mark.parametrize("name", ["run LONG=zbv", "compare JOB --vary nodes=1..100000"])
def test_what_takes_long_shows_how_far_it_is_and_ends_when_asked(name, tmp_path):
    found = take(CASES[name], tmp_path, until_progress=True)
    assert found.code == 130
    assert found.progress
    assert not found.fault


@pytest.mark.parametrize("name", ["recorded step", "kineto"])
def test_a_trace_is_not_held_while_it_is_read(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.hostile.sizes.FILE_MB", 30)
    found = take(Size(name, (), name), tmp_path)
    assert found.code == 0
    assert found.progress
    assert found.mib < 250.0  # 10 bytes a byte of the file, were it whole


def test_runs_that_were_timed_are_read_with_progress(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.hostile.sizes.FILE_MB", 3)  # 52,000 of them
    found = take(Size("runs", (), "runs"), tmp_path, until_progress=True)
    assert found.code == 130
    assert found.progress
    assert not found.fault


def test_prices_as_large_as_they_may_be_are_read_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.hostile.sizes.FILE_MB", 30)
    found = take(Size("skypilot", (), "skypilot"), tmp_path)
    assert found.code == 0
    assert not found.fault


@pytest.mark.parametrize("name", ["graph", "sweep", "workload", "torchtune.yaml", "calibration"])
def test_yaml_as_large_as_it_may_be_is_answered_or_refused_in_time(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.hostile.sizes.FILE_MB", 3)
    found = take(Size(name, (), name), tmp_path)
    assert found.code == 2
    assert not found.fault
    assert found.words
