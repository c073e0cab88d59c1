"""Chunks of a pipeline that are copied, against the same plans recorded op by op."""

import numpy as np
import pytest

from sim.blocks.parameters import tree_of
from sim.inputs.loader import load
from sim.inputs.shares import mesh_of
from sim.inputs.strategy import strategy_of
from sim.lowering.flights import flights_of
from sim.lowering.parts import Wire
from sim.lowering.table import comm_bytes_of, distinct, table_of
from sim.strategies import build_plans
from sim.strategies.chunks import Chunks
from sim.strategies.messages import later_unit, messages_in
from sim.strategies.recorder import Quiet
from sim.strategies.rounds import Rounds
from tests.differential.test_rhythm import MODEL

MIXTURE = MODEL | {"experts": 8, "experts_per_token": 2, "expert_ffn_size": 1024}


def job(micro, model=MODEL, more=(), **knobs):
    workload = {
        "name": "t", "model": model, "sequence_length": 2048, "micro_batch": 1, "steps": 10,
        "gradient_accumulation": micro, "parallelism": {"pipeline_parallel": 4, **knobs},
    }  # fmt: skip
    topology, found = load("dgx-h100", workload, ["nodes=2", *more])[:2]
    return found, tree_of(found), mesh_of(topology, found)


def recorded(monkeypatch, build):
    """What `build` makes with copies, and without."""
    copied = build()
    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "play", lambda self, stage, kind, number, run: run())
        patch.setattr(Rounds, "play", lambda self, actions, micro: list(map(self.do, actions)))
        return copied, build()


def written(memory):
    """Every entry of a log of allocations."""
    return list(memory.entries(0, len(memory.log)))


def edges(table):
    return set(zip(table.dep_on.tolist(), table.dep_of.tolist(), strict=True))


def alike(copied, plain):
    """Every column that pricing and lowering read."""
    one, other = table_of(copied), table_of(plain)
    for name in ("kind", "stream_id", "micro_step", "host_after", "collectives"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert np.array_equal(comm_bytes_of(copied), comm_bytes_of(plain))
    assert edges(one) == edges(other)
    assert set(map(tuple, one.fifo.tolist())) == set(map(tuple, other.fifo.tolist()))
    assert (one.streams, one.comm_label) == (other.streams, other.comm_label)
    kinds = ("dense",) * 16
    costs, expected = distinct(copied, kinds), distinct(plain, kinds)
    assert costs.keys == expected.keys
    assert np.array_equal(costs.of, expected.of)


@pytest.mark.parametrize("micro", [8, 28])
@pytest.mark.parametrize(
    "knobs",
    [
        *(
            {"pipeline_schedule": name}
            for name in ("gpipe", "1f1b", "interleaved-1f1b", "looped-bfs",
                         "interleaved-zero-bubble", "zbv", "dualpipev")
        ),
        {"pipeline_schedule": "1f1b", "strategy": "megatron"},
        {
            "pipeline_schedule": "interleaved-1f1b", "strategy": "megatron",
            "tensor_parallel": 2, "overlap_param_gather": True, "overlap_grad_reduce": True,
        },
        {"pipeline_schedule": "zbv", "tensor_parallel": 2},
        {"pipeline_schedule": "interleaved-1f1b", "context_parallel": 2},
        {"pipeline_schedule": "interleaved-1f1b", "pipeline_reshard_after_forward": True},
        {"pipeline_schedule": "interleaved-zero-bubble", "pipeline_defer_receives": True},
        {"pipeline_schedule": "interleaved-1f1b", "replicate": 2,
         "shard": 2},
    ],
    ids=lambda knobs: " ".join(map(str, knobs.values())),
)  # fmt: skip
def test_copied_plans_are_those_recorded(knobs, micro, monkeypatch):
    even = ["model.layers=16"] if "strategy" in knobs else []  # as Megatron-LM wants stages
    args = job(micro, MODEL, even, **knobs)
    copied, plain = recorded(monkeypatch, lambda: build_plans(*args))
    assert any(plan.copies for plan in copied) or "pipeline_reshard_after_forward" in knobs
    for one, other in zip(copied, plain, strict=True):
        alike(one, other)
        assert one.ops == other.ops
        assert written(one.memory) == written(other.memory)
        assert one.groups == other.groups
    nothing = Wire("", None, 0, 0.0, 0.0, 0.0)  # type: ignore[arg-type]
    flights = [flights_of(p, range(4), lambda *_: nothing) for p in (copied, plain)]
    assert np.array_equal(flights[0].ops, flights[1].ops)
    assert np.array_equal(flights[0].of, flights[1].of)


def test_most_of_a_long_pipeline_is_copied():
    args = job(64, pipeline_schedule="1f1b")
    for plan in build_plans(*args):
        assert sum(copy.size for copy in plan.copies) > 0.85 * len(plan.issued)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zbv", "dualpipev"])
def test_rounds_of_a_long_pipeline_are_copied_whole(schedule):
    """Chunks and messages by themselves would be two to three hundred a rank."""
    for plan in build_plans(*job(64, pipeline_schedule=schedule)):
        assert len(plan.copies) < 2.1 * 64
        assert all(copy.size > 1 for copy in plan.copies)


def test_a_later_message_says_so():
    assert later_unit("F3 1>2", 4) == "F7 1>2"
    assert later_unit("B0 4>3 F5 3>4", 2) == "B2 4>3 F7 3>4"
    assert later_unit("layers.3", 4) == "layers.3"
    assert messages_in(later_unit("B9 4>3 F5 3>4", 1)) == 2


def test_experts_and_checkpointing(monkeypatch):
    for model, more in (
        (MIXTURE, ["parallelism.expert_parallel=2"]),
        (MODEL, ["activation_checkpointing={kind: full}"]),
        (MODEL, ["activation_checkpointing={kind: selective-blocks, every: 2}"]),
    ):
        args = job(16, model, more, pipeline_schedule="interleaved-1f1b")
        for one, other in zip(*recorded(monkeypatch, lambda a=args: build_plans(*a)), strict=True):
            alike(one, other)
            assert one.ops == other.ops


def test_allocations_alone_are_the_same(monkeypatch):
    workload, tree, mesh = job(16, pipeline_schedule="zbv")

    def logs():
        build = strategy_of(workload).build_stage
        plans = [build(workload, tree, mesh, r, recorder=Quiet) for r in range(4)]
        return [written(plan.memory) for plan in plans]

    copied, plain = recorded(monkeypatch, logs)
    assert copied == plain
