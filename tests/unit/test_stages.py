"""Pipeline stages run plans of their own, and messages between them are waited for by both."""

import numpy as np
import pytest

from sim.engine import blank, machine, run, watch
from sim.fabric import compile_fabric
from sim.inputs.loader import load
from sim.lowering import collectives
from sim.lowering.collectives import name_of
from sim.lowering.costs import price
from sim.lowering.lower import lower
from sim.mesh import Mesh, Pairs, Sisters
from sim.step.kept import forget
from sim.step.run import run_step
from sim.step.step import step
from sim.strategies.recorder import Recorder

STAGES, MICRO_BATCHES = 2, 3
SIZE = 2.0 * 4096 * 2048  # of a message [B]


def gpipe(stage, ranks, micro_batches=MICRO_BATCHES):
    """All forwards, then all backwards, one block and an all-reduce a stage; by hand."""
    r = Recorder(
        {
            "tp": Mesh(pp=STAGES, tp=ranks).groups("tp"),
            "down": Pairs(0, 1, STAGES, ranks),
            "up": Pairs(1, 0, STAGES, ranks),
        }
    )
    r.plan.stage, r.plan.stages = stage, STAGES

    def message(group, i):
        r.collective(f"p2p {group}", "send", "forward", group, SIZE, SIZE, "bf16", unit=f"{i}")

    for i in range(micro_batches):
        if stage == 1:
            message("down", i)
            r.wait_stream("compute", "p2p down")
        r.segment("forward", "forward", 1 + stage)
        if stage == 0:
            r.wait_stream("p2p down", "compute")
            message("down", i)
    for i in range(micro_batches):
        if stage == 0:
            message("up", i)
            r.wait_stream("compute", "p2p up")
        r.segment("backward", "backward", 1 + stage)
        r.collective("compute", "all_reduce", "backward", "tp", SIZE, SIZE, "bf16")
        if stage == 1:
            r.wait_stream("p2p up", "compute")
            message("up", i)
    return r.plan


def simulated(level, sets=(), engine="python"):
    loaded = load(
        "dgx-h100", "llama3-8b-sft", ["nodes=1", "model.layers=2", "micro_batch=1", *sets]
    )
    fabric = compile_fabric(loaded.topology)
    plans = [gpipe(stage, fabric.n_ranks // STAGES) for stage in range(STAGES)]
    priced = price(plans, loaded.workload, fabric, level)
    lowered = lower(priced.parts, priced.compiled.classes, priced.flights)
    return priced, lowered, run(lowered.program, engine)


def spans(lowered, timeline, rank):
    """Start and end of every op of a rank's plan, (P,) each. [s]"""
    view = next(v for v in lowered.views if v.rank == rank)
    ops = np.arange(view.compute.start, view.compute.stop)
    of = lowered.plan_op[ops]
    first = [timeline.start[ops[of == i]].min(initial=np.inf) for i in range(len(view.plan.ops))]
    last = [timeline.end[ops[of == i]].max(initial=-np.inf) for i in range(len(view.plan.ops))]
    return view.plan, first, last


def test_a_stage_waits_for_the_other_and_for_the_message():
    priced, lowered, timeline = simulated("folded")
    assert [v.role.stage for v in lowered.views] == [0, 1]
    assert [v.multiplicity for v in lowered.views] == [4, 4]
    plan, first, last = spans(lowered, timeline, 0)
    other, begin, end = spans(lowered, timeline, 4)
    sent = next(op for op in plan.ops if op.collective == "send")
    flight = priced.collectives[name_of(plan, sent)].time_s
    down = [i for i, op in enumerate(plan.ops) if op.name == "forward"]
    there = [i for i, op in enumerate(other.ops) if op.name == "forward"]
    # the first micro-batch reaches the second stage a message after the first has run it
    assert begin[there[0]] == pytest.approx(last[down[0]] + flight, rel=0.02)
    # stages are alike but for the message, so the second stays one behind
    for i in range(1, MICRO_BATCHES):
        assert begin[there[i]] >= last[down[i]]
    up = [i for i, op in enumerate(other.ops) if op.name == "backward"]
    here = [i for i, op in enumerate(plan.ops) if op.name == "backward"]
    assert first[here[0]] > end[up[0]] + 0.9 * flight
    # bubble of GPipe with two stages: one forward and one backward a stage and the messages
    f, b = last[down[0]] - first[down[0]], end[up[0]] - begin[up[0]]
    total = float(timeline.end.max())
    assert total > (MICRO_BATCHES + 1) * (f + b)


def test_stages_reduce_only_among_themselves():
    priced, _, _ = simulated("folded")
    names = {n for n in priced.collectives if n.collective == "all_reduce"}
    assert {n.stage for n in names} == {0, 1}
    assert all(priced.collectives[n].ranks == 4 for n in names)
    # a message is one flight of both plans, a reduction one of its own plan
    parts = (priced.flights.ops >= 0).sum(axis=1).tolist()
    assert sorted(parts) == [1] * (2 * MICRO_BATCHES) + [2] * (2 * MICRO_BATCHES)


@pytest.mark.parametrize("engine", ["reference", "python", "compiled"])
@pytest.mark.parametrize("level", ["folded", "ranks"])
def test_engines_and_levels_agree(engine, level):
    *_, timeline = simulated("folded")
    _, lowered, other = simulated(level, engine=engine)
    assert len(lowered.views) == (2 if level == "folded" else 8)
    assert float(other.end.max()) == pytest.approx(float(timeline.end.max()), rel=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
def test_pairs(reverse):
    pairs = Pairs(*((2, 1) if reverse else (1, 2)), stages=4, ranks=3)
    expected = [(3, 6), (4, 7), (5, 8)]
    assert pairs.all() == tuple((b, a) if reverse else (a, b) for a, b in expected)
    assert pairs.rows(0, 4).tolist() == [list(pair) for pair in pairs.all()]
    assert pairs.size == 2
    where = Sisters.among(pairs, 1, 4)
    assert where == Sisters.among(pairs, 2, 4)
    everywhere = where.everywhere()
    assert where in everywhere
    ends = [(one.groups.first, one.groups.second) for one in everywhere]
    assert ends == [(s + reverse, s + 1 - reverse) for s in range(3)]


def test_groups_of_a_stage():
    mesh = Mesh(pp=2, dp_shard=2, tp=2)
    assert Sisters(mesh.groups("tp"), 1, 2).rows().tolist() == [[4, 5], [6, 7]]
    assert Sisters(mesh.groups("dp_shard"), 0, 2).rows().tolist() == [[0, 2], [1, 3]]
    assert Sisters(mesh.groups("world"), 0, 1).rows().tolist() == [list(range(8))]
    assert [one.part for one in Sisters.among(mesh.groups("tp"), 1, 2).everywhere()] == [0, 1]
    assert len(Sisters.among(mesh.groups("pp"), 1, 2).everywhere()) == 1
    for axes in (["tp"], ["dp_shard"], ["pp"], ["pp", "tp"], ["dp_shard", "tp"]):
        groups = mesh.groups(*axes)
        assert list(map(tuple, Sisters(groups, 0, 1).rows().tolist())) == list(groups.all())


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved-1f1b"])
def test_a_packet_tells_no_ranks_apart(monkeypatch, schedule):
    """Norms of gradients go up a tree, which loads the ranks of a stage unequally."""
    pair = load(
        "dgx-h100",
        "llama3-70b-full",
        [
            "nodes=12", "model.layers=8", "gradient_accumulation=4",
            "parallelism={tensor_parallel: 8, pipeline_parallel: 2, "
            f"pipeline_schedule: {schedule}}}",
        ],
    )  # fmt: skip
    few = run_step(pair.topology, pair.workload)
    monkeypatch.setattr(collectives, "PACKET_BYTES", 0)
    few.priced.parts[0].plan.derived.pop("collectives")  # what jobs of the same plans share
    apart = run_step(pair.topology, pair.workload)
    assert few.priced.compiled.classes.multiplicity.tolist() == [48, 48]
    assert apart.priced.compiled.classes.multiplicity.tolist() == [16, 32, 16, 32]
    assert few.time_s == pytest.approx(apart.time_s, rel=1e-9)
    assert few.breakdown.parts == pytest.approx(apart.breakdown.parts, rel=1e-9, abs=1e-12)


@pytest.fixture
def long(monkeypatch):
    """A pipeline whose program is taken for a large one."""
    if machine.checked():
        pytest.skip("numba checks, so it runs the loop itself")
    monkeypatch.setattr(watch, "LARGE", 1000)
    monkeypatch.setattr(blank, "MOST_OPS", 1000)
    pair = load(
        "dgx-h100",
        "llama3-8b-sft",
        ["model.layers=4", "gradient_accumulation=7", "parallelism.pipeline_parallel=4"],
    )
    return pair.topology, pair.workload


def test_a_long_pipeline_says_how_far_it_is(long):
    said = []
    forget()
    found = step(*long, engine="compiled", progress=lambda *done: said.append(done))
    assert said[0][0] == 0  # before its ops are made
    assert said[-1][0] == said[-1][1] > 1000
    forget()
    assert found.time_s == step(*long, engine="compiled").time_s


def test_a_long_pipeline_hears_an_interrupt(long):
    def interrupted(done, ops):
        if done:
            raise KeyboardInterrupt

    forget()
    with pytest.raises(KeyboardInterrupt):
        step(*long, engine="compiled", progress=interrupted)
