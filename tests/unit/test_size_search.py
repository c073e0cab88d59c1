"""A search for a cluster: side by side, its winner first, stopped, and how far it is."""

import itertools
import math

import pytest

import sim
from sim.errors import InputError
from sim.inputs.loader import prepare
from sim.report.size import view
from sim.study.axes import Grid
from sim.study.candidates import Space, family
from sim.study.contest import Contest
from sim.study.layouts import LAYOUT
from sim.study.machines import MachineFilter, machines
from sim.study.race import Race
from sim.study.search import Searcher
from sim.study.size import size
from sim.study.target import Target
from tests.unit.sizing import A100, HOUR, JOB, told


def test_searches_side_by_side_find_what_each_finds_alone():
    found = machines(MachineFilter(), ["dgx-h100", A100])[0]
    bases = [prepare(machine.topology, JOB) for machine in found]
    space = Space(32, 16, family(bases[0].loaded().workload), ("none", "full"), ("none", "all"),
                  Grid(""))  # fmt: skip
    target = Target("cost", deadline_s=HOUR)

    def asked(contest, i):
        return contest.contend(found[i], bases[i])

    together = Contest(Searcher(), space, target)
    side_by_side = together.search.together(asked(together, i) for i in range(2))
    for i, contender in enumerate(side_by_side):
        apart = Contest(Searcher(), space, target)
        [alone] = apart.search.together([asked(apart, i)])
        assert contender.content()["plan"].content() == alone.content()["plan"].content()


def test_a_search_that_is_stopped_keeps_the_best_so_far(monkeypatch):
    """Stopped after its third plan: an answer on one machine, none is said of the other."""
    once, simulated = Searcher.plan, []

    def plan(self, candidate):
        simulated.append(candidate)
        return once(self, candidate)

    monkeypatch.setattr(Searcher, "plan", plan)
    found = size(JOB, Target("cost"), topologies=["dgx-h100", A100], most_gpus=16, global_batch=32,
                 stop=lambda: len(simulated) > 2)  # fmt: skip
    assert found.stopped
    assert found.winner.candidate in simulated
    assert (found.fewer, found.more, found.not_begun) == (None, None, 0)
    assert found.tally.decided < found.tally.considered
    said = told(view(found))
    decided = f"Stopped when {found.tally.decided:,} of {found.tally.considered:,} plans were"
    assert decided in said
    assert not found.decided
    assert "the best so far, others may be better" in said
    assert not any(c.likeliest for c in found.contenders)  # nothing is said not to fit
    nothing = size(JOB, Target("cost"), topologies=[A100], most_gpus=16, global_batch=32,
                   stop=lambda: True)  # fmt: skip
    assert (nothing.winner, nothing.not_begun) == (None, 1)
    assert "Nothing was found yet" in told(view(nothing))


def test_a_search_ends_while_plans_are_listed():
    """26,000 layouts on up to 1,024 GPUs take tens of seconds to list: it ends at once."""
    asked = itertools.count()
    found = size("llama3-70b-full", Target("time"), topologies=["dgx-h100"], most_gpus=1024,
                 vary=[LAYOUT], stop=lambda: next(asked) >= 50)  # fmt: skip
    assert (found.stopped, found.winner, found.tally.considered) == (True, None, 0)
    assert next(asked) < 60


def test_a_search_that_is_stopped_after_its_winner_is_known_says_so(monkeypatch):
    """Stopped while other offers are searched: the winner stands, with what lies beside it."""
    asked, once, others = {"topologies": ["dgx-h100", A100], "max_gpus": 16}, Race.finish, []

    def finish(self, work=math.inf):
        if self.rank is not None:  # of all offers, not of sizes beside the winner's
            others.append(self)
        once(self, work)

    monkeypatch.setattr(Race, "finish", finish)
    whole = sim.size(JOB, **asked, global_batch=32)
    others.clear()
    found = sim.size(JOB, **asked, global_batch=32, stop=lambda: bool(others))
    assert (found.stopped, found.decided) == (True, True)
    assert found.winner.content() == whole.winner.content()
    assert found.more.content() == whole.more.content()
    assert "the winner is known to be the best" in told(view(found))


def test_a_search_may_be_stopped_at_any_time(monkeypatch):
    """Not begun, of the winner, of its neighbours, of layouts beside it: nothing untrue is said."""
    once, known = Contest.candidates, {}

    def candidates(self, machine, base, gpus=None):  # the same in every search
        if gpus not in known:
            known[gpus] = once(self, machine, base, gpus)
        return known[gpus]

    monkeypatch.setattr(Contest, "candidates", candidates)

    def stopped_at(n):
        asked = itertools.count()
        found = size(JOB, Target("time"), topologies=["dgx-h100"], most_gpus=16, global_batch=32,
                     vary=[LAYOUT], tuned=False, stop=lambda: next(asked) >= n)  # fmt: skip
        return found, next(asked)

    stopped_at(math.inf)  # which lists candidates, and asks meanwhile
    whole, last = stopped_at(math.inf)
    assert (whole.stopped, whole.winner.candidate.gpus) == (False, 16)
    assert {b.plan is not None for b in whole.beside} == {True}
    heard = set()
    for n in (*range(0, last, last // 20), *range(last - 40, last)):
        found, _ = stopped_at(n)
        said = told(view(found))
        assert found.stopped
        assert "does not fit" not in said
        assert "fewer than" not in said
        assert found.not_begun == (n == 0)
        heard.add((found.winner is not None, found.fewer is not None, len(found.beside)))
    assert {(False, False, 0), (True, False, 0), (True, True, 0), (True, True, 1)} <= heard


SEARCHED = {"max_gpus": 8, "gpus": 8, "global_batch": 16, "vary": ["layout"], "as_written": True}


def test_the_winner_is_known_before_every_offer_is_searched(monkeypatch):
    """Nothing spent on offers that cannot win: the same winner, and what others take at least."""
    asked = SEARCHED | {"residency": ["EU"]}
    whole = sim.size(JOB, **asked, exhaustive=True)
    best = {c.machine.name: c.plan for c in whole.contenders if c.plan}
    assert len(best) > 3
    assert not any(c.unfinished for c in whole.contenders)
    monkeypatch.setattr("sim.study.size._OTHERS", 0.0)
    found = sim.size(JOB, **asked)
    assert found.winner.content() == whole.winner.content()
    assert [b.content() for b in found.beside] == [b.content() for b in whole.beside]
    assert found.tally.simulated < whole.tally.simulated
    rest = [c for c in found.contenders if c.unfinished]
    assert len(rest) > 1
    score = found.target.score
    for contender in rest:
        assert contender.break_even_usd is None
        if contender.machine.name in best:
            least = score(best[contender.machine.name].figures)
            assert score(found.winner.figures) <= least
            assert 0.3 * least < contender.at_least <= least
    said = told(view(found))
    assert "not searched further" in said
    assert "were not searched to the end (--exhaustive)" in said
    assert "not searched" not in told(view(whole))


@pytest.mark.parametrize("objective", ["cost", "energy"])
def test_a_doubtful_price_makes_only_costs_doubtful(objective, monkeypatch):
    monkeypatch.setattr("sim.study.size._OTHERS", 0.0)
    offer = {"price_per_gpu_hour": "9 USD", "provider": "shop", "instance": "l40s-x8",
             "confidence": "unchecked"}  # fmt: skip
    node = {"gpu": "l40s", "gpus": 8, "pcie": {"generation": 4}}
    theirs = {"name": "their-l40s", "nodes": 1, "node": node, "offer": offer}
    found = sim.size(JOB, **SEARCHED, topologies=["dgx-h100", theirs], objective=objective)
    [lost] = [c for c in found.contenders if c.plan is None]
    assert lost.doubt == "shop's price is not checked"
    said = told(view(found))
    assert "their-l40s: at least " in said
    assert (" ? (+" in said) == (lost.doubt in said) == (objective == "cost")


def test_machines_of_one_name_are_told_apart():
    """Llama 3.1 8B in full on eight GPUs: what has room in 80 GB has none in 40 GB."""
    node = {"gpu": "a100-sxm-40gb", **{k: v for k, v in A100["node"].items() if k != "gpu"}}
    small, large = {**A100, "node": node, "offer": {"price_per_gpu_hour": "1 USD"}}, A100
    job = {**JOB, "model": "llama-3-8b", "micro_batch": 1}
    asked = {"gpus": 8, "global_batch": 64, "tuned": False}
    alone = [size(job, Target("time"), topologies=[t], **asked).winner for t in (large, small)]
    both = size(job, Target("time"), topologies=[large, small], **asked)
    plans = {c.machine.name: c.plan for c in both.contenders}
    assert list(plans) == ["our-a100s eu-north1", "our-a100s"]
    for plan, own in zip(plans.values(), alone, strict=True):
        assert plan.candidate.workload == own.candidate.workload
        assert plan.step_s == own.step_s
        assert plan.memory.capacity_bytes == own.memory.capacity_bytes
    twice = machines(MachineFilter(), [large, large, {**small, "name": "our-a100s eu-north1"}])[0]
    assert len({machine.name for machine in twice}) == 3
    assert [m.name for m in machines(MachineFilter(), [small] * 3)[0]] == [
        "our-a100s", "our-a100s (2)", "our-a100s (3)",
    ]  # fmt: skip
    offers = [m.name for m in machines(MachineFilter(), spot=True)[0]]
    assert len(set(offers)) == len(offers)


def test_a_search_tells_how_far_it_is():
    told = []
    found = size(JOB, Target("cost"), topologies=["dgx-h100", A100], most_gpus=16, global_batch=32,
                 progress=lambda done, most: told.append((done, most)))  # fmt: skip
    done, most = zip(*told, strict=True)
    assert list(done) == sorted(done)
    assert list(most) == sorted(most)  # they are listed, then searched
    assert told[0] == (0, 0)
    assert done[-1] == most[-1] == found.tally.considered


@pytest.mark.parametrize(
    ("vary", "key"),
    [
        (["micro_batch=1..100000"], "micro_batch"), (["topology.nodes=1,2"], "topology.nodes"),
        (["precision=bf16,fp8", "global_batch=8,16"], "global_batch"),
        (["layout", "parallelism.tensor_parallel=1,2"], "parallelism.tensor_parallel"),
    ],
)  # fmt: skip
def test_what_every_plan_chooses_is_no_further_axis(vary, key):
    with pytest.raises(InputError, match=f"{key}: size chooses it"):
        size(JOB, Target("cost"), topologies=["dgx-h100"], vary=vary)


def test_more_plans_than_can_be_held_are_refused(monkeypatch):
    monkeypatch.setattr("sim.study.contest.MOST_PLANS", 500)
    vary = ["sequence_length=512..60000"]
    with pytest.raises(InputError, match="more than 500 plans in all"):
        size(JOB, Target("cost"), topologies=["dgx-h100"], global_batch=64, vary=vary)


def test_a_search_that_is_told_to_end_while_it_lists_ends():
    asked = itertools.count()
    vary = ["sequence_length=512..60000"]
    found = size(JOB, Target("cost"), topologies=["dgx-h100"], global_batch=64, vary=vary,
                 stop=lambda: next(asked) > 2000)  # fmt: skip
    assert found.stopped
    assert found.winner is None
    assert next(asked) < 2100


WITHIN = (
    "optimizer_in_backward=true", "gradient_accumulation=1", "parallelism.clip_gradients=false",
)  # fmt: skip


def test_a_job_that_cannot_accumulate_is_sized_in_its_own_micro_batch():
    """A micro-batch of 1 is refused, since it accumulates; the job's own 2 is not."""
    ran = sim.simulate("dgx-h100", "llama3-8b-sft", overrides=[*WITHIN, "nodes=1"], scaling=False)
    assert ran.memory.fits
    found = sim.size("llama3-8b-sft", overrides=WITHIN, topologies="dgx-h100", gpus=8,
                     as_written=True)  # fmt: skip
    assert found.winner is not None
    workload = found.winner.candidate.workload
    assert (workload.micro_batch, workload.gradient_accumulation) == (2, 1)
    assert found.winner.figures.wall_s <= 1.1 * ran.job.wall_clock_mean_s


def test_a_machine_whose_plans_are_all_refused_says_for_what():
    found = sim.size("llama3-8b-sft", overrides=WITHIN, topologies="dgx-h100", gpus=8,
                     global_batch=1040)  # fmt: skip
    [contender] = found.contenders
    assert contender.untried.startswith("optimizer_in_backward: a gradient is gone")
    assert found.winner is None
