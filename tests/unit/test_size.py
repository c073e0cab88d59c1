"""Sizing: exact against trying everything, answers that say no, constraints, the emitted plan."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.errors import InputError
from sim.inputs.loader import load, prepare
from sim.report.size import view
from sim.step.step import memory_of, step
from sim.study.axes import Grid
from sim.study.bounds import Bounds
from sim.study.candidates import Candidate, Space, family, plans, variants
from sim.study.contest import Contest
from sim.study.machines import MachineFilter, machines
from sim.study.room import Rooms
from sim.study.search import Counts, Searcher
from sim.study.size import size
from sim.study.target import Target, settings_of, target_of
from tests.unit.sizing import A100, HOUR, JOB, told


@pytest.fixture(scope="module")
def searcher():
    return Searcher()


def everything(topologies, batch, most_gpus, searcher):
    """Every plan that fits, simulated."""
    found, rooms = [], Rooms()
    for machine in machines(MachineFilter(), topologies)[0]:
        base = prepare(machine.topology, JOB)
        kept = ("none", "full")
        space = Space(batch, most_gpus, family(base.loaded().workload), kept, ("none",),
                      Grid(""))  # fmt: skip
        for candidate in plans(machine, variants(base, space), space, {}):
            if rooms.room(candidate) == "fits":
                found.append(searcher.plan(candidate))
    return found


@pytest.fixture(scope="module")
def all_plans(searcher):
    return everything(["dgx-h100", A100], 32, 16, searcher)


def searched(topologies, batch, most_gpus, target, searcher):
    best = None
    tally = Counts()
    for machine in machines(MachineFilter(), topologies)[0]:
        base = prepare(machine.topology, JOB)
        space = Space(batch, most_gpus, family(base.loaded().workload), ("none", "full"),
                      ("none",), Grid(""))  # fmt: skip
        candidates = plans(machine, variants(base, space), space, {})
        sought = searcher.best(candidates, target.score, target.met, tally)
        [ended] = searcher.together([sought])
        plan = ended.plan
        if plan and (best is None or target.score(plan.figures) < target.score(best.figures)):
            best = plan
    return best, tally


@pytest.mark.parametrize("objective", ["cost", "time", "energy"])
@pytest.mark.parametrize("tightness", [None, 0.6])
def test_branch_and_bound_finds_what_trying_everything_finds(
    all_plans, searcher, objective, tightness
):
    walls = sorted(p.figures.wall_s for p in all_plans)
    deadline = None if tightness is None else walls[int(len(walls) * (1 - tightness))]
    target = Target(objective, deadline_s=deadline)
    allowed = [p for p in all_plans if target.met(p.figures)]
    expected = min(target.score(p.figures) for p in allowed)
    best, tally = searched(["dgx-h100", A100], 32, 16, target, searcher)
    assert target.score(best.figures) == pytest.approx(expected, rel=1e-9)
    assert tally.considered == tally.simulated + tally.too_large + tally.ruled_out


def test_bounds_bound(all_plans, searcher):
    for plan in all_plans:
        candidate = plan.candidate
        assert searcher.bounds.peak_s(candidate) <= plan.step_s
        assert searcher.bounds.of(candidate).step_s <= plan.step_s
        bound = searcher.bound(candidate)
        for name in ("wall_s", "cost_usd", "energy_j"):
            assert getattr(bound, name) <= getattr(plan.figures, name) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("sets", "least"),
    [
        (["parallelism.offload=all"], 0.6),
        (["parallelism.offload=all", "gradient_accumulation=16", "micro_batch=1"], 0.6),
        (["parallelism.strategy=zero2", "parallelism.offload=optimizer"], 0.6),
        (["parallelism.strategy=zero3", "parallelism.offload=all"], 0.6),
        (["parallelism.strategy=fsdp1", "parallelism.offload=all"], 0.6),
    ],
)
def test_bounds_know_what_the_host_does(sets, least):
    loaded = load("dgx-a100", "llama3-8b-sft", sets)
    machine = machines(MachineFilter(), ["dgx-a100"])[0][0]
    candidate = Candidate(machine, loaded.topology, loaded.workload)
    step_s = step(loaded.topology, loaded.workload).time_s
    assert least * step_s < Bounds().of(candidate).step_s <= step_s


def test_pruning_saves_simulations():
    _, tally = searched(["dgx-h100", A100], 32, 16, Target("cost"), Searcher())
    assert tally.ruled_out > tally.considered / 4


def test_parameters_are_asked_of_plans_that_kernels_do_not_rule_out(monkeypatch):
    bounded, of = {True: set(), False: set()}, Bounds.of

    def counted(self, candidate, exchanges=True, parameters=True, **more):
        bounded[parameters].add(id(candidate))
        return of(self, candidate, exchanges, parameters, **more)

    monkeypatch.setattr(Bounds, "of", counted)
    searched(["dgx-h100", A100], 64, 16, Target("cost"), Searcher())
    assert bounded[True] < bounded[False]


def test_every_plan_has_the_same_global_batch(all_plans):
    for plan in all_plans:
        w = plan.candidate.workload
        assert w.micro_batch * w.gradient_accumulation * plan.candidate.gpus == 32


def test_figures_of_the_winner_are_those_of_a_run(searcher):
    report = size(JOB, Target(), topologies=[A100], most_gpus=16, searcher=searcher)
    plan = report.winner
    from sim.result.predict import predict

    result = predict(plan.candidate.topology, plan.candidate.workload, scaling=False, fixes=False)
    assert result.step.time_s == pytest.approx(plan.step_s, rel=1e-4)
    assert result.throughput.mfu == pytest.approx(plan.mfu, rel=1e-4)
    assert result.memory.needed_bytes == plan.memory.needed_bytes
    assert result.cost.total_usd == pytest.approx(plan.figures.cost_usd, rel=0.1)


# --- three jobs with different constraints -------------------------------------------------------


def test_a_deadline_takes_more_gpus_than_the_cheapest(searcher):
    asked = {"topologies": [A100], "searcher": searcher, "setup_s": 0.0, "tuned": False}
    free = size(JOB, Target(), **asked)
    slack = free.winner.figures.wall_s
    hurried = size(JOB, Target(deadline_s=slack / 2), **asked)
    assert hurried.winner.figures.wall_s <= slack / 2
    assert hurried.winner.candidate.gpus > free.winner.candidate.gpus
    assert hurried.winner.figures.cost_usd >= free.winner.figures.cost_usd
    assert "use fewer GPUs" in told(view(free))


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


def test_nothing_is_an_answer_with_the_nearest_miss(searcher):
    target = Target(deadline_s=60.0)
    report = size(JOB, target, topologies=["dgx-h100", A100], most_gpus=16, searcher=searcher,
                  setup_s=0.0, tuned=False)  # fmt: skip
    assert report.winner is None
    nearest = report.nearest
    assert "the nearest miss is" in told(view(report))
    gpus, by = nearest.candidate.gpus, nearest.figures.wall_s / 60.0 - 1.0
    said = f"Nothing meets the target; the nearest miss is {gpus} GPUs of "
    assert str(report).startswith(said)
    cap = "Larger clusters were not tried (--max-gpus 16): more may do."
    assert str(report).endswith(f", by {by:,.0%}. ".replace("%", " %") + cap)
    assert cap in told(view(report))
    every = everything(["dgx-h100", A100], report.global_batch, 16, searcher)
    assert nearest.figures.wall_s == pytest.approx(min(p.figures.wall_s for p in every), rel=1e-9)


def test_a_batch_that_feeds_no_more_gpus_is_named_as_the_cap(searcher):
    report = size(JOB, Target(deadline_s=60.0), topologies=["dgx-h100"], global_batch=8,
                  searcher=searcher, tuned=False)  # fmt: skip
    assert report.nearest.candidate.gpus == 8
    assert report.cap().startswith("8 sequences feed 8 GPUs at most in this layout: --global-batch")


def test_set_up_that_a_plan_pays_for_is_told(searcher):
    asked = {"topologies": ["dgx-h100"], "most_gpus": 8, "searcher": searcher, "tuned": False}
    paid, free = (size(JOB, Target(), **asked, setup_s=s) for s in (900.0, 0.0))
    assert "include 15 min of set-up (--setup)" in told(view(paid))
    assert "set-up" not in told(view(free))


def test_what_fits_nowhere_says_so(searcher):
    job = {**JOB, "model": "llama-3-70b", "method": "full", "optimizer": "adamw"}
    report = size(job, Target(), topologies=["l40s-8"], most_gpus=8, searcher=searcher)
    assert report.winner is None
    assert str(report) == "Nothing fits in memory."


def test_a_machine_that_cannot_run_the_job_is_left_out_with_the_reason(searcher):
    job = {**JOB, "precision": "fp8"}
    report = size(job, Target(), topologies=["dgx-h100", A100], most_gpus=8, searcher=searcher)
    assert report.winner.candidate.machine.name == "dgx-h100"
    assert any("has no FP8" in line for line in report.left_out)


def test_further_axes_are_searched(searcher):
    report = size(
        JOB, Target(), topologies=["dgx-h100"], most_gpus=8, vary=["precision=bf16,fp8"],
        searcher=Searcher(),
    )  # fmt: skip
    single = [
        size(JOB, Target(), topologies=["dgx-h100"], most_gpus=8, sets=[f"precision={p}"],
             searcher=Searcher()).winner.figures.cost_usd
        for p in ("bf16", "fp8")
    ]  # fmt: skip
    assert report.winner.figures.cost_usd == pytest.approx(min(single), rel=1e-9)
    assert dict(report.winner.candidate.extra)["precision"] in ("bf16", "fp8")


# --- memory, set-up, small clusters, implementations ----------------------------------------------


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


def test_the_smallest_cluster_within_the_slack_is_taken(all_plans, searcher):
    """Of plans no more than half dearer than the cheapest, the fewest GPUs, then the cheapest."""
    target = Target(slack=0.5)
    least = min(p.figures.cost_usd for p in all_plans if p.candidate.machine.name == "our-a100s")
    close = [p for p in all_plans if p.candidate.machine.name == "our-a100s"
             and p.figures.cost_usd < 1.5 * least]  # fmt: skip
    fewest = min(p.candidate.gpus for p in close)
    machine = machines(MachineFilter(), [A100])[0][0]
    base = prepare(machine.topology, JOB)
    space = Space(32, 16, ("fsdp2", "ddp"), ("none", "full"), ("none",), Grid(""))
    sought = Contest(searcher, space, target).contend(machine, base, Counts())
    [found] = searcher.together([sought])
    assert found.plan.candidate.gpus == fewest
    cheapest = min(p.figures.cost_usd for p in close if p.candidate.gpus == fewest)
    assert found.plan.figures.cost_usd == pytest.approx(cheapest, rel=1e-9)


def test_every_loser_has_its_own_nearest_miss(all_plans, searcher):
    target = Target(deadline_s=1.0)
    report = size(JOB, target, topologies=["dgx-h100", A100], most_gpus=16, global_batch=32,
                  setup_s=0.0, tuned=False, searcher=searcher)  # fmt: skip
    for contender in report.contenders:
        own = [p for p in all_plans if p.candidate.machine.name == contender.machine.name]
        fastest = min(p.figures.wall_s for p in own)
        assert contender.nearest.figures.wall_s <= fastest * (1 + 1e-9)


def test_what_does_not_fit_says_whose_memory_and_by_how_much():
    job = {**JOB, "model": "llama-3-70b", "optimizer": "adamw"}
    report = size(job, Target("time"), topologies=["l40s-8"], gpus=8, searcher=Searcher())
    said = told(view(report))
    assert "Nothing fits in memory with 95 % certainty" in said
    assert "of a host's" in said or "of a GPU's" in said
    assert report.contenders[0].fit_probability < 0.5


def test_one_gpu_is_tried_with_and_without_a_strategy(searcher):
    """Compiled, copies of FSDP2 cost more than casts of autocast; kernel by kernel, less."""
    shipped = load("dgx-h100", "mistral-7b-lora").workload
    report = size(shipped, Target(), topologies=["h100-x1"], global_batch=16, searcher=searcher)
    winner = report.winner.candidate
    assert winner.workload.parallelism.strategy == "single"
    assert winner.workload.compile
    p = winner.workload.parallelism.model_copy(update={"strategy": "fsdp2"})
    sharded = winner.workload.model_copy(update={"parallelism": p})
    assert step(winner.topology, sharded).time_s > step(winner.topology, winner.workload).time_s
    slow = {"compile": False}
    alone, sharded = (w.model_copy(update=slow) for w in (winner.workload, sharded))
    assert step(winner.topology, sharded).time_s < step(winner.topology, alone).time_s


def test_what_trains_the_same_is_searched_unless_it_was_set():
    asked = {"topologies": ["dgx-h100"], "gpus": 8, "global_batch": 32}
    free = size(JOB, Target(), **asked)
    written = size(JOB, Target(), tuned=False, **asked)
    for contender in free.contenders:
        assert contender.fit_probability == contender.plan.memory.verdict.probability
    held = size(JOB, Target(), sets=["compile=false"], **asked)
    assert dict(free.winner.candidate.extra)["compile"] == "true"
    assert free.winner.figures.cost_usd < written.winner.figures.cost_usd
    assert not written.winner.candidate.extra
    assert not held.winner.candidate.workload.compile
    assert dict(held.winner.candidate.extra)["attention"] == "flash3"
    assert "trains the same" in told(view(free))


@pytest.mark.parametrize(("risk", "said"), [("lots", "is no share"), ("120 %", "is no share")])
def test_shares_are_read(risk, said):
    with pytest.raises(InputError, match=said):
        settings_of(risk, "15 min")
    assert settings_of("5 %", "15 min") == (0.05, 900.0)
    assert settings_of(0.2, "0") == (0.2, 0.0)
    assert target_of("cost").slack == 0.05
    assert target_of("time").slack == 0.0


# --- phases --------------------------------------------------------------------------------------

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


# --- the command ---------------------------------------------------------------------------------


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


def test_command_writes_the_plan_and_exit_codes_say_how_it_went(tmp_path):
    job = tmp_path / "small.yaml"
    job.write_text("\n".join(f"{k}: {v}" for k, v in JOB.items()))
    arguments = ["size", str(job), "--topology", "dgx-h100", "--max-gpus", "8"]
    emitted = ["--emit", "yaml", "--emit", "accelerate", "-o", str(tmp_path / "plan")]
    result = CliRunner().invoke(group, [*arguments, "--json", *emitted])
    assert result.exit_code == 0, result.output
    winner = json.loads(result.stdout)["winner"]
    loaded = load(tmp_path / "plan" / "topology.yaml", tmp_path / "plan" / "workload.yaml")
    assert loaded.workload.micro_batch == winner["micro_batch"]
    assert loaded.topology.nodes == winner["nodes"]
    none = CliRunner().invoke(group, [*arguments, "--deadline", "1 s"])
    assert none.exit_code == 3
    assert "nearest miss" in none.stdout


def test_document_is_plain(searcher):
    report = size(JOB, Target(), topologies=["dgx-h100"], most_gpus=8, searcher=searcher)
    plain = report.to_json()
    assert json.loads(plain)["considered"] == report.tally.considered


def test_sizes_that_were_not_asked_for_are_not_said_to_be_too_small():
    report = size(JOB, Target(), topologies=["dgx-h100"], gpus=16, tuned=False)
    assert report.winner.candidate.topology.nodes == 2
    assert "Fewer GPUs" not in told(view(report))


@pytest.mark.parametrize("job", [
    {"trainer": "huggingface", "parallelism": "fsdp1"},
    {"parallelism": {"strategy": "fsdp2", "gradient_sync": "last"}},
])  # fmt: skip
def test_larger_micro_batches_without_gradients_kept_between_them_are_asked(job):
    """Reduced in the last micro-step: one of four samples keeps less than four of one."""
    work = {"name": "j", "model": "qwen2.5-14b", "sequence_length": 1024, "micro_batch": 1,
            "tokens": 1e8, "activation_checkpointing": "full", **job}  # fmt: skip
    needs = {}
    for samples, steps in ((1, 4), (4, 1)):
        keys = {**work, "micro_batch": samples, "gradient_accumulation": steps}
        found = load("aws-p4d", keys, [])
        needs[samples] = memory_of(found.topology, found.workload).needed_bytes
    assert needs[4] < 40e9 < needs[1]
    report = size(work, Target(objective="time"), topologies=["aws-p4d"], gpus=8, global_batch=32)
    winner = report.winner.candidate.workload
    assert winner.micro_batch == 4
    assert winner.gradient_accumulation == 1
