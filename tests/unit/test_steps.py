"""Level `steps`: ring steps of every rank add up to the collective of level `ranks`."""

import numpy as np
import pytest

from sim.cost.collectives import plan_collective
from sim.cost.demands import demand_of
from sim.cost.nccl.algorithms import algorithm_named
from sim.engine import run
from sim.fabric import compile_fabric
from sim.inputs.loader import load, load_topology
from sim.lowering.classes import compile_classes
from sim.lowering.teams import Draws, paced, stepped, whole
from sim.step.run import run_step
from tests.builder import ProgramBuilder

MACHINES = [
    ("dgx-h100", ["nodes=1"]),
    ("dgx-a100", ["nodes=2"]),
    ("pcie4-a100-8", []),
    ("gcp-a2-megagpu-16g", []),
]


def fabric_of(name, sets=()):
    return compile_fabric(load_topology(name, sets))


def ring(fabric, groups, op):
    steps = [algorithm_named("ring").steps(fabric, group, op) for group in groups]
    return stepped(fabric, groups, steps)


def time_alone(team, fabric, cost, late=None):
    """One collective by itself; `late` ranks arrive so much later [s]."""
    build = ProgramBuilder()
    resources = [build.resource(c) for c in fabric.capacity]
    ops = []
    for i in range(team.n_wires):
        row = slice(team.ptr[i], team.ptr[i + 1])
        bound = cost.bound_bytes_per_s * team.steps * team.chunk * team.pace[i]
        demands = dict(zip(team.resource[row].tolist(), team.amount[row].tolist(), strict=True))
        wait = build.op(i, latency=(late or {}).get(i, 0.0))
        ops.append(
            build.op(
                i, latency=cost.latency_s / team.steps, work=cost.work * team.chunk, bound=bound,
                weight=bound, demands=demands, steps=team.steps, after=[wait],
            )
        )  # fmt: skip
    for i, peer in enumerate(team.peer.tolist()):
        if peer >= 0:
            build.pair(ops[i], ops[peer])
    assert len(resources) == fabric.n_resources
    program, place = build.build()
    end = run(program, "python").end
    return end[place[ops]]


@pytest.mark.parametrize(("name", "sets"), MACHINES)
@pytest.mark.parametrize("op", ["all_gather", "reduce_scatter", "all_reduce"])
@pytest.mark.parametrize("size", [2**20, 2**30])
def test_a_stepped_ring_alone_takes_what_the_collective_takes(name, sets, op, size):
    fabric = fabric_of(name, sets)
    group = tuple(range(fabric.n_ranks))
    cost = plan_collective(fabric, op, group, size, algorithm="ring")
    ends = time_alone(ring(fabric, [group], op), fabric, cost)
    assert ends == pytest.approx(np.full(fabric.n_ranks, cost.time_s), rel=1e-9)


@pytest.mark.parametrize(("name", "sets"), MACHINES)
@pytest.mark.parametrize("op", ["all_gather", "reduce_scatter", "all_reduce"])
def test_hops_of_all_ranks_draw_what_the_collective_draws(name, sets, op):
    """Sum over ranks of steps x chunk x demand = demands of level `ranks`, resource by resource."""
    fabric = fabric_of(name, sets)
    group = tuple(range(fabric.n_ranks))
    team = ring(fabric, [group], op)
    own = demand_of(fabric, group, op, "ring")
    drawn = np.bincount(
        team.resource, weights=team.amount * team.steps * team.chunk, minlength=fabric.n_resources
    )
    expected = np.bincount(own.resource, weights=own.amount, minlength=fabric.n_resources)
    assert drawn == pytest.approx(expected, rel=1e-12)


def test_one_late_rank_holds_up_all():
    """Rank 0 comes D late. Its step 7-k ends at D + (7-k) t; rank k's last is k hops after it.

    Hence all end at D + 7 t; rank 7, which needs none of rank 0's, ends with its predecessor.
    """
    fabric = fabric_of("dgx-h100", ["nodes=1"])
    group = tuple(range(8))
    cost = plan_collective(fabric, "all_gather", group, 2**30, algorithm="ring")
    team = ring(fabric, [group], "all_gather")
    late = 10 * cost.time_s
    ends = time_alone(team, fabric, cost, {0: late})
    assert ends == pytest.approx(np.full(8, late + cost.time_s), rel=1e-9)


def test_a_slow_hop_paces_the_ring():
    """Each rank's step waits for its predecessor's: a hop of twice the time doubles all of them."""
    fabric = fabric_of("dgx-h100", ["nodes=1"])
    group = tuple(range(8))
    cost = plan_collective(fabric, "all_gather", group, 2**32, algorithm="ring")
    capacity = fabric.capacity.copy()
    capacity[fabric.index("n0/gpu2>n0/nvswitch")] /= 2
    team = paced(ring(fabric, [group], "all_gather"), fabric.capacity, capacity)
    transfer = cost.time_s - cost.latency_s
    ends = time_alone(team, fabric, cost)
    assert ends.max() == pytest.approx(cost.latency_s + 2 * transfer, rel=1e-9)


def test_ring_collectives_are_stepped_and_others_are_not():
    fabric = fabric_of("dgx-h100", ["nodes=2"])
    groups = (tuple(range(16)),)
    draws = {}
    for op, algorithm in (("all_gather", "ring"), ("all_reduce", "tree")):
        own = demand_of(fabric, groups[0], op, algorithm)
        draws[op, "world", algorithm] = Draws.of(groups, [own])
    teams = compile_classes(fabric, "steps", draws).teams
    assert teams["all_gather", "world", "ring"].steps == 15
    assert teams["all_gather", "world", "ring"].n_wires == 16
    assert teams["all_reduce", "world", "tree"].steps == 1
    assert teams["all_reduce", "world", "tree"].n_wires == 1


def test_a_slow_link_halves_its_own_group_only():
    """Two nodes, a group each: half an NVLink port halves one group's rate, not its sister's."""
    fabric = fabric_of("dgx-h100", ["nodes=2"])
    groups = [tuple(range(8)), tuple(range(8, 16))]
    own = [demand_of(fabric, g, "all_gather", "ring") for g in groups]
    team = whole(Draws.of(groups, own))
    capacity = fabric.capacity.copy()
    capacity[fabric.index("n1/gpu2>n1/nvswitch")] /= 2
    assert paced(team, fabric.capacity, capacity).pace.tolist() == [1.0, 0.5]
    hops = paced(ring(fabric, groups, "all_gather"), fabric.capacity, capacity)
    assert np.flatnonzero(hops.pace < 1.0).tolist() == [10]
    assert hops.pace[10] == 0.5


@pytest.mark.parametrize(
    ("machine", "sets"),
    [
        ("dgx-h100", ["nodes=1"]),
        ("dgx-a100", ["nodes=2"]),
        ("dgx-h100", ["nodes=2", "parallelism.replicate=2"]),
        ("pcie4-a100-8", []),
        ("gcp-a2-megagpu-16g", []),
    ],
)
def test_the_three_levels_agree_on_symmetric_machines(machine, sets):
    loaded = load(machine, "llama3-8b-sft", [*sets, "gradient_accumulation=1", "model.layers=4"])
    pair = loaded.topology, loaded.workload
    folded = run_step(*pair, engine="python")
    ranks = run_step(*pair, engine="python", level="ranks")
    steps = run_step(*pair, engine="python", level="steps")
    if len(folded.lowered.views) == 1:
        assert ranks.time_s == pytest.approx(folded.time_s, rel=1e-9)
    assert steps.time_s == pytest.approx(ranks.time_s, rel=0.01)
    assert steps.breakdown.communication_s == pytest.approx(
        ranks.breakdown.communication_s, rel=0.01
    )
