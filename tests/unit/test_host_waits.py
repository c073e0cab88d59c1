"""A kernel that the host waits for: nothing after it is launched before it has ended."""

import numpy as np
import pytest

from sim.blocks.ops import Map, Op, OpRole
from sim.blocks.parameters import build_tree
from sim.engine import run
from sim.fabric import compile_fabric
from sim.inputs.loader import load
from sim.inputs.shares import mesh_of
from sim.lowering import frames
from sim.lowering.costs import price
from sim.lowering.frames import lowered
from sim.lowering.lower import lower
from sim.lowering.parts import HOST_SYNC_S
from sim.strategies import plan_of

JOB = ["gradient_accumulation=1", "model.layers=3", "sequence_length=2048", "micro_batch=1"]


def priced(sets=(), level="folded", waiting=None, machine="dgx-h100"):
    """A priced step in which every `waiting`-th row of kernels is waited for."""
    job = load(machine, "llama3-8b-sft", [*JOB, *sets])
    fabric = compile_fabric(job.topology)
    tree = build_tree(job.workload.model, job.workload.method)
    plan = plan_of(job.workload, tree, mesh_of(job.topology, job.workload))
    found = price([plan], job.workload, fabric, level)
    if waiting is None:
        return found
    return found._replace(parts=tuple(_waited(part, waiting) for part in found.parts))


def _waited(part, waiting):
    kernels = part.rows.curve >= 0
    chosen = kernels & (np.cumsum(kernels) % waiting == 0)
    return part._replace(rows=part.rows._replace(waits=chosen))


def built(p):
    return lower(p.parts, p.compiled.classes, p.flights)


def test_the_word_reaches_the_kernel():
    op = Op("count", "m", OpRole.OTHER, (), -1, (), (Map("nonzero", 8.0, waits=True),))
    assert [k.waits for k in op.kernels("forward", "bf16")] == [True]


def test_a_step_without_waits_has_none():
    assert not any(part.rows.waits.any() for part in priced().parts)


@pytest.mark.parametrize("level", ["folded", "ranks"])
def test_next_launch_follows_the_end(level):
    p = priced(level=level, waiting=7)
    program = built(p)
    timeline = run(program.program, "python")
    play = p.parts[0]
    lanes = program.program.lane
    n_host = int((lanes == 0).sum())
    rows = play.row_start[program.plan_op[:n_host]].copy()
    again = np.diff(program.plan_op[:n_host], prepend=-1) != 0
    at = np.arange(n_host)
    rows += at - np.maximum.accumulate(np.where(again, at, 0))
    waited = np.flatnonzero(play.rows.waits[rows][:-1])
    launched = {}
    for op in range(n_host):
        first, end = program.program.succ_ptr[op : op + 2]
        after = program.program.succ[first:end]
        launched[op] = max((int(o) for o in after if lanes[o] > 0), default=-1)
    assert waited.size > 20
    for op in waited.tolist():
        assert timeline.start[op + 1] >= timeline.end[launched[op]]
        length = timeline.end[op + 1] - timeline.start[op + 1]
        expected = play.rows.host_s[rows[op + 1]] + HOST_SYNC_S
        assert length == pytest.approx(expected, rel=1e-9)


def test_all_waited_for_takes_launches_and_kernels_in_turn():
    """One GPU, nothing beside the kernels: sum of launch, kernel and waking up."""
    sets = ["node.gpus=1", "nodes=1", "parallelism={strategy: ddp}", "model.layers=1"]
    p = priced(sets, waiting=1)
    program = built(p)
    timeline = run(program.program, "python")
    host = program.program.lane == 0
    compute = program.views[0].compute
    in_turn = program.alone_s[compute].sum() + program.program.latency[host].sum()
    assert in_turn == pytest.approx(float(timeline.end.max()), rel=1e-9)


def test_engines_agree():
    program = built(priced(waiting=5)).program
    plain, compiled = run(program, "python"), run(program, "compiled")
    np.testing.assert_array_equal(plain.end, compiled.end)
    np.testing.assert_allclose(run(program, "reference").end, plain.end, rtol=1e-9)


@pytest.mark.parametrize("waiting", [1, 4, 50])
def test_folded_is_ranks(waiting):
    ends = [
        run(built(priced(level=level, waiting=waiting)).program, "python").end.max()
        for level in ("folded", "ranks")
    ]
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)


def test_more_waits_never_make_a_step_shorter():
    times = [
        run(built(priced(waiting=w)).program, "python").end.max() for w in (10**9, 100, 10, 5, 1)
    ]
    assert times == sorted(times)
    assert times[-1] > times[0]


def test_a_frame_is_filled_with_waits():
    lowered(priced(waiting=6))
    longer = priced(["sequence_length=4096"], waiting=6)
    before = {id(f) for f in frames._frames.values()}
    filled, fresh = lowered(longer), built(longer)
    assert {id(f) for f in frames._frames.values()} == before
    for column, expected in zip(filled.program, fresh.program, strict=True):
        np.testing.assert_array_equal(column, expected)
