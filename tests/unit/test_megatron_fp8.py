"""What Megatron's layers keep in BF16 and in Transformer Engine's FP8, by hand."""

import pytest

from sim.blocks.footprint import layer_footprint
from sim.blocks.parameters import count_parameters, tree_of
from sim.inputs.loader import load

TENSOR, LENGTH = 4, 8192


def job(precision, *sets, **knobs):
    knobs = {"strategy": "megatron", "tensor_parallel": TENSOR, "pipeline_parallel": 8} | knobs
    workload = {
        "model": "llama3-70b", "sequence_length": LENGTH, "micro_batch": 1, "global_batch": 128,
        "steps": 10, "precision": precision, "attention": "cudnn", "fused_kernels": "all",
        "parallelism": knobs,
    }  # fmt: skip
    return load("dgx-h100", workload, ["nodes=8", *sets])


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
