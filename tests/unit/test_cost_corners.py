"""Corners of what kernels and collectives cost: values that no table of measurements reaches."""

from collections import defaultdict

import numpy as np
import pytest

from sim.blocks.update import copy_kernel
from sim.cost.attention import AttentionConstants, attention_rate, lookup
from sim.cost.collectives import plan_collective
from sim.cost.communicators import communicator
from sim.cost.gemm import CUDA_CORES, GemmConstants, gemm_times
from sim.cost.host_update import constants, update_slowdown
from sim.cost.kernel_cost import CostModel, rate_by_units
from sim.cost.nccl.algorithms import algorithm_named
from sim.cost.nccl.communicator import LL, LL128, SIMPLE
from sim.cost.nccl.pairs import all_pairs
from sim.cost.nccl.tuner import weighed
from sim.cost.power import BoardPower
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.fabric.shape import HBM, NETWORK, NVLINK
from sim.inputs.loader import load, load_topology
from tests.unit.machines import dgx_h100


def machine(name, *sets):
    return compile_fabric(load_topology(name, list(sets)))


def test_ranks_of_one_node_have_no_nics():
    fabric = compile_fabric(dgx_h100(2))
    seen = communicator(fabric, tuple(range(8)), "2.21")
    assert (seen.nodes, seen.nics, seen.nic_rate, seen.efa) == (1, 0, 0.0, 0)
    both = communicator(fabric, tuple(range(16)), "2.21")
    assert (both.nodes, both.nics, both.nic_rate) == (2, 8, 48e9)  # as PCIe 5


@pytest.mark.parametrize(
    ("name", "sets", "ranks", "nics", "rate"),
    [
        # four of 100 Gb/s beside a GPU are one, as fast as PCIe 5 before them
        ("aws-p5", [], range(16), 8, 48e9),
        ("aws-p5", [], (0, 8), 1, 48e9),
        ("aws-p5", [], (0, 1, 8, 9), 2, 48e9),
        ("aws-p5en", [], range(16), 8, 48e9),  # two of 200 Gb/s
        ("aws-p5", ["node.nics.count=16"], range(16), 8, 25e9),
        ("aws-p5", ["node.nics.count=8"], range(16), 8, 12.5e9),  # one alone
        ("aws-p5", ["node.nics.count=4"], range(16), 4, 12.5e9),  # one for two GPUs
        ("aws-p4d", [], range(16), 4, 12e9),  # the first generation is not joined
    ],
)
def test_nics_that_the_plugin_of_efa_joins(name, sets, ranks, nics, rate):
    seen = communicator(machine(name, "nodes=2", *sets), tuple(ranks), "2.23")
    assert (seen.nics, seen.nic_rate) == (nics, rate)


def test_what_one_rank_of_a_node_can_pass_on_inside_it():
    """NCCL reckons with all its NVLinks, though nobody is there; without any, with PCIe 4 x 16."""
    h100 = compile_fabric(dgx_h100(2))
    assert communicator(h100, (0, 8), "2.21").intra_rate == pytest.approx(18 * 20.6e9)
    assert communicator(h100, tuple(range(16)), "2.21").intra_rate == pytest.approx(18 * 20.6e9)
    l40s = machine("l40s-8", "nodes=2", "node.nics={count: 2, rate: 100 Gb/s}")
    assert communicator(l40s, (0, 8), "2.21").intra_rate == 24e9


def test_what_counts_as_between_nodes():
    """One node: nothing. NVSwitch nodes: all but NVLink. PCIe nodes: the network's links alone."""
    h100 = compile_fabric(dgx_h100(2))
    size = 2.0**30
    assert not plan_collective(h100, "all_gather", range(8), size).network_bound
    assert not plan_collective(h100, "all_gather", range(16), size).network_bound  # 371 of 400
    half = machine("dgx-h100", "nodes=2", "node.nics.rate=200 Gb/s")
    assert plan_collective(half, "all_gather", range(16), size).network_bound
    slow = machine("dgx-h100", "nodes=2", "node.pcie.generation=3")  # a NIC's own PCIe link
    assert plan_collective(slow, "all_gather", range(16), size).network_bound
    boxes = machine("pcie4-a100-8", "nodes=2", "node.nics={count: 8, rate: 400 Gb/s}")
    assert not plan_collective(boxes, "all_gather", range(16), size).network_bound
    thin = machine("pcie4-a100-8", "nodes=2", "node.nics={count: 1, rate: 10 Gb/s}")
    assert plan_collective(thin, "all_gather", range(16), size).network_bound


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


def test_uneven_kinds_of_node_send_to_each_other_pair_by_pair():
    """Two nodes of one kind and one of another, so that senders and receivers differ in number."""
    spec = load_topology("mixed-h100-a100", ["node_groups.0.nodes=2"])
    fabric = compile_fabric(spec)
    group = list(range(fabric.n_ranks))
    assert len(group) == 24
    single = defaultdict(float)
    for a in group:
        for b in group:
            if a != b:
                route = fabric.route(a, b)
                for r, part in zip(route.resource.tolist(), route.demand.tolist(), strict=True):
                    single[r] += part
    found = all_pairs(fabric, group, 1.0)
    assert dict(zip(found.resource.tolist(), found.amount.tolist(), strict=True)) == (
        pytest.approx(single, rel=1e-9)
    )


def test_rows_that_are_not_whole_units_of_16_bytes():
    """4,100 bf16 are 8,200 bytes, not 512.5 units: half the speed, by columns or by depth."""
    c = GemmConstants(
        tile=(1.0, 1.0, 1.0, 1.0), quantisation=0.0, fill_s=0.0, launch_s=0.0, memory=1.0,
        tiling=CUDA_CORES,
    )  # fmt: skip
    shapes = np.array([[4096.0, n, k, 1.0] for n, k in
                       ((4096, 4096), (4100, 4096), (4096, 4100), (4104, 4096))])  # fmt: skip
    even, by_columns, by_depth, units = gemm_times(shapes, 2.0, 2.0, 1e14, 1e18, 64, c).compute_s
    assert by_columns / even == pytest.approx(2.0, rel=0.05)
    assert by_depth / even == pytest.approx(2.0, rel=0.05)
    assert units / even == pytest.approx(1.0, rel=0.05)


def test_where_switches_reduce():
    """NCCL weighs NVLS for three GPUs and more of one node; asked for, two are enough."""
    one, two = compile_fabric(dgx_h100(1)), compile_fabric(dgx_h100(2))
    size = 2.0**20

    def chosen(ranks, **more):
        return plan_collective(one, "all_reduce", range(ranks), size, "2.21", **more).algorithm

    weighed = {n: algorithm_named("nvls").weighed(communicator(one, tuple(range(n)), "2.21"),
                                             "all_reduce") for n in (2, 3, 8)}  # fmt: skip
    assert weighed == {2: (), 3: (SIMPLE,), 8: (SIMPLE,)}
    assert chosen(2, algorithm="nvls") == "nvls"
    with pytest.raises(InputError, match="NVLS needs one node"):
        plan_collective(two, "all_reduce", range(16), size, "2.21", algorithm="nvls")


def test_copy_engines_came_with_2_28():
    fabric, size = compile_fabric(dgx_h100(1)), 2.0**24
    new = plan_collective(fabric, "all_gather", range(8), size, "2.28", algorithm="copy_engine")
    assert new.algorithm == "copy_engine"
    with pytest.raises(InputError, match=r"copy engines need .* NCCL 2\.28"):
        plan_collective(fabric, "all_gather", range(8), size, "2.27", algorithm="copy_engine")


def test_the_limit_of_a_ring_is_what_a_gpu_has():
    """18 NVLinks of 25 GB/s on the data sheet; eight shards in all, seven from elsewhere."""
    found = plan_collective(compile_fabric(dgx_h100(1)), "all_gather", range(8), 2.0**30)
    assert found.wire_bytes_per_s == pytest.approx(450e9 * 8 / 7)
    assert found.limit_busbw_bytes_per_s == pytest.approx(450e9)


def test_what_of_a_tree_is_payload():
    """LL128: 120 of 128 bytes between nodes, as NCCL reckons 7 of 9 in one (tuning.cc)."""
    tree = algorithm_named("tree")
    for nodes, share in ((1, 7 / 9), (2, 120 / 128)):
        slow = machine("dgx-h100", f"nodes={nodes}", "node.nics.rate=100 Gb/s")
        comm = communicator(slow, tuple(range(8 * nodes)), "2.21")
        assert tree.bus(comm, LL128) == pytest.approx(share * tree.bus(comm, SIMPLE), rel=1e-9)


def test_ll_and_ll128_have_no_ramp():
    """What a pace's ramp adds is Simple's alone: its bytes in flight have to fill the link."""
    link = {"ramp_us": 7.0, "base_us": (1.0, 2.0, 3.0), "efficiency": (0.1, 0.2, 0.3),
            "ramp_time_us": 5.0}  # fmt: skip
    ring = algorithm_named("ring")
    assert [ring.pace(link, "all_gather", p) for p in (LL, LL128, SIMPLE)] == [
        (1.0, 0.1, 0.0, 5.0), (2.0, 0.2, 0.0, 5.0), (3.0, 0.3, 7.0, 5.0)
    ]  # fmt: skip


def test_ll_of_a_tree_is_less_than_a_quarter_of_its_simple():
    """NCCL divides by 3.8 (tuning.cc) where that is below what LL can do."""
    tree = algorithm_named("tree")
    comm = communicator(machine("pcie4-a100-8"), tuple(range(8)), "2.21")
    assert tree.bus(comm, LL) == pytest.approx(tree.bus(comm, SIMPLE) / 3.8, rel=1e-12)


def test_a_collnet_goes_to_the_nics_gpu_and_back():
    direct, fabric = algorithm_named("collnet_direct"), compile_fabric(dgx_h100(2))
    for ranks, inside in ((range(16), 2.0), ((0, 8), 0.0)):
        comm = communicator(fabric, tuple(ranks), "2.21")
        assert direct.hops(comm, "all_reduce") == (inside, 2.0)
    comm = communicator(fabric, tuple(range(16)), "2.21")
    (intra, inter), base = direct.hop_us(comm, SIMPLE), direct.base_us(comm, SIMPLE)
    found = direct.latency_us(comm, "all_reduce", SIMPLE)
    assert found == pytest.approx(base + 2 * (intra + 0.4 * 7) + inter, rel=1e-12)


def test_a_collnet_goes_along_a_nodes_gpus_both_ways():
    fabric = compile_fabric(dgx_h100(2, sharp=True))
    loads = algorithm_named("collnet_direct").loads(fabric, range(16), "all_reduce")
    found = defaultdict(list)
    for resource, amount in zip(loads.resource.tolist(), loads.amount.tolist(), strict=True):
        found[int(fabric.kind[resource])].append(amount)
    # in and out of a GPU between two others twice, of the first and the last of a node once
    assert sorted(found[NVLINK]) == [1.0] * 8 + [2.0] * 24
    assert found[HBM] == [2 * 2.5] * 16  # 2.5 B a byte that is passed on, both ways
    assert found[NETWORK] == [1 / 8] * 32


def test_nothing_sent_has_no_bandwidth():
    fabric = compile_fabric(dgx_h100())
    nothing = plan_collective(fabric, "all_gather", range(8), 0.0)
    assert (nothing.time_s, nothing.algbw_bytes_per_s, nothing.busbw_bytes_per_s) == (0.0, 0.0, 0.0)
    alone = plan_collective(fabric, "all_gather", (3,), 2**20)
    assert alone.limit_busbw_bytes_per_s == 0.0


def test_trees_over_two_nodes_use_a_nic_both_ways():
    """NVLS trees: a node's NIC sends up and receives down at once where there are only two."""
    tree, rates = algorithm_named("nvls_tree"), []
    for nodes in (2, 4):
        base = dgx_h100(nodes)
        nics = base.node.nics.model_copy(update={"rate": 5e9})
        slow = base.model_copy(update={"node": base.node.model_copy(update={"nics": nics})})
        comm = communicator(compile_fabric(slow), tuple(range(8 * nodes)), "2.21")
        rates.append(tree.bus(comm, SIMPLE))
    assert rates == [pytest.approx(2 * 8 * 5.0), pytest.approx(8 * 5.0)]


def test_a_broadcast_ends_before_its_root():
    fabric = compile_fabric(dgx_h100(2))
    loads = algorithm_named("ring").loads(fabric, (0, 8), "broadcast")
    used = set(loads.resource.tolist())
    (sends, receives), (sent, received) = fabric.nic_ports(0, 0), fabric.nic_ports(1, 0)
    assert {int(sends[0]), int(received[0])} <= used
    assert not {int(receives[0]), int(sent[0])} & used


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


def test_a_copy_engine_reads_and_writes_each_byte_of_the_others():
    fabric, group = compile_fabric(dgx_h100(1)), range(8)
    loads = algorithm_named("copy_engine").loads(fabric, group, "all_gather")
    routes = all_pairs(fabric, group, 1 / 8)
    extra = loads.amount.sum() - routes.amount.sum()
    assert extra == pytest.approx(8 * 2 * 7 / 8)  # 8 GPUs, once in and once out


def test_time_of_a_line_is_latency_and_bytes_at_its_rate():
    """GB/s are 1,000 bytes a microsecond."""
    comm = communicator(compile_fabric(dgx_h100(2)), tuple(range(16)), "2.21")
    for line in weighed(comm, "all_gather"):
        if line.algorithm.name == "ring":
            expected = line.latency + 2.0**30 / line.bandwidth / 1000
            assert line.estimate_us(comm, "all_gather", 2.0**30) == pytest.approx(
                expected, rel=1e-9
            )
