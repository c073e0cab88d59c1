"""What plans allocate: bytes are conserved, and sums over instants are those of the events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.blocks.parameters import build_tree
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, CheckpointSave, Parallelism, Workload
from sim.memory.ledger import live_bytes, quantities, read
from sim.strategies import allocations_of, build_plan
from sim.strategies import terms as t
from sim.strategies.allocations import Allocations, Stretch, Style
from sim.strategies.columns import columns_of, edges_of

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
            "wrap": st.sampled_from(["block+root", "peft"]),
        }
    ),
    st.fixed_dictionaries({"strategy": st.sampled_from(["zero1", "zero2"])}),
    st.fixed_dictionaries(
        {
            "strategy": st.just("ddp"),
            "gradient_sync": FSDP["gradient_sync"],
            "gradient_as_bucket_view": st.booleans(),
        }
    ),
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
        gradient_accumulation=draw(st.integers(1, 5)),
        loss=draw(st.sampled_from(["eager", "chunked", "huggingface", "fused-linear"])),
        optimizer=draw(st.sampled_from(["adamw", "sgd", "adafactor"])),
        parallelism=Parallelism(**draw(KNOBS)),
        activation_checkpointing=draw(POLICIES),
        checkpoint=CheckpointSave(mode=draw(st.sampled_from(["sharded", "full"]))),
    )


@settings(max_examples=150)
@given(jobs())
def test_bytes_are_conserved(job):
    """Nothing is freed twice, and a step leaves what it found: its state, and logits held."""
    tree = build_tree(job.model, job.method)
    plan = build_plan(job, tree, mesh_on(job, WORLD), 2)
    before, live = live_bytes(plan, job, tree)
    c = columns_of(plan.memory)
    assert live.min() > -0.5
    assert (np.diff(before) >= 0).all()
    assert before[-1] <= len(plan.ops)
    persistent = live[[t.SHARDED, t.SCALES, t.STATES]]
    assert (persistent[:, 1:] == persistent[:, 1:2]).all()
    assert live.sum(axis=0).max() >= persistent[:, -1].sum()
    saves = np.flatnonzero(c.moment == t.MOMENTS.index("save"))
    assert saves.size == 2
    np.testing.assert_allclose(live[:, saves[0]], live[:, saves[1]], atol=0.5)
    stay = {t.SHARDED, t.SCALES, t.STATES, t.STAGING, t.LOGITS, t.INPUTS}
    if job.parallelism.strategy == "ddp":
        stay.add(t.SCATTERS)  # buckets beside the gradients
    assert {i for i, size in enumerate(live[:, saves[1]]) if size > 0.5} <= stay


@settings(max_examples=50)
@given(jobs())
def test_peaks_are_the_highest_instants(job):
    tree = build_tree(job.model, job.method)
    plan = build_plan(job, tree, mesh_on(job, WORLD))
    (_, live), ledger = live_bytes(plan, job, tree), read(plan.memory, job, tree)
    total, moments = live.sum(axis=0), columns_of(plan.memory).moment
    for at, moment in enumerate(t.MOMENTS):
        peak = ledger.peaks[moment]
        assert peak.total == pytest.approx(total[moments == at].max(), rel=1e-12)
        assert sum(peak.terms.values()) == pytest.approx(peak.total)
    assert sum(ledger.pools.values()) >= total.max() * (1 - 1e-12)


def test_instants_by_hand():
    """Two layers recorded, two missing between them; parameters of 5 B kept by each layer."""
    ops = []
    a = Allocations(ops)
    a.layers = [Style("layer", recomputed=False)] * 4
    a.moment = t.FORWARD
    a.put(t.SHARDED, 100.0)
    stretches = []
    for layer in (1, 2):
        since, issued = len(a.log), len(ops)
        a.add(t.UNSHARDED, 5.0)
        a.mark((t.LOGITS, 2.0, t.HIDDEN), (t.SAVED, 1.0))
        a.add(t.SAVED, 3.0, 0, layer)
        ops.append("forward")
        if layer == 1:
            stretches.append(Stretch((issued, len(ops)), (since, len(a.log)), 1))
    a.moment = t.BACKWARD
    for layer in (2, 1):
        since, issued = len(a.log), len(ops)
        a.mark((t.GRADIENTS, 7.0))
        a.add(t.SAVED, -3.0, 0, layer)
        ops.append("backward")
        if layer == 2:
            stretches.append(Stretch((issued, len(ops)), (since, len(a.log)), -1))
    a.put(t.UNSHARDED)
    a.mark()
    a.lengthen(stretches, 2)
    c = columns_of(a)
    changes = np.zeros((len(t.TERMS), c.moment.size))
    plain = c.quantity != t.HIDDEN
    # all quantities but the head's are one byte here, so coefficients are bytes
    np.add.at(changes, (c.term[plain], c.instant[plain]), c.coefficient[plain])
    live = changes.cumsum(axis=1)
    assert live[t.SHARDED].tolist() == [100.0] * 9
    assert live[t.UNSHARDED].tolist() == [5, 10, 15, 20, 20, 20, 20, 20, 0]
    assert live[t.SAVED].tolist() == [1, 4, 7, 10, 12, 9, 6, 3, 0]
    assert live[t.GRADIENTS].tolist() == [0] * 4 + [7] * 4 + [0]
    assert c.before.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert c.moment.tolist() == [t.FORWARD] * 4 + [t.BACKWARD] * 5
    hidden = c.quantity == t.HIDDEN
    assert sorted(zip(c.instant[hidden], c.coefficient[hidden], strict=True)) == [
        (0, 2), (1, -2), (1, 2), (2, -2), (2, 2), (3, -2), (3, 2), (4, -2)
    ]  # fmt: skip

    # forward without the second layer, backward without the third: no more than those around them
    c = edges_of(a)
    changes = np.zeros((len(t.TERMS), c.moment.size))
    np.add.at(changes, (c.term, c.instant), np.where(c.quantity == t.HIDDEN, 0.0, c.coefficient))
    live = changes.cumsum(axis=1)
    assert live[t.UNSHARDED].tolist() == [5, 15, 20, 20, 20, 20, 0]
    assert live[t.SAVED].tolist() == [1, 7, 10, 12, 6, 3, 0]
    assert c.moment.tolist() == [t.FORWARD] * 3 + [t.BACKWARD] * 4


@settings(max_examples=50)
@given(jobs())
def test_memory_alone_is_that_of_the_plan(job):
    """Recorded without ops and with few micro-steps, a step has the same peaks."""
    tree, mesh = build_tree(job.model, job.method), mesh_on(job, WORLD)
    alone = read(allocations_of(job, tree, mesh), job, tree)
    whole = read(build_plan(job, tree, mesh).memory, job, tree)
    assert alone.host == whole.host
    for moment, peak in whole.peaks.items():
        assert alone.peaks[moment].total == pytest.approx(peak.total, rel=1e-12)
    assert alone.pools == pytest.approx(whole.pools, rel=1e-12)


def small(layers=4, accumulation=1, **parallelism):
    """A job whose numbers of parameters are counted by hand below."""
    model = Model(
        name="m", layers=layers, hidden_size=64, heads=4, kv_heads=2, head_dim=16, ffn_size=160,
        vocab_size=512,
    )  # fmt: skip
    return Workload(
        name="w", model=model, sequence_length=64, gradient_accumulation=accumulation,
        parallelism=Parallelism(**parallelism),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("world", "views", "sync", "buckets", "later", "end"),
    [
        (1, False, "every", 0, 1, 1),  # one GPU reduces nothing
        (1, True, "every", 0, 1, 1),
        (8, False, "every", 1, 1, 1),  # buckets and gradients
        (8, False, "last", 1, 1, 1),
        (8, True, "every", 1, 0, 0),  # gradients are the buckets' from the first backward on
        (8, True, "last", 1, 1, 0),  # only once they are reduced
    ],
)
def test_ddp_buckets_stay(world, views, sync, buckets, later, end):
    """Buckets all the time; gradients beside them in the second forward and at the optimizer.

    A layer has 3 x 64 x 64 weights of attention (k and v are half as wide), 3 x 64 x 160 of its MLP
    and two norms of 64: 43,136. Four, two matrices of 512 x 64 and a norm: 238,144, of 4 B.
    """
    knobs = {"gradient_as_bucket_view": views, "gradient_sync": sync}
    job = small(accumulation=2, strategy="ddp", **knobs)
    tree, whole = build_tree(job.model, job.method), 4 * 238_144
    plan = build_plan(job, tree, mesh_on(job, world))
    (_, live), moment = live_bytes(plan, job, tree), columns_of(plan.memory).moment
    assert (live[t.SCATTERS, moment != t.INIT] == buckets * whole).all()
    held = live[t.FULL_GRADIENTS]
    first_backward = np.flatnonzero(moment == t.BACKWARD)[0]
    second = np.flatnonzero((moment == t.FORWARD) & (np.arange(moment.size) > first_backward))
    assert (held[second] == later * whole).all()
    assert held[moment == t.OPTIMIZER].tolist() == [end * whole]


def test_a_middle_micro_step_can_hold_most():
    """`gradient_sync: last`: it frees no gradients before the last layer's backward.

    Two layers are 86,272 of 151,872 parameters. At rest an eighth of them and of AdamW's states,
    12 B each, and 21 step counts of 4 B: 227,892 B; inputs of 8 tokens: 64. In the last layer's
    backward that layer in bf16, 86,272, all accumulated gradients in fp32, 607,488, its own new
    ones in bf16, 86,272, and activations of 8 tokens: 29,408 saved, 3,968 of backward. The last
    micro-step has by then sent the head's gradients, 131,328; its highest is the loss: 1,022,868.
    """
    job = small(2, 5, strategy="fsdp2", wrap="torchtitan", gradient_sync="last")
    job = job.model_copy(update={"sequence_length": 8, "loss": "fused-linear"})
    tree, mesh = build_tree(job.model, job.method), mesh_on(job, WORLD)
    pools = {}
    for steps in (2, 3, 5):
        cut = job.model_copy(update={"gradient_accumulation": steps})
        pools[steps] = read(allocations_of(cut, tree, mesh), cut, tree).pools["compute"]
    most = 227_892 + 64 + 86_272 + 607_488 + 86_272 + 29_408 + 3_968
    assert pools == {2: 1_022_868, 3: most, 5: most}
    assert read(build_plan(job, tree, mesh).memory, job, tree).pools["compute"] == most


def test_one_plan_serves_jobs_of_other_costs():
    """A longer sequence has larger quantities, and the same allocations."""
    job = small()
    longer = job.model_copy(update={"sequence_length": 128})
    tree = build_tree(job.model, job.method)
    plan = allocations_of(job, tree, mesh_on(job, WORLD))
    assert allocations_of(longer, tree, mesh_on(longer, WORLD)) is plan
    sizes = [quantities(plan, w, tree)[t.HIDDEN] for w in (job, longer)]
    assert sizes == [2 * 64 * 64, 2 * 128 * 64]
