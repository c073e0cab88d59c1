"""Closed forms and invariants of the FSDP and DDP schedules, worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.blocks.flops import checkpointed_layers
from sim.blocks.parameters import build_tree
from sim.errors import InputError
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Method, Parallelism, Precision, Workload
from sim.strategies import build_plan
from sim.strategies.ddp import buckets
from sim.strategies.fsdp1_layout import flat_numel
from sim.strategies.plan import COLLECTIVE, HOST, KERNEL, SEGMENT, Recorder
from sim.strategies.units import padded_numel
from tests.replay import replay

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


def counts(plan):
    return (
        len(issued(plan, "all_gather", "forward")),
        len(issued(plan, "all_gather", "backward")),
        len(issued(plan, "reduce_scatter")),
    )


# counts: spec.md section 2, "Totals"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (5, 4, 5)),
        ({"wrap": "torchtitan"}, (6, 5, 6)),
        ({"wrap": "torchtitan", "tied": True}, (5, 4, 5)),
        ({"wrap": "torchtitan", "unshard_embedding_in_backward": False}, (6, 4, 6)),
        ({"reshard_after_forward": False}, (5, 0, 5)),
        ({"root_reshard_after_forward": True}, (5, 5, 5)),
        ({"reshard_after_forward": 4}, (5, 4, 5)),
        ({"reshard_after_forward": 1}, (5, 0, 5)),
        ({"reshard_after_forward": 8}, (5, 4, 5)),
        ({"accumulate": 4}, (20, 16, 20)),
        ({"accumulate": 4, "gradient_sync": "last"}, (20, 16, 5)),
        ({"accumulate": 4, "gradient_sync": "last", "reshard_after_backward": False}, (5, 16, 5)),
        (
            {
                "accumulate": 4, "gradient_sync": "last", "reshard_after_backward": False,
                "reshard_after_forward": False,
            },
            (5, 0, 5),
        ),
        ({"lora": 16}, (5, 4, 4)),
        ({"lora": 16, "wrap": "torchtitan"}, (6, 5, 4)),
        # 7 linears a layer, the head, the root; the first layer's wq is not prefetched in backward
        ({"wrap": "linear"}, (30, 29, 30)),
        ({"strategy": "fsdp1"}, (5, 4, 5)),
        ({"strategy": "fsdp1", "sharding_strategy": "shard-grad-op"}, (5, 0, 5)),
        (
            {
                "strategy": "fsdp1", "sharding_strategy": "shard-grad-op", "accumulate": 4,
                "gradient_sync": "last",
            },
            (5, 0, 5),
        ),
        ({"strategy": "fsdp1", "sharding_strategy": "no-shard"}, (0, 0, 0)),
        ({"strategy": "fsdp1", "lora": 16, "wrap": "peft"}, (61, 60, 56)),
    ],
)  # fmt: skip
def test_counts(options, expected):
    assert counts(plan_of(**options)) == expected


@pytest.mark.parametrize("strategy", ["fsdp1", "fsdp2"])
@pytest.mark.parametrize(("master", "casts"), [("fp32", 5), ("bf16", 0)])
def test_parameters_that_have_the_gathered_dtype_are_not_cast(strategy, master, casts):
    """As recorded: data/host/wrappers.json, kernels of forward with mixed precision and without."""
    job = workload(strategy=strategy).model_copy(
        update={"precision": Precision(kind="bf16", master=master)}
    )
    ops = plan_of(of=job).ops
    assert sum(op.name == "cast" and op.phase == "forward" for op in ops) == casts


def test_only_adapters_are_cast():
    """Frozen weights of a FSDP2 unit are stored as they are gathered."""
    plan = plan_of(lora=16)
    cast = next(op for op in plan.ops if op.name == "cast" and op.unit == "layers.1")
    sides = (64 + 64) * 2 + (64 + 32) * 2 + (64 + 160) * 3  # q and o, k and v, gate, up and down
    adapters = 16 * sides
    assert cast.bytes == adapters * (4 + 2) / 8


def test_hybrid_reduces_over_replicas_once_per_unit_and_micro_step():
    plan = plan_of(16, replicate=2, accumulate=3)
    reductions = issued(plan, "all_reduce", "backward")
    assert len(reductions) == 15
    assert {plan.groups[op.group].size for op in reductions} == {2}
    layer = next(op for op in reductions if op.unit == "layers.2")
    assert layer.bytes_in == 43_136 * 4 / 8  # G fp32 over the shard group
    last = plan_of(16, replicate=2, accumulate=3, requires_all_reduce="last")
    assert len(issued(last, "all_reduce", "backward")) == 5
    assert len(issued(last, "reduce_scatter")) == 15


def test_recompute_adds_no_collective():
    for wrap in ("block+root", "torchtitan"):
        plain, again = plan_of(wrap=wrap), plan_of(wrap=wrap, recompute="full")
        assert [op[9:] for op in plain.ops if op.kind == COLLECTIVE] == [
            op[9:] for op in again.ops if op.kind == COLLECTIVE
        ]
        assert sum(op.name == "recompute" for op in again.ops) == 4


def test_llama_8b_bytes():
    model = Model(
        name="llama-3-8b", layers=32, hidden_size=4096, heads=32, kv_heads=8, head_dim=128,
        ffn_size=14336, vocab_size=128256,
    )  # fmt: skip
    w = Workload(name="w", model=model, sequence_length=4096)
    plan = plan_of(64, of=w)
    block = next(op for op in issued(plan, "all_gather") if op.unit == "layers.7")
    assert (block.bytes_in, block.bytes_out) == (436_224_000 / 64, 436_224_000)
    scatter = next(op for op in issued(plan, "reduce_scatter") if op.unit == "layers.7")
    assert (scatter.bytes_in, scatter.bytes_out) == (872_448_000, 872_448_000 / 64)
    clip = issued(plan, "all_reduce", "clip")[0]
    assert clip.bytes_in == 291 * 4
    assert plan.owned_numel == 8_030_261_248 / 64
    assert plan.owned_tensors == 291


def test_padding_by_hand():
    assert padded_numel((160, 64), 64) == 192 * 64
    assert padded_numel((155,), 16) == 160
    # 5 + gap 3 + 8 = 16, then 3 -> 19, to a multiple of 8: 24
    assert flat_numel([5, 8, 3], 8, 8) == 24
    assert flat_numel([5, 8, 3], 0, 8) == 16


def test_bf16_reduction_halves_the_wire_and_casts_the_result():
    fp32, bf16 = plan_of(), plan_of(reduce_dtype="bf16")
    a, b = issued(fp32, "reduce_scatter"), issued(bf16, "reduce_scatter")
    assert [op.bytes_in for op in a] == [2 * op.bytes_in for op in b]
    casts = [op for op in bf16.ops if op.name == "cast" and op.stream == "reduce_scatter"]
    assert len(casts) == 5


def test_checkpointed_layers():
    assert checkpointed_layers(Checkpointing(kind="selective-blocks", every=3), 7) == (
        False, False, True, False, False, True, False,
    )  # fmt: skip
    half = checkpointed_layers(Checkpointing(kind="selective-blocks", fraction=0.5), 6)
    assert half == (True, False, True, False, True, False)
    assert sum(checkpointed_layers(Checkpointing(kind="selective-blocks", fraction=0.25), 32)) == 8


def test_quantised_base_is_gathered_packed():
    w = workload().model_copy(
        update={"method": Method(kind="qlora", rank=16, targets=ALL, quantization="nf4")}
    )
    op = next(o for o in issued(plan_of(of=w), "all_gather") if o.unit == "layers.1")
    # 43,008 matrix elements at 4 bits; norms 128 and adapters 17,920 at 2 bytes
    assert op.bytes_out == 43_008 / 2 + (128 + 17_920) * 2


def test_fp8_all_gather_halves_the_matrices():
    w = workload().model_copy(
        update={"precision": Precision(kind="fp8", recipe="tensorwise", all_gather="fp8")}
    )
    op = next(o for o in issued(plan_of(of=w), "all_gather") if o.unit == "layers.1")
    assert op.bytes_out == 43_008 + 128 * 2


@pytest.mark.parametrize(
    ("world", "options", "path"),
    [
        (8, {"replicate": 3}, "parallelism.replicate"),
        (8, {"reshard_after_forward": 3}, "parallelism.reshard_after_forward"),
        (8, {"backward_prefetch": "post"}, "parallelism.backward_prefetch"),
        (8, {"strategy": "fsdp1", "wrap": "torchtitan"}, "parallelism.wrap"),
        (8, {"context_parallel": 3}, "parallelism.context_parallel"),
        (8, {"context_parallel": 2, "strategy": "fsdp1"}, "parallelism.context_parallel"),
        (8, {"context_parallel": 2, "wrap": "linear"}, "parallelism.wrap"),
        (8, {"strategy": "ddp", "offload": "all"}, "parallelism.offload"),
    ],
)
def test_contradictions_are_input_errors(world, options, path):
    with pytest.raises(InputError, match=path):
        plan_of(world, **options)


# order and overlap


def seconds(forward=10.0, backward=20.0, gather=3.0, scatter=6.0):
    def of(op):
        if op.kind == COLLECTIVE:
            return {"all_gather": gather, "reduce_scatter": scatter}.get(op.collective, 0.0)
        if op.kind == SEGMENT and op.unit.startswith("layers"):
            return backward if op.name == "backward" else forward
        return 0.0

    return of


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


# DDP


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


# invariants


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
