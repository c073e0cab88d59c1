"""Plans of a small model, and what tests ask of them."""

from __future__ import annotations

import pytest

from sim.blocks.parameters import build_tree
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Workload
from sim.strategies import build_plan
from sim.strategies.plan import COLLECTIVE, SEGMENT

ALL = ("q", "k", "v", "o", "gate", "up", "down")


def workload(layers=4, accumulate=1, lora=0, recompute="none", tied=False, **knobs):
    model = Model(
        name="small", layers=layers, hidden_size=64, heads=4, kv_heads=2, head_dim=16,
        ffn_size=160, vocab_size=512, tied_embeddings=tied,
    )  # fmt: skip
    return Workload(
        name="w",
        model=model,
        method=Method(kind="lora", rank=16, targets=ALL) if lora else Method(),
        sequence_length=16,
        gradient_accumulation=accumulate,
        parallelism=Parallelism(**knobs),
        activation_checkpointing=Checkpointing(kind=recompute),
    )


def plan_of(world=8, steps=1, cold=False, **options):
    w = options.pop("of", None) or workload(**options)
    return build_plan(w, build_tree(w.model, w.method), mesh_on(w, world), steps, cold)


def issued(plan, collective, phase=None):
    return [
        op
        for op in plan.ops
        if op.kind == COLLECTIVE and op.collective == collective and phase in (None, op.phase)
    ]


def seconds(forward=10.0, backward=20.0, gather=3.0, scatter=6.0):
    def of(op):
        if op.kind == COLLECTIVE:
            return {"all_gather": gather, "reduce_scatter": scatter}.get(op.collective, 0.0)
        if op.kind == SEGMENT and op.unit.startswith("layers"):
            return backward if op.name == "backward" else forward
        return 0.0

    return of


def check(plan):
    for i, op in enumerate(plan.ops):
        assert all(0 <= d < i for d in op.deps)
        assert -1 <= op.host_after < i
        assert op.bytes >= 0
        if op.kind == COLLECTIVE:
            ranks = plan.groups[op.group].size
            assert op.comm
            if op.collective == "all_gather":
                assert op.bytes_out == pytest.approx(ranks * op.bytes_in)
            elif op.collective == "reduce_scatter":
                assert op.bytes_in == pytest.approx(ranks * op.bytes_out)
            else:
                assert op.bytes_in == op.bytes_out
