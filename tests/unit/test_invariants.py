"""Laws that hold for every machine and job, over random pairs of both."""

from math import isclose

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.engine import run
from sim.fabric import compile_fabric
from sim.inputs.loader import load
from sim.step.critical import critical_path
from sim.step.run import run_step
from tests.builder import ProgramBuilder
from tests.differential.programs import twice_as_fast

MODEL = {
    "name": "small", "heads": 8, "kv_heads": 4, "head_dim": 64, "hidden_size": 512,
    "ffn_size": 1408, "vocab_size": 8192,
}  # fmt: skip


@st.composite
def topologies(draw):
    gpu = draw(st.sampled_from(["h100-sxm-80gb", "a100-sxm-80gb", "a100-pcie-80gb"]))
    hopper = gpu.startswith("h100")
    nvlink = not gpu.endswith("pcie-80gb")
    node = {
        "gpu": gpu,
        "gpus": draw(st.sampled_from([1, 2, 4, 8])),
        "pcie": {
            "generation": 5 if hopper else 4,
            "gpus_per_switch": draw(st.sampled_from([1, 2])),
            "nics_per_switch": 1,
        },
        "cpu": {"sockets": 2, "interconnect": "22 GB/s"},
        "nics": {"count": draw(st.sampled_from([1, 2, 4, 8])), "rate": "200 Gb/s"},
    }
    if nvlink:
        node["nvlink"] = {
            "generation": 4 if hopper else 3, "links_per_gpu": 18 if hopper else 12,
            "fabric": "nvswitch",
        }  # fmt: skip
    kind = draw(st.sampled_from(["rail-optimized", "fat-tree", "single-switch"]))
    over = draw(st.sampled_from([1.0, 2.0]))
    return {
        "name": "random", "nodes": draw(st.sampled_from([1, 2, 4])), "node": node,
        "network": {"kind": kind, "oversubscription": 1.0 if kind == "single-switch" else over},
    }  # fmt: skip


@st.composite
def workloads(draw):
    strategy = draw(st.sampled_from(["fsdp2", "fsdp1", "ddp", "zero3", "zero1"]))
    return {
        "name": "random",
        "model": {**MODEL, "layers": draw(st.integers(1, 4))},
        "sequence_length": draw(st.sampled_from([128, 1024])),
        "micro_batch": draw(st.integers(1, 3)),
        "gradient_accumulation": draw(st.integers(1, 3)),
        "method": draw(st.sampled_from(["full", {"lora": {"rank": 8}}])),
        "parallelism": {"strategy": strategy},
        "activation_checkpointing": draw(st.sampled_from(["none", "full"])),
        "steps": 10,
    }


PAIRS = st.tuples(topologies(), workloads())
QUICK = settings(max_examples=25, derandomize=True)


def simulated(pair, **how):
    loaded = load(*pair)
    return loaded, run_step(loaded.topology, loaded.workload, engine="python", **how)


@given(PAIRS)
@QUICK
def test_exposed_is_within_communication_is_within_the_step(pair):
    _, outcome = simulated(pair)
    b = outcome.breakdown
    slack = 1e-12 * b.time_s
    assert -slack <= b.exposed_s <= b.communication_s + slack
    assert b.communication_s <= b.time_s + slack
    assert b.compute_s <= b.time_s + slack
    assert isclose(b.compute_s + b.exposed_s + b.copy_s + b.host_s, b.time_s, rel_tol=1e-9)
    assert b.host_s >= -slack
    assert b.copy_s >= -slack


@given(PAIRS)
@QUICK
def test_lanes_never_overlap_and_nothing_starts_before_its_predecessors(pair):
    _, outcome = simulated(pair)
    program, timeline = outcome.lowered.program, outcome.timeline
    same = program.lane[1:] == program.lane[:-1]
    assert (timeline.start[1:][same] >= timeline.end[:-1][same]).all()
    source = np.repeat(np.arange(program.lane.size), np.diff(program.succ_ptr))
    assert (timeline.start[program.succ] >= timeline.end[source]).all()


@given(PAIRS)
@QUICK
def test_the_critical_path_is_the_makespan(pair):
    _, outcome = simulated(pair)
    timeline = outcome.timeline
    path = critical_path(outcome.lowered.program, timeline)
    start, end = timeline.start[path], timeline.end[path]
    assert start[0] == 0.0
    assert (start[1:] == end[:-1]).all()
    assert end[-1] == timeline.end.max()


@given(PAIRS)
@QUICK
def test_no_op_is_faster_than_the_hardware(pair):
    """HBM, links and peak FLOPs: bytes over time never exceed the data sheet."""
    _, outcome = simulated(pair)
    lowered, timeline = outcome.lowered, outcome.timeline
    program = lowered.program
    seconds = timeline.end - timeline.start
    working = (program.work > 0) & (np.diff(program.demand_ptr)[program.route] > 0)
    for op in np.flatnonzero(working).tolist():
        row = slice(
            program.demand_ptr[program.route[op]], program.demand_ptr[program.route[op] + 1]
        )
        used = program.work[op] * program.demand_amount[row] / seconds[op]
        assert (used <= program.capacity[program.demand_resource[row]] * (1 + 1e-9)).all()
    assert (seconds >= lowered.alone_s * (1 - 1e-9) - 1e-15).all()


@given(PAIRS)
@QUICK
def test_bytes_in_equal_bytes_out_of_every_collective(pair):
    """All ranks of a group together: what goes in comes out, times the group where gathered."""
    _, outcome = simulated(pair)
    (plan,) = {id(view.plan): view.plan for view in outcome.lowered.views}.values()
    for op in plan.ops:
        if op.collective == "all_gather":
            assert op.bytes_out == pytest.approx(op.bytes_in * plan.groups[op.group].size)
        elif op.collective == "reduce_scatter":
            assert op.bytes_in == pytest.approx(op.bytes_out * plan.groups[op.group].size)
        elif op.collective == "all_reduce":
            assert op.bytes_in == op.bytes_out


@given(PAIRS)
@settings(QUICK, max_examples=12)
def test_folded_and_every_rank_agree(pair):
    loaded, folded = simulated(pair)
    every = run_step(loaded.topology, loaded.workload, engine="python", level="ranks")
    if len(folded.lowered.views) == 1:
        assert every.time_s == pytest.approx(folded.time_s, rel=1e-9)
        assert every.breakdown.compute_s == pytest.approx(folded.breakdown.compute_s, rel=1e-9)
    assert len(every.lowered.views) == compile_fabric(loaded.topology).n_ranks


@given(PAIRS)
@settings(QUICK, max_examples=10)
def test_same_input_same_bytes_out(pair):
    _, first = simulated(pair)
    _, second = simulated(pair)
    assert first.timeline.end.tobytes() == second.timeline.end.tobytes()
    assert first.breakdown == second.breakdown


@given(PAIRS)
@settings(QUICK, max_examples=10)
def test_twice_the_rates_and_half_the_latencies_halve_the_step_exactly(pair):
    _, outcome = simulated(pair)
    program = outcome.lowered.program
    assert (run(twice_as_fast(program), "python").end * 2 == outcome.timeline.end).all()


def test_relabelling_equal_ranks_changes_nothing():
    """Swapping the two nodes of a symmetric machine gives each rank its twin's times."""
    loaded = load("dgx-a100", "llama3-8b-sft", ["nodes=2", "gradient_accumulation=1"])
    small = loaded.workload.model_copy(
        update={"model": loaded.workload.model.model_copy(update={"layers": 3})}
    )
    outcome = run_step(loaded.topology, small, engine="python", level="ranks")
    ends = [outcome.timeline.end[view.compute] for view in outcome.lowered.views]
    for rank in range(8):
        assert (ends[rank] == ends[rank + 8]).all()


def test_a_path_of_four_ops_by_hand():
    """Lanes of 1 and 1 s, 1 and 2 s; the fourth waits for the first too, which is taken of two."""
    build = ProgramBuilder()
    ops = [build.op(lane, latency=s) for lane, s in ((0, 1.0), (0, 1.0), (1, 1.0), (1, 2.0))]
    build.edge(ops[0], ops[3])
    program, _ = build.build()
    assert critical_path(program, run(program)).tolist() == [0, 3]
