"""Collectives beside copies, uploads and each other: shares worked out by hand.

Two transfers with rates w1, w2 alone that share resources of capacity C run at a common level:
l = min(1, min over shared of C / (a1 w1 + a2 w2)), each at l w, until one of them ends.
"""

import pytest

from sim.cost.collectives import plan_collective
from sim.engine import run
from sim.fabric import compile_fabric
from sim.program import ProgramBuilder
from sim.spec.loader import load_topology

GB = 1e9


def fabric_of(name, *sets):
    return compile_fabric(load_topology(name, sets))


def ends_of(fabric, parts):
    """When transfers that begin together end: (bytes, rate alone, demands) each. [s]"""
    build = ProgramBuilder()
    for capacity in fabric.capacity:
        build.resource(capacity)
    for lane, (work, rate, demands) in enumerate(parts):
        build.op(lane, work=work, bound=rate, weight=rate, demands=dict(demands))
    program, place = build.build()
    ends = {engine: run(program, engine).end[place].tolist() for engine in ("reference", "python")}
    assert ends["python"] == pytest.approx(ends["reference"], rel=1e-9)
    return ends["python"]


def copy_of(route, capacity, work):
    demands = list(zip(route.resource.tolist(), route.demand.tolist(), strict=True))
    return work, min(capacity[k] / a for k, a in demands), demands


def collective_of(cost):
    return cost.work, cost.bound_bytes_per_s, cost.demands


def test_one_gpu_that_offloads_halves_an_all_gather_of_sixteen():
    """GPU 0's PCIe link: 48 GB/s. The NIC beside it takes 15/16/8 B of it per byte gathered, at
    392.9 GB/s 46.0 GB/s; the copy alone 48. Both run at 48 / 94.0 = 0.51; so does the whole ring.
    """
    fabric = fabric_of("dgx-h100", "nodes=2")
    link = fabric.index("n0/gpu0>n0/pcie0")
    cost = plan_collective(fabric, "all_gather", range(16), 2.0**30, algorithm="ring")
    assert dict(cost.demands)[link] == pytest.approx(15 / 16 / 8)
    gather = collective_of(cost)
    copy = copy_of(fabric.offload_route(0, "to-host"), fabric.capacity, 64 * GB)
    assert copy[1] == fabric.capacity[link] == 48 * GB
    level = 48 * GB / (15 / 16 / 8 * gather[1] + 48 * GB)
    assert level == pytest.approx(0.51, abs=0.005)
    alone = cost.work / gather[1]
    first, last = ends_of(fabric, [gather, copy])
    assert first == pytest.approx(alone / level, rel=1e-9)
    # the copy goes on alone once the gather is through
    assert last == pytest.approx(first + (64 * GB - level * 48 * GB * first) / (48 * GB), rel=1e-9)


def test_a_checkpoint_from_every_gpu_fits_beside_the_nics():
    """8 GPUs share 12 GB/s of storage, 1.5 each: 46.0 + 1.5 < 48 on every PCIe link."""
    fabric = fabric_of("dgx-h100", "nodes=2")
    gather = collective_of(
        plan_collective(fabric, "all_gather", range(16), 2.0**30, algorithm="ring")
    )
    saves = [
        copy_of(fabric.storage_route(rank, "write"), fabric.capacity, 12 * GB) for rank in range(16)
    ]
    ends = ends_of(fabric, [gather, *saves])
    assert ends[0] == pytest.approx(gather[0] / gather[1], rel=1e-9)
    assert ends[1:] == pytest.approx([8.0] * 16, rel=1e-9)


def test_a_checkpoint_from_rank_0_slows_the_collective_beside_it():
    """Alone on its node's storage rank 0 writes 12 GB/s: level 48 / (46.0 + 12) = 0.83."""
    fabric = fabric_of("dgx-h100", "nodes=2")
    gather = collective_of(
        plan_collective(fabric, "all_gather", range(16), 2.0**30, algorithm="ring")
    )
    save = copy_of(fabric.storage_route(0, "write"), fabric.capacity, 12 * GB)
    assert save[1] == 12 * GB
    level = 48 * GB / (15 / 16 / 8 * gather[1] + 12 * GB)
    assert level == pytest.approx(0.83, abs=0.005)
    assert ends_of(fabric, [gather, save])[0] == pytest.approx(
        gather[0] / gather[1] / level, rel=1e-9
    )


def hsdp(fabric, per_node):
    """All-gathers in both nodes beside the all-reduces between them, one a rail."""
    shard = [tuple(range(per_node)), tuple(range(per_node, 2 * per_node))]
    replicate = [(i, i + per_node) for i in range(per_node)]
    gather = plan_collective(
        fabric, "all_gather", shard[0], 2.0**30, algorithm="ring", concurrent_groups=shard
    )
    reduce = plan_collective(
        fabric, "all_reduce", replicate[0], 2.0**27, algorithm="ring", concurrent_groups=replicate
    )
    return collective_of(gather), collective_of(reduce)


def test_hsdp_on_rails_does_not_disturb_its_all_gathers():
    """With a NIC a GPU replica groups never touch NVLink; HBM has room for both."""
    fabric = fabric_of("dgx-h100", "nodes=2")
    gather, reduce = hsdp(fabric, 8)
    shared = {k for k, _ in gather[2]} & {k for k, _ in reduce[2]}
    assert {fabric.name(k).split()[-1] for k in shared} == {"hbm"}
    alone = [work / rate for work, rate, _ in (gather, reduce)]
    assert ends_of(fabric, [gather, reduce]) == pytest.approx(alone, rel=1e-9)


def test_hsdp_without_nvlink_shares_pcie_with_its_all_gathers():
    """Both enter a GPU by its one PCIe link, which has less than their two rates together."""
    fabric = fabric_of("l40s-8", "nodes=2")
    gather, reduce = hsdp(fabric, 8)
    one, other = dict(gather[2]), dict(reduce[2])
    levels = {
        k: fabric.capacity[k] / (one[k] * gather[1] + other[k] * reduce[1])
        for k in one
        if k in other
    }
    tightest = min(levels, key=levels.__getitem__)
    level = levels[tightest]
    assert fabric.name(tightest) == "n0/pcie0>n0/gpu0"
    assert 0.9 < level < 1.0
    first = min(gather[0] / gather[1], reduce[0] / reduce[1]) / level
    assert min(ends_of(fabric, [gather, reduce])) == pytest.approx(first, rel=1e-9)


def test_two_equal_all_gathers_take_twice_as_long_each():
    fabric = fabric_of("dgx-a100", "nodes=2")
    cost = plan_collective(fabric, "all_gather", range(16), 2.0**30, algorithm="ring")
    way = collective_of(cost)
    busiest = max(a * way[1] / fabric.capacity[k] for k, a in way[2])
    level = 1 / (2 * busiest)  # protocols leave some of the link, which two of them use up
    assert 0.5 < level < 0.6
    alone = cost.work / way[1]
    assert ends_of(fabric, [way, way]) == pytest.approx([alone / level] * 2, rel=1e-9)
