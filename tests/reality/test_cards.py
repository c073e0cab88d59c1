"""Boards with less than their chip's tensor cores, and cards on a desk, beside what they did."""

import pytest

from sim import simulate
from sim.blocks.kernels import Kernel
from sim.cost.constants import eased, load_constants
from sim.cost.kernel_cost import CostModel
from sim.cost.power import board_power
from sim.inputs import catalogue
from sim.inputs.architecture import board_of, measured_board, tensor_ratio
from tests.reality import ladder


@pytest.mark.parametrize(
    ("gpu", "products", "attention"),
    [
        ("rtx-4090-24gb", 1 / 2, 1 / 4), ("rtx-5090-32gb", 1 / 2, 1 / 4),
        ("rtx-3090-24gb", 1 / 4, 1 / 4), ("a10g-pcie-24gb", 1 / 4, 1 / 4),
        ("rtx-2080-ti-11gb", 1 / 4, 1 / 4), ("t4-pcie-16gb", 1, 1), ("titan-rtx-24gb", 1, 1),
        ("l40-pcie-48gb", 1 / 2, 1 / 4), ("h20-sxm-96gb", 1 / 4, 1 / 4),
        ("rtx-pro-6000-96gb", 1, 1), ("rtx-a6000-48gb", 1, 1), ("h100-nvl-94gb", 1, 1),
        ("b200-sxm-180gb", 1, 1), ("mi300x-192gb", 1, 1),
    ],
)  # fmt: skip
def test_what_is_left_of_tensor_cores(gpu, products, attention):
    """Over those of the board that each part was measured on: attention of an L40S is an A100's."""
    found = catalogue.gpu(gpu)
    board = measured_board(found)
    lender = board_of("a100") if board.name == "l40s-pcie-48gb" else board
    assert (tensor_ratio(found, board), tensor_ratio(found, lender)) == (products, attention)


def test_slower_tensor_cores_are_kept_busier():
    """FlashAttention 2: 0.714 of an A100's peak; an RTX 5090's cores do a quarter a clock.

    Source: Gau Nernst, "Writing Speed-of-Light Flash Attention for 5090 in CUDA C++" (2025): the
    official kernel reaches 190.58 of 209.5 TFLOP/s, 4,096 tokens forward, head size 128.
    """
    model = CostModel(catalogue.gpu("rtx-5090-32gb"))
    flops = 4 * 64 * 4096 * 4096 * 128
    kernel = Kernel(
        "attention", "attention", "attention", flops, access="flash2", direction="forward",
        shape=(1, 64, 64, 4096, 4096, 128, 0, 0),
    )  # fmt: skip
    assert flops / model.cost(kernel).time_s / 1e12 == pytest.approx(190.58, rel=0.05)


def test_products_of_an_a100_eased_are_those_of_an_l40s():
    """Half the FLOPs a clock, and a table of its own: its tiles' shares at the clock it held."""
    a100, l40s = load_constants(board_of("a100")), load_constants(board_of("l40s"))
    table = [share / l40s.power.table_clock for share in l40s.gemm["bf16"].tile]
    from_a100 = [eased(share, slower=0.5) for share in a100.gemm["bf16"].tile]
    assert from_a100 == pytest.approx(table, rel=0.08)


#: Llama 3.1 8B, 2 x 2,048 tokens on an RTX 4090: tokens a second, GiB. Source:
#: meta-pytorch/torchtune README.md, table of models and GPUs
ADAPTERS = {"rank": 8, "targets": "all-linear", "dropout": 0}
DESK = [
    ({"method": {"lora": ADAPTERS}}, 3083, 16.2),
    ({"method": {"qlora": ADAPTERS}}, 2413, 7.4),
    (
        {
            "optimizer": "adamw-8bit", "optimizer_paged": True, "optimizer_in_backward": True,
            "parallelism": {"clip_gradients": False},
        },
        1650, 18.9,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "speed", "peak"), DESK, ids=["lora", "qlora", "full"])
def test_8b_on_a_desk(changes, speed, peak):
    """Speeds are up to a fifth low: such boards clock above what their peaks are quoted at."""
    job = ladder.JOB | {
        "model": "llama-3.1-8b", "sequence_length": 2048, "activation_checkpointing": "full",
        "compile": True, "loss": "chunked",
    }  # fmt: skip
    machine = {"name": "desk", "node": {"gpu": "rtx-4090-24gb", "gpus": 1}}
    found = simulate(machine, job | changes, scaling=False, fixes=False)
    assert found.memory.fits
    assert found.memory.peak_allocated_bytes / 2**30 == pytest.approx(peak, rel=0.1)
    assert found.throughput.tokens_per_s == pytest.approx(speed, rel=0.21)


@pytest.mark.parametrize(
    ("nvlink", "seconds", "near"),
    [({"generation": 2, "links_per_gpu": 2, "fabric": "pairs"}, 101, 0.03), (None, 131, 0.17)],
    ids=["bridge", "PCIe"],
)
def test_gpt2_on_two_titans(nvlink, seconds, near):
    """200 steps of 4 x 1,024 tokens in FP32 under DDP, on two TITAN RTX.

    Source: huggingface/transformers docs, "Efficient training on multiple GPUs": 101 s by two
    NVLinks, 131 s with NCCL_P2P_DISABLE=1. Of what host memory adds, 30 s, the model has 10.
    """
    job = {
        "name": "gpt2", "model": "gpt2", "sequence_length": 1024, "micro_batch": 4, "steps": 200,
        "precision": "fp32", "attention": "eager", "loss": "huggingface", "parallelism": "ddp",
        "trainer": "huggingface", "stack": {"torch": "1.8", "cuda": "11.0"},
    }  # fmt: skip
    level = {"nvlink": nvlink} if nvlink else {"p2p_level": "LOC"}
    machine = {"name": "titans", "node": {"gpu": "TITAN RTX", "gpus": 2, **level}}
    found = simulate(machine, job, scaling=False, fixes=False)
    assert 200 * found.step.time_s == pytest.approx(seconds, rel=near)


@pytest.mark.parametrize(
    ("gpu", "clock"),
    [("t4-pcie-16gb", 0.757), ("a10-pcie-24gb", 0.80), ("rtx-8000-48gb", 1.0),
     ("a10g-pcie-24gb", 1.0), ("rtx-3090-24gb", 1.0), ("v100-pcie-32gb", 0.967)],
)  # fmt: skip
def test_boards_with_few_watts_for_their_chip_throttle(gpu, clock):
    """As many watts for a FLOP as the board with all of the chip (T4: 117 W for 60)."""
    assert CostModel(catalogue.gpu(gpu)).clock(1.0) == pytest.approx(clock, rel=0.005)


def large_products(gpu, dtype):
    """TFLOP/s of 8,192 x 8,192 x 8,192."""
    kernel = Kernel("w", "w", "gemm", shape=(8192, 8192, 8192, 1), dtype=dtype)
    return 2 * 8192**3 / CostModel(catalogue.gpu(gpu)).cost(kernel).time_s / 1e12


def test_large_products_of_a_t4():
    """41 of 65 TFLOP/s. Source: Jia et al., arXiv 1903.07486, "Dissecting the NVidia Turing T4"."""
    assert large_products("t4-pcie-16gb", "fp16") == pytest.approx(41.4, rel=0.1)


def test_large_products_of_a_2080_ti():
    """Of 53.8 TFLOP/s a quarter a clock of an A100's, whose 0.81 becomes 0.81 / (0.81 + 0.19/4)."""
    a100 = large_products("a100-sxm-80gb", "fp16") / 312 / 0.99
    wanted = 53.8 * a100 / (a100 + (1 - a100) / 4)
    assert large_products("rtx-2080-ti-11gb", "fp16") == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("gpu", ["rtx-3090-24gb", "rtx-2080-ti-11gb"])
def test_what_is_not_cut_is_not_kept_busier(gpu):
    """GeForce multiplies int8, and fp32 on CUDA cores, at its chip's full rate: an A100's tiles."""
    found, a100 = (load_constants(catalogue.gpu(name)) for name in (gpu, "a100-sxm-80gb"))
    assert found.gemm["int8"] == a100.gemm["bf16"]
    assert found.gemm["fp32"] == a100.gemm["fp32"]
    assert min(found.gemm["fp16"].tile) > max(a100.gemm["bf16"].tile[2:])


def test_an_h20_is_cut_in_int8_too():
    found = load_constants(catalogue.gpu("h20-sxm-96gb"))
    assert found.gemm["int8"].tile == found.gemm["bf16"].tile


def test_large_int8_products_of_a_3090():
    """284 TOP/s by the A100's share, 0.81, and not by that of its halved sums (0.93)."""
    share = large_products("a100-sxm-80gb", "int8") / 624 / 0.99
    assert large_products("rtx-3090-24gb", "int8") / 284 == pytest.approx(share, rel=0.02)


@pytest.mark.parametrize(
    ("gpu", "watts", "clock"),
    [("b200-sxm-180gb", 1000, 0.95), ("b300-sxm-288gb", 1100, 0.995), ("gb300-288gb", 1221, 1.0)],
)
def test_blackwell_ultra_takes_blackwells_watts(gpu, watts, clock):
    """(1000 - 140) / 0.95^2.4 W for 2,250 TFLOP/s: 0.432 W each, above 140 at rest, up to 1,400."""
    model = CostModel(catalogue.gpu(gpu))
    power = board_power(model.gpu, model.constants.power)
    assert (power.watts(1.0), power.clock(1.0)) == pytest.approx((watts, clock), rel=0.005)
