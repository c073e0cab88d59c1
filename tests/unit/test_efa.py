"""EFA as aws-ofi-nccl runs it: devices, protocols, regions of its tuner."""

import pytest

from sim.cost.collectives import plan_collective
from sim.cost.communicators import communicator
from sim.cost.nccl.communicator import constants
from sim.cost.nccl.timing import network_key
from sim.cost.nccl.tuner import border
from sim.fabric import compile_fabric
from sim.inputs.loader import load_topology

MIB = 2.0**20


def machine(name, nodes):
    return compile_fabric(load_topology(name, [f"nodes={nodes}"]))


def planned(name, nodes, op, size, nccl="2.23"):
    fabric = machine(name, nodes)
    return plan_collective(fabric, op, range(fabric.n_ranks), size, nccl)


@pytest.mark.parametrize(
    ("name", "nics", "rate", "latency"),
    [
        ("aws-p4de", 4, 12e9, 75.0),  # one NIC for two GPUs: nothing to bundle; PCIe 3 counts 12
        ("aws-p5", 8, 48e9, 75.0),  # 32 x 100 Gb/s are 8 devices of four rails
        ("aws-p5en", 8, 48e9, 35.0),  # 16 x 200
    ],
)
def test_nics_beside_a_gpu_are_one_device(name, nics, rate, latency):
    seen = communicator(machine(name, 2), tuple(range(16)), "2.23")
    assert (seen.nics, seen.nic_rate, seen.nic_latency_us) == (nics, rate, latency)


@pytest.mark.parametrize("nccl", ["2.21", "2.23", "2.27", "2.28"])
@pytest.mark.parametrize("op", ["all_gather", "all_reduce"])
@pytest.mark.parametrize("name", ["aws-p5", "aws-p5en"])
def test_no_version_takes_64_sms(name, op, nccl):
    for size in (MIB, 64 * MIB, 2048 * MIB):
        assert planned(name, 2, op, size, nccl).channels <= 16


@pytest.mark.parametrize(("name", "nodes"), [("aws-p5", 8), ("aws-p5en", 8)])
def test_a_newer_nccl_is_no_slower(name, nodes):
    for op in ("all_gather", "reduce_scatter", "all_reduce"):
        for size in (16 * MIB, 256 * MIB, 2048 * MIB):
            old = planned(name, nodes, op, size, "2.21").time_s
            assert planned(name, nodes, op, size, "2.28").time_s <= old * 1.001


@pytest.mark.parametrize(
    ("size", "chosen"),
    [
        (8.0, ("tree", "ll128")),
        (MIB, ("tree", "ll128")),
        (30 * MIB, ("tree", "ll128")),
        (31 * MIB, ("nvls_tree", "simple")),
        (1024 * MIB, ("nvls_tree", "simple")),
    ],
)
def test_all_reduce_of_two_p5(size, chosen):
    cost = planned("aws-p5", 2, "all_reduce", size)
    assert (cost.algorithm, cost.protocol) == chosen


@pytest.mark.parametrize("op", ["all_gather", "reduce_scatter"])
@pytest.mark.parametrize(("nodes", "leaves"), [(2, 237e6), (8, 956e6), (48, 7.2e9)])
def test_p5en_leaves_ll128(op, nodes, leaves):
    below, above = (planned("aws-p5en", nodes, op, leaves * f) for f in (1 / 1.02, 1.02))
    assert (below.algorithm, below.protocol) == ("ring", "ll128")
    assert (above.algorithm, above.protocol) == ("ring", "simple")


@pytest.mark.parametrize(("nodes", "leaves"), [(2, 237e6), (8, 956e6), (48, 7.2e9)])
def test_our_times_cross_where_the_plugin_changes(nodes, leaves):
    """The tuner's authors measured: what it takes on either side is the faster by our times too."""
    fabric = machine("aws-p5en", nodes)

    def ahead(size):
        ll128, simple = (
            plan_collective(
                fabric, "all_gather", range(fabric.n_ranks), size, "2.23",
                algorithm="ring", protocol=protocol,
            ).time_s
            for protocol in ("ll128", "simple")
        )  # fmt: skip
        return ll128 < simple

    assert ahead(leaves / 1.3)
    assert not ahead(leaves * 1.3)


@pytest.mark.parametrize("name", ["aws-p4d", "aws-p4de"])
@pytest.mark.parametrize("size", [8.0, MIB, 1024 * MIB])
def test_p4_runs_simple(name, size):
    for op in ("all_gather", "all_reduce"):
        assert planned(name, 2, op, size).protocol == "simple"


def test_the_generation_is_a_fact_of_the_nic():
    table = constants("network_timing")
    seen = [communicator(machine(n, 2), tuple(range(16)), "2.23") for n in ("aws-p4de", "aws-p5en")]
    assert [network_key(s, table) for s in seen] == ["efa1", "efa"]


def test_a_border_is_straight_in_logarithms():
    ranks, sizes = (10, 1000), (1e6, 1e8)
    assert border(ranks, sizes, 10) == pytest.approx(1e6)
    assert border(ranks, sizes, 100) == pytest.approx(1e7)
    assert border(ranks, sizes, 100_000) == pytest.approx(1e10)


def test_regions_are_of_eight_gpus_a_node():
    """Four GPUs a node lie in none: NCCL chooses by its own table."""
    fabric = compile_fabric(
        load_topology("aws-p5", ["nodes=4", "node.gpus=4", "node.nics.count=16"])
    )
    cost = plan_collective(fabric, "all_reduce", range(16), 8.0, "2.23")
    assert (cost.algorithm, cost.protocol) == ("tree", "ll")
