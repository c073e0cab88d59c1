"""What Megatron's layers keep in BF16 and in Transformer Engine's FP8, by hand."""

import pytest

from sim.blocks.footprint import layer_footprint
from sim.blocks.parameters import count_parameters, tree_of
from sim.blocks.unroll import unroll
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.shares import mesh_of
from sim.step.step import memory_of
from sim.strategies import plans_of
from sim.strategies.plan import COLLECTIVE

TENSOR, LENGTH = 4, 8192


def job(precision, *sets, **knobs):
    knobs = {"strategy": "megatron", "tensor_parallel": TENSOR, "pipeline_parallel": 8} | knobs
    workload = {
        "model": "llama3-70b", "sequence_length": LENGTH, "micro_batch": 1, "global_batch": 128,
        "steps": 10, "precision": precision, "attention": "cudnn", "fused_kernels": "all",
        "parallelism": knobs,
    }  # fmt: skip
    return load("dgx-h100", workload, ["nodes=8", *sets])


def plans(precision, **knobs):
    topology, workload, _ = job(precision, **knobs)
    return plans_of(workload, tree_of(workload), mesh_of(topology, workload))


FP8 = {"fp8": {"recipe": "te-delayed"}}


@pytest.mark.parametrize(("precision", "by_hand"), [("bf16", 33.5), (FP8, 29.0)])
def test_a_layer_keeps_what_megatron_does(precision, by_hand):
    # bytes a token and column of the stream over t: each norm's input 2, and what it made 2, in
    # FP8 1, of this rank's positions; q 2, k and v 0.25 each (8 heads of 64), attention's output
    # 2, in FP8 a copy for the product 1; gate and up 2 x 3.5 x 2; the product's input 3.5 x 2, in
    # FP8 3.5 x 1. Beside it 4 bytes a row of each norm, and of each row and head of attention
    workload = job(precision).workload
    rows = 2 * 4 * LENGTH / TENSOR + 4 * LENGTH * 64 / TENSOR
    saved = layer_footprint(workload, "layer").saved - rows
    width = workload.model.hidden_size
    assert saved / (LENGTH * width / TENSOR) == pytest.approx(by_hand, rel=1e-12)


def test_queries_keys_and_values_are_of_one_product_whatever_the_model_says():
    workload = job("bf16").workload
    tree = tree_of(workload)
    names = {m.name for m in tree.layers[0].modules}
    assert not workload.model.fused_qkv
    assert names == {"wqkv", "wo", "w13", "w2", "attention_norm", "ffn_norm"}
    # as many elements as apart: the layers' matrices over t, norms whole
    layer = sum(p.numel for m in tree.layers[0].modules for p in m.parameters)
    d, f, kv = 8192, 28672, 1024
    assert layer == (d * d * 2 + d * kv * 2 + 3 * d * f) / TENSOR + 2 * d
    assert count_parameters(workload.model).total == pytest.approx(70.55e9, rel=1e-3)


def test_norms_write_fp8_and_only_the_own_part_is_cast_and_gathered():
    # a norm's output is FP8 already and is turned once it is gathered in backward (1 read, 1
    # written); attention's output is cast with its transpose (2 read, 2 written); the gradient of
    # what left the branch is cast where it is (2 + 1), gathered in FP8 and turned (1 + 1)
    workload = job(FP8).workload
    tokens, d = LENGTH, workload.model.hidden_size
    of = unroll(workload).of
    ahead = {k.name: k.bytes for k in of("layer", "forward") if "cast" in k.name}
    assert ahead == {
        "wo.input.cast": 4 * tokens * d / TENSOR,
        "w2.input.cast": 4 * tokens * workload.model.ffn_size / TENSOR,
    }
    back = {k.name: k.bytes for k in of("layer", "backward") if k.name.startswith("wo.grad")}
    assert back == {"wo.grad.cast": 3 * tokens * d / TENSOR, "wo.grad.turn": 2 * tokens * d}
    turned = [k.bytes for k in of("layer", "backward") if k.name == "wqkv.input.turn"]
    assert turned == [2 * tokens * d]

    def gathered(precision):
        plan = plans(precision)[0]
        ops = [op for op in plan.ops if op.kind == COLLECTIVE and op.group == "tensor"]
        inside = [op for op in ops if op.block == 1 and op.micro_step == 0]
        found = {"all_gather": set(), "reduce_scatter": set()}
        for op in inside:
            found[op.collective].add(max(op.bytes_in, op.bytes_out))
        return found

    whole = float(tokens * d)
    assert gathered("bf16") == {"all_gather": {2 * whole}, "reduce_scatter": {2 * whole}}
    assert gathered(FP8) == {"all_gather": {whole}, "reduce_scatter": {2 * whole}}


def test_fp8_weights_are_kept_beside_those_in_bf16_or_are_the_weights():
    # a stage of 10 layers and the embedding: bf16 2 B; FP8 and its transpose 2 B more; FP8 alone
    # 1 B, its transpose 1 B
    d, f, kv = 8192, 28672, 1024
    low = 10 * (2 * d * d + 2 * d * kv + 3 * d * f) / TENSOR
    rest = 10 * 2 * d + 128256 * d / TENSOR
    in_fp8 = {"fp8": FP8["fp8"] | {"all_gather": "fp8"}}
    for precision, stored, copies in (
        ("bf16", 2 * (low + rest), 0), (FP8, 2 * (low + rest), 2 * low),
        (in_fp8, low + 2 * rest, low),
    ):  # fmt: skip
        topology, workload, _ = job(precision)
        terms = memory_of(topology, workload).terms
        assert terms["sharded parameters"] == pytest.approx(stored, rel=1e-9)
        assert terms.get("unsharded parameters", 0.0) == pytest.approx(copies, rel=1e-9)
        for overlap in (False, True):
            plan = plans(precision, overlap_param_gather=overlap)[0]
            of = [x for x in plan.ops if x.collective == "all_gather" and x.group == "shard"]
            assert sum(x.bytes_out for x in of) == pytest.approx(stored, rel=1e-6)


def test_fp8_weights_are_gathered_under_the_recipe_of_the_strategy():
    wrong = {"fp8": {"recipe": "rowwise", "all_gather": "fp8"}}
    with pytest.raises(
        InputError, match="rowwise has no FP8 all-gather under megatron; te-delayed"
    ):
        job(wrong)
    with pytest.raises(InputError, match="zero1 has no FP8 all-gather; fsdp2 and megatron have"):
        job(wrong, strategy="zero1", tensor_parallel=1, pipeline_parallel=1)


@pytest.mark.parametrize(
    ("recipe", "copies", "reads"), [("te-current", 2, 4), ("te-blockwise", 2 + 8 / 128**2, 2)]
)
def test_other_recipes_cast_weights_once_a_step_too(recipe, copies, reads):
    """`is_first_microbatch` is said whatever the recipe: no block casts a weight, copies stay.

    A maximum of this step reads the weights once more.
    """
    precision = {"fp8": {"recipe": recipe}}
    topology, workload, _ = job(precision, "stack={torch: 2.9, cuda: 12.9}")
    names = {k.name for k in unroll(workload).of("layer", "forward")}
    assert "wqkv.input.cast" in names
    assert "wqkv.weight.cast" not in names
    stays = memory_of(topology, workload).terms["unsharded parameters"]
    d, f, kv = 8192, 28672, 1024
    low = 10 * (2 * d * d + 2 * d * kv + 3 * d * f) / TENSOR
    assert stays == pytest.approx(copies * low)
    plan = plans_of(workload, tree_of(workload), mesh_of(topology, workload))[0]
    (cast,) = [x for x in plan.ops if x.name == "quantise"]
    assert cast.bytes == pytest.approx((copies + reads) * low)
