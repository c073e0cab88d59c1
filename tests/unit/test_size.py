"""Sizing: exact against trying everything, answers that say no, constraints, the emitted plan."""

import json

import pytest
from click.testing import CliRunner

from sim.cli import group
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
from sim.study.target import Target
from tests.unit.sizing import A100, JOB, told


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


# --- small clusters, nearest misses, implementations ---------------------------------------------


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
    sought = Contest(searcher, space, target).contend(machine, base)
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


# --- the command ---------------------------------------------------------------------------------


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
