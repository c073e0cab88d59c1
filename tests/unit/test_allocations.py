"""What plans allocate: bytes are conserved, and sums over instants are those of the events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.blocks.tree import build_tree
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, CheckpointSave, Method, Parallelism, Workload
from sim.memory.ledger import live_bytes, quantities, read
from sim.strategies import allocations_of, build_plan
from sim.strategies.allocations import (
    BACKWARD,
    FORWARD,
    GRADIENTS,
    HIDDEN,
    LOGITS,
    MOMENTS,
    SAVED,
    SCALES,
    SCATTERS,
    SHARDED,
    STAGING,
    STATES,
    TERMS,
    UNSHARDED,
    Allocations,
    Stretch,
    Style,
)

WORLD = 8
FSDP = {"replicate": st.sampled_from([1, 2]), "gradient_sync": st.sampled_from(["every", "last"])}
KNOBS = st.one_of(
    st.fixed_dictionaries(
        FSDP
        | {
            "strategy": st.just("fsdp2"),
            "wrap": st.sampled_from(["block+root", "torchtitan", "linear"]),
            "reshard_after_forward": st.sampled_from([True, False, 2]),
            "forward_prefetch": st.integers(0, 2),
            "backward_prefetch": st.sampled_from(["pre", "none", 2]),
            "offload": st.sampled_from(["none", "all"]),
        }
    ),
    st.fixed_dictionaries(
        FSDP
        | {
            "strategy": st.just("fsdp1"),
            "sharding_strategy": st.sampled_from(["full-shard", "shard-grad-op", "no-shard"]),
        }
    ),
    st.fixed_dictionaries({"strategy": st.sampled_from(["ddp", "zero1", "zero2"])}),
    st.fixed_dictionaries(
        {
            "strategy": st.just("zero3"),
            "offload": st.sampled_from(["none", "optimizer", "parameters", "all"]),
            "deepspeed_version": st.sampled_from(["0.19.2", "0.19.8"]),
        }
    ),
)
POLICIES = st.sampled_from(
    [
        Checkpointing(),
        Checkpointing(kind="full"),
        Checkpointing(kind="full", reentrant=True),
        Checkpointing(kind="selective-op"),
        Checkpointing(kind="selective-blocks", every=2),
    ]
)


@st.composite
def jobs(draw):
    model = Model(
        name="m", layers=draw(st.integers(2, 24)), hidden_size=64, heads=4, kv_heads=2, head_dim=16,
        ffn_size=160, vocab_size=512, tied_embeddings=draw(st.booleans()),
    )  # fmt: skip
    return Workload(
        name="w",
        model=model,
        method=draw(
            st.sampled_from([Method(), Method(kind="lora", rank=4, targets=("q", "down"))])
        ),
        sequence_length=draw(st.sampled_from([8, 64, 512])),
        micro_batch=draw(st.integers(1, 3)),
        gradient_accumulation=draw(st.integers(1, 3)),
        loss=draw(st.sampled_from(["eager", "chunked", "huggingface", "fused-linear"])),
        optimizer=draw(st.sampled_from(["adamw", "sgd", "adafactor"])),
        parallelism=Parallelism(**draw(KNOBS)),
        activation_checkpointing=draw(POLICIES),
        checkpoint=CheckpointSave(mode=draw(st.sampled_from(["sharded", "full"]))),
    )


@settings(max_examples=150, deadline=None)
@given(jobs())
def test_bytes_are_conserved(job):
    """Nothing is freed twice, and a step leaves what it found: its state, and logits held."""
    tree = build_tree(job.model, job.method)
    plan = build_plan(job, tree, mesh_on(job, WORLD), 2)
    live = live_bytes(plan.memory, job, tree)
    c = plan.memory.columns()
    assert live.min() > -0.5
    assert (np.diff(c.before) >= 0).all()
    assert c.before[-1] <= len(plan.ops)
    persistent = live[[SHARDED, SCALES, STATES]]
    assert (persistent[:, 1:] == persistent[:, 1:2]).all()
    assert live.sum(axis=0).max() >= persistent[:, -1].sum()
    saves = np.flatnonzero(c.moment == MOMENTS.index("save"))
    assert saves.size == 2
    np.testing.assert_allclose(live[:, saves[0]], live[:, saves[1]], atol=0.5)
    stay = {SHARDED, SCALES, STATES, STAGING, LOGITS, len(TERMS) - 1}
    if job.parallelism.strategy == "ddp":
        stay.add(SCATTERS)  # buckets beside the gradients
    assert {i for i, size in enumerate(live[:, saves[1]]) if size > 0.5} <= stay


@settings(max_examples=50, deadline=None)
@given(jobs())
def test_peaks_are_the_highest_instants(job):
    tree = build_tree(job.model, job.method)
    plan = allocations_of(job, tree, mesh_on(job, WORLD))
    live, ledger = live_bytes(plan, job, tree), read(plan, job, tree)
    total, moments = live.sum(axis=0), plan.columns().moment
    for at, moment in enumerate(MOMENTS):
        peak = ledger.peaks[moment]
        assert peak.total == total[moments == at].max()
        assert sum(peak.terms.values()) == pytest.approx(peak.total)
    assert sum(ledger.pools.values()) >= total.max() * (1 - 1e-12)


def test_instants_by_hand():
    """Two layers recorded, two missing between them; parameters of 5 B kept by each layer."""
    ops = []
    a = Allocations(ops)
    a.layers = [Style("layer", recomputed=False)] * 4
    a.moment = FORWARD
    a.put(SHARDED, 100.0)
    stretches = []
    for layer in (1, 2):
        since, issued = len(a.log), len(ops)
        a.add(UNSHARDED, 5.0)
        a.mark((LOGITS, 2.0, HIDDEN, 0), (SAVED, 1.0, 0, 0))
        a.add(SAVED, 3.0, 0, layer)
        ops.append("forward")
        if layer == 1:
            stretches.append(Stretch(since, len(a.log), 1, len(ops) - issued))
    a.moment = BACKWARD
    for layer in (2, 1):
        since, issued = len(a.log), len(ops)
        a.mark((GRADIENTS, 7.0, 0, 0))
        a.add(SAVED, -3.0, 0, layer)
        ops.append("backward")
        if layer == 2:
            stretches.append(Stretch(since, len(a.log), -1, len(ops) - issued))
    a.put(UNSHARDED)
    a.mark()
    a.lengthen(stretches, 2)
    c = a.columns()
    changes = np.zeros((len(TERMS), c.moment.size))
    plain = c.quantity != HIDDEN
    # all quantities but the head's are one byte here, so coefficients are bytes
    np.add.at(changes, (c.term[plain], c.instant[plain]), c.coefficient[plain])
    live = changes.cumsum(axis=1)
    assert live[SHARDED].tolist() == [100.0] * 9
    assert live[UNSHARDED].tolist() == [5, 10, 15, 20, 20, 20, 20, 20, 0]
    assert live[SAVED].tolist() == [1, 4, 7, 10, 12, 9, 6, 3, 0]
    assert live[GRADIENTS].tolist() == [0] * 4 + [7] * 4 + [0]
    assert c.before.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert c.moment.tolist() == [FORWARD] * 4 + [BACKWARD] * 5
    hidden = c.quantity == HIDDEN
    assert sorted(zip(c.instant[hidden], c.coefficient[hidden], strict=True)) == [
        (0, 2), (1, -2), (1, 2), (2, -2), (2, 2), (3, -2), (3, 2), (4, -2)
    ]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(jobs())
def test_memory_alone_is_that_of_the_plan(job):
    """Recorded without ops, a step allocates the same."""
    job = job.model_copy(update={"gradient_accumulation": min(2, job.gradient_accumulation)})
    tree, mesh = build_tree(job.model, job.method), mesh_on(job, WORLD)
    alone = read(allocations_of(job, tree, mesh), job, tree)
    assert alone == read(build_plan(job, tree, mesh).memory, job, tree)


def test_one_plan_serves_jobs_of_other_costs():
    """A longer sequence has larger quantities, and the same allocations."""
    model = Model(
        name="m", layers=4, hidden_size=64, heads=4, kv_heads=2, head_dim=16, ffn_size=160,
        vocab_size=512,
    )  # fmt: skip
    job = Workload(name="w", model=model, sequence_length=64, parallelism=Parallelism())
    longer = job.model_copy(update={"sequence_length": 128})
    tree = build_tree(model, job.method)
    plan = allocations_of(job, tree, mesh_on(job, WORLD))
    assert allocations_of(longer, tree, mesh_on(longer, WORLD)) is plan
    sizes = [quantities(plan, w, tree)[HIDDEN] for w in (job, longer)]
    assert sizes == [2 * 64 * 64, 2 * 128 * 64]
