"""What FSDP and DDP gather, reduce and move, worked by hand."""

from __future__ import annotations

import pytest

from sim.blocks.flops import checkpointed_layers
from sim.errors import InputError
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.workload import Checkpointing, Precision, Workload
from sim.strategies.fsdp1_layout import flat_numel
from sim.strategies.plan import COLLECTIVE
from sim.strategies.units import padded_numel
from tests.small_plans import ALL, issued, plan_of, workload


def counts(plan):
    return (
        len(issued(plan, "all_gather", "forward")),
        len(issued(plan, "all_gather", "backward")),
        len(issued(plan, "reduce_scatter")),
    )


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
