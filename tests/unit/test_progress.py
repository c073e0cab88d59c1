"""Verbs that may take longer than ten seconds say how far they are, to a terminal alone."""

import gc

import pytest
from click.testing import CliRunner

import sim
from sim import malloc
from sim.calibration import validate_training
from sim.cli import group
from tests.hostile.sizes import Size, take

JOB = ("dgx-h100", "llama3-8b-sft")
SMALL = ["model.layers=2", "sequence_length=1024"]
#: how often each says so, or nothing where that depends on what it finds
ASKED = {
    "compare": (lambda told: sim.compare(*JOB, vary=["nodes=1,2,4"], progress=told), 4),
    "prices job": (lambda told: sim.prices_job(*JOB, spot=True, progress=told), 3),
    "need price": (lambda told: sim.need_price("dgx-h100", "dgx-a100", JOB[1], progress=told), 3),
    "need gpus": (
        lambda told: sim.need_gpus("dgx-h100", "llama3-70b-full", deadline="8h", progress=told),
        None,
    ),
    "need context": (lambda told: sim.need_context(*JOB, progress=told), None),
    "need bandwidth": (
        lambda told: sim.need_bandwidth(*JOB, overrides=["nodes=2", *SMALL], progress=told,
                                        efficiency=0.3),
        None,
    ),
    "diagnose": (
        lambda told: sim.diagnose(*JOB, measured="step_time_s=9", overrides=SMALL, progress=told),
        None,
    ),
    "collective": (
        lambda told: sim.collective("dgx-h100", sizes="1M", vary=["nodes=1,2,4"], progress=told), 4
    ),
    "improve": (lambda told: sim.improve(*JOB, overrides=SMALL, progress=told), None),
}  # fmt: skip


@pytest.mark.parametrize("verb", ASKED)
def test_a_verb_says_how_far_it_is(verb):
    ask, times = ASKED[verb]
    told = []
    ask(lambda *at: told.append(at))
    assert all(0 <= done <= whole for done, whole in told)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    if verb != "need context":  # how many lengths are walked is not known before
        assert told[-1][0] == told[-1][1]
    assert times is None or len(told) == times
    assert len(told) > 2


def test_validation_counts_its_rows(monkeypatch):
    monkeypatch.setattr(validate_training, "_points", {})
    monkeypatch.setattr(validate_training, "_TOGETHER", 5)
    rows = [*validate_training.speed_rows()][:12]
    told, seldom = [], []

    def tell(*at):
        told.append(at)
        seldom.append(gc.get_threshold()[0] >= malloc.COLLECTED_EVERY)

    before = gc.get_threshold()
    gc.set_threshold(700, *before[1:])  # Python's own, whatever ran before
    try:
        found = validate_training.predict_all(rows, tell)
        assert gc.get_threshold()[0] == 700
    finally:
        gc.set_threshold(*before)
    assert told == [(0, 12), (5, 12), (10, 12), (12, 12)]
    assert seldom == [False, True, True, True]
    validate_training.predict_all(rows, lambda *at: told.append(at))
    assert len(told) == 4  # what is known is not predicted again
    assert [point.row for point in found] == rows


@pytest.mark.parametrize(
    "line",
    [
        "compare dgx-h100 llama3-8b-sft --vary nodes=1,2",
        "need price dgx-h100 dgx-a100 llama3-8b-sft",
    ],
)
def test_nothing_is_shown_where_no_terminal_is(line):
    assert CliRunner().invoke(group, line.split()).stderr == ""


@pytest.mark.parametrize(
    "line",
    [
        "validate",  # each works on for six seconds after its bar has come
        "improve dgx-h100 llama3-8b-sft --set nodes=1024 --set gradient_accumulation=64"
        " --set parallelism.tensor_parallel=2 --set parallelism.pipeline_parallel=8",
    ],
)
def test_a_terminal_shows_a_bar_and_ctrl_c_ends_it(line, tmp_path):
    found = take(Size(line, tuple(line.split())), tmp_path, until_progress=True)
    assert found.code == 130
    assert found.progress
