"""The job simulation against closed forms and published runs."""

import math
from dataclasses import replace

import pytest

from sim import simulate
from sim.inputs.loader import load, load_topology, load_workload
from sim.job.basis import Links, links_of, save_of
from sim.job.checkpoints import (
    best_interval,
    checkpoint_cost,
    daly_interval,
    young_interval,
)
from sim.job.estimate import estimate_job
from sim.job.forecast import forecast_job
from sim.job.hazards import mean_time_between_failures
from sim.job.outcome import simulate_job
from sim.job.pipeline import Pipeline, simulate_stall
from sim.job.run import simulate_run
from sim.job.spec import JobSpec
from sim.report.formats.table import render
from sim.report.run import view
from sim.result.predict import predict
from sim.step.breakdown import Breakdown
from sim.step.run import run_step

DAY = 86400.0


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
        mtbf_s=4000.0, preemption_s=9000.0, preemption_wait_s=60.0, detect_s=20.0,
        restart_s=60.0, load_s=15.0, repair_s=5000.0, spares=1,
        evaluation_every=500, evaluation_s=30.0, setup_s=120.0,
    )  # fmt: skip
    for seed in range(5):
        run = simulate_run(spec, seed)
        assert run.failures > 0
        assert sum(run.parts.values()) == pytest.approx(run.wall_s)
        # useful work is exactly the job's steps, however often some were repeated
        assert run.parts["useful"] == pytest.approx(5000 * 1.2)
        assert run.parts["data_stall"] == pytest.approx(5000 * 0.3)


def expected_goodput(interval_s, blocking_s, restart_s, mtbf_s):
    """Useful share of wall time under exponential failures, in closed form.

    A segment of T useful seconds and C of saving takes M exp(R/M)(exp((T + C)/M) - 1) on average
    when failures strike at rate 1/M, during the restart R after one too (Daly 2006).
    """
    growth = math.expm1((interval_s + blocking_s) / mtbf_s)
    return interval_s / (mtbf_s * math.exp(restart_s / mtbf_s) * growth)


def test_goodput_agrees_with_the_exponential_closed_form():
    # M = 10 h, C = 60 s, R = 600 s, T = 1 h:  T / (M e^(R/M) (e^((T+C)/M) - 1)) = 0.9190 by hand
    closed = expected_goodput(3600.0, 60.0, 600.0, 36000.0)
    assert closed == pytest.approx(3600 / (36000 * math.exp(1 / 60) * math.expm1(3660 / 36000)))
    assert closed == pytest.approx(0.9190, abs=1e-4)
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

    Source: The Llama 3 Herd of Models, table 5 and section 3.3.4. The failure rates are the
    defaults of data/constants/reliability.toml, the restart time too; the checkpoint goes to 2 TB/s
    of storage (1 GB/s a node).
    """
    machine = load_topology(
        "dgx-h100", ["nodes=2048", "node.storage.write=1 GB/s", "node.storage.read=1 GB/s"]
    )
    step_s = 18.0
    steps = int(0.92 * 54 * DAY / step_s)
    job = load_workload("llama3-405b-54-days", [f"steps={steps}"])
    report = forecast_job(
        machine, job, Breakdown(step_s, kernels={"gemm": step_s}), links=Links(50e9, 50e9, 50e9),
        replicas=8,
    )  # fmt: skip
    assert report is not None
    assert report.spec.mtbf_s / 3600 == pytest.approx(54 * 24 / 419, rel=0.01)
    assert report.outcome.failures == pytest.approx(419, rel=0.05)
    assert report.outcome.goodput == pytest.approx(0.92, abs=0.01)
    assert report.outcome.goodput > 0.90
    assert report.outcome.wall_p50_s / DAY == pytest.approx(54, abs=1.0)


def test_meta_rsc_mean_times_between_failures():
    """6.5 failures per 1000 node-days: 1.8 h at 16,384 GPUs, 0.23 h at 131,072.

    Source: arXiv 2410.21680. The same paper observed 7.9 h at 1,024 GPUs where its own rate gives
    28.8 h: failures gather on few nodes, which an exponential per node does not know. A miss.
    """
    rate = ["reliability.node_mtbf=153.846 days", "reliability.gpu_mtbf=1e9 days"]
    for gpus, hours in ((16_384, 1.8), (131_072, 0.23), (1_024, 28.8)):
        machine = load_topology("dgx-a100", [f"nodes={gpus // 8}", *rate])
        assert mean_time_between_failures(machine) / 3600 == pytest.approx(hours, rel=0.03)


def test_bloom_176b_checkpoint():
    # bigscience chronicles: 2.3 TB in 40 s to GPFS from 48 nodes of 8, so 57.5 GB/s in all
    save = checkpoint_cost(
        2.3e12, 48, 8, sharded=True, asynchronous=False, host_link_bytes_per_s=25e9,
        storage_write_bytes_per_s=57.5e9 / 48, storage_read_bytes_per_s=1e9,
        gather_bytes_per_s=25e9,
    )  # fmt: skip
    assert save.blocking_s == pytest.approx(40.0 + 0.24, abs=0.01)


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


def test_gpus_that_save_together_share_the_way_to_the_host():
    """Two A100s behind one PCIe switch get half of its uplink each; who writes alone has all."""
    pairs, own = (
        links_of(load_topology("dgx-a100", [f"node.pcie.gpus_per_switch={n}"])) for n in (2, 1)
    )
    assert pairs.host == own.host == own.together
    assert pairs.together == pytest.approx(pairs.host / 2)
    machine = load_topology("dgx-a100")
    job = {"name": "w", "model": "llama-3.1-8b", "sequence_length": 8192, "steps": 10}
    saves = {
        mode: save_of(machine, load_workload({**job, "checkpoint": {"mode": mode}}), pairs)
        for mode in ("sharded", "full")
    }
    size, disk = saves["full"].size_bytes, machine.storage.write
    assert saves["sharded"].write_s == pytest.approx(size / 8 / pairs.together + size / disk)
    alone = size * (7 / 8 / pairs.network + 1 / pairs.host) + size / disk
    assert saves["full"].write_s == pytest.approx(alone)


def test_same_seed_same_run():
    spec = JobSpec(steps=3000, step_s=1.0, interval_s=200.0, mtbf_s=900.0, restart_s=50.0)
    assert simulate_run(spec, 7) == simulate_run(spec, 7)


@pytest.mark.parametrize(
    ("mtbf_s", "blocking_s", "step_s"),
    [(36_000.0, 60.0, 10.0), (11_000.0, 10.0, 18.0), (250 * DAY, 1.0, 10.0)],
)
def test_best_interval_by_simulation_agrees_with_daly(mtbf_s, blocking_s, step_s):
    spec = JobSpec(
        steps=10, step_s=step_s, blocking_s=blocking_s, durable_s=blocking_s, mtbf_s=mtbf_s,
        restart_s=600.0,
    )  # fmt: skip
    assert best_interval(spec) == pytest.approx(daly_interval(blocking_s, mtbf_s), rel=0.05)


def test_no_best_interval_where_nothing_fails_or_saving_is_free():
    assert best_interval(JobSpec(steps=10, step_s=1.0, blocking_s=1.0, durable_s=1.0)) is None
    assert best_interval(JobSpec(steps=10, step_s=1.0, mtbf_s=1000.0)) is None


def test_evaluations_without_failures():
    # 1000 steps of 2 s, an evaluation of 7 s after every 300th: three; setup 60 s
    spec = JobSpec(steps=1000, step_s=2.0, evaluation_every=300, evaluation_s=7.0, setup_s=60.0)
    run = simulate_run(spec, 1)
    assert run.wall_s == pytest.approx(60.0 + 2000.0 + 3 * 7.0)
    assert run.parts["evaluation"] == pytest.approx(21.0)


def test_saves_fall_between_evaluations_at_their_own_interval():
    # a save every 70 steps, evaluations every 100: saves after 70, 140, ..., 980, none at the end
    spec = JobSpec(
        steps=1000, step_s=1.0, interval_s=70.0, blocking_s=2.0, durable_s=2.0,
        evaluation_every=100, evaluation_s=5.0,
    )  # fmt: skip
    run = simulate_run(spec, 1)
    assert run.checkpoints == 14
    assert run.wall_s == pytest.approx(1000.0 + 14 * 2.0 + 10 * 5.0)


def test_asynchronous_saves_lose_what_is_not_yet_durable():
    """Lost per failure: half an interval on average, and what came before the save was durable."""
    spec = JobSpec(
        steps=400_000, step_s=1.0, interval_s=600.0, blocking_s=0.0, durable_s=200.0,
        mtbf_s=20_000.0, restart_s=0.0,
    )  # fmt: skip
    runs = [simulate_run(spec, seed) for seed in range(12)]
    lost = sum(r.parts["lost_work"] for r in runs) / sum(r.failures for r in runs)
    assert lost == pytest.approx(600 / 2 + 200, rel=0.08)


def test_without_spares_a_broken_node_is_waited_for():
    spec = JobSpec(
        steps=100_000, step_s=1.0, interval_s=500.0, mtbf_s=10_000.0, repair_s=900.0,
        repair_share=1.0, spares=0,
    )  # fmt: skip
    run = simulate_run(spec, 3)
    assert run.failures > 3
    assert run.parts["waiting"] == pytest.approx(900.0 * run.failures)
    assert simulate_run(replace(spec, spares=10**6), 3).parts["waiting"] == 0.0
    assert simulate_run(replace(spec, spares=None), 3).parts["waiting"] == 0.0


def test_a_spare_covers_one_repair_at_a_time():
    spec = JobSpec(
        steps=200_000, step_s=1.0, interval_s=500.0, mtbf_s=10_000.0, repair_s=20_000.0,
        repair_share=1.0,
    )  # fmt: skip
    waits = [simulate_run(replace(spec, spares=n), 5).parts["waiting"] for n in (0, 1, 2, 8)]
    assert waits[0] > waits[1] > waits[2] >= waits[3] == 0.0


def test_spot_capacity_waits_and_loses_unless_warned():
    spec = JobSpec(
        steps=100_000, step_s=1.0, interval_s=1000.0, blocking_s=5.0, durable_s=20.0,
        preemption_s=9_000.0, preemption_wait_s=600.0, restart_s=100.0,
    )  # fmt: skip
    outcome = simulate_job(spec, replicas=16)
    assert outcome.failures == 0.0
    away = outcome.preemptions * 600.0 / outcome.wall_mean_s
    assert outcome.shares["waiting"] == pytest.approx(away, rel=0.25)
    warned = simulate_run(replace(spec, preemption_notice_s=120.0), 1)
    assert warned.preemptions > 3
    # a warning long enough for a save leaves the step under way to be lost, and no more
    assert warned.parts["lost_work"] <= warned.preemptions * (1.0 + 5.0)
    assert simulate_run(spec, 1).parts["lost_work"] > 100 * warned.preemptions


def test_failure_rates_of_gpus_and_nodes_add_up():
    keys = ["reliability.gpu_mtbf=1000 h", "reliability.node_mtbf=500 h"]
    machine = load_topology("dgx-h100", ["nodes=4", *keys])
    assert mean_time_between_failures(machine) / 3600 == pytest.approx(1 / (32 / 1000 + 4 / 500))
    off = load_topology("dgx-h100", ["reliability=none"])
    assert mean_time_between_failures(off) == math.inf


def test_pace_differs_from_run_to_run_by_its_spread():
    spec = JobSpec(steps=1000, step_s=1.0, spread=0.02)
    outcome = simulate_job(spec, replicas=400)
    # quantiles of a normal: 1 -/+ 1.2816 x 0.02
    assert outcome.wall_p10_s == pytest.approx(1000 * (1 - 1.2816 * 0.02), rel=0.004)
    assert outcome.wall_p90_s == pytest.approx(1000 * (1 + 1.2816 * 0.02), rel=0.004)


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


def test_no_workers_load_in_the_trainer_itself():
    # 1000 tokens at 1000/s and 4 kB over 4 kB/s: a second each, and nothing overlaps the step
    pipeline = Pipeline(0, 1000.0, 1000.0, 4.0, 4000.0)
    stall = simulate_stall(pipeline, 3.0)
    assert stall.step_s == pytest.approx(5.0)
    assert stall.idle_share == pytest.approx(0.4)
    assert stall.workers_needed == 1


def test_a_starved_job_names_data_as_its_bottleneck_and_the_cure():
    starved = simulate("dgx-h100", "data-starved", scaling=False)
    assert starved.bottleneck.kind == "data"
    assert "14 loader workers" in starved.bottleneck.explanation
    (fix,) = starved.bottleneck.fixes
    assert fix.change == {"data.workers": 14}
    assert starved.job.data_idle_share == pytest.approx(0.40, abs=0.03)
    text = render(view(starved))
    assert "waiting for data" in text
    cured = simulate(
        "dgx-h100", "data-starved", overrides=["data.workers=14"], scaling=False, fixes=False
    )
    assert cured.bottleneck.kind != "data"
    ratio = cured.job.wall_clock_s / starved.job.wall_clock_s
    assert ratio == pytest.approx(fix.step_time_ratio, abs=0.01)


SPOT = ("offer.capacity=spot", "offer.preemption_mtbf=6 h", "offer.preemption_wait=30 min")
EVERYTHING = (
    "nodes=4", "offer.capacity=spot", "offer.preemption_mtbf=1 d", "checkpoint.peers=1",
    "checkpoint.memory_interval=1 min", "reliability.warm_restart=2 min",
)  # fmt: skip


@pytest.mark.parametrize("sets", [(), SPOT, EVERYTHING], ids=["plain", "spot", "everything"])
def test_the_expected_job_agrees_with_the_simulated_one(sets):
    """`estimate_job`, the closed form of sweeps, against replicas."""
    loaded = load("dgx-h100", "llama3-8b-sft", sets)
    result = predict(loaded.topology, loaded.workload, scaling=False, fixes=False)
    step = run_step(loaded.topology, loaded.workload).breakdown
    found = estimate_job(loaded.topology, loaded.workload, step)
    assert found is not None
    assert found.wall_s == pytest.approx(result.job.wall_clock_mean_s, rel=0.05)


def test_evaluation_and_export_from_the_yaml():
    keys = ["evaluation.every=100", "evaluation.tokens=1e6", "checkpoint.export=state"]
    loaded = load("dgx-h100", "llama3-8b-sft", keys)
    result = predict(loaded.topology, loaded.workload, scaling=False, fixes=False)
    # 1908 steps: 19 evaluations; a forward of 1e6 tokens against a step of 524,288 tokens
    assert result.job.shares["evaluation"] > 0.0
    spent = result.job.shares["evaluation"] * result.job.wall_clock_mean_s
    assert spent == pytest.approx(19 * result.job.evaluation_s, rel=0.01)
    assert 0.2 < result.job.evaluation_s / (result.step.time_s * 1e6 / 524_288) < 0.35
    assert result.job.egress_gb == pytest.approx(8.03e9 * 12 / 1e9, rel=0.01)


def test_a_hopeless_job_is_said_to_be_so():
    result = simulate(
        "dgx-h100", "llama3-8b-sft", overrides=["reliability.gpu_mtbf=1 min"], scaling=False,
        fixes=False,
    )  # fmt: skip
    assert "never ends" in render(view(result))
    assert result.to_dict()["job"]["wall_clock_s"] is None


SPOT = (
    "nodes=1", "checkpoint={interval: 1 h}",
    "offer={price_per_gpu_hour: 3 USD, spot_price_per_gpu_hour: 1 USD, capacity: spot, "
    "preemption_mtbf: 12 min, preemption_wait: 1 min}",
)  # fmt: skip
NO_SPARE = ("nodes=8", "reliability={repair: 100 h, spare_nodes: 0, gpu_mtbf: 3000 h}")


@pytest.mark.parametrize(
    ("sets", "said"), [(SPOT, "1,000 starts in a row save nothing"), (NO_SPARE, "is in the mean")]
)
def test_an_expected_time_that_runs_do_not_show_says_why(sets, said):
    """It stood beside "p10 never", or above p90, with "inf expected" failures."""
    result = simulate(
        "dgx-h100", "mistral-7b-lora", overrides=sets, scaling=False, fixes=False
    )  # fmt: skip
    assert result.job.wall_clock_p90_s != pytest.approx(result.job.wall_clock_s)
    text = " ".join(render(view(result)).split())
    assert said in text
    assert "inf " not in text


def test_endless_jobs_are_simulated_in_part():
    # a million interruptions at least; the closed form says what share of the time is useful
    spec = JobSpec(
        steps=10**9, step_s=10.0, interval_s=3600.0, blocking_s=60.0, durable_s=60.0,
        mtbf_s=10_000.0, restart_s=600.0, evaluation_every=1000, evaluation_s=1.0,
    )  # fmt: skip
    outcome = simulate_job(spec, replicas=16)
    assert outcome.goodput == pytest.approx(expected_goodput(3600, 60, 600, 10_000), rel=0.02)
    assert outcome.wall_p50_s == pytest.approx(1e10 / outcome.goodput, rel=0.01)
    assert outcome.failures == pytest.approx(outcome.wall_p50_s / (10_000 + 600), rel=0.1)


def test_thousands_of_workers_take_the_closed_form():
    stall = simulate_stall(Pipeline(5000, 65536.0, 1.0, 4.0, 1e12), 10.0)
    assert stall.step_s == pytest.approx(65536 / 5000, rel=1e-3)
