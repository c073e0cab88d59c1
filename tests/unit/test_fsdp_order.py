"""In which order FSDP and DDP gather and reduce, what overlaps, and what always holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.blocks.parameters import build_tree
from sim.inputs.model import Model
from sim.inputs.workload import Checkpointing, Parallelism, Workload
from sim.strategies.ddp import buckets
from sim.strategies.plan import COLLECTIVE, HOST, KERNEL, SEGMENT
from sim.strategies.recorder import Recorder
from tests.replay import replay
from tests.small_plans import check, issued, plan_of, seconds, workload


def test_two_all_gathers_ahead_and_no_more():
    """AG(g+1) is gated by the copy-out of g-1: during forward g, g+1 is done, g+2 in flight."""
    plan = plan_of(layers=6)
    times = replay(plan, seconds(forward=100.0, gather=1.0))
    start = {op.unit: t for op, t in zip(plan.ops, times.start, strict=True)
             if op.name == "all_gather" and op.phase == "forward"}  # fmt: skip
    begin = {op.unit: t for op, t in zip(plan.ops, times.start, strict=True)
             if op.name == "forward" and op.block > 0}  # fmt: skip
    assert [start[f"layers.{k}"] for k in range(3)] == [1.0, 2.0, 3.0]
    for k in range(3, 6):
        # the copy-out of layer k-2 comes right before its forward; then AG(k) may start
        assert start[f"layers.{k}"] == begin[f"layers.{k - 2}"]


def test_second_reduce_scatter_buffer_relaxes_the_gate():
    """One buffer: RS(k+1) has to end before k's copy-in. Two: RS(k+2) has to."""
    slow = seconds(scatter=30.0)
    for buffers, ended in ((1, 146.0), (2, 126.0)):
        # root and first layer gathered at 6, forward to 46, backward of layer 3 to 66, RS to 96;
        # one buffer: layer 2's copy-in waits for 96, layer 1's for 126; two: only 1's for 96
        plan = plan_of(separate_reduce_scatter_group=True, reduce_scatter_max_input_buffers=buffers)
        times = replay(plan, slow)
        last = next(
            i for i, o in enumerate(plan.ops) if (o.name, o.unit) == ("backward", "layers.0")
        )
        assert times.end[last] == ended
        assert times.makespan == 66.0 + 5 * 30.0


def test_limiter_blocks_the_cpu_but_not_the_first_two():
    plan = plan_of(strategy="fsdp1", cold=True)
    blocked = [op.unit for op in plan.ops if op.host_after >= 0 and op.name != "forward"]
    assert blocked[:2] == ["layers.2", "layers.3"]
    free = plan_of(strategy="fsdp1", limit_all_gathers=False).ops
    assert [op.phase for op in free if op.host_after >= 0] == ["trainer"]  # the step's end


def test_forward_prefetch_delays_reduce_scatter_by_a_block():
    plan = plan_of(strategy="fsdp1", forward_prefetch=1)
    order = [(op.name, op.unit) for op in plan.ops]
    for k in (3, 2, 1):
        scattered = order.index(("reduce_scatter", f"layers.{k}"))
        assert scattered > order.index(("backward", f"layers.{k - 1}"))


def test_offload_blocks_the_cpu_until_gradients_are_down():
    plan = plan_of(offload="all")
    step = next(i for i, op in enumerate(plan.ops) if op.name == "optimizer")
    downs = [i for i, op in enumerate(plan.ops) if op.name == "d2h"]
    assert plan.ops[step].kind == HOST
    assert len(downs) == 5
    waited = {op.host_after for op in plan.ops[: step + 1]} | {
        d for op in plan.ops[: step + 1] if op.kind == HOST for d in op.deps
    }
    assert max(downs) in waited
    root = next(op for op in plan.ops if op.name == "h2d")
    assert root.bytes == 65_600 * 4 / 8


def test_buckets_close_once_full():
    assert buckets([3.0, 1.0, 5.0, 1.0, 1.0, 1.0], 2.0, 4.0) == [[0], [1, 2], [3, 4, 5]]
    assert buckets([1.0], 2.0, 4.0) == [[0]]
    assert buckets([], 2.0, 4.0) == []


def test_ddp_reduces_every_gradient_once_beside_the_backward():
    model = Model(
        name="m", layers=3, hidden_size=1024, heads=8, kv_heads=8, head_dim=128, ffn_size=4096,
        vocab_size=8192,
    )  # fmt: skip
    w = Workload(name="w", model=model, sequence_length=64,
                 parallelism=Parallelism(strategy="ddp", gradient_sync="last"),
                 gradient_accumulation=2)  # fmt: skip
    plan = plan_of(8, of=w)
    reductions = issued(plan, "all_reduce")
    assert sum(op.bytes_in for op in reductions) == 4 * plan.owned_numel
    assert {op.micro_step for op in reductions} == {1}
    # the head's matrix, 33.6 MB fp32, overfills the first bucket of 1 MiB
    assert reductions[0].bytes_in == 8192 * 1024 * 4
    first = plan.ops.index(reductions[0])
    assert any(op.name == "backward" for op in plan.ops[first:])
    assert issued(plan, "all_reduce", "clip") == []


def ancestors(plan):
    """For each op the set of ops that have surely ended before it starts, as bit sets."""
    before, last, cpu = [], {}, 0
    for i, op in enumerate(plan.ops):
        known = cpu
        if op.host_after >= 0:
            cpu |= before[op.host_after] | 1 << op.host_after
            known = cpu
        for d in (*op.deps, *((last[op.stream],) if op.stream in last else ())):
            known |= before[d] | 1 << d
        before.append(known)
        last[op.stream] = i
        if op.kind == HOST:
            cpu |= known | 1 << i
    return before


knobs = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(["fsdp2", "fsdp1"]),
        "wrap": st.sampled_from(["block+root", "torchtitan", "linear", "peft"]),
        "reshard_after_forward": st.sampled_from([True, False, 2]),
        "root_reshard_after_forward": st.sampled_from([None, True]),
        "replicate": st.sampled_from([1, 2]),
        "forward_prefetch": st.integers(0, 3),
        "backward_prefetch": st.sampled_from(["pre", "none", 2]),
        "limit_all_gathers": st.booleans(),
        "separate_reduce_scatter_group": st.booleans(),
        "reduce_scatter_max_input_buffers": st.integers(1, 3),
        "gradient_sync": st.sampled_from(["every", "last"]),
        "requires_all_reduce": st.sampled_from(["every", "last"]),
        "reshard_after_backward": st.booleans(),
        "offload": st.sampled_from(["none", "all"]),
        "reduce_dtype": st.sampled_from(["fp32", "bf16", None]),
        "sharding_strategy": st.sampled_from(["full-shard", "shard-grad-op"]),
    }
)


@settings(max_examples=120)
@given(
    knobs=knobs,
    layers=st.integers(1, 5),
    accumulate=st.integers(1, 3),
    lora=st.booleans(),
    recompute=st.sampled_from(["none", "full", "selective-blocks"]),
    tied=st.booleans(),
    world=st.sampled_from([4, 8, 24]),
)
def test_invariants(knobs, layers, accumulate, lora, recompute, tied, world):
    fsdp1 = knobs["strategy"] == "fsdp1"
    if fsdp1:
        knobs["wrap"] = "peft" if lora and knobs["wrap"] == "peft" else "block+root"
        if isinstance(knobs["backward_prefetch"], int):
            knobs["backward_prefetch"] = "post"
    elif knobs["wrap"] == "peft":
        knobs["wrap"] = "block+root"
    plan = plan_of(
        world, layers=layers, accumulate=accumulate, lora=16 if lora else 0, recompute=recompute,
        tied=tied, **knobs,
    )  # fmt: skip
    check(plan)
    before = ancestors(plan)
    gathered = {}
    scattered: dict[str, float] = {}
    for i, op in enumerate(plan.ops):
        if op.kind == COLLECTIVE and op.collective == "all_gather":
            gathered[op.unit] = i
        elif op.kind == SEGMENT and op.unit in gathered:
            # parameters are there before any kernel that uses them
            assert before[i] >> gathered[op.unit] & 1
        elif op.kind == COLLECTIVE and op.collective == "reduce_scatter":
            scattered[op.unit] = scattered.get(op.unit, 0.0) + 1
            own = [
                j for j, o in enumerate(plan.ops[:i]) if o.name == "backward" and o.unit == op.unit
                and o.micro_step == op.micro_step
            ]  # fmt: skip
            assert all(before[i] >> j & 1 for j in own)
    synced = accumulate if knobs["gradient_sync"] == "every" else 1
    assert set(scattered.values()) <= {synced}
    # the optimizer runs last, but for the trainer, and after every reduction
    step = next(i for i, op in enumerate(plan.ops) if op.name == "optimizer")
    assert {op.phase for op in plan.ops[step + 1 :]} <= {"trainer"}
    for i, op in enumerate(plan.ops):
        reduces = op.kind == COLLECTIVE or (op.kind == KERNEL and op.name in ("accumulate", "d2h"))
        if reduces and op.phase == "backward" and op.collective != "all_gather":
            assert before[step] >> i & 1
    # every layer runs forward in each micro-step, and backward where gradients flow
    runs = [(op.block, op.micro_step) for op in plan.ops if op.name == "forward" and not op.module]
    assert len(set(runs)) == len(runs)
    assert replay(plan, seconds()).makespan >= accumulate * layers * 30 - 20 * accumulate


def test_event_of_a_waiting_stream_carries_the_wait():
    r = Recorder({})
    a = r.kernel("one", "a", "", 1.0)
    r.wait_stream("two", "one")
    r.wait_stream("three", "two")  # nothing was issued to "two" since
    b = r.kernel("three", "b", "", 1.0)
    assert r.ops[b].deps == (a,)
    r.wait_stream("three", "one")
    assert r.ops[r.kernel("three", "c", "", 1.0)].deps == ()  # known already


def test_host_sync_on_two_streams_is_one_host_op():
    r = Recorder({})
    a, b = r.kernel("one", "a", "", 1.0), r.kernel("two", "b", "", 1.0)
    r.host_sync((a,))
    r.host_sync((b,))
    c = r.kernel("one", "c", "", 1.0)
    times = replay(r.plan, lambda op: {"a": 1.0, "b": 5.0, "c": 1.0}.get(op.name, 0.0))
    assert times.start[c] == 5.0


@pytest.mark.parametrize("strategy", ["fsdp1", "fsdp2"])
def test_checkpointed_inputs_go_to_the_host_and_back(strategy):
    """Each layer's input, tokens x d x 2 B, leaves beside its forward and returns one ahead."""
    job = workload(layers=6, strategy=strategy)
    policy = Checkpointing(kind="full", offload=True)
    job = job.model_copy(update={"activation_checkpointing": policy})
    plan = plan_of(of=job)
    out = [op for op in plan.ops if op.name == "d2h"]
    back = [op for op in plan.ops if op.name == "h2d"]
    assert [op.block for op in out] == [1, 2, 3, 4, 5, 6]
    assert [op.block for op in back] == [6, 5, 4, 3, 2, 1]
    assert {op.bytes for op in out + back} == {16 * 64 * 2.0}
    index = {id(op): i for i, op in enumerate(plan.ops)}
    again = {op.block: index[id(op)] for op in plan.ops if op.name == "recompute"}
    copied = {op.block: index[id(op)] for op in back}
    for block in range(2, 7):
        assert copied[block - 1] < again[block]
    # layer 3 waits until the input of layer 2 has left: two are on the GPU at most
    third = next(op for op in plan.ops if op.name == "forward" and op.block == 3)
    waits = {d for op in plan.ops if op.block == 3 and op.stream == "compute" for d in op.deps}
    assert third.deps
    assert index[id(out[1])] in waits


def test_time_of_offloaded_inputs_hides_or_binds():
    """A copy of S bytes beside a layer of t seconds: the step grows only where S/bandwidth > t."""
    plain = workload(layers=6).model_copy(
        update={"activation_checkpointing": Checkpointing(kind="full")}
    )
    policy = Checkpointing(kind="full", offload=True)
    moved = plain.model_copy(update={"activation_checkpointing": policy})

    def seconds(copy_s):
        def price(op):
            if op.kind == SEGMENT:
                return 1.0
            return copy_s if op.name in ("d2h", "h2d") else 0.0

        def run(job):
            return replay(plan_of(of=job), price).makespan

        return run(moved) - run(plain)

    assert seconds(1.0) == 0.0
    # five layers wait c - 1 in forward; the last input returns c after it left, the head takes 3
    # meanwhile; in backward a layer takes 2, so the other five wait c - 2
    assert seconds(2.0) == 5 * 1 + 1
    assert seconds(3.0) == 5 * 2 + 3 + 5 * 1


def test_one_gpu_fetches_offloaded_weights():
    """No all-gather on one rank, but every unit comes over PCIe in both passes, fp32."""
    plan = plan_of(world=1, layers=4, offload="all")
    fetched = [op for op in plan.ops if op.name == "h2d"]
    tree = build_tree(workload(layers=4).model)
    layer = 4.0 * sum(p.numel for m in tree.layers[0].modules for p in m.parameters)
    assert [op.bytes for op in fetched if op.block == 1] == [layer, layer]
    assert {op.block for op in fetched} == {-1, 1, 2, 3, 4}
    assert not issued(plan, "all_gather")
    first = next(op for op in plan.ops if op.stream == "compute" and op.block == 1)
    assert any(plan.ops[d].stream == "copy_in" for d in first.deps)


def test_a_loss_in_chunks_gathers_its_unit_three_times():
    """Norm, all chunks, the norm's backward; never where parameters stay gathered."""

    def gathers(**knobs):
        w = workload(wrap="torchtitan", **knobs).model_copy(update={"loss": "chunked"})
        plan = plan_of(of=w)
        check(plan)
        return [op.phase for op in issued(plan, "all_gather") if op.unit == "norm, lm_head"]

    assert gathers() == ["forward", "forward", "backward"]
    assert gathers(reshard_after_forward=False) == ["forward"]
    assert gathers(accumulate=2) == ["forward", "forward", "backward"] * 2
