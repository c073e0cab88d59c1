"""Collectives lowered to a fabric: bytes on links, limits, choices, the verb."""

import itertools

import numpy as np
import pytest

from sim.cost.collectives import bus_factor, plan_collective
from sim.cost.communicators import communicator
from sim.cost.demands import demand_of
from sim.cost.nccl.algorithms import algorithm_named
from sim.cost.nccl.communicator import constants
from sim.cost.nccl.loads import double_tree
from sim.cost.nccl.timing import duration, link_key, network_key
from sim.errors import InputError
from sim.fabric import compile_fabric, held
from sim.fabric.shape import HBM, NETWORK, NVLINK
from sim.inputs.loader import load, load_topology
from sim.study.collectives import Collective, collective_sweep
from tests.unit.machines import dgx_a100, dgx_h100, pcie_box

OPERATIONS = ("all_gather", "reduce_scatter", "all_reduce", "broadcast", "all_to_all", "send_recv")
MACHINES = {
    "a100": dgx_a100(),
    "h100": dgx_h100(),
    "a100 x 2": dgx_a100(2),
    "h100 x 3": dgx_h100(3),
    "pcie": pcie_box(),
    "pairs": pcie_box(fabric="pairs"),
}
SIZES = [2**k for k in range(10, 34)]


def amounts(fabric, demand):
    """Bytes on every resource per byte of the collective."""
    found = np.zeros(fabric.n_resources)
    found[demand.resource] = demand.amount
    return found


@pytest.mark.parametrize("op", ["all_gather", "reduce_scatter"])
def test_ring_puts_its_share_on_the_port(op):
    # n - 1 steps of S / n bytes leave every rank
    fabric = compile_fabric(dgx_h100())
    load = amounts(fabric, demand_of(fabric, tuple(range(8)), op, "ring"))
    for rank in range(8):
        out, into = fabric.nvlink_ports(rank)
        assert load[out].sum() == pytest.approx(7 / 8)
        assert load[into].sum() == pytest.approx(7 / 8)
        passes = {"all_gather": 2, "reduce_scatter": 3}[op]
        assert load[fabric.hbm(rank)] == pytest.approx(passes * 7 / 8)


def test_ring_leaves_by_every_rail():
    # DESIGN: about S (n - 1) / (n r) on each NIC, both ways
    fabric = compile_fabric(dgx_a100(4))
    n = fabric.n_ranks
    load = amounts(fabric, demand_of(fabric, tuple(range(n)), "all_gather", "ring"))
    for node in range(4):
        for nic in range(8):
            for ports in fabric.nic_ports(node, nic):
                assert load[ports].sum() == pytest.approx((n - 1) / n / 8)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("op", "algorithm"),
    [("all_gather", "ring"), ("reduce_scatter", "ring"), ("all_reduce", "ring"),
     ("all_reduce", "tree"), ("broadcast", "ring"), ("all_to_all", "p2p"), ("send_recv", "p2p")],
)  # fmt: skip
def test_bytes_sent_are_bytes_received(machine, op, algorithm):
    fabric = compile_fabric(MACHINES[machine])
    load = amounts(fabric, demand_of(fabric, tuple(range(fabric.n_ranks)), op, algorithm))
    sent = received = 0.0
    for rank in range(fabric.n_ranks):
        out, into = fabric.nvlink_ports(rank)
        sent += load[out].sum()
        received += load[into].sum()
    assert sent == pytest.approx(received)
    for node in range(fabric.n_nodes):  # and at the door of every node
        doors = [fabric.nic_ports(node, nic) for nic in range(8)]
        out = sum(load[tx].sum() for tx, _ in doors)
        into = sum(load[rx].sum() for _, rx in doors)
        if op != "broadcast":  # the root's node sends more than it receives
            assert out == pytest.approx(into)


def test_every_rank_gets_what_it_lacks():
    # whatever the algorithm, an all-gather brings each rank the other n - 1 shards
    fabric = compile_fabric(dgx_h100(8))
    ranks = tuple(range(0, 64, 8))
    load = amounts(fabric, demand_of(fabric, ranks, "all_gather", "pat"))
    for node in range(8):
        tx, rx = fabric.nic_ports(node, 0)
        assert load[tx].sum() == pytest.approx(7 / 8)
        assert load[rx].sum() == pytest.approx(7 / 8)


@pytest.mark.parametrize("n", range(1, 40))
def test_double_tree(n):
    first, second = double_tree(n)
    for parents in (first, second):
        assert parents.count(-1) == 1
        children = [parents.count(i) for i in range(n)]
        assert max(children) <= 2
        for i in range(n):  # every node reaches the root
            steps = 0
            while parents[i] >= 0:
                i, steps = parents[i], steps + 1
                assert steps <= n
    if n > 2:  # no node is inside both trees, so none sends more than 2 S
        inside = [{i for i in range(n) if i in parents} for parents in (first, second)]
        assert len(inside[0] & inside[1]) <= 1


def test_trees_of_four():
    # ncclGetBtree: 0 -> 2 -> {1, 3}, and its mirror image
    assert double_tree(4) == ([-1, 2, 0, 2], [1, 3, 1, -1])


def test_nvls_beats_the_wire_and_its_links_do_not():
    fabric = compile_fabric(dgx_h100())
    cost = plan_collective(fabric, "all_reduce", range(8), 2**34, "2.27")
    assert cost.algorithm == "nvls"
    wire = 18 * 25e9
    assert cost.busbw_bytes_per_s > wire
    demand = demand_of(fabric, tuple(range(8)), "all_reduce", "nvls")
    amounts = demand.amount[fabric.kind[demand.resource] == NVLINK]
    assert amounts == pytest.approx(9 / 8)  # S, and S/8 of its own part
    assert (cost.algbw_bytes_per_s * amounts < wire).all()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("op", OPERATIONS)
def test_nothing_passes_a_resource_faster_than_it_can(machine, op):
    fabric = compile_fabric(MACHINES[machine])
    for size in SIZES:
        cost = plan_collective(fabric, op, range(fabric.n_ranks), size)
        demand = demand_of(fabric, tuple(range(fabric.n_ranks)), op, cost.algorithm)
        capacity = fabric.capacity[demand.resource]
        assert (cost.bound_bytes_per_s * demand.amount <= capacity * (1 + 1e-12)).all()
        assert (capacity <= fabric.raw[demand.resource]).all()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("protocol", ["ll", "simple"])
def test_more_bytes_take_longer(machine, protocol):
    fabric = compile_fabric(MACHINES[machine])
    for op in ("all_gather", "all_reduce"):
        times = [
            plan_collective(
                fabric, op, range(fabric.n_ranks), size, algorithm="ring", protocol=protocol
            ).time_s
            for size in SIZES
        ]
        assert all(a < b for a, b in itertools.pairwise(times))


def test_nodes_add_latency_and_nothing_else_much():
    # a ring's bus bandwidth does not depend on its length; its latency does
    small, large = [], []
    for nodes in (2, 4, 8, 16):
        fabric = compile_fabric(dgx_a100(nodes))
        ranks = range(fabric.n_ranks)
        small.append(plan_collective(fabric, "all_gather", ranks, 2**24).busbw_bytes_per_s)
        large.append(plan_collective(fabric, "all_gather", ranks, 2**36).busbw_bytes_per_s)
    assert small == sorted(small, reverse=True)
    assert small[-1] < 0.5 * small[0]
    assert max(large) < 1.01 * min(large)


def test_sister_groups_share_what_they_share():
    # HSDP: eight replica groups, one a rail, do not touch each other's links ...
    fabric = compile_fabric(dgx_h100(4))
    groups = [tuple(range(local, 32, 8)) for local in range(8)]
    alone = plan_collective(fabric, "all_reduce", groups[0], 2**28)
    together = plan_collective(fabric, "all_reduce", groups[0], 2**28, concurrent_groups=groups)
    assert together.time_s == alone.time_s
    own = demand_of(fabric, groups[0], "all_reduce", alone.algorithm)
    all_of_them = demand_of(fabric, groups[0], "all_reduce", alone.algorithm, tuple(groups))
    assert len(all_of_them.resource) == 8 * len(own.resource)
    # ... two groups of the same rail do
    crossed = [(0, 8), (16, 24)], [(0, 8), (1, 9)]
    for pair in crossed:
        both = plan_collective(fabric, "all_reduce", pair[0], 2**28, concurrent_groups=pair)
        assert (
            both.limit_bytes_per_s
            == plan_collective(fabric, "all_reduce", pair[0], 2**28).limit_bytes_per_s
        )
    a100 = compile_fabric(dgx_a100(2, nics=4, per_switch=1, rate=12.5e9))
    halves = [(0, 8), (1, 9)]  # two GPUs and one NIC behind a switch
    one = plan_collective(a100, "all_reduce", halves[0], 2**28)
    two = plan_collective(a100, "all_reduce", halves[0], 2**28, concurrent_groups=halves)
    assert two.limit_bytes_per_s == pytest.approx(one.limit_bytes_per_s / 2)


def test_slow_network_is_named():
    fabric = compile_fabric(dgx_a100(2, nics=4, per_switch=1, rate=12.5e9))
    cost = plan_collective(fabric, "all_gather", range(16), 2**32)
    assert fabric.kind[cost.limit_resource] == NETWORK
    assert "nic" in cost.limit
    assert plan_collective(fabric, "all_gather", range(16), 1024).limit == "latency"


def test_hbm_traffic_is_on_every_rank_of_the_group_alone():
    fabric = compile_fabric(dgx_h100())
    cost = plan_collective(fabric, "all_gather", (1, 2, 5), 2**20)
    touched = demand_of(fabric, (1, 2, 5), "all_gather", cost.algorithm).resource
    touched = {r for r in touched.tolist() if fabric.kind[r] == HBM}
    assert touched == {fabric.hbm(rank) for rank in (1, 2, 5)}


def test_one_rank_or_no_bytes_cost_nothing():
    fabric = compile_fabric(dgx_h100())
    for cost in (
        plan_collective(fabric, "all_gather", (3,), 2**20),
        plan_collective(fabric, "all_gather", range(8), 0.0),
    ):
        assert (cost.time_s, cost.channels) == (0.0, 0)


@pytest.mark.parametrize(
    ("arguments", "options", "why"),
    [
        (("gather", range(8), 1024, "2.21"), {}, "'gather' is not one of all_gather"),
        (("all_gather", range(8), 1024, "2"), {}, "'2' is not an NCCL version such as 2.21"),
        (
            ("all_gather", range(8), 1024, "2.21"),
            {"algorithm": "star"},
            "'star' is not one of collnet_chain",
        ),
        (
            ("all_gather", range(8), 1024, "2.21"),
            {"algorithm": "tree"},
            "tree runs all_reduce only",
        ),
        (
            ("all_gather", range(8), 1024, "2.21"),
            {"protocol": "ll256"},
            "'ll256' is not one of ll, ll128, simple",
        ),
    ],
)
def test_bad_requests(arguments, options, why):
    with pytest.raises(InputError, match=why):
        plan_collective(compile_fabric(dgx_a100()), *arguments, **options)


def test_what_nccl_sees():
    fabric = compile_fabric(dgx_h100(3))
    seen = communicator(fabric, tuple(range(24)), "2.21")
    # PCIe 5 before NICs of 50e9, as NCCL counts it
    assert (seen.nodes, seen.local_ranks, seen.nics, seen.nic_rate) == (3, 8, 8, 48e9)
    assert seen.nvls
    assert seen.link == "nvlink"
    rail = communicator(fabric, (0, 8, 16), "2.21")
    assert (rail.local_ranks, rail.nics) == (1, 1)
    box = communicator(compile_fabric(pcie_box()), tuple(range(8)), "2.21")
    assert box.link == "shm"
    assert not box.nvls


def test_an_uneven_group_is_seen_alike_from_either_node():
    """One rank is alone in its node: it has one NIC and no NVSwitch, whichever node that is."""
    fabric = compile_fabric(dgx_h100(3))
    first, last = tuple(range(9)), (0, *range(8, 16))  # alone in the second node, in the first
    seen = communicator(fabric, first, "2.21")
    assert seen == communicator(fabric, last, "2.21")
    assert (seen.nodes, seen.nics, seen.nvls) == (2, 1, False)
    costs = [plan_collective(fabric, "all_gather", group, 2**20, "2.21") for group in (first, last)]
    assert [cost.channels for cost in costs] == [2, 2]
    assert costs[0].time_s == costs[1].time_s == pytest.approx(68.3e-6, rel=0.001)


@pytest.mark.parametrize(
    ("written", "row"), [("", "efa1"), (", efa: 1", "efa1"), (", efa: 2", "efa")]
)
def test_the_network_is_that_of_the_nic_whatever_the_gpu(tmp_path, written, row):
    """Other GPUs behind the NICs of a p4de: the same row of network constants, hop for hop."""
    path = tmp_path / "nodes.yaml"
    path.write_text(
        "name: nodes\nnodes: 2\nnode:\n  gpu: a100-sxm-80gb\n"
        "  nvlink: {generation: 3, links_per_gpu: 12}\n  pcie: {generation: 3}\n"
        f"  nics: {{count: 4, rate: 100 Gb/s, kind: efa{written}}}\n"
    )
    swap = ["node.gpu=h100-sxm-80gb", "node.nvlink.generation=4", "node.nvlink.links_per_gpu=18"]
    table = constants("network_timing")
    for sets in ([], swap):
        fabric = compile_fabric(load_topology(path, sets))
        seen = communicator(fabric, tuple(range(fabric.n_ranks)), "2.27")
        assert network_key(seen, table) == row
        link = table["links"][link_key(seen, table)]
        alone = duration(seen, "all_reduce", "tree", "ll", 8.0, 1e9, True)
        inside, between = algorithm_named("tree").hops(seen, "all_reduce")
        own = link["base_us"][0] + inside * link["hop_us"][0]
        network = between * table["network"][row]["hop_us"][0]
        assert alone.latency_s == pytest.approx((own + network) * 1e-6)


@pytest.mark.parametrize(
    ("count", "rate", "generation"),
    [(4, "100 Gb/s", 1), (32, "100 Gb/s", 2), (16, "200 Gb/s", 3), (8, "400 Gb/s", 4)],
)
def test_an_efa_left_out_is_inferred_and_said(count, rate, generation):
    keys = {
        "name": "x", "nodes": 2, "node": {
            "gpu": "a100-sxm-80gb", "pcie": {"generation": 5},
            "nics": {"count": count, "rate": rate, "kind": "efa"},
        },
    }  # fmt: skip
    loaded = load(keys, "llama3-8b-lora")
    assert loaded.topology.node.nics.efa == generation
    assert f"topology.node.nics.efa = {generation}" in loaded.notes.assumptions()
    with pytest.raises(InputError, match="but the NICs are infiniband"):
        load_topology("dgx-h100", ["node.nics.efa=2"])


def test_bus_factors():
    # nccl-tests doc/PERFORMANCE.md
    assert bus_factor("all_reduce", 8) == 1.75
    assert bus_factor("all_gather", 8) == bus_factor("all_to_all", 8) == 0.875
    assert bus_factor("broadcast", 8) == bus_factor("send_recv", 8) == 1.0


def test_one_resource_is_named_as_all_are():
    for topology in MACHINES.values():
        asked = compile_fabric(topology)
        held.let_go()
        names = compile_fabric(topology).names
        assert [asked.name(place) for place in range(len(names))] == names


@pytest.mark.parametrize("ranks", [0, 1, 9, -3])
def test_ranks_out_of_range(ranks):
    with pytest.raises(InputError, match="8 GPUs"):
        collective_sweep(compile_fabric(dgx_h100()), Collective(sizes=(1024,), ranks=ranks))


def test_equal_requests_are_answered_from_memory():
    fabric = compile_fabric(dgx_h100())
    first = plan_collective(fabric, "all_gather", range(8), 123456)
    assert plan_collective(fabric, "all_gather", tuple(range(8)), 123456.0) is first


def test_collnet_where_the_network_reduces():
    plain, sharp = dgx_h100(8), dgx_h100(8, sharp=True)
    with pytest.raises(InputError, match="CollNet"):
        plan_collective(
            compile_fabric(plain), "all_reduce", range(64), 2**20, algorithm="collnet_direct"
        )
    fabric = compile_fabric(sharp)
    cost = plan_collective(fabric, "all_reduce", range(64), 2**28, algorithm="collnet_direct")
    assert cost.algorithm == "collnet_direct"
    demand = demand_of(fabric, tuple(range(64)), "all_reduce", "collnet_direct")
    load = dict(zip(demand.resource.tolist(), demand.amount.tolist(), strict=True))
    for nic in range(8):  # the buffer leaves each node once, not twice as in a ring
        tx, rx = fabric.nic_ports(3, nic)
        assert load[tx[0]] == pytest.approx(1 / 8)
        assert load[rx[0]] == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("ranks", "op", "ways"),
    [
        (range(16), "all_gather", 2),  # over two nodes and back into the first
        (range(32), "all_gather", 4),
        (range(32), "reduce_scatter", 4),
        (range(16), "all_reduce", 4),  # twice around
        (range(16), "broadcast", 1),  # the last link of the ring is the root's
        ((0, 8), "all_gather", 1),  # one rank in each node
        ((0, 8, 16, 24), "all_reduce", 6),
        (range(8), "all_gather", 0),
    ],
)
def test_a_ring_goes_every_way_between_nodes(ranks, op, ways):
    """What a switch takes is passed at each of them; rails have a switch of their own."""
    times = []
    for latency in ("0 s", "1 ms"):
        sets = ["nodes=4", f"network.switch_latency={latency}"]
        fabric = compile_fabric(load_topology("dgx-h100", sets))
        cost = plan_collective(fabric, op, tuple(ranks), 2.0**20, "2.21.5", algorithm="ring")
        times.append(cost.latency_s)
    assert times[1] - times[0] == pytest.approx(ways * 1e-3)
