"""What no layout may break: each way to cut, shard and offload a job, on random machines.

`test_invariants` holds the program of plain sharding to laws of its own; these are of what is told.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, seed, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.inputs.loader import Loaded, load
from sim.inputs.topology import Topology
from sim.result.sections import throughput_section
from sim.step.run import run_step
from sim.step.step import memory_of, step
from tests.unit.test_invariants import MODEL, topologies

QUICK = settings(max_examples=2, derandomize=True, deadline=None)
MIXTURE = {**MODEL, "experts": 4, "experts_per_token": 2, "expert_ffn_size": 704}

#: ways to cut, shard and offload
LAYOUTS: tuple[dict[str, Any], ...] = (
    {"strategy": "fsdp2"}, {"strategy": "fsdp2", "reshard_after_forward": False},
    {"strategy": "fsdp2", "replicate": 2}, {"strategy": "fsdp2", "wrap": "linear"},
    {"strategy": "fsdp2", "offload": "all"}, {"strategy": "fsdp1"},
    {"strategy": "fsdp1", "limit_all_gathers": False}, {"strategy": "ddp"}, {"strategy": "zero1"},
    {"strategy": "zero2", "offload": "optimizer"}, {"strategy": "zero3"},
    {"strategy": "zero3", "offload": "all"}, {"strategy": "zero3", "overlap_comm": False},
    {"strategy": "fsdp2", "tensor_parallel": 2},
    {"strategy": "fsdp2", "tensor_parallel": 2, "tensor_parallel_style": "dtensor-async"},
    {"strategy": "fsdp2", "context_parallel": 2},
    {"strategy": "fsdp2", "context_parallel": 2, "context_parallel_kind": "ulysses"},
    {"strategy": "fsdp2", "pipeline_parallel": 2},
    {"strategy": "fsdp2", "pipeline_parallel": 2, "pipeline_schedule": "interleaved-1f1b"},
    {"strategy": "megatron", "tensor_parallel": 2, "pipeline_parallel": 2},
    {"strategy": "fsdp2", "expert_parallel": 2},
)  # fmt: skip


@st.composite
def jobs(draw: st.DrawFn, layout: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A machine and a job of four blocks, as files would say them; `loaded` reads them."""
    split = {"tensor_parallel", "pipeline_parallel", "expert_parallel"} & layout.keys()
    experts = "expert_parallel" in layout or (not split and draw(st.booleans()))
    workload = {
        "name": "random", "model": {**(MIXTURE if experts else MODEL), "layers": 4},
        "sequence_length": draw(st.sampled_from((256, 1024))), "steps": 10,
        "micro_batch": draw(st.integers(1, 2)),
        "gradient_accumulation": draw(st.sampled_from((2, 4))),
        "method": "full" if split else draw(st.sampled_from(("full", {"lora": {"rank": 64}}))),
        "parallelism": layout, "compile": draw(st.booleans()),
        "activation_checkpointing": draw(st.sampled_from(("none", "full"))),
    }  # fmt: skip
    return draw(topologies()), workload


def every_layout(*drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """A law becomes a test for each layout, of jobs and of what else is drawn."""

    def tests_of(law: Callable[..., None]) -> Any:
        @pytest.mark.parametrize("at", range(len(LAYOUTS)), ids=map(in_words, LAYOUTS))
        def test(at: int) -> None:
            # a number of its own, or all layouts would meet the same machines
            seed(at)(QUICK(given(jobs(LAYOUTS[at]), *drawn)(law)))()

        test.__name__, test.__doc__ = law.__name__, law.__doc__
        return test

    return tests_of


def in_words(layout: dict[str, Any]) -> str:
    """``zero3 offload=all``."""
    return " ".join([layout["strategy"], *(f"{k}={layout[k]}" for k in [*layout][1:])])


def loaded(pair: tuple[Any, Any]) -> Loaded:
    """A drawn job; one that the checks refuse is drawn again."""
    try:
        return load(*pair)
    except InputError:
        assume(False)
        raise


def with_node(topology: Topology, **changes: Any) -> Topology:
    """The machine with other nodes."""
    return topology.model_copy(update={"node": topology.node.model_copy(update=changes)})


@every_layout()
def test_a_step_is_the_sum_of_its_parts_and_has_room_for_all_that_is_exposed(pair):
    job = loaded(pair)
    whole = run_step(*job[:2], engine="python", all_micro_steps=True).breakdown
    for found in (whole, step(*job[:2]).breakdown):
        slack = 1e-9 * found.time_s
        assert sum(found.parts.values()) == pytest.approx(found.time_s, rel=1e-9)
        assert min(found.parts.values()) >= 0.0
        assert sum(found.exposed.values()) == pytest.approx(found.exposed_s, rel=1e-9)
        assert found.exposed_s <= found.communication_s + slack
        assert found.communication_s <= found.time_s + slack
        in_flight = sum(kind["time_s"] for kind in found.collectives.values())
        assert found.communication_s <= in_flight + slack  # several at a time count once


@every_layout()
def test_no_link_and_no_memory_carries_more_than_it_can_in_a_step(pair):
    """All ops of a step together: `test_invariants` holds each of them to it."""
    job = loaded(pair)
    outcome = run_step(*job[:2], engine="python")
    program, makespan = outcome.lowered.program, outcome.timeline.end.max()
    counts = np.diff(program.demand_ptr)[program.route]
    rows = np.concatenate([
        np.arange(program.demand_ptr[route], program.demand_ptr[route + 1])
        for route in program.route.tolist()
    ])  # fmt: skip
    carried = np.zeros(program.capacity.size)
    work = np.repeat(program.work, counts)
    np.add.at(carried, program.demand_resource[rows], work * program.demand_amount[rows])
    assert (carried <= program.capacity * makespan * (1 + 1e-9)).all()


@every_layout()
def test_each_further_micro_step_is_as_much_work_and_as_much_time(pair):
    """Once the host is as far ahead as it gets, in a pipeline after 16."""
    job = loaded(pair)
    several = [job.workload.model_copy(update={"gradient_accumulation": n}) for n in (24, 36, 48)]
    found = [step(job.topology, workload) for workload in several]
    once, twice, thrice = (each.time_s for each in found)
    assert thrice - twice == pytest.approx(twice - once, rel=1e-2)
    rates = [
        throughput_section(job.topology, workload, each.time_s)
        for workload, each in zip(several, found, strict=True)
    ]
    assert 2 * rates[1].model_flops_per_step == 3 * rates[0].model_flops_per_step
    for each in rates:
        assert 0.0 < each.mfu_causal <= each.hfu <= 1.0


@every_layout(st.sampled_from((1e-2, 0.5, 2.0)))
def test_what_fits_fits_in_more_memory_and_needs_what_it_needs(pair, share):
    job = loaded(pair)
    needed = memory_of(job.topology, job.workload).needed_bytes
    gpu = job.topology.first_gpu

    def at(memory: float) -> Any:
        other = gpu.model_copy(update={"memory": memory})
        return memory_of(with_node(job.topology, gpu=other), job.workload)

    less, more = at(needed * (1 + share)), at(2 * needed * (1 + share))
    assert more.fits >= less.fits
    assert more.needed_bytes == pytest.approx(less.needed_bytes)


@every_layout()
def test_half_the_blocks_are_no_slower_and_need_no_more(pair):
    job = loaded(pair)
    half = {"model": job.workload.model.model_copy(update={"layers": 2})}
    fewer = loaded((job.topology, job.workload.model_copy(update=half))).workload
    large, small = (step(job.topology, w) for w in (job.workload, fewer))
    assert small.time_s < large.time_s
    assert small.memory.needed_bytes <= large.memory.needed_bytes


@every_layout()
def test_nodes_that_are_split_are_not_faster(pair):
    """The same GPUs, NICs, switches and cores in twice as many nodes, where NVLink joins them."""
    machine, workload = pair
    node = machine["node"]
    assume("nvlink" in node)
    least = 2 * node["pcie"]["gpus_per_switch"]  # or a GPU would have one to itself
    gpus, count = max(least, node["gpus"]), max(least, node["nics"]["count"])

    def cut(pieces: int) -> Loaded:
        nics = {**node["nics"], "count": count // pieces}
        cpu = {"sockets": 2, "cores": 96 // pieces, "memory_bandwidth": f"{400 // pieces} GB/s"}
        one = {**node, "gpus": gpus // pieces, "nics": nics, "cpu": {**node["cpu"], **cpu}}
        return loaded(({**machine, "nodes": pieces * machine["nodes"], "node": one}, workload))

    whole, apart = (step(*cut(pieces)[:2]) for pieces in (1, 2))
    assert apart.time_s >= whole.time_s * (1 - 1e-3)


@every_layout()
def test_more_ranks_that_shard_need_no_more_each(pair):
    """Twice the nodes: the states of a rank are half, what it works on is the same.

    Not from one rank on, which gathers nothing. Experts in one tensor are sharded by expert: more
    ranks than experts pad it, as more than an adapter has rows would.
    """
    job = loaded(pair)
    more = job.topology.model_copy(update={"nodes": 2 * job.topology.nodes})
    experts = job.workload.model.experts
    assume(job.topology.world_size > 1 and (not experts or more.world_size <= experts))
    few, many = memory_of(job.topology, job.workload), memory_of(more, job.workload)
    assert many.peak_allocated_bytes <= few.peak_allocated_bytes * (1 + 1e-9)
