"""Bounds of a search bound: random layouts, batches and machines beside what they take exactly."""

from __future__ import annotations

import random
from functools import cache

import pytest

from sim.blocks.from_workload import setting_of
from sim.errors import InputError
from sim.inputs.loader import Loaded, load, prepare
from sim.inputs.rows import run_on
from sim.step.shares import shares
from sim.step.slowest import Ranks, deviation, lost_to_slowest
from sim.step.step import memory_of, micro_steps, step, steps
from sim.study.axes import Grid
from sim.study.bounds import Bounds
from sim.study.candidates import CHECKPOINTING, OFFLOAD, Candidate, Space, family, plans, variants
from sim.study.exchange_bounds import waited_within
from sim.study.layouts import least_form
from sim.study.machines import Machine, MachineFilter, machines
from sim.study.memory_bounds import MemoryBounds
from sim.study.micro_bounds import alone, exchanging, within_of
from sim.study.search import Searcher

LENGTH = {"tokens": "1e8", "parallelism": "fsdp2"}
JOBS = {
    "dense": {"model": {"base": "llama-3-8b", "layers": 12}, "sequence_length": 4096},
    "long": {"model": {"base": "llama-3-8b", "layers": 10}, "sequence_length": 16384},
    "wide": {"model": {"base": "llama-3-70b", "layers": 16}, "sequence_length": 8192},
    "mixture": {
        "model": {"base": "qwen3-30b-a3b", "layers": 8}, "sequence_length": 4096, "loss": "chunked",
    },
    "adapters": {"model": "llama-3-8b", "method": "lora", "sequence_length": 2048},
    "megatron": {
        "model": {"base": "llama-3-70b", "layers": 8}, "sequence_length": 8192,
        "parallelism": "megatron",
    },
    "overlap": {
        "model": {"base": "llama-3-70b", "layers": 8}, "sequence_length": 8192,
        "parallelism": {"strategy": "megatron", "tensor_parallel": 4, "tp_comm_overlap": "true"},
    },
    "zero3": {"model": "llama-3-8b", "sequence_length": 2048, "parallelism": "zero3"},
    "galore": {
        "model": {"base": "llama-3-8b", "layers": 8}, "sequence_length": 2048,
        "optimizer": "galore", "parallelism": "ddp",
    },
    "reference": {
        "model": {"base": "llama-3-8b", "layers": 8}, "sequence_length": 2048, "reference": "copy",
    },
    "adapters-off": {
        "model": {"base": "llama-3-8b", "layers": 8}, "sequence_length": 2048, "method": "lora",
        "reference": "adapters-off",
    },
}  # fmt: skip
FROZEN = {
    "last": {"last": 4}, "first": {"first": 4}, "head": {"extra": ["head"]},
    "norm": {"extra": ["norm"]},
}  # fmt: skip
JOBS |= {
    f"only {name}": {
        "model": "llama-3-8b", "sequence_length": 1024, "method": {"kind": "freeze", **trained},
    }
    for name, trained in FROZEN.items()
}  # fmt: skip
CASES = [
    ("dgx-h100", 4, "dense"), ("aws-p4d", 16, "dense"), ("l40s-8", 1, "dense"),
    ("gcp-a3-mega", 4, "long"), ("aws-p4d", 8, "wide"), ("dgx-h100", 8, "mixture"),
    ("azure-nc-a100-v4", 2, "adapters"), ("dgx-h100", 2, "zero3"), ("dgx-h100", 1, "megatron"),
    ("aws-p4d", 2, "megatron"), ("dgx-h100", 1, "overlap"), ("aws-p4d", 1, "galore"),
    ("dgx-h100", 1, "reference"), ("aws-p4d", 1, "adapters-off"),
    *(("aws-p4d", 8, f"only {name}") for name in FROZEN),
]  # fmt: skip


def candidate_of(topology: str, job: Loaded) -> Candidate:
    """A job on a machine that is searched."""
    [machine], _ = machines(MachineFilter(), [topology])
    return Candidate(machine, job.topology, job.workload)


def simulated_s(candidate: Candidate) -> float:
    """What its step takes, retries of the allocator left out: no bound knows of them. [s]"""
    exact = step(candidate.topology, candidate.workload)
    return exact.time_s - exact.retries_s


@cache
def drawn(topology: str, nodes: int, job: str, count: int) -> list[Candidate]:
    """Some plans of all that there are."""
    [machine], _ = machines(MachineFilter(), [topology])
    base = prepare(machine.topology, {"name": job, **LENGTH, **JOBS[job]})
    gpus = nodes * machine.topology.node.gpus
    strategies = family(base.loaded().workload)
    space = Space(4 * gpus, gpus, strategies, CHECKPOINTING, OFFLOAD, Grid(""), True, gpus)
    every = list(plans(machine, variants(base, space), space, {}))
    return random.Random(20261129).sample(every, min(count, len(every)))


@pytest.mark.parametrize(("topology", "nodes", "job"), CASES)
def test_no_step_is_quicker_than_its_bounds(topology, nodes, job):
    bounds, few = Bounds(), drawn(topology, nodes, job, 12)
    took = steps([(c.topology, c.workload) for c in few], causes=False)
    for candidate, exact in zip(few, took, strict=True):
        kernels = bounds.of(candidate, exchanges=False, parameters=False).step_s
        alone = bounds.of(candidate, exchanges=False).step_s
        assert bounds.peak_s(candidate) <= exact.time_s
        assert 0.0 < kernels <= alone, candidate.workload.parallelism
        assert alone <= bounds.of(candidate).step_s <= exact.time_s, candidate.workload.parallelism


@pytest.mark.parametrize(
    "sets",
    [
        "strategy: megatron, tensor_parallel: 4, tp_comm_overlap: true",
        "strategy: megatron, context_parallel: 2, context_parallel_kind: all-gather",
        "strategy: megatron, tensor_parallel: 2, sequence_parallel: false",
        "tensor_parallel: 2, tensor_parallel_style: dtensor-per-linear",
        "strategy: fsdp1, context_parallel: 2, context_parallel_rotation: all-to-all",
    ],
)
def test_a_job_alone_has_the_blocks_of_its_own_strategy(sets):
    given = {"name": "dense", **LENGTH, **JOBS["dense"]}
    job = load("dgx-h100", given, [f"parallelism={{{sets}}}"])
    _, workload = alone(candidate_of("dgx-h100", job))
    assert setting_of(workload) == setting_of(job.workload)
    assert workload.parallelism.strategy == "fsdp2"


def test_rows_alone_are_no_longer_than_those_of_the_job():
    """Ranks that reduce once a step wait for the longest sum of rows, not for each longest row."""
    lengths = {"mean_length": 400, "packing": "padding-free"}
    given = {"name": "rows", **LENGTH, **JOBS["dense"], "trainer": "accelerate", "data": lengths}
    bounds = Bounds()
    for cut in ("strategy: ddp", "pipeline_parallel: 4, wrap: torchtitan"):
        sets = [f"parallelism={{{cut}}}", "gradient_accumulation=8", "micro_batch=2"]
        job = load("dgx-h100", given, sets)
        candidate = candidate_of("dgx-h100", job)
        own = run_on(job.topology, job.workload).sequence_length
        assert alone(candidate)[1].sequence_length <= own
        assert bounds.of(candidate).step_s <= simulated_s(candidate)


SPLIT = [("aws-p4d", 16, "dense"), ("gcp-a3-mega", 4, "long"), ("l40s-8", 2, "mixture"),
         ("dgx-h100", 8, "mixture")]  # fmt: skip


@pytest.mark.parametrize(("topology", "nodes", "job"), SPLIT)
def test_exchanges_that_kernels_wait_for_take_what_a_simulation_says(topology, nodes, job):
    """Of a gap between kernels a simulation blames the last exchange, so that sums are compared."""
    compared = 0
    for candidate in filter(exchanging, drawn(topology, nodes, job, 40)):
        waited = waited_within(candidate)
        if waited is not None:
            exact = within_of(micro_steps([alone(candidate)])[0].breakdown)
            for axis in {axis for axis, _ in exact}:
                found, known = (
                    sum(of.get((axis, ahead), 0.0) for ahead in (True, False))
                    for of in (waited, exact)
                )
                assert found == pytest.approx(known, rel=1e-9)
                compared += 1
    assert compared >= 2


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        ("tensor_parallel: 2", "full"),  # a block's gradient is gathered beside its recompute
        ("context_parallel: 2", "none"),  # parts of a sequence beside attention
        ("tensor_parallel: 2, tensor_parallel_style: dtensor-async", "none"),  # by copy engines
        ("expert_parallel: 16, expert_dispatch: deepep", "none"),  # two ways at once
    ],
)
def test_exchanges_beside_kernels_are_left_to_a_simulation(cut, kept):
    job = "mixture" if "expert" in cut else "dense"
    sets = ["nodes=2", f"parallelism={{{cut}}}", f"activation_checkpointing={kept}",
            "compile=true"]  # fmt: skip
    loaded = load("dgx-h100", {"name": job, **LENGTH, **JOBS[job]}, sets)
    assert waited_within(candidate_of("dgx-h100", loaded)) is None


@pytest.mark.parametrize(("topology", "nodes", "job"), CASES)
def test_no_job_needs_less_memory_than_its_bound(topology, nodes, job):
    bounds = MemoryBounds()
    for candidate in drawn(topology, nodes, job, 40):
        for workload in (candidate.workload, least_form(candidate.workload)):
            least = bounds.needed(candidate.topology, workload)
            exact = memory_of(candidate.topology, workload).needed_bytes
            assert least <= exact, workload.parallelism


@pytest.mark.parametrize(
    ("topology", "sets", "time", "room"),
    [  # Llama 3 405B on 512 GPUs, as `size` meets it
        ("dgx-h100", "tensor_parallel: 2, context_parallel: 2", 0.93, 0.5),
        ("dgx-h100", "tensor_parallel: 8, replicate: 2", 0.85, 0.5),
        ("aws-p4d", "tensor_parallel: 4", 0.8, 0.5),
        ("dgx-h100", "tensor_parallel: 8, pipeline_parallel: 8", 0.96, 0.9),
    ],
)
def test_bounds_are_near_to_what_they_bound(topology, sets, time, room):
    each = "gradient_accumulation=8" if "pipeline" in sets else "gradient_accumulation=2"
    knobs = f"parallelism={{strategy: fsdp2, {sets}}}"
    full = "activation_checkpointing=full"
    job = load(topology, "llama3-405b", ["nodes=64", knobs, each, full, "micro_batch=1"])
    candidate = candidate_of(topology, job)
    simulated = simulated_s(candidate)
    assert time * simulated < Bounds().of(candidate).step_s <= simulated
    needed = memory_of(job.topology, job.workload).needed_bytes
    least = MemoryBounds().needed(job.topology, job.workload)
    assert room * needed < least <= needed


@pytest.mark.parametrize(
    ("topology", "experts", "near"), [("dgx-h100", 32, 0.9), ("aws-p4d", 16, 0.9)]
)
def test_experts_over_several_nodes_are_near_to_what_they_take(topology, experts, near):
    """Their dispatch crosses the network: without it the bound is a third lower, or more."""
    sets = ["nodes=4", f"parallelism={{expert_parallel: {experts}}}", "micro_batch=4",
            "gradient_accumulation=2"]  # fmt: skip
    job = load(topology, {"name": "mixture", **LENGTH, **JOBS["mixture"]}, sets)
    candidate = candidate_of(topology, job)
    simulated = simulated_s(candidate)
    bounds = Bounds()
    assert near * simulated < bounds.of(candidate).step_s <= simulated
    assert bounds.of(candidate, exchanges=False).step_s < 0.7 * simulated


@pytest.mark.parametrize(
    ("cut", "micro_batches", "near"),
    [
        ("pipeline_parallel: 8", 32, 0.97),
        ("tensor_parallel: 4, pipeline_parallel: 2, pipeline_schedule: zbv", 32, 0.89),
    ],
)
def test_pipelines_that_shard_with_nobody_add_up_gradients(cut, micro_batches, near):
    """Copies of every micro-batch but the first, and the way down of the first one."""
    sets = [f"parallelism={{{cut}}}", f"gradient_accumulation={micro_batches}"]
    job = load("dgx-h100", {"name": "dense", **LENGTH, **JOBS["dense"]}, sets)
    candidate = candidate_of("dgx-h100", job)
    simulated = simulated_s(candidate)
    assert near * simulated < Bounds().of(candidate).step_s <= simulated


@pytest.mark.parametrize(
    ("schedule", "near"), [("interleaved-zero-bubble", 0.92), ("zbv", 0.87), ("1f1b", 0.94)]
)
def test_schedules_are_played(schedule, near):
    """Few micro-batches: ranks wait for others within the step, not at its ends alone."""
    cut = f"pipeline_parallel: 4, tensor_parallel: 2, pipeline_schedule: {schedule}"
    sets = ["nodes=2", f"parallelism={{{cut}}}", "gradient_accumulation=8"]
    job = load("dgx-h100", {"name": "dense", **LENGTH, **JOBS["dense"]}, sets)
    candidate, bounds = candidate_of("dgx-h100", job), Bounds()
    simulated = simulated_s(candidate)
    least = bounds.of(candidate).step_s
    assert near * simulated < least <= simulated
    assert bounds.of(candidate, to_play=False).step_s < least


def test_exchanges_below_what_is_trained_are_left_to_a_simulation():
    """Nothing goes back through blocks that are frozen, nor what it would exchange."""
    sets = ["parallelism={context_parallel: 2, context_parallel_kind: ulysses}",
            "method={kind: freeze, last: 2}"]  # fmt: skip
    job = load("dgx-h100", {"name": "dense", **LENGTH, **JOBS["dense"]}, sets)
    candidate = candidate_of("dgx-h100", job)
    assert waited_within(candidate) is None
    assert Bounds().of(candidate).step_s <= simulated_s(candidate)


@pytest.mark.parametrize(
    ("job", "near"), [("only last", 0.75), ("only head", 0.9), ("only norm", 0.9)]
)
def test_backward_gathers_nothing_below_what_is_trained(job, near):
    """Gathers are all that a step waits for: those of forward, and a late host costs nothing."""
    sets = ["nodes=8", "gradient_accumulation=2", "micro_batch=2"]
    loaded = load("aws-p4d", {"name": "frozen", **LENGTH, **JOBS[job]}, sets)
    candidate = candidate_of("aws-p4d", loaded)
    simulated = simulated_s(candidate)
    assert near * simulated < Bounds().of(candidate).step_s <= simulated


def test_a_pipeline_whose_tensor_ranks_copy_has_a_bound():
    cut = "pipeline_parallel: 2, tensor_parallel: 2, tensor_parallel_style: dtensor-async"
    sets = ["nodes=2", f"parallelism={{{cut}}}", "gradient_accumulation=8", "compile=true"]
    job = load("dgx-h100", {"name": "dense", **LENGTH, **JOBS["dense"]}, sets)
    candidate = candidate_of("dgx-h100", job)
    simulated = simulated_s(candidate)
    assert 0.9 * simulated < Bounds().of(candidate).step_s <= simulated


def test_tokens_that_cross_nodes_once_have_a_bound():
    """Both ways of DeepEP, across nodes and within one, are exchanges of experts."""
    sets = ["nodes=4", "parallelism={expert_parallel: 16, expert_dispatch: deepep}"]
    job = load("dgx-h100", {"name": "mixture", **LENGTH, **JOBS["mixture"]}, sets)
    candidate, bounds = candidate_of("dgx-h100", job), Bounds()
    simulated = simulated_s(candidate)
    without, least = bounds.of(candidate, exchanges=False).step_s, bounds.of(candidate).step_s
    micro = micro_steps([alone(candidate)])[0].breakdown
    assert {label.split()[0] for label in micro.exposed} == {"expert-nodes"}  # ends the gaps
    within = within_of(micro)
    assert sum(within.values()) == pytest.approx(0.999 * micro.exposed_s)
    assert {axis for axis, _ in within} == {"expert"}
    assert without < 0.85 * simulated < 0.93 * simulated < least <= simulated
    assert shares(micro, []).within_s["expert"] == pytest.approx(micro.exposed_s)


def test_blocks_wait_for_the_reduction_of_their_experts():
    """Nothing hides it: where two buffers are kept, it may be."""
    sets = ["nodes=4", "parallelism={expert_parallel: 8}", "micro_batch=4"]
    given = {"name": "mixture", **LENGTH, **JOBS["mixture"]}
    found = []
    for kept in (1, 2):
        more = f"parallelism.reduce_scatter_max_input_buffers={kept}"
        job = load("dgx-h100", given, [*sets, more])
        candidate = candidate_of("dgx-h100", job)
        least, simulated = Bounds().of(candidate).step_s, simulated_s(candidate)
        assert least <= simulated
        found.append((least, simulated))
    (waits, longer), (least, quick) = found
    assert waits - least > 0.8 * (longer - quick) > 0.0
    assert waits > 0.96 * longer


@pytest.mark.parametrize(
    ("topology", "sets", "near"),
    [
        # each unit's gradients are sent and added before what comes next: less than half without
        ("h100-x1", "parallelism.offload=all micro_batch=4 gradient_accumulation=16", 0.85),
        ("dgx-h100", "parallelism.offload=all gradient_accumulation=8", 0.8),
        ("dgx-h100", "parallelism.offload=all gradient_accumulation=8 "
         "parallelism.gradient_sync=last", 0.75),
        ("dgx-h100", "parallelism.offload=all gradient_accumulation=8 nodes=2 "
         "parallelism.replicate=2", 0.75),
        ("dgx-h100", "parallelism.offload=all gradient_accumulation=8 nodes=2 "
         "parallelism.replicate=2 parallelism.requires_all_reduce=last", 0.75),
        # the first unit's gather and its reduction, over replicas too, of every micro-step
        ("dgx-h100", "gradient_accumulation=16", 0.87),
        ("aws-p4d", "gradient_accumulation=16 nodes=2 parallelism.replicate=2", 0.87),
        ("aws-p4d", "gradient_accumulation=16 parallelism.reshard_after_backward=false", 0.9),
    ],
)  # fmt: skip
def test_ends_of_micro_steps_are_near_to_what_they_take(topology, sets, near):
    job = load(topology, {"name": "dense", **LENGTH, **JOBS["dense"]}, sets.split())
    candidate = candidate_of(topology, job)
    simulated = simulated_s(candidate)
    assert near * simulated < Bounds().of(candidate).step_s <= simulated


@pytest.mark.parametrize("pace", [0.5, 1.0, 2.2])
def test_what_the_slowest_of_equal_ranks_loses(pace):
    gpu = load("aws-p4d", "llama3-8b-sft").topology.first_gpu
    for ranks in (2, 8, 9, 64, 512):
        share, unit_s = lost_to_slowest(gpu, pace, ranks)
        usual, known = deviation("a100", 10.0, 400.0, pace), deviation("a100", 10.0, 400.0)
        slowed = 10.0 * Ranks(ranks, usual, known).slowdown
        assert slowed == pytest.approx(10.0 * (1.0 + share) + 400.0 * unit_s)
        assert (share > 0.0) == (ranks > 8)


def test_exchanges_over_other_networks_are_not_taken_for_these():
    """A sequence shared by two nodes: what the slow network takes is no bound on the quick one."""
    sets = ["nodes=4", "parallelism={context_parallel: 4, tensor_parallel: 4}",
            "sequence_length=32768"]  # fmt: skip
    search = Searcher()
    for topology in ("aws-p4d", "dgx-a100"):
        slow = [*sets, "node.nics.rate=10 Gb/s"] if topology == "aws-p4d" else sets
        job = load(topology, "llama3-8b-sft", slow)
        candidate = candidate_of(topology, job)
        assert search.bounds.of(candidate).step_s <= simulated_s(candidate)


@pytest.mark.parametrize("figures", [Searcher.bound, Searcher.plan])
def test_a_plan_of_a_job_without_a_length_is_refused_by_its_name(figures):
    topology, workload, _ = load("l40s-8", {"name": "endless", **JOBS["adapters"]})
    candidate = Candidate(Machine("l40s", topology, 1), topology, workload)
    with pytest.raises(
        InputError, match="endless  states no length; write tokens, steps or samples"
    ):
        figures(Searcher(), candidate)
