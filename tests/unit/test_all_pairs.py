"""Loads of many pairs at once, and of all-to-all, against every pair by itself."""

from collections import defaultdict

import pytest

from sim.cost.collectives import plan_collective
from sim.cost.nccl.loads import on
from sim.cost.nccl.pairs import all_pairs
from sim.fabric import compile_fabric
from sim.inputs.loader import load_topology
from tests.unit.machines import dgx_a100, dgx_h100, pcie_box

MIXED = load_topology("mixed-h100-a100")


@pytest.mark.parametrize(
    ("topology", "ranks"),
    [
        (dgx_h100(1), None),
        (pcie_box(), None),
        (pcie_box(fabric="pairs"), range(1, 7)),
        (dgx_h100(4), None),
        (dgx_h100(5, nics=4, nodes_per_leaf=2), None),  # pods of 2, 2 and 1 nodes
        (dgx_a100(4), range(3, 29)),  # uneven nodes
        (dgx_h100(6, nodes_per_leaf=4, placement="random"), None),
        (dgx_h100(3, kind="fat-tree", nodes_per_leaf=1), range(0, 24, 3)),
        (MIXED, None),
    ],
)
def test_as_pair_by_pair(topology, ranks):
    fabric = compile_fabric(topology)
    group = list(ranks if ranks is not None else range(fabric.n_ranks))
    size = 1.0 / len(group)
    pairs = [(a, b) for a in group for b in group if a != b]
    single = defaultdict(float)
    for a, b in pairs:
        route = fabric.route(a, b)
        for resource, part in zip(route.resource.tolist(), route.demand.tolist(), strict=True):
            single[resource] += part * size
    for found in (all_pairs(fabric, group, size), on(fabric, pairs, size)):
        amounts = dict(zip(found.resource.tolist(), found.amount.tolist(), strict=True))
        assert amounts == pytest.approx(single, rel=1e-9)


def test_routes_looked_up_grow_with_kinds_of_node_not_with_ranks():
    """1,024 ranks in four pods: 4 kinds of node, 16 of pairs of nodes."""
    fabric = compile_fabric(dgx_h100(128))
    plan_collective(fabric, "all_to_all", range(1024), 2.0**30)
    assert len(fabric._routes) <= 4 * 56 + 16 * 64
