"""Domains, warm spares, copies in memory, jobs that go on with fewer nodes, deadlines."""

import json
import math
from dataclasses import replace
from statistics import NormalDist

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.cli import group
from sim.errors import InputError
from sim.inputs.loader import load, load_topology
from sim.job.checkpoints import best_interval, daly_interval, memory_copy
from sim.job.estimate import estimate_job
from sim.job.goodput import mean_goodput
from sim.job.hazards import domains_of
from sim.job.outcome import JobOutcome, simulate_job
from sim.job.run import PARTS, simulate_run
from sim.job.spares import Standing, standing
from sim.job.spec import Domain, JobSpec
from sim.memory.states import staged_bytes
from sim.step.step import step

LONG = JobSpec(
    steps=100_000, step_s=1.0, interval_s=1000.0, blocking_s=2.0, durable_s=2.0, restart_s=100.0,
    mtbf_s=5_000.0, nodes=8, repair_s=2_000.0,
)  # fmt: skip


# --- failure domains -----------------------------------------------------------------------------


def test_a_domain_takes_its_nodes_down_together():
    """A switch of four nodes and three spares: one repair is waited for at each failure."""
    switch = Domain("switch", 4, 20_000.0, 3_000.0)
    alone = replace(LONG, mtbf_s=math.inf, domains=(switch,))
    run = simulate_run(replace(alone, spares=3), 1)
    assert run.failures > 2
    assert run.parts["waiting"] == pytest.approx(3_000.0 * run.failures)
    assert simulate_run(replace(alone, spares=4), 1).parts["waiting"] == 0.0
    # as many failures of single nodes need one spare
    single = replace(alone, domains=(replace(switch, nodes=1),), spares=1)
    assert simulate_run(single, 1).parts["waiting"] == 0.0


def test_domains_of_a_machine():
    # ten nodes in racks of four: three racks, each 30 days, so one failure in ten days
    keys = ["nodes=10", "reliability.domains=[{name: rack, nodes: 4, mtbf: 30 d}]"]
    (rack,) = domains_of(load_topology("dgx-h100", keys))
    assert (rack.name, rack.nodes, rack.mtbf_s / 86400.0) == ("rack", 4, pytest.approx(10.0))
    assert rack.repair_s == 86400.0  # as a node, by default
    small = load_topology("dgx-h100", ["nodes=2", keys[1]])
    assert domains_of(small)[0].nodes == 2
    assert domains_of(load_topology("dgx-h100", [*keys[:1], "reliability=none"])) == ()


# --- spares that stand ready ---------------------------------------------------------------------


def test_a_spare_that_stands_ready_shortens_the_start_alone():
    cold = simulate_run(replace(LONG, spares=8), 2)
    warm = simulate_run(replace(LONG, spares=8, warm_restart_s=10.0), 2)
    assert cold.parts["restart"] / cold.failures == pytest.approx(100.0, rel=0.02)
    assert warm.parts["restart"] / warm.failures == pytest.approx(10.0, rel=0.02)
    # where none is left the start is a cold one
    none = simulate_run(replace(LONG, spares=0, warm_restart_s=10.0), 2)
    assert none.parts["restart"] / none.failures == pytest.approx(100.0, rel=0.02)


def test_spares_are_paid_for():
    bill = simulate("dgx-h100", "llama3-8b-sft", nodes=4, scaling=False, fixes=False)
    more = simulate(
        "dgx-h100", "llama3-8b-sft", nodes=4, overrides=["reliability.spare_nodes=1"],
        scaling=False, fixes=False,
    )  # fmt: skip
    assert more.cost.compute_usd / bill.cost.compute_usd == pytest.approx(1.25, rel=1e-5)


# --- copies in memory ----------------------------------------------------------------------------

COPIED = replace(
    LONG, steps=400_000, memory_interval_s=60.0, memory_blocking_s=0.5, memory_durable_s=6.0,
    memory_load_s=3.0, load_s=50.0, peers=1,
)  # fmt: skip


def test_with_a_copy_on_a_peer_half_an_interval_is_lost():
    run = simulate_run(COPIED, 3)
    assert run.failures > 50
    # half a minute, and six seconds in which the copy is not whole
    assert run.parts["lost_work"] / run.failures == pytest.approx(30 + 6, rel=0.15)
    # 3 s to load; 50 s from storage where the last save is later than the last whole copy
    assert run.parts["restart"] / run.failures == pytest.approx(103.0 + 0.03 * 47, rel=0.01)
    # 0.5 s a minute beside 2 s a save
    saves = run.checkpoints * 2.0
    assert run.parts["checkpoint"] - saves == pytest.approx(400_000 / 60 * 0.5, rel=0.02)


def test_without_peers_a_lost_node_takes_its_copy_along():
    alone = replace(COPIED, peers=0)
    soft = simulate_run(replace(alone, repair_share=0.0), 3)
    hard = simulate_run(replace(alone, repair_share=1.0), 3)
    assert soft.parts["lost_work"] / soft.failures == pytest.approx(36, rel=0.2)
    assert hard.parts["lost_work"] / hard.failures == pytest.approx(500, rel=0.2)
    assert (soft.parts["restart"] / soft.failures) < (hard.parts["restart"] / hard.failures)


def test_a_domain_larger_than_the_number_of_peers_takes_the_copies_along():
    rack = replace(COPIED, mtbf_s=math.inf, domains=(Domain("rack", 2, 5_000.0, 0.0),))
    run, kept = simulate_run(rack, 4), simulate_run(replace(rack, peers=2), 4)
    assert run.parts["lost_work"] / run.failures > 300
    assert kept.parts["lost_work"] / kept.failures == pytest.approx(36, rel=0.2)


def test_a_copy_by_hand():
    # 1.6 TB on 4 nodes of 8: 50 GB a GPU over 25 GB/s, 400 GB a node over 400 GB/s
    copy = memory_copy(1.6e12, 4, 8, 1, host_link_bytes_per_s=25e9, network_bytes_per_s=400e9)
    assert (copy.blocking_s, copy.write_s, copy.read_s) == (2.0, 3.0, 3.0)
    alone = memory_copy(1.6e12, 4, 8, 0, host_link_bytes_per_s=25e9, network_bytes_per_s=400e9)
    assert alone.write_s == 2.0


def test_copies_take_host_memory():
    # 8.03e9 parameters x 12 B on 32 ranks: 3.0 GB a rank; its own and a peer's, two of each
    keys = ["nodes=4", "checkpoint.memory_interval=1 min", "checkpoint.peers=1"]
    job = load("dgx-h100", "llama3-8b-sft", keys).workload
    assert staged_bytes(job, 32) == pytest.approx(4 * 8.03e9 * 12 / 32, rel=0.01)
    plain = load("dgx-h100", "llama3-8b-sft", keys[:1]).workload
    assert staged_bytes(plain, 32) == 0.0


@pytest.mark.parametrize("peers", [0, 1])
def test_the_closed_form_knows_copies(peers):
    spec = replace(COPIED, peers=peers, repair_share=0.78)
    assert mean_goodput(spec).useful == pytest.approx(simulate_job(spec, 16).goodput, rel=0.01)
    short = replace(COPIED, steps=500, peers=peers)
    assert mean_goodput(short).useful == pytest.approx(simulate_job(short, 400).goodput, rel=0.03)


def test_saves_may_be_rare_where_memory_does_most():
    # 22 % of failures leave the nodes: storage is for the other 78 %
    spec = replace(COPIED, peers=0, repair_share=0.78)
    assert best_interval(spec) == pytest.approx(daly_interval(2.0, 5_000 / 0.78), rel=0.25)
    assert best_interval(COPIED) is None


# --- fewer nodes ---------------------------------------------------------------------------------


def test_a_job_that_may_shrink_goes_on_while_a_node_is_repaired():
    """Eight nodes without spares; a repair takes 20,000 s in which seven do seven eighths."""
    rigid = replace(LONG, steps=800_000, spares=0, repair_s=20_000.0, mtbf_s=40_000.0)
    elastic = replace(rigid, least_nodes=4)
    waits, goes = simulate_run(rigid, 5), simulate_run(elastic, 5)
    assert waits.parts["waiting"] == pytest.approx(20_000.0 * waits.failures)
    assert goes.parts["waiting"] == 0.0
    assert goes.wall_s < 0.8 * waits.wall_s
    # a step on seven nodes is 8/7 of one: an eighth of the time on fewer nodes is lost
    away = goes.failures * 20_000.0
    assert goes.parts["fewer_nodes"] == pytest.approx(away / 8, rel=0.2)


@given(
    st.integers(0, 50), st.sampled_from([None, 0, 1, 3]), st.sampled_from([0, 1, 5, 8]),
    st.sampled_from([math.inf, 60.0]), st.integers(0, 2), st.booleans(),
)  # fmt: skip
@settings(max_examples=60)
def test_parts_add_up_whatever_happens(seed, spares, least, between, peers, domain):
    spec = JobSpec(
        steps=3000, step_s=2.0, stall_s=0.5, interval_s=300.0, blocking_s=3.0, durable_s=9.0,
        memory_interval_s=between, memory_blocking_s=0.2, memory_durable_s=3.0, peers=peers,
        nodes=8, mtbf_s=2_000.0, detect_s=5.0, restart_s=40.0, load_s=10.0, warm_restart_s=15.0,
        repair_s=1_500.0, repair_share=0.7, spares=spares, least_nodes=least,
        domains=(Domain("rack", 2, 9_000.0, 900.0),) if domain else (),
        preemption_s=5_000.0, preemption_wait_s=300.0, preemption_notice_s=4.0,
        evaluation_every=500, evaluation_s=20.0, setup_s=30.0,
    )  # fmt: skip
    run = simulate_run(spec, seed)
    assert run.finished
    assert sum(run.parts.values()) == pytest.approx(run.wall_s)
    assert run.parts["useful"] == pytest.approx(3000 * 1.5)
    assert run.parts["data_stall"] == pytest.approx(3000 * 0.5)
    assert min(run.parts[p] for p in PARTS) > -1e-3 * run.wall_s


@pytest.mark.parametrize(
    ("changed", "within"),
    [
        ({"spares": 0}, 0.03), ({"spares": 1}, 0.02),
        ({"spares": 0, "repair_s": 10_000.0}, 0.04), ({"spares": 2, "repair_s": 10_000.0}, 0.03),
        ({"spares": 1, "least_nodes": 6, "repair_s": 6_000.0}, 0.03),
        ({"spares": 1, "warm_restart_s": 10.0, "repair_s": 5_000.0}, 0.03),
        ({"spares": 1, "repair_share": 0.3, "repair_s": 10_000.0}, 0.03),
        ({"spares": 1, "preemption_s": 8_000.0, "preemption_wait_s": 3_000.0}, 0.03),
        ({"spares": 2, "domains": (Domain("rack", 4, 20_000.0, 6_000.0),)}, 0.05),
    ],
)  # fmt: skip
def test_the_closed_form_waits_for_spares(changed, within):
    spec = replace(LONG, steps=200_000, **changed)
    found = simulate_job(spec, 24).goodput
    assert mean_goodput(spec).useful == pytest.approx(found, rel=within)
    # a spare always at hand is another job
    at_hand = replace(spec, spares=None, least_nodes=0)
    assert mean_goodput(at_hand).useful != pytest.approx(found, rel=within)


def test_spares_are_an_erlang_loss_system():
    """By hand: a repair of three failures' length and four places, B(4, 3) = (3^4/4!) / sum."""
    spec = replace(LONG, mtbf_s=1_000.0, repair_s=3_000.0, spares=3)
    waiting = (81 / 24) / (1 + 3 + 9 / 2 + 27 / 6 + 81 / 24)
    found = standing(spec, 1e12)
    assert 1.0 - found.running == pytest.approx(waiting, rel=1e-6)
    assert found.stood_by == pytest.approx((1 + 3 + 4.5) / (1 + 3 + 4.5 + 4.5))
    assert (found.pace, found.regains_hz) == (1.0, 0.0)
    assert standing(replace(spec, spares=None), 1e12) == Standing()
    # one by one the nodes go, and it goes on with fewer: nine places, half of them spares
    fewer = standing(replace(spec, spares=4, least_nodes=4), 1e12)
    weights = [3.0**k / math.factorial(k) for k in range(9)]
    slowed = sum(k * w for k, w in enumerate(weights[4:])) / 8
    assert fewer.pace == pytest.approx(1.0 - slowed / sum(weights))


# --- counts and deadlines ------------------------------------------------------------------------


def test_expected_counts_are_the_time_up_over_the_mean_time_between():
    outcome = simulate_job(replace(LONG, restart_s=0.0, spares=None), 64)
    runs = [simulate_run(replace(LONG, restart_s=0.0), seed) for seed in range(64)]
    counted = sum(r.failures for r in runs) / 64
    assert outcome.failures == pytest.approx(counted, rel=0.05)
    assert outcome.failures == pytest.approx(outcome.wall_mean_s / 5_000.0, rel=1e-6)


def test_every_format_has_the_same_count():
    """The table said 0.00088 of this job where JSON said 0."""
    command = ["run", "dgx-h100", "llama3-8b-sft", "--no-scaling"]
    table = CliRunner().invoke(group, command).stdout
    document = json.loads(CliRunner().invoke(group, [*command, "--json"]).stdout)
    assert document["job"]["failures"] == pytest.approx(0.00088, abs=1e-5)
    assert "0.00088 expected" in table


def test_the_odds_of_a_deadline_by_hand():
    walls = tuple(3600.0 * (1.0 + k / 100) for k in range(100))
    outcome = JobOutcome(0, 0, 0, 0, 1.0, {}, 0, 0, 0, 100, walls)
    assert outcome.done_by(3600.0 * 1.4949) == pytest.approx(0.5)
    # one wall time, and a model that is within 20 % in 80 of 100: the median is met at once, and
    # 1.2 times the wall time with 90 %
    sure = replace(outcome, walls_s=(3600.0,))
    assert sure.done_by(3600.0, math.log(1.2)) == pytest.approx(0.5)
    assert sure.done_by(1.2 * 3600.0, math.log(1.2)) == pytest.approx(0.9)
    assert sure.done_by(1.2 * 3600.0, math.log(1.2), 0.5) == pytest.approx(0.75)
    assert replace(outcome, walls_s=(math.inf,)).done_by(1e9, 0.1) == 0.0
    assert NormalDist().inv_cdf(0.9) == pytest.approx(1.2816, abs=1e-4)


def test_a_deadline_of_a_job():
    found = {
        hours: simulate(
            "dgx-h100",
            "llama3-8b-sft",
            overrides=[f"deadline={hours} h"],
            scaling=False,
            fixes=False,
        ).job.done_by_deadline
        for hours in (5, 5.57, 7)
    }
    assert found[5] < 0.02
    assert 0.4 < found[5.57] < 0.6
    assert found[7] > 0.99
    plain = simulate("dgx-h100", "llama3-8b-sft", scaling=False, fixes=False)
    assert plain.job.done_by_deadline is None


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("checkpoint.peers=1", "1 peers hold copies, and none are made"),
        ("checkpoint.memory_interval=0 s", "leaves no time to train"),
        ("reliability.least_nodes=2", "goes on with 2 nodes or more, and has 1"),
        ("reliability.domains=[{nodes: 2}]", "mtbf"),
        ("deadline=4", "has no unit"),
    ],
)
def test_faults(key, said):
    with pytest.raises(InputError, match=said):
        load("dgx-h100", "llama3-8b-sft", [key])


def test_a_job_that_waits_longer_for_spot_nodes_than_they_stay_never_ends():
    """exp(12 h / 56 s) attempts: `plan` and `sweep` ended in an OverflowError."""
    sets = [
        "nodes=64", "offer.capacity=spot", "offer.price_per_gpu_hour=3 USD",
        "offer.preemption_mtbf=1h", "offer.preemption_wait=12h",
    ]  # fmt: skip
    loaded = load("dgx-h100", "llama3-8b-sft", sets)
    found = estimate_job(
        loaded.topology, loaded.workload, step(loaded.topology, loaded.workload).breakdown
    )
    assert found is not None
    assert (found.goodput, found.wall_s) == (0.0, math.inf)
