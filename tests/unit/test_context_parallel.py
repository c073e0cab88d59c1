"""Context parallelism: calls of the kernel, exchanges between them, memory, faults."""

from __future__ import annotations

import pytest

from sim import simulate
from sim.blocks.context import pairs_seen
from sim.blocks.footprint import layer_footprint
from sim.blocks.parameters import tree_of
from sim.blocks.unroll import exchanges, order_of, unroll
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.modelling import repeats_heads
from sim.inputs.shares import mesh_of
from sim.interop.emit import texts_of
from sim.step.step import step
from sim.strategies import build_plan
from sim.strategies.plan import COLLECTIVE, SEGMENT

C, TOKENS = 4, 32768  # ranks that share a sequence of so many tokens
LOCAL = TOKENS // C
KV = 2.0 * 2 * 1024 * LOCAL  # keys and values of Llama-3-8B's 8 heads of 128, bf16
Q = 2.0 * 4096 * LOCAL


def job(kind="ring", *sets, ranks=C, machine=("nodes=1",)):
    return load(
        "dgx-h100", "llama3-8b-sft",
        [*machine, f"sequence_length={TOKENS}", "micro_batch=1", "gradient_accumulation=1",
         "activation_checkpointing=none", f"parallelism.context_parallel={ranks}",
         f"parallelism.context_parallel_kind={kind}", *sets],
    )  # fmt: skip


def moved(workload, phase):
    return [
        (x.collective, x.sent, x.received, x.when.value)
        for each in exchanges(workload, "layer", phase).values() for x in each
    ]  # fmt: skip


def test_exchanges_of_a_ring():
    """Keys and values once or turn by turn; fp32 gradients a turn more, the last waited for."""
    w = job().workload
    gather = ("all_gather", KV, C * KV, "beside")
    gradients = [("send_recv", 2 * KV, 2 * KV, "beside")] * (C - 1)
    last = ("send_recv", 2 * KV, 2 * KV, "after")
    assert moved(w, "forward") == [gather]
    assert moved(w, "backward") == [gather, *gradients, last]
    w = job("ring", "parallelism.context_parallel_rotation=all-to-all").workload
    turn = ("send_recv", KV, KV, "beside")
    assert moved(w, "forward") == [turn] * (C - 1)
    assert sorted(moved(w, "backward")) == sorted([turn] * (C - 1) + gradients + [last])


def test_exchanges_around_attention():
    """Keys and values gathered apart; by heads, queries and outputs travel too."""
    w = job("all-gather").workload
    assert moved(w, "forward") == [("all_gather", KV / 2, C * KV / 2, "before")] * 2
    assert moved(w, "backward") == [("reduce_scatter", C * KV / 2, KV / 2, "after")] * 2
    w = job("ulysses").workload
    there, back = [Q, KV / 2, KV / 2], [Q]
    assert [x[:2] for x in moved(w, "forward")] == [("all_to_all", x) for x in there + back]
    assert [x[:2] for x in moved(w, "backward")] == [("all_to_all", x) for x in back + there]
    copies = [k.bytes for k in unroll(w).of("layer", "forward") if k.name == "cp.turn"]
    assert copies == [2 * x for x in there + back]


def test_nothing_is_exchanged_on_one_rank():
    w = job(ranks=1).workload
    assert not exchanges(w, "layer", "forward")
    assert "attention" not in order_of(w, "layer")


@pytest.mark.parametrize("kind", ["ring", "all-gather", "ulysses"])
def test_a_rank_has_its_share_of_attention(kind):
    """Balanced parts: a fourth of the pairs of a causal sequence."""
    whole, part = (
        sum(k.flops for k in unroll(w).of("layer", phase) if k.kind == "attention")
        for w, phase in ((job(ranks=1).workload, "forward"), (job(kind).workload, "forward"))
    )
    assert C * part == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("kind", ["ring", "all-gather"])
def test_without_load_balance_the_last_rank_has_most(kind):
    """Its queries see all keys but the half of their own part: (2c - 1) / c of the mean."""
    even = job(kind).workload
    uneven = job(kind, "parallelism.context_parallel_load_balance=false").workload
    for phase in ("forward", "backward"):
        a, b = (
            sum(k.flops for k in unroll(w).of("layer", phase) if k.kind == "attention")
            for w in (even, uneven)
        )
        assert b == pytest.approx((2 * C - 1) / C * a, rel=1e-12)


def test_pairs_of_the_last_queries():
    """Against a count; a triangle of n is n^2 / 2, as flash kernels count it."""
    for queries, keys, window in ((4, 16, None), (4, 16, 8), (8, 16, 10), (16, 16, None)):
        reach = min(window or keys, keys)
        counted = sum(min(p + 0.5, reach) for p in range(keys - queries, keys))
        assert pairs_seen(queries, keys, window, fair=False) == pytest.approx(counted, abs=0.5)
    assert pairs_seen(16, 16, None) == pairs_seen(16, 16, None, fair=False) == 128.0


def test_ring_runs_its_own_keys_first_both_ways():
    w = job().workload
    parts = [name for name in order_of(w, "layer") if name.startswith("attention.")]
    assert parts == [f"attention.{i}" for i in range(C)]
    for phase, first in (("forward", parts[0]), ("backward", parts[-1])):
        calls = [k for k in unroll(w).of("layer", phase) if k.kind == "attention"]
        assert [k.module for k in calls if k.shape[6]] == [first]
        assert len(calls) == C


def test_attention_waits_for_what_it_needs():
    """The last gradients of a ring are waited for before the projections' backward."""
    loaded = job("ring", "model.layers=4", "parallelism.context_parallel_rotation=all-to-all")
    mesh = mesh_of(loaded.topology, loaded.workload)
    ops = build_plan(loaded.workload, tree_of(loaded.workload), mesh).ops
    last = max(
        i for i, op in enumerate(ops)
        if op.kind == COLLECTIVE and op.group == "context" and op.block == 1
    )  # fmt: skip
    after = next(op for op in ops[last:] if op.kind == SEGMENT)
    assert after.module.split(" ")[0] == "wv"
    assert last in after.deps


def test_gathered_keys_and_values_are_kept():
    """Of the whole sequence: what attention reads autograd keeps."""
    saved = {k: layer_footprint(job(k).workload, "layer").saved for k in ("ring", "all-gather")}
    assert saved["all-gather"] - saved["ring"] == (C - 1) * KV


def test_heads_repeated_before_attention_travel_repeated():
    """PyTorch's own attention, asked for no groups: 32 heads instead of 8."""
    w = job("ring", "attention=sdpa").workload
    assert moved(w, "forward") == [("all_gather", 4 * KV, 4 * C * KV, "beside")]
    grouped = job("ring", "attention=sdpa", "stack.torch=2.6", "stack.transformers=4.54").workload
    assert moved(grouped, "forward") == [("all_gather", KV, C * KV, "beside")]


@pytest.mark.parametrize(
    ("sets", "repeats"),
    [
        (["trainer=huggingface", "stack.torch=2.7"], True),
        (["trainer=huggingface", "stack.torch=2.8"], False),  # transformers 4.55 of its time
        (["trainer=huggingface", "stack.torch=2.8", "stack.transformers=4.53"], True),
        (["trainer=torchtitan", "stack.torch=2.9"], True),
        (["trainer=torchtitan", "stack.torch=2.10"], False),
        (["trainer=composer", "stack.torch=2.11"], True),
        (["trainer=huggingface", "stack.torch=2.11", "attention=eager"], True),
    ],
)
def test_heads_are_repeated_by_code_older_than_groups(sets, repeats):
    w = load("dgx-h100", "llama3-8b-lora", ["attention=sdpa", "parallelism=fsdp2", *sets]).workload
    assert repeats_heads(w) is repeats


def test_imbalance_slows_the_step():
    times = {
        balanced: simulate(
            "dgx-h100", "llama3-8b-128k", scaling=False, fixes=False,
            overrides=["nodes=1", f"parallelism.context_parallel_load_balance={balanced}"],
        ).step.time_s
        for balanced in ("true", "false")
    }  # fmt: skip
    assert times["false"] > 1.5 * times["true"]


@pytest.mark.parametrize(
    ("kind", "sets", "said"),
    [
        ("ring", ["attention=eager"], "a fused kernel, which eager attention has not"),
        ("ring", ["model=gemma-2-9b"], "no windows"),
        ("ulysses", ["model=qwen2.5-0.5b"], "14 heads cannot be divided among 4 GPUs"),
    ],
)
def test_faults(kind, sets, said):
    with pytest.raises(InputError, match=said):
        job(kind, *sets)


def test_beside_tensor_parallelism():
    """Half of the heads each, so half of the keys and values."""
    w = job("ring", "parallelism.tensor_parallel=2").workload
    found = [x for x in moved(w, "forward") if x[3] == "beside"]
    assert found == [("all_gather", KV / 2, C * KV / 2, "beside")]


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_deepspeed_turns_sequences_into_heads(strategy):
    """Each layer's three all-to-alls and one back, both ways, around attention's own segment."""
    sets = [f"parallelism.strategy={strategy}", "model.layers=2"]
    found = job("ulysses", *sets)
    w = found.workload
    plan = build_plan(w, tree_of(w), mesh_of(found.topology, w))
    moves = [op for op in plan.ops if op.kind == COLLECTIVE and op.group == "context"]
    assert [op.bytes_in for op in moves] == [Q, KV / 2, KV / 2, Q] * 2 + [Q, Q, KV / 2, KV / 2] * 2
    assert {(op.collective, op.phase) for op in moves} == {
        ("all_to_all", "forward"), ("all_to_all", "backward"),
    }  # fmt: skip
    cores = [op for op in plan.ops if op.kind == SEGMENT and op.module == "attention"]
    assert [op.name for op in cores] == ["forward"] * 2 + ["backward"] * 2
    assert plan.groups["context"].of(0) == tuple(range(C))
    assert plan.groups["shard"].size == 8  # both axes share the states


def test_parts_belong_to_the_module_before():
    w = job("ulysses", "parallelism.strategy=zero3", "model=qwen3-8b").workload
    assert order_of(w, "layer", "k_norm") == ("k_norm", "attention")
    assert order_of(w, "layer", "wq") == ("wq",)


def test_deepspeed_has_no_ring():
    with pytest.raises(InputError, match="ZeRO-3 splits sequences by ulysses, not by ring"):
        job("ring", "parallelism.strategy=zero3")


def test_zero3_on_long_sequences():
    """8B, 64k tokens over 8 H100s: as long a step as FSDP2's, whose gathers hide as well."""
    sets = ["sequence_length=65536", "activation_checkpointing=full"]
    zero, fsdp = (
        job("ulysses", *sets, f"parallelism.strategy={s}", ranks=8) for s in ("zero3", "fsdp2")
    )
    long, other = (step(one.topology, one.workload).time_s for one in (zero, fsdp))
    assert long == pytest.approx(3.17, rel=0.02)
    assert long == pytest.approx(other, rel=0.03)
    files = texts_of(zero.topology, zero.workload, "accelerate")
    assert "parallelism_config_sp_size: 8" in files["accelerate.yaml"]
