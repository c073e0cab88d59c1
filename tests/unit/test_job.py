"""The job simulation against closed forms and published runs."""

import math
from dataclasses import replace

import pytest

from sim.job.checkpoints import (
    checkpoint_cost,
    daly_interval,
    expected_goodput,
    young_interval,
)
from sim.job.pipeline import Pipeline, simulate_stall
from sim.job.run import JobSpec, simulate_job, simulate_run


def test_without_failures_the_wall_clock_is_steps_and_saves():
    # 1000 steps of 2 s; a save every 100 s (50 steps), none after the last: 19 saves of 3 s
    run = simulate_run(
        JobSpec(steps=1000, step_s=2.0, interval_s=100.0, blocking_s=3.0, durable_s=3.0), seed=1
    )
    assert run.wall_s == pytest.approx(1000 * 2.0 + 19 * 3.0)
    assert run.checkpoints == 19
    assert run.failures == 0


def test_parts_add_up_to_the_wall_clock_with_everything_on():
    spec = JobSpec(
        steps=5000, step_s=1.5, stall_s=0.3, interval_s=300.0, blocking_s=4.0, durable_s=40.0,
        mtbf_s=4000.0, preemption_s=9000.0, preemption_wait_s=60.0, detect_s=20.0, restart_s=60.0, load_s=15.0, repair_s=5000.0, spares=1,
        evaluation_every=500, evaluation_s=30.0, setup_s=120.0,
    )  # fmt: skip
    for seed in range(5):
        run = simulate_run(spec, seed)
        assert run.failures > 0
        assert sum(run.parts.values()) == pytest.approx(run.wall_s)
        # useful work is exactly the job's steps, however often some were repeated
        assert run.parts["useful"] == pytest.approx(5000 * 1.2)
        assert run.parts["data_stall"] == pytest.approx(5000 * 0.3)


def test_goodput_agrees_with_the_exponential_closed_form():
    # M = 10 h, C = 60 s, R = 600 s, T = 1 h:  T / ((M+R)(e^((T+C)/M) - 1)) = 0.9205 by hand
    closed = expected_goodput(3600.0, 60.0, 600.0, 36000.0)
    assert closed == pytest.approx(3600 / (36600 * (math.exp(3660 / 36000) - 1)))
    spec = JobSpec(
        steps=200_000, step_s=10.0, interval_s=3600.0, blocking_s=60.0, durable_s=60.0,
        mtbf_s=36000.0, restart_s=600.0,
    )  # fmt: skip
    simulated = simulate_job(spec, replicas=20).goodput
    assert simulated == pytest.approx(closed, rel=0.01)


def test_young_and_daly_by_hand():
    # facts: 128 nodes at 4 per 1000 node-days, C = 40 s: M = 46.9 h, T* = 61 min
    mtbf = 86400.0 / (128 * 0.004)
    assert mtbf / 3600 == pytest.approx(46.9, abs=0.05)
    assert young_interval(40.0, mtbf) / 60 == pytest.approx(61.2, abs=0.1)
    assert daly_interval(40.0, mtbf) == pytest.approx(young_interval(40.0, mtbf) - 40, rel=0.01)


def test_the_llama3_405b_run():
    """54 days on 16,384 H100s: 419 unexpected interruptions and over 90 % effective time.

    Source: The Llama 3 Herd of Models, table 5 and section 3.3.4.
    """
    mtbf = 54 * 86400.0 / 419
    step = 18.0
    spec = JobSpec(
        steps=int(0.91 * 54 * 86400 / step), step_s=step, interval_s=480.0, blocking_s=10.0,
        durable_s=10.0, mtbf_s=mtbf, restart_s=600.0,
    )  # fmt: skip
    outcome = simulate_job(spec, replicas=6)
    assert outcome.goodput == pytest.approx(0.904, abs=0.01)
    assert outcome.wall_p50_s / 86400 == pytest.approx(54, abs=1.0)
    assert outcome.failures == pytest.approx(419, rel=0.1)


def test_gpus_that_wait_forty_per_cent_of_the_time():
    # 8 workers of 2e4 tokens/s give 1.6e5/s; a step of 65,536 tokens takes 0.2458 s unless it
    # waits, so data arrives every 0.4096 s: idle 1 - 0.2458/0.4096 = 40 %; 14 workers cure it.
    pipeline = Pipeline(8, 65536.0, 2e4, 4.0, 1e12)
    stall = simulate_stall(pipeline, 0.24576)
    assert stall.idle_share == pytest.approx(0.4, abs=0.005)
    assert stall.workers_needed == 14
    cured = simulate_stall(Pipeline(14, 65536.0, 2e4, 4.0, 1e12), 0.24576)
    assert cured.idle_share < 0.005


def test_slow_storage_cannot_be_cured_by_workers():
    pipeline = Pipeline(8, 65536.0, 1e9, 4.0, 1e6)
    assert simulate_stall(pipeline, 0.1).workers_needed is None
    assert simulate_stall(pipeline, 0.1).step_s == pytest.approx(65536 * 4 / 1e6, rel=1e-6)


def test_asynchronous_saves_block_for_the_copy_to_the_host_only():
    # 8B model, 14 B per parameter, 8 GPUs: 112 GB; 14 GB a GPU over 25 GB/s is 0.56 s
    common = dict(
        nodes=1, gpus_per_node=8, sharded=True, host_link_bytes_per_s=25e9,
        storage_write_bytes_per_s=4e9, storage_read_bytes_per_s=8e9, gather_bytes_per_s=25e9,
    )  # fmt: skip
    blocking = checkpoint_cost(112e9, asynchronous=False, **common)
    background = checkpoint_cost(112e9, asynchronous=True, **common)
    assert background.blocking_s == pytest.approx(0.56)
    assert blocking.blocking_s == pytest.approx(0.56 + 28.0)
    assert background.write_s == blocking.write_s


def test_same_seed_same_run():
    spec = JobSpec(steps=3000, step_s=1.0, interval_s=200.0, mtbf_s=900.0, restart_s=50.0)
    assert simulate_run(spec, 7) == simulate_run(spec, 7)


def test_a_job_that_fails_before_it_saves_never_ends():
    """Ten mean times between failures of work: one start in 22,000 would see its end."""
    hopeless = JobSpec(steps=1000, step_s=1.0, mtbf_s=100.0, restart_s=1.0)
    outcome = simulate_job(hopeless)
    assert outcome.wall_p10_s == outcome.wall_mean_s == float("inf")
    assert outcome.replicas == 1
    assert outcome.shares["lost_work"] > 0.9
    assert outcome.goodput == 0.0
    saved = simulate_job(replace(hopeless, interval_s=10.0, blocking_s=0.1, durable_s=0.1))
    assert 1000.0 < saved.wall_p50_s < 2000.0
