"""NCCL's tuner: the values its own source gives, worked by hand."""

import math
from dataclasses import replace

import pytest

from sim.cost.nccl.algorithms import algorithm_named, names
from sim.cost.nccl.communicator import (
    LL,
    LL128,
    SIMPLE,
    Communicator,
    generation_of,
    parse_version,
)
from sim.cost.nccl.rings import ring_channels, ring_steps, search
from sim.cost.nccl.tuner import Line, choose, weighed

MIB = 2**20
RING, TREE, NVLS, NVLS_TREE, P2P = map(
    algorithm_named, ("ring", "tree", "nvls", "nvls_tree", "p2p")
)
A100 = Communicator("ampere", 8, 1, "nvlink", 3, 240e9, version=(2, 27))
H100 = Communicator("hopper", 8, 1, "nvlink", 4, 370.8e9, nvls=True, version=(2, 27))
B200 = Communicator("blackwell", 8, 1, "nvlink", 5, 721.8e9, nvls=True, version=(2, 27))
A100_X2 = replace(A100, ranks=16, nodes=2, nics=8, nic_rate=25e9)
H100_X2 = replace(H100, ranks=16, nodes=2, nics=8, nic_rate=50e9)
P4D_X2 = replace(A100_X2, nics=4, nic_rate=12.5e9, nic_kind="efa", efa=1)
A100_PCIE = replace(A100, link="pcie", link_generation=4, intra_rate=24e9)


def pairs(comm, op):
    """Algorithms and protocols in NCCL's table."""
    return {(line.algorithm.name, line.protocol) for line in weighed(comm, op)}


@pytest.mark.parametrize(
    ("ranks", "op", "expected"),
    [
        (8, "all_gather", (10.8, 27.3, 32.2)),  # 6.6 + 7 x 0.6; 14 + 7 x 1.9; 8.4 + 7 x 3.4
        (8, "all_reduce", (15.0, 40.6, 56.0)),  # twice the hops
        (16, "all_gather", (15.6, 42.5, 59.4)),
    ],
)
def test_ring_latency_on_one_nvlink_node(ranks, op, expected):
    comm = replace(A100, ranks=ranks)
    found = [RING.latency_us(comm, op, protocol) for protocol in range(3)]
    assert found == pytest.approx(expected)


def test_ring_latency_over_two_nodes():
    # 15 steps, one of them between nodes: 6.6 + 14 max(0.6, 1) + 2.7; Simple 8.4 + 14 x 3.4 + 14
    assert RING.latency_us(A100_X2, "all_gather", 0) == pytest.approx(6.6 + 14 + 2.7)
    assert RING.latency_us(A100_X2, "all_gather", 2) == pytest.approx(8.4 + 14 * 3.4 + 14)
    # an AMD host's overhead of 2 us, x 3 for Simple, is more than the NVLink hop
    amd = replace(A100_X2, cpu_vendor="amd")
    assert RING.latency_us(amd, "all_gather", 2) == pytest.approx(8.4 + 14 * 6 + 14)
    # 2.12 to 2.22 count 2N steps of an all-reduce between nodes, others 2(N-1)
    old = replace(A100_X2, version=(2, 21))
    assert RING.latency_us(old, "all_reduce", 0) == pytest.approx(6.6 + 26 * 1.0 + 4 * 2.7)
    assert RING.latency_us(A100_X2, "all_reduce", 0) == pytest.approx(6.6 + 28 * 1.0 + 2 * 2.7)


def test_tree_and_nvls_latency():
    # base + 2 ((ppn - 1) hop + log2 N x net)
    assert TREE.latency_us(A100_X2, "all_reduce", 0) == pytest.approx(6.8 + 2 * (7 * 0.6 + 5.0))
    assert NVLS.latency_us(H100, "all_reduce", 2) == 25.0
    four = replace(H100_X2, ranks=32, nodes=4)
    assert NVLS_TREE.latency_us(four, "all_reduce", 2) == pytest.approx(25 + 2 * 2 * 14.0)
    newest = replace(four, version=(2, 28))
    assert NVLS_TREE.latency_us(newest, "all_reduce", 2) == pytest.approx(25 + 2 * 2 * 20.9)


@pytest.mark.parametrize(
    ("comm", "size", "expected"),
    [
        (A100, 64 * 1024, 11.5),
        (A100, MIB, 21.3),
        (A100, 16 * MIB, 93),
        (A100, 256 * MIB, 1011),
        (H100, 64 * 1024, 11.2),
        (H100, MIB, 17.3),
        (H100, 16 * MIB, 71.6),
        (H100, 256 * MIB, 685),
    ],
)
def test_cost_of_an_all_gather(comm, size, expected):
    # an independent computation of the same formula
    found = choose(comm, "all_gather", size).estimate_s * 1e6
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("comm", "channels", "speed", "blocks"),
    [
        (A100, 12, 20.0, 24),  # 6 x 40 duplicated, then doubled
        (H100, 12, 30.0, 24),  # 6 x 60
        (H100_X2, 8, 48.0, 16),  # a channel per NIC
        (A100_X2, 8, 24.0, 16),
        (P4D_X2, 4, 12.0, 8),
        (A100_PCIE, 2, 12.0, 4),  # logs show 20 to 24 GB/s in one or two channels
        # 15 fits once; 4 x 4 would use more, but nothing slower than 0.49 of what fits is tried
        (replace(A100_PCIE, intra_rate=16e9), 1, 15.0, 2),
    ],
)
def test_channel_search(comm, channels, speed, blocks):
    found = search(comm)
    assert (found.channels, found.inter) == (channels, speed)
    assert ring_channels(comm) == blocks


def test_small_messages_use_fewer_channels():
    # LL keeps at least 512 threads x 8 B x ranks a channel
    assert choose(A100, "all_gather", 64 * 1024).channels == 2
    assert choose(A100, "all_gather", 16 * MIB).channels == 24
    # Simple, 512 threads x 64 B: all 24 from 786 KB
    assert choose(A100, "all_gather", 786_432, protocol="simple").channels == 24
    assert choose(A100, "all_gather", 786_431, protocol="simple").channels == 23


def test_choice_on_eight_h200_as_seen_with_2_27():
    # stas00/ml-engineering: Ring LL up to 1 MiB, NVLS from 2 MiB; all-gather always a ring
    for size in (32 * 1024, 256 * 1024, MIB):
        assert choose(H100, "all_reduce", size)[:2] == ("ring", "ll")
    for size in (2 * MIB, 64 * MIB, 1024 * MIB):
        assert choose(H100, "all_reduce", size)[:2] == ("nvls", "simple")
        assert choose(H100, "all_gather", size).algorithm == "ring"


@pytest.mark.parametrize(("comm", "first"), [(H100, 5), (B200, 6)])
def test_nvls_needs_enough_heads(comm, first):
    for ranks in range(3, 9):
        part = replace(comm, ranks=ranks)
        used = choose(part, "all_reduce", 2**34).algorithm == "nvls"
        assert used == (ranks >= first)


@pytest.mark.parametrize("name", names())
def test_a_file_and_its_object_have_one_name(name):
    assert algorithm_named(name).name == name


def test_versions():
    assert choose(replace(H100, version=(2, 16)), "all_reduce", 2**30).algorithm == "ring"
    thin = replace(H100_X2, ranks=16, nodes=16, nics=1)
    assert ("pat", 2) not in pairs(replace(thin, version=(2, 22)), "all_gather")
    assert ("pat", 2) in pairs(replace(thin, version=(2, 23)), "all_gather")
    assert ("pat", 2) not in pairs(H100_X2, "all_gather")  # more than one GPU a node
    assert parse_version("2.21.5") == (2, 21)
    for bad in ("", "2", "two", "1.9", "3.0", "2.x"):
        with pytest.raises(ValueError, match="NCCL"):
            parse_version(bad)


def test_pcie_boxes_have_no_ll128():
    assert {protocol for _, protocol in pairs(A100_PCIE, "all_gather")} == {0, 2}
    assert {protocol for _, protocol in pairs(A100, "all_gather")} == {0, 1, 2}


def test_trees_win_where_nics_are_few():
    # four NICs for eight GPUs and two nodes: a tree passes S over the NICs, a ring nearly 2 S
    assert choose(P4D_X2, "all_reduce", 2**30).algorithm == "tree"
    assert choose(A100_X2, "all_reduce", 2**30).algorithm == "ring"


def test_latencies_are_the_releases():
    """Tables of the libraries: bases and hops of 2.14.3, 2.18.3, 2.20.5, 2.21.5 and 2.27.3."""
    old, middle = (replace(A100_X2, version=version) for version in ((2, 14), (2, 18)))
    assert RING.latency_us(old, "all_gather", SIMPLE) == pytest.approx(8.4 + 14 * 3.4 + 9.6)
    assert TREE.latency_us(old, "all_reduce", SIMPLE) == pytest.approx(2 * (7 * 28 + 28))
    assert TREE.latency_us(middle, "all_reduce", SIMPLE) == pytest.approx(2 * (7 * 4 + 14))
    assert TREE.latency_us(A100_X2, "all_reduce", SIMPLE) == pytest.approx(8.4 + 2 * (7 * 4 + 14))
    for version, hop, between in (((2, 18), 23, 19), ((2, 20), 23, 14), ((2, 21), 25, 14)):
        comm = replace(H100_X2, version=version)
        assert NVLS_TREE.latency_us(comm, "all_reduce", SIMPLE) == hop + 2 * between


def test_ll_of_rings_until_2_18():
    """tuning.cc: a quarter of the bus (24 GB/s), of gathers in a node a third; then a half."""
    shares = {(2, 18): (1 / 3, 1 / 4), (2, 19): (1 / 2, 1 / 2)}
    for version, (gathers, sums) in shares.items():
        comm = replace(A100_PCIE, version=version)
        assert RING.bandwidth(comm, "all_gather", LL) == pytest.approx(gathers * 24 * 8 / 7)
        assert RING.bandwidth(comm, "all_reduce", LL) == pytest.approx(sums * 24 * 8 / 14)


def test_tree_correction_is_read_by_size():
    # 16 MiB is log2(bytes / 64) = 18: 0.7 of the Simple tree's bandwidth
    line = Line.of(A100_X2, "all_reduce", TREE, 2)
    latency = line.latency
    whole = line.estimate_us(A100_X2, "all_reduce", 2**30) - latency  # past the table
    part = line.estimate_us(A100_X2, "all_reduce", 16 * MIB) - latency
    assert part == pytest.approx(whole / 64 / 0.7)
    assert int(math.log2(2**30 / 64)) >= 23


@pytest.mark.parametrize(
    ("comm", "op", "algorithm", "protocol"),
    [
        (A100, "all_reduce", "nvls", None),
        (A100, "all_gather", "tree", None),
        (H100, "all_reduce", "nvls_tree", None),
        (H100, "all_reduce", "nvls", "ll"),
        (A100, "all_gather", "pat", None),
        (A100, "all_gather", "collnet_direct", None),
        (A100, "send_recv", "ring", None),
    ],
)
def test_what_cannot_run_is_refused(comm, op, algorithm, protocol):
    with pytest.raises(ValueError, match=r"."):
        choose(comm, op, MIB, algorithm, protocol)


def test_point_to_point_channels():
    # 2 a link, a power of two, at most 32; over a network one per 14 GB/s
    assert P2P.channels(A100) == 16
    assert P2P.channels(A100_PCIE) == 2
    assert P2P.channels(H100_X2) == 4


@pytest.mark.parametrize(
    ("capability", "generation"),
    [(7.0, "volta"), (7.5, "volta"), (8.0, "ampere"), (8.9, "ampere"), (9.0, "hopper"),
     (10.0, "blackwell"), (12.0, "blackwell"), (6.1, "volta")],
)  # fmt: skip
def test_generation(capability, generation):
    assert generation_of(capability) == generation


def test_rings_through_pcie_stay_as_slow_as_the_nics_while_they_fill_half_of_it():
    """8 NICs of 12.5 GB/s beside 24 GB/s of PCIe, of which each ring leaves one hop out: 27.4."""
    boxes = replace(A100_PCIE, ranks=16, nodes=2, nics=8, nic_rate=12.5e9)
    assert search(boxes)[:2] == (2, 12.0)


def test_steps_of_a_ring():
    assert [ring_steps(8, op) for op in ("all_reduce", "broadcast", "all_gather", "reduce")] == [
        14, 8, 7, 7,
    ]  # fmt: skip
    assert ring_steps(8, "reduce_scatter") == ring_steps(8, "send_recv") == 7


def test_channels_are_twice_the_rings_up_to_the_versions_cap():
    many = replace(H100, nics=8, nodes=2, ranks=16, nic_rate=200e9, intra_rate=2000e9)
    rings = search(many).channels
    assert rings > 16
    assert ring_channels(replace(many, version=(2, 24))) == 32
    assert ring_channels(replace(many, version=(2, 25))) == min(2 * rings, 64)


def test_ll128_of_one_gpu_a_node_before_2_22():
    """tuning.cc: 0.7 of the bus (48 GB/s) where a node has one rank until 2.21, else 0.92, of which
    one channel carries 36.7 GB/s."""
    for version, ranks, bus in (((2, 21), 2, 0.7 * 48.0), ((2, 22), 2, 36.7), ((2, 21), 4, 36.7)):
        comm = replace(H100_X2, version=version, ranks=ranks, nics=1)
        assert RING.bus(comm, LL128) == pytest.approx(bus)


def test_the_plateau_is_of_large_simple_all_reduces_between_nodes():
    line = (10.0, 20.0)
    large = 1e9
    assert RING.corrected(A100_X2, "all_reduce", SIMPLE, large, line) == (14.0, 20.0)
    assert RING.corrected(A100_X2, "all_gather", SIMPLE, large, line) == line
    assert RING.corrected(A100, "all_reduce", SIMPLE, large, line) == line
    assert RING.corrected(A100_X2, "all_reduce", LL128, large, line) == line
    assert RING.corrected(A100_X2, "all_reduce", SIMPLE, 1.0, line) == line
    volta = replace(A100_X2, generation="volta")
    assert RING.corrected(volta, "all_reduce", SIMPLE, large, line)[0] == 19.0
