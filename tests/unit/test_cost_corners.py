"""Corners of what kernels cost: values that no table of measurements reaches."""

from dataclasses import replace

import numpy as np
import pytest

from sim import simulate
from sim.blocks.update import copy_kernel
from sim.cost.attention import AttentionConstants, attention_rate, lookup
from sim.cost.gemm import CUDA_CORES, GemmConstants, gemm_times
from sim.cost.host_update import constants, update_slowdown
from sim.cost.kernel_cost import CostModel, rate_by_units
from sim.cost.power import BoardPower
from sim.inputs.loader import load, load_topology


@pytest.mark.parametrize(
    ("head_dim", "width", "near"),
    [(20, 32, 64), (96, 96, 128), (130, 160, 256), (160, 160, 256), (161, 192, 256),
     (200, 224, 256), (300, 300, 256)],
)  # fmt: skip
def test_head_sizes_between_those_measured_are_padded(head_dim, width, near):
    table = {("flash2", "forward", d): AttentionConstants(d / 1000, 100.0, 50.0)
             for d in (64, 128, 256)}  # fmt: skip
    found, note = lookup(table, "flash2", "forward", head_dim)
    assert found == AttentionConstants(near / 1000 * head_dim / width, 100.0, 50.0)
    assert note == f"attention flash2 forward: head size {head_dim} from {near}"
    assert lookup(table, "flash2", "forward", 128) == (table["flash2", "forward", 128], "")
    lent, note = lookup(table, "cudnn", "forward", 128)
    assert lent == table["flash2", "forward", 128]
    assert note == "attention cudnn forward: no data on this GPU, flash2 taken"


def test_rate_of_attention_by_hand():
    """Half the peak, 4,096 keys beside a knee of 1,024 masked and none unmasked."""
    c = AttentionConstants(0.5, 1024.0, 0.0)
    full = 4096 / (4096 + 32)
    assert attention_rate(c, 1e15, 4096, 4096, 0, True) == pytest.approx(0.4e15 * full)
    assert attention_rate(c, 1e15, 4096, 4096, 0, False) == pytest.approx(0.5e15 * full)
    assert attention_rate(c, 1e15, 4096, 4096, 1024, True) == pytest.approx(0.25e15 * full)
    assert attention_rate(c, 1e15, 32, 4096, 8192, True) == pytest.approx(0.2e15)


def test_a_product_of_one_tile_on_cuda_cores():
    """16 x 16 in a tile of 32 x 32 on 1 of 100 SMs, steps of 8 in depth, no HBM to speak of."""
    c = GemmConstants(
        tile=(1.0, 1.0, 1.0, 0.5), quantisation=0.5, fill_s=1e-6, launch_s=3e-6, memory=1.0,
        tiling=CUDA_CORES,
    )  # fmt: skip
    shapes = np.array([[16.0, 16.0, 100.0, 1.0]])
    found = gemm_times(shapes, 4.0, 4.0, 1e12, 1e18, 100, c)
    rate = 0.5 * 1e12 / 100
    assert found.tiles.tolist() == [1.0]
    assert found.split.tolist() == [1.0]
    assert found.compute_s[0] == pytest.approx(2 * 32 * 32 * 104 / rate + 1e-6)
    assert found.seconds[0] == pytest.approx(3e-6 + found.compute_s[0])


def test_rows_that_are_not_whole_units_of_16_bytes():
    """4,100 bf16 are 8,200 bytes, not 512.5 units: half the speed, by columns or by depth."""
    c = GemmConstants(
        tile=(1.0, 1.0, 1.0, 1.0), quantisation=0.0, fill_s=0.0, launch_s=0.0, memory=1.0,
    )  # fmt: skip
    shapes = np.array([[4096.0, n, k, 1.0] for n, k in
                       ((4096, 4096), (4100, 4096), (4096, 4100), (4104, 4096))])  # fmt: skip
    even, by_columns, by_depth, units = gemm_times(shapes, 2.0, 2.0, 1e14, 1e18, 64, c).compute_s
    assert by_columns / even == pytest.approx(2.0, rel=0.05)
    assert by_depth / even == pytest.approx(2.0, rel=0.05)
    assert units / even == pytest.approx(1.0, rel=0.05)
    # a weight's gradient of 4,100 tokens: its operands lie along m and n, not along the tokens
    found = gemm_times(shapes, 2.0, 2.0, 1e14, 1e18, 64, c, across=np.array([True] * 4)).compute_s
    assert found / even == pytest.approx([1.0, 2.0, 1.0, 1.0], rel=0.05)
    turned = shapes[:, [2, 1, 0, 3]]  # 4,100 rows of the gradient
    turned_s = gemm_times(
        turned, 2.0, 2.0, 1e14, 1e18, 64, c, across=np.array([True] * 4)
    ).compute_s
    assert turned_s[2] / even == pytest.approx(2.0, rel=0.05)
    # CUDA cores read one number at a time: the rule is of tensor cores
    fp32 = gemm_times(shapes, 4.0, 4.0, 1e14, 1e18, 64, replace(c, tiling=CUDA_CORES)).compute_s
    one = np.array([[4096.0, 4097.0, 4097.0, 1.0]])
    odd = gemm_times(one, 4.0, 4.0, 1e14, 1e18, 64, replace(c, tiling=CUDA_CORES)).compute_s
    assert odd / fp32[0] == pytest.approx(1.0, rel=0.05)


def test_a_vocabulary_in_no_whole_units_is_slow_in_all_three_products():
    """50,257 to 50,304 columns made nanoGPT's 124M "~25 %" faster (A. Karpathy, February 2023)."""
    job = {
        "name": "nano", "sequence_length": 1024, "micro_batch": 12, "steps": 1, "compile": True,
        "parallelism": "ddp", "stack": {"torch": "2.0", "cuda": "11.7", "nccl": "2.14"},
    }  # fmt: skip
    model = {
        "layers": 12, "hidden_size": 768, "heads": 12, "kv_heads": 12, "ffn_size": 3072,
        "ffn": "gelu", "tied_embeddings": True,
    }  # fmt: skip
    odd, even = (
        simulate("dgx-a100", {**job, "model": {**model, "name": "m", "vocab_size": columns}},
                 scaling=False).step.time_s
        for columns in (50257, 50304)
    )  # fmt: skip
    assert 1.10 < odd / even < 1.25


def test_a_step_of_tokens_in_no_whole_units_takes_no_longer():
    """1,790 tokens a step took a sixth longer than 1,792."""
    job = {
        "name": "odd", "model": "qwen2.5-1.5b", "micro_batch": 2, "steps": 1, "loss": "huggingface",
        "parallelism": {"strategy": "single"},
    }  # fmt: skip
    odd, even = (
        simulate("a100-x1", {**job, "sequence_length": length}, scaling=False).step.time_s
        for length in (895, 896)
    )
    assert 0.99 < odd / even <= 1.0


def test_k_is_split_into_no_parts_of_less_than_256():
    """One tile on a hundred SMs: as many parts as the depth allows."""
    c = GemmConstants(tile=(1.0, 1.0, 1.0, 1.0), quantisation=1.0, fill_s=0.0, launch_s=0.0,
                      memory=1.0)  # fmt: skip
    shapes = np.array([[64, 64, k, 1.0] for k in (511, 512, 1023, 1024)])
    assert gemm_times(shapes, 2, 2, 100e12, 1e30, 100, c).split.tolist() == [1, 2, 2, 4]


def test_a_clock_does_not_fall_below_a_tenth():
    board = BoardPower(limit_w=100.0, idle_w=90.0, products_w=1e6, issue_share=0.5, memory_w=50.0,
                       exponent=1.0)  # fmt: skip
    assert board.clock(1.0) == 0.1


def test_bursts_of_a_benchmark_go_at_a_higher_clock_while_they_last():
    """A loop's clock is up by `burst` at first, and by less the longer a product is."""
    shape, c = np.array([[1280, 1280, 1024, 1.0]]), GemmConstants(
        tile=(1.0, 1.0, 1.0, 1.0), quantisation=1.0, fill_s=0.0, launch_s=0.0, memory=1.0,
        burst=0.5, burst_s=1e-5, extra_s=2e-6, extra_bytes=0.0,
    )  # fmt: skip
    plain, burst = (
        float(gemm_times(shape, 2, 2, 100e12, 1e30, 100, c, in_bursts=way).seconds[0])
        for way in (False, True)
    )
    assert plain == pytest.approx(2 * 1280 * 1280 * 1024 / 100e12)
    assert burst == pytest.approx(plain / (1 + 0.5 / (1 + plain / 1e-5)) + 2e-6)


@pytest.mark.parametrize(
    ("implementation", "torch", "slower"),
    [("fused", "2.6", False), ("foreach", "2.6", True), ("fused", "2.3", True)],  # since 2.4
)
def test_an_update_on_the_host_is_quick_where_it_is_fused(implementation, torch, slower):
    job = load("dgx-h100", "llama3-8b-offload").workload
    stack = job.stack.model_copy(update={"torch": torch})
    job = job.model_copy(update={"optimizer_implementation": implementation, "stack": stack})
    assert update_slowdown(job) == (constants()["unfused"] if slower else 1.0)
    assert constants()["unfused"] > 1.5


def test_a_streamed_kernel_is_traffic_and_launches():
    model = CostModel(load_topology("dgx-h100").node.gpu)
    kernel = copy_kernel("x", 1e9, launches=3)
    found = model.cost(kernel)
    assert found.fixed_s == pytest.approx(3 * model.constants.floor_s)
    assert found.memory_s + found.fixed_s == pytest.approx(found.time_s)
    assert found.compute_s == 0.0
    # a twentieth at a time: nothing is lost with any of the SMs gone that bandwidth does not need
    [row] = model.curves()[model.costs([kernel]).curve]
    share = round(found.memory_s / found.time_s * 20) / 20
    fixed = round(found.fixed_s / found.time_s * 20) / 20
    expected = rate_by_units(0.0, share, fixed, 0.0, model.gpu.sms, model.constants.compute_loss)
    np.testing.assert_array_equal(row, expected)


def test_head_sizes_of_another_direction_are_none_of_this_one():
    of = AttentionConstants(0.5, 1.0, 1.0)
    table = {("flash3", "forward", 64): of, ("flash3", "backward", 128): of,
             ("flash2", "forward", 128): of}  # fmt: skip
    found, note = lookup(table, "flash3", "forward", 128)
    assert (found.rate, note) == (0.5, "attention flash3 forward: head size 128 from 64")
