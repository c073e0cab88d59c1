"""A plan of changes: each step replayed, nothing warned of, no step to spare."""

from __future__ import annotations

import itertools
import json
import signal

import pytest
from click.testing import CliRunner

import sim
from sim import simulate
from sim.cli import group
from sim.errors import InputError
from sim.inputs.checks import check
from sim.inputs.loader import load, prepare
from sim.report.formats.table import render
from sim.report.improve import view
from sim.result import improve as improving
from sim.result.improve import improve, state_of
from sim.result.trials import SHORTER, ranked
from sim.step.step import step

JOBS = [
    ("dgx-h100", "llama3-8b-sft", ("nodes=1",)),
    ("dgx-a100", "mistral-7b-lora", ("nodes=1",)),
    ("dgx-h100", "llama3-70b-full", ("nodes=2",)),  # does not fit as it is
    ("dgx-h100", "llama3-8b-zero3", ("nodes=1",)),
]


def told(shown):
    """A view as text, its wrapped lines joined."""
    return " ".join(render(shown).split())


@pytest.fixture(scope="module", params=JOBS, ids=lambda job: job[1])
def planned(request):
    machine, job, sets = request.param
    loaded = load(machine, job, list(sets))
    return request.param, loaded, improve(loaded.topology, loaded.workload)


def test_time_of_a_token_is_of_all_gpus_that_work_on_it():
    """Two GPUs that share a layer both take their time for its tokens: 1 over tokens/s per GPU."""
    cut = ["nodes=1", "parallelism.tensor_parallel=2"]
    loaded = load("dgx-h100", "llama3-8b-sft", cut)
    rate = simulate("dgx-h100", "llama3-8b-sft", overrides=cut, scaling=False, fixes=False)
    found = state_of(loaded.topology, loaded.workload).gpu_s_per_token
    assert found == pytest.approx(1.0 / rate.throughput.tokens_per_s_per_gpu)


def test_each_step_is_what_its_settings_give(planned):
    """Typed by hand, one on top of the other, they give the figures that the plan states."""
    (machine, job, sets), _, plan = planned
    assert plan.made
    typed = {}
    for made in plan.made:
        typed |= made.settings
        loaded = prepare(machine, job, list(sets)).vary(typed).loaded()
        state = state_of(loaded.topology, loaded.workload)
        assert state.gpu_s_per_token == pytest.approx(made.state.gpu_s_per_token, rel=1e-9)
        assert state.memory.needed_bytes == made.state.memory.needed_bytes


def test_it_ends_at_least_as_sure_and_quicker_than_any_single_change(planned):
    _, loaded, plan = planned
    assert plan.after.memory.verdict.word == "fits"
    if plan.before.sure:
        now = step(loaded.topology, loaded.workload).breakdown
        single = ranked(loaded.topology, loaded.workload, now, fits=True)
        assert plan.time_ratio <= min(fix.step_time_ratio for fix in single) + 1e-9


def test_nothing_is_proposed_that_is_warned_of(planned):
    _, loaded, plan = planned
    known = {f.code for f in check(loaded.topology, loaded.workload)}
    for made in plan.made:
        assert {f.code for f in check(made.state.topology, made.state.workload)} <= known
        assert made.state.topology is loaded.topology
        assert made.state.workload.model == loaded.workload.model
        assert made.state.workload.method == loaded.workload.method


def test_no_step_can_be_left_out(planned):
    (machine, job, sets), _, plan = planned
    for spare in plan.made:
        rest = {}
        for made in plan.made:
            if made is not spare:
                rest |= made.settings
        if rest == plan.settings:
            continue  # a micro-batch doubled again
        loaded = prepare(machine, job, list(sets)).vary(rest).loaded()
        without = state_of(loaded.topology, loaded.workload)
        slower = without.gpu_s_per_token > plan.after.gpu_s_per_token * (1 - SHORTER)
        assert slower or not without.sure


def test_numbers_are_rounded_as_before_if_that_is_asked():
    loaded = load("dgx-h100", "llama3-8b-sft", ["nodes=1"])
    plan = improve(loaded.topology, loaded.workload, numerics=False)
    assert not any(made.rounds for made in plan.made)
    assert plan.after.workload.precision == loaded.workload.precision
    free = improve(loaded.topology, loaded.workload)
    assert free.time_ratio < plan.time_ratio < 0.7
    assert "(other rounding)" in told(view(free))


def test_it_is_not_stuck_with_checkpointing():
    """14B LoRA in micro-batches of 4: without checkpointing one sequence fits, and four do not."""
    sets = ["model=qwen2.5-14b", "micro_batch=4", "gradient_accumulation=4",
            "activation_checkpointing=full", "attention=flash2", "sequence_length=4096",
            "parallelism={strategy: ddp}", "trainer=huggingface"]  # fmt: skip
    plan = sim.improve("dgx-h100", "mistral-7b-lora", overrides=sets)
    assert plan.settings["activation_checkpointing"] == "none"
    assert plan.settings["micro_batch"] * plan.settings["gradient_accumulation"] == 16
    by_hand = [*sets, "activation_checkpointing=none", "micro_batch=1", "gradient_accumulation=16"]
    best = sim.improve("dgx-h100", "mistral-7b-lora", overrides=by_hand).after
    assert plan.time_ratio < 0.5
    assert plan.after.step_s < 1.05 * best.step_s  # which also shards, to have room


def test_a_job_that_cannot_be_helped_is_told_so():
    loaded = load("dgx-h100", "llama3-8b-sft", ["nodes=1"])
    best = improve(loaded.topology, loaded.workload).after
    again = improve(best.topology, best.workload)
    assert again.time_ratio > 1 - 2 * SHORTER


def test_where_no_change_is_worth_its_step_the_plan_is_empty():
    """Ten million tokens of context on a node: what was tried first is dropped again, all of it."""
    loaded = load("dgx-h100", "llama3-8b-sft", ["sequence_length=10000000"])
    found = improve(loaded.topology, loaded.workload)
    assert found.made == ()
    assert found.after == found.before
    assert "Nothing found that helps" in told(view(found))


def test_a_plan_that_cannot_be_written_is_printed_all_the_same(tmp_path):
    words = ["improve", "a100-x1", "mistral-7b-lora", "--apply", str(tmp_path / "no" / "job.yaml")]
    done = CliRunner().invoke(group, words)
    assert isinstance(done.exception, InputError)
    assert done.stdout.startswith("A plan of changes for mistral-7b lora")


def test_apply_writes_a_workload_that_loads(tmp_path):
    file = tmp_path / "better.yaml"
    arguments = ["improve", "dgx-h100", "llama3-8b-sft", "--set", "nodes=1", "--apply", str(file)]
    done = CliRunner().invoke(group, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    loaded = load("dgx-h100", "llama3-8b-sft", ["nodes=1"])
    plan = improve(loaded.topology, loaded.workload)
    assert load("dgx-h100", file, ["nodes=1"]).workload == plan.after.workload
    assert json.loads(done.stdout)["time_ratio"] == pytest.approx(plan.time_ratio)


SMALL = ("gradient_accumulation=1", "micro_batch=1", "sequence_length=2048")


def test_a_job_that_does_not_fit_has_one_step_time():
    """Its changes are held against what `run` says of it, the allocator's retries included."""
    ran = sim.simulate("h100-x1", "llama3-8b-sft", overrides=SMALL, scaling=False)
    plan = sim.improve("h100-x1", "llama3-8b-sft", overrides=SMALL)
    assert not ran.memory.fits
    assert plan.before.step_s == ran.step.time_s
    [change] = plan.made
    [fix] = [f for f in ran.bottleneck.fixes if f.change == change.settings]
    assert fix.step_time_ratio == pytest.approx(plan.time_ratio)


def test_where_all_that_fits_costs_more_than_twice_another_training_is_named():
    fixes = sim.simulate(
        "h100-x1", "llama3-8b-sft", overrides=SMALL, scaling=False
    ).bottleneck.fixes
    assert [f.changes_training for f in fixes] == [False, True, True]
    assert fixes[0].step_time_ratio > 2.0
    assert all(f.fits for f in fixes)
    assert all(f.text.endswith("another training") for f in fixes[1:])
    found = told(view(sim.improve("h100-x1", "llama3-8b-sft", overrides=SMALL)))
    assert "scaling-sim memory" in found


def test_a_search_that_is_stopped_has_the_best_so_far():
    """Each further change tried makes the plan no worse, and what it states holds."""
    machine, job, sets = JOBS[0]
    loaded = load(machine, job, list(sets))
    whole = improve(loaded.topology, loaded.workload)
    last = 1.0
    for tried in (0, 3, 12, 40):
        asked = iter([False] * tried)
        found = sim.improve(machine, job, overrides=sets, stop=lambda left=asked: next(left, True))
        assert found.stopped
        assert json.loads(found.to_json())["stopped"] is True
        assert whole.time_ratio <= found.time_ratio <= last
        last = found.time_ratio
        if found.made:
            after = found.after
            state = state_of(after.topology, after.workload)
            assert state.gpu_s_per_token == after.gpu_s_per_token
        said = told(view(found))
        assert ("best so far" in said) == bool(found.made) or "Stopped before" in said
    assert last < 1.0
    assert not whole.stopped
    assert "Stopped" not in told(view(whole))


def test_ctrl_c_shows_the_plan_so_far_and_ends_with_130(monkeypatch):
    tried = itertools.count()

    def made(change, make=improving._made):
        if next(tried) == 30:
            signal.raise_signal(signal.SIGINT)
        return make(change)

    monkeypatch.setattr(improving, "_made", made)
    ran = CliRunner().invoke(group, ["improve", "dgx-h100", "llama3-8b-sft", "--json"])
    assert ran.exit_code == 130
    found = json.loads(ran.stdout)
    assert found["stopped"] is True
    assert found["changes"]
    assert next(tried) <= 31 + improving.LONGEST  # what was being tried is the last, or a plan anew
