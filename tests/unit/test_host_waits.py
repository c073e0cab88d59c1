"""A kernel that the host waits for: nothing after it is launched before it has ended."""

import numpy as np
import pytest

from sim.blocks.ops import Map, Op, OpRole
from sim.blocks.parameters import build_tree
from sim.blocks.unroll import unroll
from sim.engine import run
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.inputs.loader import load
from sim.inputs.shares import mesh_of
from sim.lowering import frames
from sim.lowering.costs import price
from sim.lowering.frames import lowered
from sim.lowering.lower import lower
from sim.lowering.parts import HOST_SYNC_S
from sim.lowering.rows import kinds_of
from sim.step.run import run_step
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
    kinds = kinds_of(part.rows.category, chosen, part.rows.hold > 0)
    return part._replace(rows=part.rows._replace(kinds=kinds))


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
    before = {id(f) for f in frames._frames.of.values()}
    filled, fresh = lowered(longer), built(longer)
    assert {id(f) for f in frames._frames.of.values()} == before
    for column, expected in zip(filled.program, fresh.program, strict=True):
        np.testing.assert_array_equal(column, expected)


PADS = {"none": (0, 0), "unpad": (2, 2), "unpad-each": (6, 6)}


@pytest.mark.parametrize("padding", PADS)
def test_waits_a_layer(padding):
    """`nonzero` and `max().item()`, once (Hugging Face) or for q, k and v each (llm-foundry)."""
    job = load("dgx-h100", "llama3-8b-sft", [f"attention_padding={padding}", "attention=flash2"])
    templates = unroll(job.workload)
    for phase, waits in zip(("forward", "recompute"), PADS[padding], strict=True):
        assert sum(k.waits for k in templates.of("layer", phase)) == waits
    assert not any(k.waits for k in templates.of("layer", "backward"))


def test_unpadding_copies_q_k_v_and_the_output():
    """8B, one token: q 4096, k and v 1024 each, out 4096 elements of 2 B, read and written."""
    sets = ["micro_batch=1", "sequence_length=1024", "attention=flash2"]
    plain, unpad = (
        unroll(load("dgx-h100", "llama3-8b-sft", [*sets, f"attention_padding={p}"]).workload)
        for p in ("none", "unpad")
    )
    names = ("unpad.q", "unpad.k", "unpad.v", "pad")
    moved = sum(k.bytes for k in unpad.of("layer", "forward") if k.name in names)
    assert moved == 2 * 2 * 1024 * (4096 + 1024 + 1024 + 4096)
    assert {k.name for k in plain.of("layer", "forward")}.isdisjoint(names)


def test_unpadding_costs_most_where_the_host_is_late():
    """Less work a layer, a larger share lost to launches that cannot run ahead."""

    def loss(tokens):
        sets = [f"sequence_length={tokens}", "attention=flash2", "compile=true", "micro_batch=1"]
        jobs = (
            load("dgx-h100", "llama3-8b-sft", [*sets, f"attention_padding={p}"])
            for p in ("none", "unpad", "unpad-each")
        )
        return [run_step(job.topology, job.workload).time_s for job in jobs]

    short, long = loss(1024), loss(8192)
    for none, once, each in (short, long):
        assert none < once < each
    assert short[2] / short[0] > long[2] / long[0]


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["attention=sdpa"], "takes rows of one length"),
        (["attention=flash2", "compile=true", "cuda_graphs=true"], "no CUDA graph can"),
        (["attention=flash2", "parallelism.context_parallel=2"], "not split over context-parallel"),
    ],
)
def test_where_padding_is_not_taken_out(sets, says):
    with pytest.raises(InputError, match=says):
        load("dgx-h100", "llama3-8b-sft", ["attention_padding=unpad", *sets])


def test_a_word_that_is_none():
    with pytest.raises(InputError, match=r"attention_padding.*none, unpad, unpad-each"):
        load("dgx-h100", "llama3-8b-sft", ["attention_padding=pack"])


@pytest.mark.parametrize(
    ("sets", "waits"),
    [
        ([], 0),  # nobody said whose modelling code runs
        (["stack.transformers=4.45.2"], 1),
        (["stack.transformers=4.43"], 0),
        (["stack.transformers=4.45.2", "attention=sdpa"], 0),
        (["stack.transformers=4.45.2", "model=gpt2"], 0),  # passes no positions
        (["stack.transformers=4.45.2", "attention_padding=unpad"], 2),  # those of padding instead
    ],
)
def test_transformers_asks_whether_positions_ascend(sets, waits):
    """As in sim/data/host/modelling.json."""
    sets = ["sequence_length=512", "attention=flash2", *sets]
    templates = unroll(load("dgx-h100", "llama3-8b-sft", sets).workload)
    for phase in ("forward", "recompute"):
        assert sum(k.waits for k in templates.of("layer", phase)) == waits
    assert not any(k.waits for k in templates.of("layer", "backward"))
