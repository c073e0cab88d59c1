"""Rings: what NCCL would reach, from closed forms."""

import numpy as np
import pytest

from sim.fabric import compile_fabric
from tests.unit.machines import P2P, STAGED, dgx_a100, dgx_h100, pcie_box


@pytest.mark.parametrize(
    ("topology", "rings", "bus_bandwidth"),
    [
        (dgx_a100(), 1, 240e9),  # 12 links x 20
        (dgx_h100(), 1, 370.8e9),  # 18 x 20.6
        (dgx_a100(2), 8, 200e9),  # a NIC of 25 under PCIe of 26: 8 x 25
        (dgx_a100(2, nics=4, per_switch=1, rate=12.5e9), 4, 50e9),  # p4d: 4 x 100 Gb/s
        (dgx_h100(2), 8, 370.8e9),  # PXN keeps all bytes on the ports; NICs would give 8 x 50
        (pcie_box(), 1, 26e9 / (P2P + STAGED)),  # one link reads, and is written to
        (pcie_box(sockets=1, per_switch=8), 1, 26e9 / P2P),
        (pcie_box(fabric="pairs"), 1, 16e9),  # the link between sockets
        (pcie_box(fabric="pairs", per_switch=0, gpus=4, sockets=1), 1, 26e9 / STAGED),
        (pcie_box(gpus=4, fabric="mesh", bridge=4), 12, 240e9),  # all links of all pairs busy
    ],
)
def test_bus_bandwidth(topology, rings, bus_bandwidth):
    fabric = compile_fabric(topology)
    found = fabric.rings(range(fabric.n_ranks))
    assert found.orders.shape == (rings, fabric.n_ranks)
    assert fabric.bandwidth(found.load) == pytest.approx(bus_bandwidth)


@pytest.mark.parametrize("topology", [dgx_h100(3), dgx_a100(4), dgx_h100(2, nics=4)])
def test_every_ring_visits_every_rank_once(topology):
    fabric = compile_fabric(topology)
    for order in fabric.rings(range(fabric.n_ranks)).orders:
        assert sorted(order.tolist()) == list(range(fabric.n_ranks))


def test_load_is_the_sum_of_the_hops():
    # on one node the ring's load is the sum of the routes of its hops
    fabric = compile_fabric(pcie_box(per_switch=2))
    rings = fabric.rings(range(8))
    total = np.zeros(fabric.n_resources)
    for order in rings.orders:
        for a, b in zip(order, np.roll(order, -1), strict=True):
            route = fabric.route(int(a), int(b))
            np.add.at(total, route.resource, route.demand / len(rings.orders))
    expected = np.zeros(fabric.n_resources)
    expected[rings.load.resource] = rings.load.demand
    np.testing.assert_allclose(total, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("topology", "group"),
    [
        (dgx_h100(3), range(24)),
        (dgx_h100(2, nics=4), range(16)),
        (dgx_a100(2), [0, 1, 2, 9, 10]),
        (dgx_h100(4), range(3, 32, 8)),
        (pcie_box(fabric="pairs"), range(8)),
        (pcie_box(gpus=4, fabric="mesh", bridge=4), range(4)),
    ],
)
def test_hops_make_up_the_load(topology, group):
    fabric = compile_fabric(topology)
    rings, hops = fabric.rings(group), fabric.ring_hops(group)
    channels, n = rings.orders.shape
    assert len(hops.ptr) == channels * n + 1
    total = np.bincount(hops.resource, hops.demand / channels, minlength=fabric.n_resources)
    expected = np.zeros(fabric.n_resources)
    expected[rings.load.resource] = rings.load.demand
    np.testing.assert_allclose(total, expected, rtol=1e-12)
    # a hop starts at its rank and ends at the next: the walk's first and last links say so
    gpu = {d["rank"]: v for v, d in fabric.graph().nodes(data=True) if d["kind"] == "gpu"}
    for c in range(channels):
        for i in range(n):
            row = slice(*hops.ptr[c * n + i : c * n + i + 2])
            ends = [fabric.name(r).split(">") for r in hops.resource[row]]
            ends = [e for e in ends if len(e) == 2]
            assert gpu[rings.orders[c, i]] in {a for a, _ in ends}
            assert gpu[rings.orders[c, (i + 1) % n]] in {b for _, b in ends}


def test_a_pcie_ring_turns_to_spread_its_ends():
    # two NICs beside two GPUs of a switch, no NVLink: each GPU takes one NIC in and one out
    base = dgx_a100(2)
    node = base.node.model_copy(update={"nvlink": None})
    fabric = compile_fabric(base.model_copy(update={"node": node}))
    rings = fabric.rings(range(16))
    for k in range(0, 8, 2):
        assert rings.orders[k, 0] % 8 != rings.orders[k + 1, 0] % 8
        assert {rings.orders[k, 0] % 8, rings.orders[k, 7] % 8} == {k, k + 1}


def test_nic_share_is_one_over_rails():
    # DESIGN: a ring all-gather of S puts about S (n-1)/(n r) on each NIC
    fabric = compile_fabric(dgx_h100(4))
    load = fabric.ring_load(range(32))
    demand = dict(zip(load.resource.tolist(), load.demand.tolist(), strict=True))
    for node in range(4):
        for nic in range(8):
            tx, rx = fabric.nic_ports(node, nic)
            assert demand[tx[0]] == pytest.approx(1 / 8)
            assert demand[rx[0]] == pytest.approx(1 / 8)


def test_replica_groups_take_a_rail_each():
    fabric = compile_fabric(dgx_h100(4))
    used = []
    for local in range(8):
        rings = fabric.rings(range(local, 32, 8))
        assert rings.orders.shape == (1, 4)
        assert fabric.bandwidth(rings.load) == 50e9  # a 400 Gb/s NIC
        used.append(set(rings.load.resource.tolist()))
    assert not set.intersection(*used)
    assert sum(len(u) for u in used) == len(set.union(*used))


def test_pods_cross_the_spine():
    fabric = compile_fabric(dgx_h100(64, oversubscription=4.0))
    rings = fabric.rings(range(512))
    assert rings.network_latency_s == pytest.approx(3 * 0.6e-6)
    spine = [r for r in rings.load.resource.tolist() if fabric.name(r).endswith(">spine")]
    assert len(spine) == 16  # two pods x eight rails
    # a ring leaves each pod once a rail, so the uplinks are not what limits it
    assert "nvswitch" in fabric.name(fabric.bottleneck(rings.load))


@pytest.mark.parametrize("kind", ["rail-optimized", "fat-tree"])
def test_oversubscription_bites_where_the_ring_crosses(kind):
    # packed, a ring leaves a fat-tree's leaf of four nodes once: 4 x 8 x 50 / 4 = 400 up, enough
    packed = compile_fabric(dgx_h100(8, kind=kind, oversubscription=4.0))
    assert packed.bandwidth(packed.ring_load(range(64))) == pytest.approx(370.8e9)
    # scattered, every node has a leaf to itself and its share of the uplinks, 8 x 50 / 4
    far = compile_fabric(dgx_h100(8, kind=kind, oversubscription=4.0, nodes_per_leaf=1))
    assert far.bandwidth(far.ring_load(range(64))) == pytest.approx(100e9)


def test_a_group_twice_naming_a_rank_is_a_bug():
    with pytest.raises(ValueError, match="twice"):
        compile_fabric(dgx_h100()).rings([0, 0])
