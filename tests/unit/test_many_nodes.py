"""What machines of thousands of equal nodes share is the same as laid out node by node."""

import itertools

import numpy as np
import pytest

from sim.cost.demands import demand_of, demands_of, demands_of_sisters
from sim.cost.nccl.loads import Demand, Demands, double_tree, total
from sim.fabric import traffic
from sim.fabric.alike import nodes_of
from sim.fabric.fabric import compile_fabric
from sim.fabric.refinement import refine
from sim.fabric.shape import NVLINK
from sim.inputs.loader import load
from sim.lowering import classes, collectives
from sim.lowering.teams import Draws
from sim.mesh import Groups, Sisters
from sim.step.run import run_step
from tests.clock import within


def machine(name, nodes):
    return load(name, "llama3-8b-sft", [f"nodes={nodes}"] if nodes else []).topology


def each_of(fabric, groups, op, algorithm):
    """Groups with their demands, those of one size at a time."""
    for size in {len(group) for group in groups}:
        mine = [group for group in groups if len(group) == size]
        found = demands_of(fabric, np.array(mine), op, algorithm)
        yield from ((group, found.of(i)) for i, group in enumerate(mine))


@pytest.mark.parametrize(
    ("name", "nodes"), [("dgx-h100", 3), ("aws-g5-48xlarge", 3), ("mixed-h100-a100", 0)]
)
@pytest.mark.parametrize("algorithm", ["ring", "p2p", "nvls"])
def test_groups_of_like_nodes_are_moved_not_made(name, nodes, algorithm):
    fabric = compile_fabric(machine(name, nodes))
    if algorithm == "nvls" and name == "aws-g5-48xlarge":
        pytest.skip("no NVSwitch")
    op = "all_to_all" if algorithm == "p2p" else "all_gather"
    inside = [
        tuple(ranks[i] for i in picked)
        for ranks in map(fabric.ranks_of, range(fabric.n_nodes))
        for picked in ((0, 1, 2, 3), (4, 7), (5, 2))
    ]
    for group, found in each_of(fabric, inside, op, algorithm):
        right = demand_of(fabric, group, op, algorithm)
        assert found.resource.tolist() == right.resource.tolist()
        assert found.amount.tolist() == right.amount.tolist()


@pytest.mark.parametrize("inner", [2, 8])
@pytest.mark.parametrize("part", [0, 1])
def test_sisters_draw_what_each_of_them_draws(inner, part):
    """Of a stage too; asked for again they are those that were found."""
    fabric = compile_fabric(machine("dgx-h100", 4))
    where = Sisters(Groups(((32 // inner, False), (inner, True))), part, 2)
    ranks = where.rows().tolist()
    assert len(ranks) == 16 // inner
    each = [demand_of(fabric, tuple(group), "all_gather", "ring") for group in ranks]
    whole = total(Demand(*one) for one in each)
    together = demand_of(fabric, where.first(), "all_gather", "ring", where)
    for column, right in zip(together, whole, strict=True):
        assert column.tolist() == right.tolist()
    found = demands_of_sisters(fabric, where, "all_gather", "ring")
    assert demands_of_sisters(fabric, where, "all_gather", "ring") is found
    for i, right in enumerate(each):
        assert found.of(i).resource.tolist() == right.resource.tolist()


def test_stages_draw_what_they_would_one_by_one():
    """Their demands are found in one go."""
    fabric = compile_fabric(machine("dgx-h100", 6))
    for dims in (((6, False), (8, True)), ((2, False), (3, True), (8, False))):
        for part in (2, 0, 1):
            stage = Sisters(Groups(dims), part, 3)
            if stage.groups.crosses(3):
                stage = Sisters(Groups(dims), part % 2, 2)
            demand_of(fabric, stage.first(), "all_gather", "ring", stage)
            found = demands_of_sisters(fabric, stage, "all_gather", "ring")
            right = demands_of(fabric, stage.rows(), "all_gather", "ring")
            for column, own in zip(found, right, strict=True):
                assert column.tolist() == own.tolist()


def test_demands_of_some_groups_and_without_some_resources():
    demands = Demands(np.array([0, 2, 2, 5]), np.array([3, 1, 0, 3, 2]), np.arange(5.0))
    some = demands.some(1, 3)
    assert [column.tolist() for column in some] == [[0, 0, 3], [0, 3, 2], [2.0, 3.0, 4.0]]
    left = demands.without(np.array([False, False, False, True]))
    assert left.ptr.tolist() == [0, 1, 1, 3]
    assert left.resource.tolist() == [1, 0, 2]
    assert left.amount.tolist() == [1.0, 2.0, 4.0]


def test_a_kind_of_collective_stands_for_those_that_tell_the_same_ranks_apart():
    """Whatever their amounts are, if equal ones of one are equal in the other."""

    def draws(*amounts, members=(0, 1, 2)):
        ptr = np.arange(len(amounts) + 1)
        demands = Demands(ptr, np.arange(len(amounts)), np.array(amounts))
        return Draws(np.array([0, len(members)]), np.array(members), demands)

    found = classes._said_by({
        "one": draws(1.0, 2.0, 1.0), "scaled": draws(3.0, 7.0, 3.0), "turned": draws(5.0, 4.0, 5.0),
        "apart": draws(1.0, 2.0, 3.0), "alike": draws(2.0, 2.0, 2.0),
        "others": draws(1.0, 2.0, 1.0, members=(0, 1, 3)),
    })  # fmt: skip
    assert found == {
        "one": "one", "scaled": "one", "turned": "one", "apart": "apart", "alike": "alike",
        "others": "others",
    }  # fmt: skip


def test_groups_over_nodes_keep_their_place():
    fabric = compile_fabric(machine("dgx-h100", 4))
    groups = [(0, 1), (0, 8), (8, 9), (17, 24)]
    for group, demand in each_of(fabric, groups, "all_gather", "ring"):
        right = demand_of(fabric, group, "all_gather", "ring")
        assert demand.resource.tolist() == right.resource.tolist()


def test_nodes_of_a_group_kind_by_kind():
    fabric = compile_fabric(machine("mixed-h100-a100", 0))  # nodes of 8 H100s and 8 A100s
    ranks = [*range(1, 8, 2), *range(8, 16)]
    found = nodes_of(fabric, ranks[::-1])
    assert [(k.local, k.nodes.tolist()) for k in found.kinds] == [
        ((1, 3, 5, 7), [0]), (tuple(range(8)), [1]),
    ]  # fmt: skip
    assert found.start.tolist() == [0, 4, 12]
    assert found.heads(fabric, 1).tolist() == [3, 9]
    resource, amount = found.kinds[1].spread(fabric, np.array([2, 0]), np.array([0.5, 1.0]))
    assert (resource - fabric.node_base[1]).tolist() == [2, 0]
    assert amount.tolist() == [0.5, 1.0]
    for wrong in ([], [3, 3]):
        with pytest.raises(ValueError, match="empty or names a rank twice"):
            nodes_of(fabric, wrong)


@pytest.mark.parametrize("nodes_per_leaf", [4, 5])
def test_trees_over_many_like_nodes_as_pair_by_pair(nodes_per_leaf):
    sets = ["nodes=13", f"network.nodes_per_leaf={nodes_per_leaf}"]
    fabric = compile_fabric(load("dgx-h100", "llama3-8b-sft", sets).topology)
    group, share = range(3, fabric.n_ranks), 1.0 / len(fabric.rings(range(3, 104)).orders)
    right = np.zeros(fabric.n_resources)
    right[fabric.hbm_of(group)] = 5.0

    def both(a, b, size):
        for route in (fabric.route(int(a), int(b)), fabric.route(int(b), int(a))):
            np.add.at(right, route.resource, size * route.demand)

    for order in fabric.rings(group).orders:
        node = fabric.rank_node[order]
        heads = order[np.flatnonzero(np.diff(node, prepend=-1))]
        for a, b in itertools.pairwise(order):
            if fabric.rank_node[a] == fabric.rank_node[b]:
                both(a, b, share)
        for parents in double_tree(len(heads)):
            for child, parent in enumerate(parents):
                if parent >= 0:
                    both(heads[child], heads[parent], share / 2)
    found = demand_of(fabric, tuple(group), "all_reduce", "tree")
    assert found.resource.tolist() == np.flatnonzero(right).tolist()
    assert found.amount == pytest.approx(right[found.resource], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("dgx-h100", ["nodes=11", "network.nodes_per_leaf=3"]),
        ("dgx-h100", ["nodes=9", "network.kind=fat-tree", "network.nodes_per_leaf=2"]),
        ("dgx-h100", ["nodes=6", "network.kind=single-switch"]),
        ("mixed-h100-a100", []),
    ],
)
@pytest.mark.parametrize(
    ("op", "algorithm"),
    [("all_gather", "ring"), ("all_reduce", "tree"), ("send", "p2p"), ("all_to_all", "p2p")],
)
def test_a_group_over_nodes_is_moved_to_its_likes(name, sets, op, algorithm):
    fabric = compile_fabric(load(name, "llama3-8b-sft", sets).topology)
    n = fabric.n_ranks
    apart = [(a, (a + step) % n) for step in (1, 8, 13, 16, 24) for a in range(n)]
    groups = [*dict.fromkeys(pair for pair in apart if pair[0] != pair[1])]
    groups += [(a, a + 9, a + 17, a + 10) for a in range(n - 17)]
    for group, found in each_of(fabric, groups, op, algorithm):
        right = demand_of(fabric, group, op, algorithm)
        order = np.argsort(found.resource)
        assert found.resource[order].tolist() == right.resource.tolist()
        assert found.amount[order] == pytest.approx(right.amount, rel=1e-12)


def test_few_of_many_resources_are_summed_alike():
    rng = np.random.default_rng(7)
    resource, amount = rng.integers(0, 50, 400), rng.random(400)
    dense = traffic.summed([(resource, amount)])
    sparse = traffic.summed([(resource + 10**6, amount)])
    assert (sparse[0] - 10**6).tolist() == dense[0].tolist()
    assert sparse[1].tolist() == dense[1].tolist()


def test_a_vertex_alone_tells_its_neighbours_apart():
    # 0 and 1 are alike but for the weight that the only vertex of colour 1 gives them
    colour, tail = np.array([0, 0, 0, 1, 2, 2, 2]), np.array([3, 3, 3, 0, 1, 2])
    head, weight = np.array([0, 1, 2, 4, 5, 6]), np.array([5, 7, 7, 1, 1, 1])
    found = refine(colour, tail, head, weight).tolist()
    assert found[1] == found[2] != found[0]
    assert found[5] == found[6] != found[4]
    assert len(set(found)) == 5


@pytest.mark.parametrize("name", ["dgx-h100", "mixed-h100-a100", "aws-g5-48xlarge"])
def test_nvlink_ports_are_the_links_at_a_gpu(name):
    fabric = compile_fabric(machine(name, 0))
    for rank in range(fabric.n_ranks):
        node = int(fabric.rank_node[rank])
        shape, base = fabric.shapes[node], int(fabric.node_base[node])
        gpu = shape.gpus[int(fabric.rank_local[rank])]
        links = [(base + i, e) for i, e in enumerate(shape.links) if e.kind == NVLINK]
        out, into = fabric.nvlink_ports(rank)
        assert out.tolist() == [i for i, e in links if e.tail == gpu]
        assert into.tolist() == [i for i, e in links if e.head == gpu]


def test_a_node_of_a_thousand_gpus_takes_seconds(compiled):
    found = load("dgx-h100", "llama3-8b-sft", ["node.gpus=1024", "nodes=2"])
    with within(20.0):  # one to two
        run_step(found.topology, found.workload)


def test_groups_of_thousands_of_nodes_take_seconds(compiled):
    found = load("dgx-h100", "llama3-8b-sft", ["nodes=2500", "parallelism.tensor_parallel=8"])
    with within(20.0):  # one to two
        run_step(found.topology, found.workload)


SPLIT = ["parallelism.tensor_parallel=8", "parallelism.pipeline_parallel=4"]


@pytest.mark.parametrize("kind", ["rail-optimized", "fat-tree"])
def test_stages_that_begin_in_the_middle_of_a_leaf(kind):
    """A class a stage: full leaves hold nobody back, so that no leaf differs from the next."""
    sets = ["nodes=20", f"network.kind={kind}", "network.nodes_per_leaf=3", "model.layers=8"]
    found = load("dgx-h100", "llama3-8b-sft", [*sets, *SPLIT])
    few = run_step(found.topology, found.workload)
    assert few.priced.compiled.classes.multiplicity.tolist() == [40] * 4
    alone = run_step(found.topology, found.workload, level="ranks")
    assert few.time_s == pytest.approx(alone.time_s, rel=1e-9)
    crossed = load(
        "dgx-h100", "llama3-8b-sft", [*sets, *SPLIT, "network.oversubscription=4"]
    )  # where uplinks do hold back they tell leaves apart
    slow = run_step(crossed.topology, crossed.workload)
    assert len(slow.priced.compiled.classes.ranks) > 4
    assert slow.time_s > few.time_s


def test_kinds_of_collective_that_tell_the_same_apart_are_folded_once(monkeypatch):
    found = load("dgx-h100", "llama3-8b-sft", ["nodes=4", *SPLIT])
    once = run_step(found.topology, found.workload).priced.compiled
    monkeypatch.setattr(classes, "_like", lambda one, other: False)
    collectives._classes.cache_clear()
    plan = run_step(found.topology, found.workload).priced.parts[0].plan
    plan.derived.pop("collectives")  # what jobs of the same plans share
    each = run_step(found.topology, found.workload).priced.compiled
    assert each is not once
    assert each.classes.of.tolist() == once.classes.of.tolist()
    for key, orbits in each.orbits.items():
        same = once.orbits[key]
        assert orbits.members(0).tolist() == same.members(0).tolist()
        assert dict(zip(*orbits.demands.of(0), strict=True)) == pytest.approx(
            dict(zip(*same.demands.of(0), strict=True)), rel=1e-12
        )


def test_what_plans_of_a_pipeline_came_to_does_not_hold_them():
    """A pipeline that leaves its shelf is gone at once: in a cycle it waited for the collector."""
    found = load("dgx-h100", "llama3-8b-sft", ["nodes=4", *SPLIT])
    plans = [part.plan for part in run_step(found.topology, found.workload).priced.parts]
    kept = plans[0].derived["collectives"]
    held = [plan for _, _, others in kept.values() for plan in others]
    assert plans[1] in held
    assert plans[0] not in held


def test_copies_of_unlike_nodes_are_laid_out_at_once():
    sets = ["parallelism.offload=all", "model.layers=4"]
    found = load("mixed-h100-a100", "llama3-8b-sft", sets)
    step = run_step(found.topology, found.workload)
    of = step.priced.compiled.classes.of
    assert of.size == 16
    assert set(of[:8].tolist()).isdisjoint(of[8:].tolist())


def test_pipelines_of_thousands_of_nodes_take_seconds(compiled):
    found = load("dgx-h100", "llama3-8b-sft", ["nodes=2500", *SPLIT])
    with within(20.0):  # one to two
        step = run_step(found.topology, found.workload)
    assert len(step.priced.compiled.classes.ranks) == 4
