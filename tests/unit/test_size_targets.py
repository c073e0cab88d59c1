"""What sizing is asked to keep: deadlines, budgets, residency, risk; and phases beside training."""

from dataclasses import replace

import pytest

import sim
from sim.errors import InputError
from sim.report.size import view
from sim.study.machines import MachineFilter
from sim.study.search import Searcher
from sim.study.size import size
from sim.study.target import Target, settings_of, target_of
from tests.unit.sizing import A100, HOUR, JOB, told


@pytest.fixture(scope="module")
def searcher():
    return Searcher()


def test_a_deadline_takes_more_gpus_than_the_cheapest(searcher):
    asked = {"topologies": [A100], "searcher": searcher, "setup_s": 0.0, "tuned": False}
    free = size(JOB, Target(), **asked)
    slack = free.winner.figures.wall_s
    hurried = size(JOB, Target(deadline_s=slack / 2), **asked)
    assert hurried.winner.figures.wall_s <= slack / 2
    assert hurried.winner.candidate.gpus > free.winner.candidate.gpus
    assert hurried.winner.figures.cost_usd >= free.winner.figures.cost_usd
    assert ": not worth it (--slack)" in told(view(free))


def test_a_budget_that_is_met_for_the_fastest(searcher):
    cheapest = size(JOB, Target(), topologies=[A100], searcher=searcher).winner
    budget = cheapest.figures.cost_usd * 1.1
    report = size(JOB, Target("time", budget_usd=budget), topologies=[A100], searcher=searcher)
    assert report.winner.figures.cost_usd <= budget
    assert report.winner.figures.wall_s <= cheapest.figures.wall_s


def test_residency_leaves_machines_out(searcher):
    report = size(JOB, Target(), MachineFilter(residency=("EU",)), searcher=searcher, most_gpus=8)
    assert report.winner is not None
    for contender in report.contenders:
        assert contender.machine.topology.offer.residency == "EU"
    assert any("residency" in line for line in report.left_out)


@pytest.mark.parametrize("residency", ["EU", ["EU"], {"EU"}])
def test_one_text_is_as_good_as_a_list_of_it(residency):
    found = sim.size(JOB, gpus=8, residency=residency, provider="nebius", as_written=True)
    assert {c.machine.topology.offer.residency for c in found.contenders} == {"EU"}
    assert {c.machine.topology.offer.provider for c in found.contenders} == {"nebius"}
    rows = sim.prices_list(residency=residency).rows
    assert {row.residency for row in rows} == {"EU"}


def test_a_plan_is_as_sure_of_its_memory_as_is_asked():
    """8B in full on one node: what is cheapest takes 97 % of a GPU."""
    asked = {
        "topologies": ["dgx-h100"], "gpus": 8, "global_batch": 64, "tuned": False,
        "sets": ["sequence_length=8448"],
    }  # fmt: skip
    sure = size("llama3-8b-sft", Target(), **asked)
    bold = size("llama3-8b-sft", Target(), risk=0.5, **asked)
    assert sure.winner.memory.verdict.probability >= 0.95
    assert 0.5 <= bold.winner.memory.verdict.probability < 0.95
    assert bold.winner.figures.cost_usd < sure.winner.figures.cost_usd
    assert sure.tally.at_risk > 0
    assert bold.tally.at_risk == 0
    assert "are less than 95 % likely to" in told(view(sure))
    # beside a sure winner: a mark is explained, with the odds of the plan that has it
    odds = bold.winner.memory.verdict.probability
    beside = replace(bold, contenders=(*sure.contenders, *bold.contenders))
    said = f"! near its capacity: at least {odds:.0%} likely to run (50% asked for".replace(
        "%", " %"
    )
    assert said in told(view(beside))
    assert "! near its capacity" not in told(view(sure))


def test_set_up_is_paid_on_every_node():
    """A quarter of an hour of 16 GPUs at 1.5 dollars is 6 dollars, and a quarter of an hour."""
    asked = {"topologies": [A100], "gpus": 16, "global_batch": 32, "tuned": False}
    free, paid = (size(JOB, Target(), setup_s=s, **asked).winner for s in (0.0, 900.0))
    assert paid.candidate.workload == free.candidate.workload
    assert paid.job.cost.setup_usd == pytest.approx(16 * 1.5 / 4)
    assert paid.figures.cost_usd - free.figures.cost_usd == pytest.approx(6.0, rel=1e-3)
    assert paid.figures.wall_s - free.figures.wall_s == pytest.approx(900.0)


@pytest.mark.parametrize(("risk", "said"), [("lots", "is no share"), ("120 %", "is no share")])
def test_shares_are_read(risk, said):
    with pytest.raises(InputError, match=said):
        settings_of(risk, "15 min")
    assert settings_of("5 %", "15 min") == (0.05, 900.0)
    assert settings_of(0.2, "0") == (0.2, 0.0)
    assert target_of("cost").slack == 0.05
    assert target_of("time").slack == 0.0


PHASES = [
    {"name": "tokenise", "kind": "preprocess", "tokens": "4e9", "cores": 16,
     "price_per_hour": "0.8 USD"},
    {"name": "train", "kind": "train"},
    {"name": "benchmarks", "kind": "evaluate", "tokens": "1e8"},
]  # fmt: skip


def test_light_phases_get_machines_of_their_own(searcher):
    job = {**JOB, "phases": PHASES}
    chosen = ["dgx-h100", "h100-x1", A100]
    report = size(job, Target(), topologies=chosen, searcher=searcher, most_gpus=16)
    tokenise, evaluate = report.phases
    assert tokenise.wall_s == pytest.approx(4e9 / (16 * 2e5))  # cores x rate of a loader process
    assert tokenise.cost_usd == pytest.approx(0.8 * tokenise.wall_s / HOUR)
    assert evaluate.kind == "evaluate"
    assert evaluate.machine in ("dgx-h100", "h100-x1", "our-a100s")
    # forward passes alone are faster than training on as many tokens on the same machine
    assert 0 < evaluate.wall_s < report.winner.figures.wall_s
    assert "holding the cluster through the others would cost" in told(view(report))


def test_phases_leave_training_the_rest_of_the_deadline(searcher):
    job = {**JOB, "phases": PHASES[:1]}
    report = size(job, Target(deadline_s=HOUR), topologies=[A100], searcher=searcher)
    assert report.target.deadline_s == pytest.approx(HOUR - report.phases[0].wall_s)
    assert report.winner.figures.wall_s + report.phases[0].wall_s <= HOUR


def test_targets_are_read_with_units():
    target = target_of("cost", "48h", "500 USD", None)
    assert (target.deadline_s, target.budget_usd) == (48 * HOUR, 500.0)
    with pytest.raises(InputError, match="has no unit"):
        target_of("cost", "48", None, None)
    with pytest.raises(InputError, match="not more than nothing"):
        target_of("cost", "0 h", None, None)


def test_a_workload_without_a_length_is_refused():
    job = {k: v for k, v in JOB.items() if k != "tokens"}
    with pytest.raises(InputError, match="states no length"):
        size(job, Target(), topologies=["dgx-h100"])


def test_plans_that_do_not_fit_are_counted_so_where_the_deadline_alone_rules_them_out():
    """70B on eight A100s within an hour: no bound meets it, and what lacks room still lacks it."""
    machine = {
        "name": "small",
        "node": {"gpu": "A100-40G", "gpus": 8, "cpu": {"memory": "500 GiB"}},
    }
    found = sim.size("llama3-70b-full", topologies=[machine], max_gpus=8, deadline="1 h",
                     objective="time", overrides=["tokens=1e9"])  # fmt: skip
    assert found.contenders[0].likeliest is not None
    assert found.tally.too_large + found.tally.at_risk == found.tally.considered > 0
    assert found.tally.ruled_out == found.tally.simulated == 0
    said = found.to_dict()
    assert (said["most_gpus"], said["exact_gpus"], said["assumed_on_gpus"]) == (8, None, 8)


def test_a_nearest_miss_was_simulated_and_its_cap_is_in_the_json():
    found = sim.size("mistral-7b-lora", topologies=["dgx-a100"], max_gpus=8, deadline="1 min",
                     objective="time")  # fmt: skip
    assert found.nearest is not None
    assert found.tally.simulated > 0
    assert found.tally.decided == found.tally.considered
    assert found.to_dict()["cap"] == found.cap() != ""
