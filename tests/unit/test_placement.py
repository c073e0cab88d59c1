"""Placement of nodes on leaves, routing over uplinks, tenants: by hand."""

import itertools
import random
from collections import Counter
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.collectives import plan_collective
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.fabric.placement import fullest, leaves_of, scattered, uplink_rate
from sim.inputs.loader import load_topology
from sim.inputs.topology import Network
from tests.unit.machines import dgx_h100

GIB = 2.0**30


def busbw(nodes, **network):
    fabric = compile_fabric(dgx_h100(nodes, **network))
    found = plan_collective(fabric, "all_gather", range(8 * nodes), 4 * GIB, algorithm="ring")
    return found.busbw_bytes_per_s / 1e9


def test_leaves_by_hand():
    assert leaves_of(Network(), 5, 2) == [0, 0, 1, 1, 2]
    assert leaves_of(Network(placement="fragmented"), 5, 16) == [0, 0, 1, 1, 2]  # runs of 16 / 8
    # 64 nodes fill two leaves of 32; scattered they lie under eight
    assert scattered(64, 32) == 8
    dealt = leaves_of(Network(placement="random"), 64, 32)
    assert set(Counter(dealt).values()) == {8}
    assert all(a != b for a, b in itertools.pairwise(dealt))
    assert leaves_of(Network(placement="random"), 3, 32) == [0, 1, 2]


@given(st.sampled_from(["packed", "random", "fragmented"]), st.integers(1, 300), st.integers(1, 40))
def test_no_leaf_holds_more_than_it_can(placement, nodes, per_leaf):
    found = leaves_of(Network(placement=placement), nodes, per_leaf)
    assert len(found) == nodes
    assert set(found) == set(range(max(found) + 1))
    assert max(Counter(found).values()) <= max(per_leaf, 1)


def test_uplinks_by_hand():
    ports = [50e9] * 8
    assert uplink_rate(Network(), ports, 32, 2) == 400e9
    assert uplink_rate(Network(oversubscription=4.0, tenants=0.25), ports, 32, 2) == 75e9
    # of eight leaves a neighbour is under the same one an eighth of the time
    dealt = Network(oversubscription=4.0, placement="random")
    assert uplink_rate(dealt, ports, 32, 8) == pytest.approx(100e9 / (7 / 8))
    # two flows on two uplinks: half the time on one
    hashed = Network(routing="ecmp")
    assert uplink_rate(hashed, ports[:2], 2, 2) == pytest.approx(100e9 / 1.5)


@pytest.mark.parametrize(
    ("flows", "links", "expected"),
    [
        (1, 8, 1.0),
        (2, 2, 1.5),
        (5, 1, 5.0),
        (3, 2, 2.25),  # 2 chances of 8 for three on one link, else two
    ],
)
def test_the_fullest_link_by_hand(flows, links, expected):
    assert fullest(flows, links) == pytest.approx(expected)


@pytest.mark.parametrize(("flows", "links"), [(8, 8), (8, 32), (32, 32), (64, 16)])
def test_the_fullest_link_by_drawing(flows, links):
    dice = random.Random(1)
    drawn = mean(
        max(Counter(dice.randrange(links) for _ in range(flows)).values()) for _ in range(3000)
    )
    assert fullest(flows, links) == pytest.approx(drawn, rel=0.02)


@pytest.mark.parametrize("nodes", [4, 64])
def test_oversubscription_moves_scattered_jobs(nodes):
    packed = [busbw(nodes, oversubscription=o) for o in (1.0, 2.0, 4.0, 8.0)]
    assert packed[-1] > 0.95 * packed[0]  # a ring leaves a leaf once
    spread = [busbw(nodes, oversubscription=o, placement="random") for o in (1.0, 2.0, 4.0, 8.0)]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 0.95 * packed[0]  # non-blocking, packets spread
    share = 1 - 1 / scattered(nodes, 32)
    assert spread[3] == pytest.approx(400 / 8 / share, rel=0.15)
    pieces = busbw(nodes, oversubscription=8.0, placement="fragmented")
    assert pieces <= packed[3]
    assert pieces >= spread[3]


def test_tenants_and_hashes_slow():
    free = busbw(16, oversubscription=2.0, placement="random")
    shared = [
        busbw(16, oversubscription=2.0, placement="random", tenants=t) for t in (0.0, 0.25, 0.5)
    ]
    assert shared[0] == free
    assert shared == sorted(shared, reverse=True)
    assert shared[2] == pytest.approx(free / 2, rel=0.1)
    hashed = busbw(64, placement="random", routing="ecmp")
    assert hashed < 0.8 * busbw(64, placement="random")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("placement", "scattered", "packed"),
        ("routing", "random", "adaptive"),
        ("tenants", "1", "less than 1"),
        ("tenants", "-0.1", "at least 0"),
    ],
)
def test_bad_values(key, value, words):
    with pytest.raises(InputError, match=words):
        load_topology("dgx-h100", ["nodes=4", f"network.{key}={value}"])


@pytest.mark.parametrize(
    "written", ["placement=random", "routing=ecmp", "tenants=0.5", "oversubscription=2"]
)
def test_a_single_switch_has_no_uplinks(written):
    with pytest.raises(InputError, match="no uplinks"):
        load_topology("pcie4-a100-8", ["nodes=4", f"network.{written}"])
