"""Costs of kernels: physical limits, waves, curves, clocks under power, what is borrowed."""

from dataclasses import replace

import numpy as np
import pytest

from sim.blocks.kernels import Kernel
from sim.blocks.unroll import unroll
from sim.blocks.update import Shard, clip_kernels, copy_kernel, optimizer_kernels
from sim.cost.attention import AttentionConstants, attention_rate, family, lookup
from sim.cost.constants import load_constants
from sim.cost.elementwise import beyond_l2, stream_time
from sim.cost.gemm import GemmConstants, effective_waves, gemm_times
from sim.cost.host import host_model
from sim.cost.kernel_cost import CostModel, rate_by_units
from sim.cost.power import BoardPower, board_power
from sim.inputs import catalogue
from sim.inputs.gpu import Gpu
from sim.inputs.loader import load
from sim.inputs.method import Method
from sim.inputs.versions import sdpa_since
from sim.inputs.workload import Checkpointing, Precision, Workload
from sim.job.energy import gpu_states
from sim.step.step import step
from tests.unit.decoders import LLAMA

H100 = Gpu(name="h100-sxm-80gb")
IDEAL = GemmConstants(
    tile=(1.0, 1.0, 1.0, 1.0), quantisation=1.0, fill_s=0.0, launch_s=0.0, memory=1.0
)


def job(**keys):
    return Workload(name="t", model=LLAMA, **{"sequence_length": 4096, **keys})


def gemm(m, n, k, dtype="bf16"):
    return Kernel(
        "x", "x", "gemm", 2.0 * m * n * k, 2.0 * (m * k + k * n + m * n), (m, n, k, 1), dtype
    )


def ideal(m, n, k, sms=100):
    """Times at 1 TFLOP/s an SM and endless bandwidth."""
    return gemm_times(np.array([[m, n, k, 1.0]]), 2, 2, sms * 1e12, 1e30, sms, IDEAL)


def test_one_wave_of_tiles():
    # 10 x 10 tiles of 128 x 128 on 100 SMs: one full wave at peak, 2 x 128 x 128 x 1024 a tile
    t = ideal(1280, 1280, 1024)
    assert t.seconds[0] == pytest.approx(2 * 1280 * 1280 * 1024 / 100e12)


def test_one_tile_more_costs_a_wave():
    # 101 tiles of every shape tried need a second wave of some tile shape
    full, over = ideal(1280, 1280, 1024), ideal(1280 + 64, 1280, 1024)
    assert over.seconds[0] / full.seconds[0] > 1.04
    assert effective_waves(np.array([1.01]), 1.0)[0] == 2.0
    assert effective_waves(np.array([1.5]), 0.5)[0] == 1.75
    assert effective_waves(np.array([0.2]), 1.0)[0] == 1.0


def test_long_k_is_split():
    t = ideal(128, 128, 65536)
    assert t.split[0] > 1
    assert t.seconds[0] < 2 * 128 * 128 * 65536 / 1e12


def test_unaligned_products_are_slower():
    assert ideal(1024, 1023, 1024).seconds[0] > 1.5 * ideal(1024, 1024, 1024).seconds[0]


def test_attention_of_few_heads_and_rows_leaves_sms_idle():
    """8 heads x 1,000 rows are 64 blocks of 128 rows: 0.75 x 132 SMs / 64 = 1.55 x as long."""

    def compute_s(sequences, heads, rows):
        flops = 4.0 * sequences * heads * rows * rows * 128
        shape = (sequences, heads, heads, rows, rows, 128, 0, 0)
        return CostModel(H100).cost(Kernel("a", "a", "attention", flops, 0.0, shape)).compute_s

    assert 64 * compute_s(1, 8, 1000) / compute_s(64, 8, 1000) == pytest.approx(0.75 * 132 / 64)
    assert 64 * compute_s(1, 16, 1000) / compute_s(64, 16, 1000) == pytest.approx(1.0)


def test_stream_time_by_hand():
    # 1 GB at half of 1 TB/s, floor 2 us, ramp 1 MB
    assert stream_time(1e9, 1, 0.5, 1e12, 2e-6, 1e6) == pytest.approx(2e-6 + 1.001e9 / 0.5e12)
    # ten kernels of 1 KB cost ten floors
    assert stream_time(1e4, 10, 0.5, 1e12, 2e-6, 1e6) == pytest.approx(20e-6, rel=1e-2)


def test_attention_reaches_half_its_rate_at_the_knee():
    c = AttentionConstants(rate=0.5, knee=512, knee_full=64)
    long = 2**40
    rate = attention_rate(c, 1e15, long, 512, 0, True)
    assert rate == pytest.approx(0.25e15, rel=1e-6)
    assert attention_rate(c, 1e15, long, 8192, 512, True) == rate  # a window's rows are as short


def test_attention_falls_back_and_says_so():
    table = load_constants(H100).attention
    assert lookup(table, "flash3", "forward", 128)[1] == ""
    c, note = lookup(table, "flash2", "forward", 80)
    assert "80" in note
    assert c.rate == pytest.approx(table["flash2", "forward", 128].rate * 80 / 96)
    a100 = load_constants(catalogue.gpu("a100-sxm-80gb")).attention
    assert "flash2 taken" in lookup(a100, "flash3", "forward", 128)[1]


def test_clock_under_a_power_limit():
    def clock(intensity, limit):
        return BoardPower(limit, 100.0, 937.5, 0.5, 400.0, 2.0).clock(intensity)

    assert clock(1.0, 700.0) == pytest.approx(0.8)  # 600 W are left: sqrt(600/937.5)
    assert clock(1.0, 400.0) == pytest.approx((300 / 937.5) ** 0.5)
    assert clock(0.0, 700.0) == 1.0  # 469 W at full clock
    assert clock(1.0, 2000.0) == 1.0


@pytest.mark.parametrize(
    "name", ["rtx-3090-24gb", "rtx-a6000-48gb", "v100-sxm-32gb", "mi250x-128gb"]
)
def test_a_cap_slows_a_board_of_another_chip(name):
    """Its products draw the limit it is sold with: what is less costs clock, and saves energy."""
    board = catalogue.gpu(name)
    capped = board.model_copy(update={"power_limit": 0.8 * board.power_limit})
    assert CostModel(board).clock(1.0) == 1.0
    slower = 1.0 / CostModel(capped).clock(1.0)
    assert 1.05 < slower < 1.2
    before, after = gpu_states(board)["compute"], gpu_states(capped)["compute"]
    assert (before, after) == pytest.approx((board.power_limit, capped.power_limit))
    assert after * slower < before


def test_clock_and_power_read_one_description():
    """Products at the clock that times take draw the power that energy takes."""
    for name in ("h100-sxm-80gb", "h100-pcie-80gb", "rtx-3090-24gb", "rtx-4090-24gb"):
        gpu = catalogue.gpu(name).model_copy(update={"power_limit": 250.0})
        model = CostModel(gpu)
        power = board_power(gpu, model.constants.power)
        drawn = power.idle_w + power.products_w * model.clock(1.0) ** power.exponent
        assert drawn == pytest.approx(gpu_states(gpu)["compute"])


def test_a_power_cap_slows_products_and_spares_streams():
    stock, capped = CostModel(H100), CostModel(H100.model_copy(update={"power_limit": 500.0}))
    product, stream = gemm(8192, 8192, 8192), Kernel("y", "y", "elementwise", bytes=1e9)
    assert capped.cost(product).time_s > 1.08 * stock.cost(product).time_s
    assert capped.cost(stream).time_s == stock.cost(stream).time_s


@pytest.mark.parametrize("name", catalogue.gpu_names())
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"compile": True, "attention": "cudnn"},
        {"attention": "eager"},
        {"method": Method(kind="qlora", rank=8, targets=("q", "down"), quantization="nf4")},
        {"precision": Precision(kind="fp8", recipe="rowwise")},
        {"precision": Precision(kind="fp32")},
    ],
    ids=["plain", "compile", "eager", "qlora", "fp8", "fp32"],
)
def test_nothing_beats_the_datasheet(name, keys):
    gpu = catalogue.gpu(name)
    model = CostModel(gpu)
    workload = job(activation_checkpointing=Checkpointing(kind="full"), **keys)
    shard = Shard(1e9, 100)
    kernels = [k for ks in unroll(workload).kernels.values() for k in ks]
    for kernel in (*kernels, *optimizer_kernels(workload, shard), *clip_kernels(shard)):
        cost = model.cost(kernel)
        assert cost.time_s > 0
        assert kernel.flops <= model.peak(kernel.dtype) * cost.time_s
        assert cost.hbm_bytes <= gpu.memory_bandwidth * cost.time_s
        assert kernel.bytes <= model.constants.l2_speed * gpu.memory_bandwidth * cost.time_s


@pytest.mark.parametrize(
    ("mega", "hbm"),
    [
        (0.0, 0.0),
        (10.0, 10.0 * (1 - 3 / 4 * 2 / 3)),  # a quarter of 20 MB is read: the rest is still there
        (40.0, 40.0),  # 20 MB read and 20 MB written since: nothing is left
        (400.0, 400.0),
    ],
)
def test_what_the_l2_still_holds_is_not_read_from_hbm(mega, hbm):
    assert beyond_l2(mega * 1e6, 1, 20e6, 3.0) == pytest.approx(hbm * 1e6)
    assert beyond_l2(2 * mega * 1e6, 2, 20e6, 3.0) == pytest.approx(2 * hbm * 1e6)


def test_half_of_an_a100s_l2_holds_a_tensor_and_all_of_an_l40s():
    """Two partitions keep their own copies; 16 MB written and read beside 20 and 96 MB."""
    adds = Kernel("add", "residual", "elementwise", 0.0, 32e6)
    for name, left in (("a100-sxm-80gb", 1 - 0.2 * 2 / 3), ("l40s-pcie-48gb", 1 - 5 / 6 * 2 / 3)):
        found = CostModel(catalogue.gpu(name)).cost(adds)
        assert found.hbm_bytes == pytest.approx(left * 32e6)


def test_curves():
    model = CostModel(H100)
    for kernel in (k for ks in unroll(job()).kernels.values() for k in ks):
        row = model.curve_row(kernel)
        curve = model.curves()[row]
        assert curve.shape == (133,)
        assert curve[132] == 1.0
        assert curve[0] == curve[1] > 0
        assert np.all(np.diff(curve[1:]) >= -1e-12)


COMPANY = 2.0  # of the data files


def test_a_full_wave_beside_a_collective():
    """132 tiles on an H100 beside 24 channels: MFU 80 -> 47 %, "nearly double" (forum 337991)."""
    curve = rate_by_units(1.0, 0.0, 0.0, 132.0, 132, COMPANY)
    assert 1.7 < 1 / curve[108] < 2.0
    # many waves just share the SMs, and L2 and power with the collective
    half = rate_by_units(1.0, 0.0, 0.0, 132000.0, 132, COMPANY)[66]
    assert half == pytest.approx(0.5 / (1 + COMPANY / 2), rel=0.01)
    # a memory-bound kernel does not mind 24 channels
    assert rate_by_units(0.0, 1.0, 0.0, 0.0, 132, COMPANY)[108] == 1.0


def test_costs_do_not_depend_on_what_was_priced_before():
    kernels = unroll(job()).of("layer", "forward")
    other = unroll(job(sequence_length=1000, micro_batch=3)).of("layer", "backward")
    fresh, used = CostModel(H100), CostModel(H100)
    used.costs(other)
    a, b = fresh.costs(kernels), used.costs(kernels)
    assert np.array_equal(a.time_s, b.time_s)
    assert np.array_equal(fresh.curves()[a.curve], used.curves()[b.curve])


def test_twice_the_machine_takes_half_the_time():
    """All rates doubled, fixed costs apart, a big product and a big copy take half."""
    double = H100.model_copy(
        update={
            "peak_bf16": 2 * H100.peak_bf16,
            "memory_bandwidth": 2 * H100.memory_bandwidth,
            "power_limit": 70 + 2 * 630.0,
            "idle_power": 70.0,
        }
    )
    for kernel in (gemm(16384, 16384, 16384), Kernel("y", "y", "elementwise", bytes=1e11)):
        constants = load_constants(H100)
        bf16 = replace(constants.gemm["bf16"], fill_s=constants.gemm["bf16"].fill_s / 2)
        faster = CostModel(
            double, constants=replace(constants, gemm={**constants.gemm, "bf16": bf16})
        )
        ratio = CostModel(H100).cost(kernel).time_s / faster.cost(kernel).time_s
        assert ratio == pytest.approx(2.0, rel=2e-3)


def test_host_launch():
    kernel = Kernel("z", "z", "elementwise", bytes=1e6, launches=3)
    eager, graphs = host_model("eager"), host_model("graphs")
    assert eager.launch_s(kernel) == pytest.approx(3 * 24e-6)
    assert graphs.launch_s(kernel) < 0.05 * eager.launch_s(kernel)


def test_borrowed_constants_are_named():
    assert CostModel(H100).constants.fallbacks == ()
    notes = CostModel(catalogue.gpu("v100-sxm-32gb")).constants.fallbacks
    assert any("v100-sxm-32gb" in n for n in notes)
    assert CostModel(catalogue.gpu("l40s-pcie-48gb")).constants.fallbacks[:2] == (
        "attention of l40s-pcie-48gb: a100-sxm-80gb's",
        "bandwidth of l40s-pcie-48gb: a100-sxm-80gb's x 1.17, at most 0.9",
    )
    assert CostModel(catalogue.gpu("b200-sxm-180gb")).constants.fallbacks == (
        "attention of b200-sxm-180gb: h100-sxm-80gb's x 0.528 (flash2)",
        "bandwidth of b200-sxm-180gb: h100-sxm-80gb's",
    )
    stranger = H100.model_copy(update={"architecture": "foo", "name": "foo-1"})
    assert CostModel(stranger).constants.fallbacks[0] == "foo-1: the architecture foo is unknown"


def test_an_unknown_architecture_is_warned_of():
    sets = ["node.gpu={base: h100-sxm-80gb, architecture: foo}"]
    loaded = load("dgx-h100", "llama3-8b-lora", sets)
    found = [w for w in loaded.notes.warnings if w.code == "architecture"]
    assert [w.path for w in found] == ["topology.node.gpu.architecture"]
    assert found[0].message == "nothing is known of foo; hopper's kernels stand in"


def test_a_collective_between_nodes_costs_no_less_than_one_inside():
    """16 channels between nodes take the room of 24: two nodes gain nothing for want of some."""
    job = {"name": "x", "model": "llama-3-8b", "sequence_length": 2048, "micro_batch": 2}
    loads = (load("dgx-h100", job, [f"nodes={n}"]) for n in (1, 2))
    one, two = (step(each.topology, each.workload) for each in loads)
    per_second = [
        s.breakdown.slowdown_s / (s.breakdown.communication_s - s.breakdown.exposed_s)
        for s in (one, two)
    ]
    assert 0.9 < per_second[1] / per_second[0] < 1.1


def test_a_second_of_communication_over_pcie_costs_kernels_half_a_second():
    """Its two channels hold two SMs, but stores that wait on a bus hold up what runs beside them.

    Full fine-tuning of a 7B on four A100s of a PCIe machine loses 1.0 s a micro-step against one
    GPU, of 1.9 s of communication that 5 s of kernels would hide (finetune.csv, 16,384 tokens).
    """
    job = {
        "name": "x", "model": "llama-3-8b", "sequence_length": 2048, "micro_batch": 8,
        "activation_checkpointing": "full",
    }  # fmt: skip
    found = {}
    for machine, changes in (("pcie4-a100-8", []), ("l40s-8", ["node.gpus=4"])):
        loaded = load(machine, job, changes)
        b = step(loaded.topology, loaded.workload).breakdown
        found[machine] = b.slowdown_s / (b.communication_s - b.exposed_s)
    assert 0.4 < found["l40s-8"] < 0.6
    assert 0.4 < found["pcie4-a100-8"] < 0.6


@pytest.mark.parametrize(
    ("torch", "a100", "h100", "b200"),
    [
        ("2.0", "flash1", "flash1", "flash1"),
        ("2.1", "flash1", "flash1", "flash1"),
        ("2.2", "flash2", "flash2", "flash2"),
        ("2.4.1", "flash2", "flash2", "flash2"),
        ("2.5.0", "flash2", "cudnn", "flash2"),
        ("2.5.0+cu124", "flash2", "cudnn", "flash2"),
        ("2.5", "flash2", "flash2", "flash2"),
        ("2.5.1", "flash2", "flash2", "flash2"),
        ("2.10", "flash2", "flash2", "flash2"),
        ("2.11", "flash2", "cudnn", "cudnn"),
        ("2.13.0", "flash2", "cudnn", "cudnn"),
    ],
)
def test_which_kernel_sdpa_runs(torch, a100, h100, b200):
    """By PyTorch's release and the GPU: pytorch PR 138522 and 162073."""
    kind = f"sdpa-{sdpa_since(torch)}".rstrip("-")
    h = catalogue.gpu("h100-sxm-80gb")
    gpus = [catalogue.gpu(name) for name in ("a100-sxm-80gb", "h100-sxm-80gb", "b200-sxm-180gb")]
    assert [family(kind, gpu, "bf16", 128) for gpu in gpus] == [a100, h100, b200]
    assert family(kind, catalogue.gpu("rtx-5090-32gb"), "bf16", 128) == a100
    assert family(kind, h, "bf16", 256) == a100
    # 9.0, as Hopper
    assert family(kind, catalogue.gpu("mi210-64gb"), "bf16", 128) == a100
    # the memory-efficient kernel, whatever the release
    assert {family(kind, gpu, "fp32", 128) for gpu in gpus} == {"flash2"}
    old = (catalogue.gpu("t4-pcie-16gb"), catalogue.gpu("v100-sxm-32gb"))
    assert {family(kind, gpu, "fp16", 128) for gpu in old} == {"flash1"}


@pytest.mark.parametrize(
    ("gpu", "dtype"),
    [("v100-sxm-32gb", "fp16"), ("t4-pcie-16gb", "fp16"), ("a100-sxm-80gb", "fp32")],
)
def test_no_release_changes_the_memory_efficient_kernel(gpu, dtype):
    """Where FlashAttention 2 does not run, PyTorch 2.2 is what 2.1 was; on an A100 it is faster."""
    job = {"model": "llama-3.2-1b", "sequence_length": 4096, "attention": "sdpa"}

    def times(gpu, dtype):
        for torch in ("2.1", "2.2"):
            old = {"precision": dtype, "stack": {"torch": torch, "cuda": "12.1"}}
            loaded = load({"node": {"gpu": gpu, "gpus": 1}}, job | old | {"parallelism": "ddp"})
            yield step(loaded.topology, loaded.workload).breakdown.compute_s

    before, after = times(gpu, dtype)
    assert before == after
    before, after = times("a100-sxm-80gb", "bf16")
    assert after < 0.95 * before


def test_a_kernel_on_a_side_stream_keeps_its_own_sms():
    """49 of an A100's 108 are enough for its HBM: held, they are full speed whoever takes more."""
    model = CostModel(catalogue.gpu("a100-sxm-80gb"))
    copied = copy_kernel("cast", 1e9)
    plain, own = model.curve_row(copied), model.curve_row(copied, 49)
    curves = model.curves()
    assert curves[own].tolist() == pytest.approx(np.ones(109), rel=1e-9)
    assert curves[plain][49:].tolist() == pytest.approx(np.ones(60), rel=1e-9)
    assert curves[plain][10] == pytest.approx(10 / (0.45 * 108), rel=0.1)
    assert model.curve_row(copied, 49) == own
