"""The closed form of a job's time is that of the job as it is played, whatever befalls it."""

import math
from dataclasses import replace

import pytest

from sim.job.cadence import cadence
from sim.job.goodput import mean_goodput
from sim.job.outcome import simulate_job
from sim.job.spares import standing
from sim.job.spec import Domain, JobSpec

#: 1,000,000 s of work on 8 nodes, saved every 1,000 s; a failure in 20,000 s
LONG = JobSpec(
    steps=100_000, step_s=10.0, interval_s=1_000.0, blocking_s=20.0, durable_s=20.0, nodes=8,
    mtbf_s=20_000.0, detect_s=60.0, restart_s=300.0, load_s=40.0, repair_s=3_600.0,
    repair_share=0.78,
)  # fmt: skip
SPOT = replace(LONG, preemption_s=4_000.0, preemption_wait_s=1_800.0)
RARE = replace(LONG, mtbf_s=400_000.0, repair_s=360_000.0)


@pytest.mark.parametrize(
    ("spec", "within"),
    [
        (LONG, 0.01),
        (replace(LONG, mtbf_s=2_000.0), 0.03),
        (replace(LONG, blocking_s=1.0, durable_s=900.0), 0.02),  # what is lost goes further back
        (replace(LONG, blocking_s=1.0, durable_s=3_000.0), 0.02),  # the next save waits for it
        (SPOT, 0.02),  # waited for, during which nothing fails
        (replace(SPOT, preemption_s=1_000.0), 0.03),
        (replace(SPOT, preemption_notice_s=120.0), 0.02),  # no work is lost
        (replace(SPOT, preemption_notice_s=120.0, preemption_s=900.0), 0.03),
        # a save on a warning is one from which a later failure goes on, too
        (replace(SPOT, preemption_notice_s=600.0, preemption_s=10_000.0, interval_s=10_000.0,
                 blocking_s=300.0, durable_s=300.0), 0.02),
        (replace(SPOT, preemption_notice_s=600.0, preemption_s=3_600.0, interval_s=7_200.0,
                 mtbf_s=28_800.0), 0.02),
        (replace(RARE, mtbf_s=20_000.0, repair_s=20_000.0, spares=0, least_nodes=4,
                 interval_s=10_000.0), 0.04),
        (replace(SPOT, spares=2), 0.02),
        (replace(RARE, spares=0, preemption_s=50_000.0, preemption_wait_s=1_800.0), 0.06),
        (replace(RARE, spares=1, preemption_s=50_000.0, preemption_wait_s=1_800.0), 0.03),
        (replace(RARE, spares=0, least_nodes=7, preemption_s=5e4, preemption_wait_s=1e3), 0.05),
        # nodes that are away for most of the job, or all of it
        (replace(LONG, interval_s=300.0, mtbf_s=1e5, repair_s=4e5, spares=1, least_nodes=4,
                 steps=20_000), 0.06),
        (replace(LONG, mtbf_s=2e5, repair_s=345_600.0, repair_share=1.0, spares=1, steps=43_200),
         0.06),
        (replace(SPOT, spares=1, least_nodes=6, domains=(Domain("rack", 2, 4e5, 1e5),)), 0.03),
        # reclaimed nodes are waited for where repairs, which outlast the job, left no spare
        (replace(LONG, steps=27_000, mtbf_s=56_000.0, repair_s=360_000.0, nodes=4, spares=4,
                 preemption_s=1_800.0, preemption_wait_s=1_800.0, preemption_notice_s=120.0), 0.04),
        # evaluations between saves are lost with the work
        (replace(LONG, steps=10_000, evaluation_every=10, evaluation_s=80.0, interval_s=5_000.0,
                 mtbf_s=4_000.0), 0.05),
        (replace(LONG, memory_interval_s=60.0, memory_blocking_s=1.0, memory_durable_s=90.0,
                 memory_load_s=5.0, peers=1), 0.02),
        (replace(SPOT, memory_interval_s=60.0, memory_blocking_s=1.0, memory_durable_s=5.0,
                 memory_load_s=5.0, peers=1, preemption_notice_s=30.0), 0.02),
    ],
)  # fmt: skip
def test_the_closed_form_is_the_mean_of_what_is_played(spec, within):
    played = simulate_job(spec, 48)
    share = (spec.steps * spec.step_s + spec.evaluated_s) / played.wall_mean_s
    assert mean_goodput(spec).useful == pytest.approx(share, rel=within)


@pytest.mark.parametrize(("least", "nodes", "spares"), [(0, 2, 2), (4, 2, 0), (4, 4, 0), (4, 4, 4)])
@pytest.mark.parametrize(("often", "longer"), [(0.4, 1.0), (0.4, 2.0), (0.1, 2.0)])
def test_racks_that_are_away_for_longer_than_the_job(least, nodes, spares, often, longer):
    """`often`: racks lost in the time it takes on all nodes, `longer`: a repair over that time."""
    work_s = 200_000.0
    rack = Domain("rack", nodes, work_s / often, longer * work_s)
    spec = replace(
        LONG, steps=20_000, blocking_s=1.0, durable_s=1.0, mtbf_s=math.inf, spares=spares,
        least_nodes=least, domains=(rack,),
    )  # fmt: skip
    assert mean_goodput(spec).useful == pytest.approx(simulate_job(spec, 3_000).goodput, rel=0.035)


def test_a_job_that_saves_nothing_starts_over():
    short = replace(LONG, interval_s=math.inf, steps=1_500)
    assert mean_goodput(short).useful == pytest.approx(simulate_job(short, 2_000).goodput, rel=0.03)


def test_lost_work_is_what_is_played():
    found = simulate_job(SPOT, 48).shares["lost_work"]
    assert mean_goodput(SPOT).again == pytest.approx(found, rel=0.1)


def test_saves_by_hand():
    # 3 steps of 40 s to each 100 s; a save of 150 s beside them holds the next one up by 30
    spec = replace(LONG, steps=10, step_s=40.0, interval_s=100.0, blocking_s=2.0, durable_s=150.0)
    assert cadence(spec, 40.0) == (40.0, 3, 30.0, 0, 0.0)
    # three saves, none at the end: 400 s of 490
    never = replace(spec, mtbf_s=math.inf)
    assert mean_goodput(never).useful == pytest.approx(400 / 490)
    assert simulate_job(never, 1).goodput == pytest.approx(400 / 490)


def test_nodes_away_for_an_hour_and_for_days_are_one_loss_system():
    """B(1, r) = r / (1 + r), r = 0.5 + 1.5: what is waited for is the mean, whoever is away."""
    spec = replace(
        LONG, steps=10**9, spares=0, repair_share=1.0, mtbf_s=600_000.0, repair_s=300_000.0,
        preemption_s=1_200.0, preemption_wait_s=1_800.0,
    )  # fmt: skip
    assert standing(spec, 1e10).running == pytest.approx(1 / 3, rel=1e-3)


@pytest.mark.parametrize("better", [{"mtbf_s": math.inf}, {"repair_s": 1_800.0}])
def test_rare_failures_change_nothing_where_nodes_are_reclaimed(better):
    """Half the repair, and 0.9 % longer: the moments looked at were those of the longest wait."""
    spec = replace(
        SPOT, steps=1_270, mtbf_s=1e7, preemption_s=3_600.0, nodes=2, spares=0, least_nodes=1,
        blocking_s=1.0, durable_s=1.0,
    )  # fmt: skip
    found = mean_goodput(replace(spec, **better)).useful / mean_goodput(spec).useful
    assert 1.0 <= found < 1.002


def test_a_warning_is_no_worse_where_memory_has_a_copy():
    """It was saved to storage and read from there, 600 s each, with a copy next door."""
    spec = replace(
        SPOT, blocking_s=600.0, durable_s=600.0, load_s=600.0, memory_interval_s=60.0,
        memory_blocking_s=0.1, memory_durable_s=5.0, memory_load_s=5.0, peers=1,
    )  # fmt: skip
    warned = replace(spec, preemption_notice_s=900.0)
    assert mean_goodput(warned).useful > mean_goodput(spec).useful
    assert simulate_job(warned, 32).goodput > simulate_job(spec, 32).goodput
