"""One step for every verb, and its short cuts against the whole simulation."""

import pytest

from sim.calibration.diagnose import diagnose
from sim.calibration.figures import Figure
from sim.calibration.observation import step_time
from sim.inputs.calibration import Calibration
from sim.inputs.loader import load
from sim.inputs.strategy import EACH_BLOCK
from sim.memory.bound import solve
from sim.memory.report import memory
from sim.result.predict import predict
from sim.step.blocks_repeat import blocks_repeat
from sim.step.depth import block_paces, of_layers, rhythm_of
from sim.step.run import StepJob, run_step, run_together
from sim.step.step import _walked, memory_of, step
from sim.study.candidates import Candidate
from sim.study.inverse import gpus_for
from sim.study.jobs import cluster_of, read_jobs, requests
from sim.study.machines import Machine
from sim.study.measures import measures
from sim.study.search import Searcher

CASES = [
    ("dgx-h100", "llama3-8b-sft", []),  # compute-bound
    ("dgx-h100", "llama3-8b-sft", ["sequence_length=128", "micro_batch=1"]),  # launch-bound
    ("aws-p4d", "llama3-8b-sft", ["nodes=4", "sequence_length=512", "micro_batch=1"]),  # network
    ("pcie5-h100-8", "mistral-7b-lora", []),
    ("dgx-a100", "mpt-30b-pretrain", []),
]


@pytest.mark.parametrize(("topology", "workload", "sets"), CASES)
def test_few_blocks_equal_every_block(topology, workload, sets):
    loaded = load(topology, workload, sets)
    full = run_step(loaded.topology, loaded.workload, engine="python").breakdown
    quick = step(loaded.topology, loaded.workload, engine="python").breakdown
    assert quick.time_s == pytest.approx(full.time_s, rel=1e-9)
    assert quick.compute_s == pytest.approx(full.compute_s, rel=1e-9)
    assert quick.exposed_s == pytest.approx(full.exposed_s, rel=1e-9, abs=1e-9 * full.time_s)
    busy = sum(quick.kernels.values()) + quick.waiting_s
    assert busy == pytest.approx(quick.compute_s, rel=1e-9)


def test_blocks_without_a_rhythm_are_all_simulated():
    # experts in flight beside prefetched blocks: eight do not repeat, and carried on
    # from them the step would be 0.9 % off
    sets = ["model=qwen3-30b-a3b", "sequence_length=2048", "experts=grouped",
            "parallelism={strategy: fsdp1, forward_prefetch: 1}"]  # fmt: skip
    loaded = load("dgx-h100", "llama3-8b-sft", sets)
    assert rhythm_of(loaded.topology, loaded.workload)
    few = of_layers(loaded.workload, EACH_BLOCK.layers)
    [ran] = run_together([StepJob(loaded.topology, few, loaded.workload.model.layers)], "python")
    assert not blocks_repeat(ran.lowered, ran.timeline, block_paces(ran.lowered, ran.timeline))
    full = run_step(loaded.topology, loaded.workload, engine="python")
    assert step(loaded.topology, loaded.workload, engine="python").time_s == full.time_s


def test_repeating_the_middle_micro_step_equals_simulating_all():
    loaded = load("dgx-h100", "llama3-8b-sft", ["gradient_accumulation=7"])
    some = run_step(loaded.topology, loaded.workload, engine="python").breakdown
    every = run_step(
        loaded.topology, loaded.workload, engine="python", all_micro_steps=True
    ).breakdown
    assert some.time_s == pytest.approx(every.time_s, rel=1e-9)
    assert some.exposed_s == pytest.approx(every.exposed_s, rel=1e-9)
    assert some.collectives["all_gather"]["count"] == every.collectives["all_gather"]["count"]
    assert some.collectives["reduce_scatter"]["bytes"] == pytest.approx(
        every.collectives["reduce_scatter"]["bytes"]
    )


@pytest.mark.parametrize("strategy", ["fsdp2", "zero2"])
def test_steps_that_differ_in_accumulation_share_their_micro_steps(strategy):
    sets = [f"parallelism={{strategy: {strategy}}}", "gradient_accumulation=4"]
    loaded = load("dgx-h100", "llama3-8b-sft", sets)
    four = step(loaded.topology, loaded.workload, engine="python").breakdown
    many = loaded.workload.model_copy(update={"gradient_accumulation": 9})
    nine = step(loaded.topology, many, engine="python").breakdown
    full = run_step(loaded.topology, many, engine="python").breakdown
    assert nine.time_s == pytest.approx(full.time_s, rel=1e-5)
    assert nine.collectives["all_gather"]["count"] == full.collectives["all_gather"]["count"]
    # what is shared is not changed by adding to it
    again = step(loaded.topology, loaded.workload, engine="python").breakdown
    assert again == four


def test_what_is_kept_is_kept_by_all_that_matters():
    loaded = load("dgx-h100", "llama3-8b-sft")
    machine, job = loaded.topology, loaded.workload
    own = step(machine, job)
    longer = job.model_copy(update={"tokens": 7e9, "name": "longer"})
    assert step(machine.model_copy(update={"offer": None}), longer).breakdown is own.breakdown
    for update in ({"sequence_length": 2048}, {"micro_batch": 1}, {"compile": True}):
        other = step(machine, job.model_copy(update=update))
        assert other.time_s != own.time_s
        assert other.memory.peak_reserved_bytes != own.memory.peak_reserved_bytes
    slow = machine.model_copy(update={"calibration": Calibration(gemm_clock=0.5)})
    assert step(slow, job).time_s > own.time_s
    saved = job.model_copy(update={"checkpoint": job.checkpoint.model_copy(
        update={"mode": "full", "offload_to_cpu": False})})  # fmt: skip
    assert step(machine, saved).memory == memory(machine, saved)


@pytest.mark.parametrize("strategy", ["fsdp1", "fsdp2", "ddp", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_memory_that_is_kept_is_the_job_s_own(strategy, accumulation):
    sets = [f"parallelism={{strategy: {strategy}}}", f"gradient_accumulation={accumulation}"]
    loaded = load("dgx-h100", "mistral-7b-lora", sets)
    pair = loaded.topology, loaded.workload
    assert memory_of(*pair) == memory(*pair)


def test_memory_is_walked_once_for_machines_of_the_same_sizes():
    """A100s of 40 and 80 GB: one walk, each with its own room."""
    pairs = [load(t, "mistral-7b-lora") for t in ("aws-p4d", "dgx-a100", "dgx-h100")]
    pairs = [(p.topology.model_copy(update={"nodes": 2}), p.workload) for p in pairs]
    before = _walked.cache_info().misses
    found = [memory_of(*pair) for pair in pairs]
    assert _walked.cache_info().misses <= before + 1
    assert found == [memory(*pair) for pair in pairs]
    assert found[0].capacity_bytes < found[1].capacity_bytes


# --- one figure in every verb --------------------------------------------------------------------


def job_of(strategy, near):
    """A job of short sequences, or of the longest that fit: there the allocator may retry."""
    workload = "mistral-7b-lora" if strategy == "ddp" else "llama3-8b-sft"
    sets = [
        f"parallelism={{strategy: {strategy}}}", "micro_batch=1", "gradient_accumulation=8",
        "activation_checkpointing=full", "tokens=null", "steps=100", "sequence_length=2048",
    ]  # fmt: skip
    if near:
        loaded = load("dgx-a100", workload, sets)
        bound = solve(loaded.topology, loaded.workload, "sequence_length")
        sets[-1] = f"sequence_length={bound.value}"
    return workload, sets


@pytest.mark.parametrize("near", [False, True], ids=["far", "near"])
@pytest.mark.parametrize("strategy", ["fsdp1", "fsdp2", "ddp", "zero1", "zero2", "zero3"])
def test_every_verb_gives_the_same_step(strategy, near, tmp_path):
    workload, sets = job_of(strategy, near)
    loaded = load("dgx-a100", workload, sets)
    machine, job = loaded.topology, loaded.workload
    run = predict(machine, job, scaling=False, fixes=False).step.time_s
    own = step(machine, job)
    pressed = strategy == "fsdp1" and near
    assert (own.retries_s > 0.0) == (pressed or own.memory.verdict.retries)
    swept = measures(machine, job)
    assert swept["step_time_s"] == pytest.approx(own.time_s, rel=1e-11)
    assert swept["memory_bytes"] == pytest.approx(own.memory.needed_bytes, rel=1e-11)
    assert Searcher().plan(Candidate(Machine("own", machine, 1), machine, job)).step_s == own.time_s
    assert gpus_for(machine, job, 1e12).job.pace_s == own.time_s
    jobs = tmp_path / "jobs.yaml"
    keys = ", ".join(f"{key}: {value}" for key, _, value in (s.partition("=") for s in sets))
    jobs.write_text(f"jobs: [{{name: a, workload: {workload}, set: {{{keys}}}}}]")
    cluster = cluster_of(machine)
    requests(cluster, *read_jobs(jobs), tmp_path)
    assert cluster.kinds[0][2] == own.time_s
    assert step_time(machine, job, Calibration()) == own.time_s
    if pressed:  # every cause is simulated: once is enough
        (as_declared,) = diagnose([Figure(machine, job, own.time_s)]).predicted
        assert as_declared == own.time_s
    assert run == own.time_s


def test_a_sweep_counts_retries_as_a_run_does():
    sets = ["parallelism={strategy: fsdp1}", "micro_batch=1", "sequence_length=31744"]
    loaded = load("dgx-a100", "llama3-8b-sft", sets)
    found = step(loaded.topology, loaded.workload)
    assert found.retries_s / found.time_s == pytest.approx(0.101, abs=0.001)
    assert measures(loaded.topology, loaded.workload)["step_time_s"] == pytest.approx(
        68.63, abs=0.01
    )
