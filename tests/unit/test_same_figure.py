"""One question, asked of every verb, has one answer: step, wall-clock, cost and energy of a job."""

import re

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group

MACHINE, JOB = "dgx-h100", "llama3-8b-lora"


def _of(found):
    """Step, wall-clock, cost and energy of a verb's first row; None where it has no such column."""
    [row, *_] = list(found.records())
    cost = row.get("cost_usd", row.get("total_usd"))
    return [row.get("step_time_s"), row.get("wall_clock_s"), cost, row.get("energy_j")]


@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["evaluation.tokens=1e7", "evaluation.every=100"],  # sweeps left it out: 5 % of the bill
        ["tokens=1e12", "nodes=64"],  # long enough to fail
        ["data.workers=1", "data.preprocess_tokens_per_s_per_worker=4000"],  # waits for data
    ],
)
def test_every_verb_says_the_same_of_a_job(sets, tmp_path):
    whole = sim.simulate(MACHINE, JOB, overrides=sets, scaling=False, fixes=False)
    job = whole.job
    run = [whole.step.time_s, job.wall_clock_s, whole.cost.total_usd, whole.energy.energy_j]
    assert job.wall_clock_p10_s < job.wall_clock_s < job.wall_clock_p90_s
    assert job.wall_clock_s == pytest.approx(job.wall_clock_mean_s, rel=0.01)
    assert job.goodput == pytest.approx(job.shares["useful"], rel=0.01)
    store = tmp_path / "s.sqlite"
    others = {
        "sweep": sim.sweep(MACHINE, JOB, vary=["micro_batch=2"], store=store, overrides=sets),
        "compare": sim.compare([MACHINE, MACHINE], JOB, overrides=sets),
        "prices": sim.prices_job([MACHINE], JOB, overrides=sets),
    }
    for verb, found in others.items():
        for here, there in zip(run, _of(found), strict=True):
            assert there is None or there == pytest.approx(here, rel=1e-9), verb


def test_a_cluster_of_size_is_the_run_of_its_plan():
    """But for the quarter of an hour before the first step, which it pays for unless told not."""
    sized = sim.size(JOB, topologies=[MACHINE], gpus=8, deadline="24 h", setup="0 min")
    best = sized.winner
    plan = best.candidate
    whole = sim.simulate(plan.topology, plan.workload, scaling=False, fixes=False)
    assert best.step_s == pytest.approx(whole.step.time_s, rel=1e-9)
    assert best.figures.wall_s == pytest.approx(whole.job.wall_clock_s, rel=1e-9)
    assert best.figures.cost_usd == pytest.approx(whole.cost.total_usd, rel=1e-9)


SPOT = {
    "price_per_gpu_hour": "3 USD", "spot_price_per_gpu_hour": "1 USD", "capacity": "spot",
    "energy_per_kwh": "0.2 USD", "commitment": "720 h", "setup": "1 h",
}  # fmt: skip
BOUGHT = {"own": {"price_per_gpu": "30000 USD"}, "capacity": "owned", "energy_per_kwh": "0.1 USD"}


@pytest.mark.parametrize("own", [{}, SPOT, BOUGHT])
def test_an_offer_that_is_taken_is_paid_on_its_own_terms(own):
    """A machine of one's own stayed spot capacity, or owned, with a commitment and electricity."""
    mine = {"name": "mine", "node": {"gpu": "H100", "gpus": 8}, "offer": own}
    offer = "nebius"
    priced = next(o for o in sim.prices_job([mine], JOB).items() if o.row.provider == offer)
    run = sim.simulate(mine, JOB, offer=offer, scaling=False, fixes=False)
    beside = sim.compare([mine, mine], JOB, offer=offer).variants[0].result
    for found in (run, beside):
        assert (found.cost.price_kind, found.cost.total_usd) == ("on-demand", priced.cost.total_usd)
        assert found.job.wall_clock_s == priced.wall_s
    sets = {"offer.capacity": "spot", "offer.spot_price_per_gpu_hour": "1 USD"}
    run = sim.simulate(mine, JOB, offer=offer, overrides=sets, scaling=False, fixes=False)
    beside = sim.compare([mine, mine], JOB, offer=offer, overrides=sets).variants[0].result
    assert run.cost.price_kind == beside.cost.price_kind == "spot"
    assert run.cost == beside.cost


def test_how_long_a_search_took_is_no_part_of_its_answer():
    """The same question prints the same bytes."""
    line = ["size", "llama3-8b-lora", "--topology", "dgx-h100", "--gpus", "8"]
    done, again, quiet = (
        CliRunner().invoke(group, [*line, "--objective", "time", *more])
        for more in ([], [], ["--quiet"])
    )
    assert done.stdout == again.stdout
    assert re.fullmatch(r"searched in [0-9.]+ s\n", done.stderr)
    assert quiet.stderr == ""
