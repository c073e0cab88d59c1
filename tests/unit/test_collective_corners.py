"""Corners of what collectives cost: values that no table of measurements reaches."""

from collections import defaultdict

import numpy as np
import pytest

from sim.cost.collectives import plan_collective
from sim.cost.communicators import communicator
from sim.cost.nccl.algorithms import algorithm_named
from sim.cost.nccl.communicator import LL, LL128, SIMPLE
from sim.cost.nccl.pairs import all_pairs
from sim.cost.nccl.rings import Search
from sim.cost.nccl.tuner import weighed
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.fabric.shape import HBM, NETWORK, NVLINK
from sim.inputs.loader import load_topology
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


@pytest.mark.parametrize("local", [1, 2, 8])
def test_a_chain_of_a_collnet_passes_all_gpus_of_a_node(local):
    chain, fabric = algorithm_named("collnet_chain"), compile_fabric(dgx_h100(2))
    ranks = tuple(8 * node + gpu for node in (0, 1) for gpu in range(local))
    comm = communicator(fabric, ranks, "2.21")
    (intra, inter), base = chain.hop_us(comm, SIMPLE), chain.base_us(comm, SIMPLE)
    assert chain.hops(comm, "all_reduce") == (2.0 * (local - 1), 2.0)
    found = chain.latency_us(comm, "all_reduce", SIMPLE)
    assert found == pytest.approx(base + 2 * (local - 1) * intra + inter, rel=1e-12)


def test_a_tree_is_weighed_from_three_ranks_on_and_is_as_deep_as_its_nodes():
    tree, fabric = algorithm_named("tree"), compile_fabric(dgx_h100(4))
    few, more = (communicator(fabric, tuple(range(n)), "2.21") for n in (2, 3))
    assert tree.weighed(few, "all_reduce") == ()
    assert tree.weighed(more, "all_reduce") == (LL, LL128, SIMPLE)
    comm = communicator(fabric, tuple(range(32)), "2.21")
    (intra, inter), base = tree.hop_us(comm, LL), tree.base_us(comm, LL)
    found = tree.latency_us(comm, "all_reduce", LL)
    assert found == pytest.approx(base + 2 * (7 * intra + 2 * inter), rel=1e-12)


def test_point_to_point_hops_once_and_meets_every_other_rank():
    p2p, engine = algorithm_named("p2p"), algorithm_named("copy_engine")
    near, far = (
        communicator(compile_fabric(dgx_h100(2)), tuple(range(n)), "2.28") for n in (8, 16)
    )
    assert (p2p.hops(near, "send_recv"), p2p.hops(far, "all_to_all")) == ((1.0, 0.0), (0.0, 1.0))
    assert p2p.peers_us(far, "all_to_all", {"p2p_peer_us": 0.5}) == 7.5
    assert p2p.peers_us(far, "send_recv", {"p2p_peer_us": 0.5}) == 0.5
    assert engine.hops(near, "all_gather") == (0.0, 0.0)  # a launch alone
    assert engine.peers_us(near, "all_gather", {"copy_engine": {"peer_us": 2.0}}) == 14.0


def test_a_message_has_a_channel_more_with_each_full_one():
    ring = algorithm_named("ring")
    comm = communicator(compile_fabric(dgx_h100()), tuple(range(8)), "2.21")
    full, most = ring.full_channel(comm, SIMPLE), ring.channels(comm)
    sizes = [0, 1, full - 1, full, 2 * full - 1, 2 * full, most * full, 100 * most * full]
    found = [ring.active_channels(comm, "all_gather", SIMPLE, float(size)) for size in sizes]
    assert found == [1, 1, 1, 1, 1, 2, most, most]


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


@pytest.mark.parametrize("n", [3, 5, 6, 8])
def test_rounds_of_pat_bring_what_is_lacking_and_no_more(n):
    """Of six ranks the third round, to the peer four away, has two shards left to bring."""
    fabric = compile_fabric(dgx_h100(8))
    demand = algorithm_named("pat").loads(fabric, tuple(range(0, 8 * n, 8)), "all_gather")
    load = np.bincount(demand.resource, demand.amount, minlength=fabric.n_resources)
    for node in range(n):
        for port in fabric.nic_ports(node, 0):
            assert load[port].sum() == pytest.approx((n - 1) / n)


def test_what_pat_takes_on_four_nodes_of_one_gpu():
    """8 us, two rounds of 14 / 3.5 us and 2.8 us a rank; 0.75 of a NIC that counts as 48 GB/s."""
    four = communicator(compile_fabric(dgx_h100(4)), (0, 8, 16, 24), "2.27")
    pat = algorithm_named("pat")
    assert pat.latency_us(four, "all_gather", SIMPLE) == pytest.approx(8.0 + 2 * 4.0 + 4 * 2.8)
    assert pat.bus(four, SIMPLE) == pytest.approx(0.75 * 48.0)


@pytest.mark.parametrize(("nodes", "bus"), [(2, 80.0), (3, 48.0)])
def test_rings_of_two_nodes_count_as_those_inside_one(nodes, bus):
    seen = communicator(compile_fabric(dgx_h100(nodes)), tuple(range(8 * nodes)), "2.27")
    assert Search(channels=4, intra=20.0, inter=12.0).bus(seen) == bus
