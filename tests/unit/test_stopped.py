"""Verbs that are stopped show what they have: what they say of it holds in the whole answer."""

import itertools
import json
import math
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.memory import bound
from sim.report import compare, need, plan, plans, study
from sim.report.formats.table import render
from sim.report.study_plots import plots_of
from sim.study import compare as comparing
from sim.study import inverse, scenarios
from sim.study import jobs as timing
from sim.study import plan as planning
from sim.study.jobs import read_jobs
from sim.study.question import answers as answering

PAIR, JOB, SLOW = ["dgx-a100", "dgx-h100"], "llama3-8b-sft", {"nodes": 8}
JOBS = "docs/examples/week.yaml"
TIMED = len(read_jobs(Path(JOBS))[0].jobs) - 1  # asked before each but the first
STUDY = "lora-qlora-or-full"


def after(times):
    asked = itertools.count()
    return lambda: next(asked) >= times


def test_a_comparison_has_the_variants_so_far():
    ask = {"vary": ["nodes=1,2"]}
    whole = sim.compare(PAIR, JOB, **ask)
    assert not whole.stopped
    assert "Stopped" not in render(compare.view(whole))
    for asked, known in enumerate((1, 2, 3), start=3):  # once before each but the first is read
        found = sim.compare(PAIR, JOB, **ask, stop=after(asked))
        assert found.stopped
        assert json.loads(found.to_json())["stopped"] is True
        assert found.variants == whole.variants[:known]
        assert found.deltas == whole.deltas[: known - 1]
        assert f"Stopped after {known} of 4 variants" in render(compare.view(found))
    found = sim.compare(PAIR, JOB, **ask, stop=after(1))  # as the third was to be read
    assert [v.result for v in found.variants] == [whole.variants[0].result]
    assert found.stopped


def test_a_study_has_the_claims_that_can_be_judged():
    whole = sim.run_study(STUDY)
    assert not whole.stopped
    texts = {a.claim.id: a for a in whole.answers}
    judged = []
    for cases in (0, 8, 30, whole.asked - 1):
        found = sim.run_study(STUDY, stop=after(cases))
        assert found.stopped
        assert len(found.results) == cases
        for answer in found.answers:
            rows = texts[answer.claim.id].rows  # bands are of all published runs of the study
            assert [row.value for row in answer.rows] == [row.value for row in rows]
            assert answer.word == texts[answer.claim.id].word
        judged.append(len(found.answers))
        assert set(found.said) <= set(whole.said)
        said = render(study.view(found, plots_of(found)))
        assert f"Stopped after {cases} of {whole.asked} cases" in said
    assert judged == sorted(judged)
    assert 0 < judged[-1] < len(whole.answers)


def test_plans_side_by_side_have_the_scenarios_so_far():
    whole = sim.compare_plans("dgx-h100", JOBS, vary=["nodes=8,10,12"])
    found = sim.compare_plans("dgx-h100", JOBS, vary=["nodes=8,10,12"], stop=after(2 * TIMED + 1))
    assert (found.stopped, whole.stopped) == (True, False)
    assert [s.content() for s in found.scenarios] == [s.content() for s in whole.scenarios[:2]]
    assert "Stopped after 2 of 3 scenarios" in render(plans.view(found))


def test_jobs_that_are_not_timed_leave_no_plan():
    for asked in range(TIMED):
        with pytest.raises(KeyboardInterrupt):
            sim.plan("dgx-h100", JOBS, stop=after(asked))
    found = sim.compare_plans("dgx-h100", JOBS, vary=["nodes=8,10,12"], stop=after(TIMED))
    assert (found.stopped, len(found.scenarios)) == (True, 1)


def test_a_plan_has_odds_of_the_replicas_that_were_played():
    for played in (0, 1, 7):
        found = sim.plan("dgx-h100", JOBS, overrides=SLOW, stop=after(TIMED + played))
        alone = sim.plan("dgx-h100", JOBS, overrides=SLOW, replicas=played)
        assert (found.stopped, found.replicas, found.marginal) == (True, played, ())
        if played > 1:  # one is no odds where no more are asked for
            assert found.on_time_expected == alone.on_time_expected
        assert f"stopped after {played} of 20 replicas" in render(plan.view(found))


def test_the_smallest_cluster_so_far_is_enough():
    least = sim.plan("dgx-h100", JOBS, smallest=True, replicas=0).nodes
    found = sim.plan("dgx-h100", JOBS, smallest=True, stop=after(TIMED + 1))
    assert found.stopped
    assert found.nodes > least
    assert found.on_time >= 0.95
    said = render(plan.view(found, 0.95))
    assert f"On {found.nodes} nodes 100 % of deadlines are met" in said
    assert found.on_time == 1.0
    assert "8 nodes and fewer are too few" in said
    assert "fewest" not in said
    assert (found.undecided, json.loads(found.to_json())["undecided"]) == (True, True)
    none = sim.plan("dgx-h100", JOBS, smallest=True, stop=after(TIMED))
    assert "stopped before any size was tried" in render(plan.view(none, 0.95))


def test_a_smallest_cluster_that_is_found_is_said_though_its_odds_are_cut(monkeypatch):
    """It read as one that larger or smaller ones were not held against."""
    whole = sim.plan("dgx-h100", JOBS, smallest=True, replicas=0)
    monkeypatch.setattr(planning, "MOST_PLAYED", 5 * len(whole.logs))
    found = planning.finished(
        planning.read_plan("dgx-h100", Path(JOBS)), whole, 1000, stop=after(2)
    )
    assert (found.stopped, found.undecided) == (True, False)
    said = render(plan.view(found, 0.95))
    assert f"{found.nodes} node" in said
    assert "fewest on which" in said
    assert "stopped after 2 of 5 replicas" in said
    unasked = planning.finished(planning.read_plan("dgx-h100", Path(JOBS)), whole, 0, stop=after(0))
    assert "replica" not in " ".join(unasked.notes)


def test_a_bandwidth_is_known_between_two_rates():
    ask = {"overrides": SLOW}
    whole = sim.need_bandwidth("dgx-h100", JOB, **ask)
    assert not whole.stopped
    for asked in (0, 1, 4):
        found = sim.need_bandwidth("dgx-h100", JOB, **ask, stop=after(asked))
        assert found.stopped
        assert (found.short_bytes_per_s or 0.0) <= whole.short_bytes_per_s
        assert found.rate_bytes_per_s >= whole.rate_bytes_per_s
        assert found.efficiency >= 0.9
        assert "Stopped: less may do as well" in render(need.bandwidth_view(found))


def test_sizes_that_are_too_few_are_known():
    """What is left out of a search is larger than all that it ruled out."""
    whole = sim.need_gpus("dgx-h100", JOB, deadline="1h")
    assert (whole.nodes, whole.stopped) == (6, False)
    for tried in range(1, 5):
        found = sim.need_gpus("dgx-h100", JOB, deadline="1h", stop=after(tried - 1))
        assert (found.stopped, found.job, found.below[0]) == (True, None, tried)
        assert found.nodes == tried + 1 <= whole.nodes
        said = render(need.gpus_view(found))
        assert f"At least {found.nodes} nodes ({found.gpus} GPUs)" in said
        assert "(asked 1 h)" in said


def test_a_context_is_known_between_two_lengths():
    whole = sim.need_context("dgx-h100", JOB)
    assert not whole.stopped
    for asked in itertools.count():
        found = sim.need_context("dgx-h100", JOB, stop=after(asked))
        if not found.stopped:
            break
        said = render(need.context_view(found))
        assert found.report.fits
        if found.beyond is None:
            assert found.value <= whole.value < (found.too_many or math.inf)
            assert "Stopped: more may fit as well" in said
        else:  # how many are sure is left
            assert (found.value, found.beyond) == (whole.value, whole.beyond)
            assert (found.sure or 0) <= whole.sure
            assert "Stopped: more may fit without risk" in said
    assert found == whole
    assert asked > 10


@pytest.mark.parametrize(
    ("module", "name", "command"),
    [
        (comparing, "predict", ["compare", *PAIR, JOB, "--vary", "nodes=1,2"]),
        (answering, "predict", ["study", STUDY]),
        (scenarios, "serve", ["plan", "dgx-h100", JOBS, "--vary", "nodes=8,10,12"]),
        (planning, "serve", ["plan", "dgx-h100", JOBS, "--smallest"]),
        (inverse, "step", ["need", "bandwidth", "dgx-h100", JOB, "--set", "nodes=8"]),
        (inverse, "memory_of", ["need", "gpus", "dgx-h100", JOB, "--deadline", "1h"]),
        (bound, "memory", ["need", "context", "dgx-h100", JOB]),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_shows_what_is_there(monkeypatch, module, name, command, number):
    real = getattr(module, name)
    called = itertools.count(1)

    def second(*given, **options):
        if next(called) == 2:
            signal.raise_signal(number)
        return real(*given, **options)

    monkeypatch.setattr(module, name, second)
    before = signal.getsignal(number)
    ran = CliRunner().invoke(group, [*command, "--json"])
    assert ran.exit_code == 128 + number, ran.stderr
    assert "ending with what was found" in ran.stderr
    assert json.loads(ran.stdout)["stopped"] is True
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_is_known_ends_the_verb(monkeypatch, number):
    """All of 10,000 jobs were timed first."""
    real = timing._timed
    called = itertools.count(1)

    def second(*given):
        if next(called) == 2:
            signal.raise_signal(number)
        return real(*given)

    monkeypatch.setattr(timing, "_timed", second)
    ran = CliRunner().invoke(group, ["plan", "dgx-h100", JOBS])
    assert (ran.exit_code, ran.stdout) == (128 + number, "")
    assert next(called) == 3
