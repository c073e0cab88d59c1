"""Machines of several kinds of GPU: each rank at its own cost, the step as slow as the slowest."""

import itertools
import re

import numpy as np
import pytest

from sim import simulate
from sim.engine import run
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.fabric.export import explicit_yaml
from sim.inputs.catalogue import gpu
from sim.inputs.loader import load, load_topology
from sim.inputs.topology import NodeGroup, Topology
from sim.lowering.parts import roles_of
from sim.memory.report import memory
from sim.report.formats.table import render
from sim.report.run import view
from sim.result.predict import predict
from sim.step.run import run_step
from sim.step.waiting import waiting

H100, PCIE, A100, L40S = "h100-sxm-80gb", "h100-pcie-80gb", "a100-sxm-80gb", "l40s-pcie-48gb"
LEVELS = ["folded", "ranks", "steps"]


def graph(*nodes):
    """Nodes of some GPUs each, one CPU and a 24 GB/s NIC, on one switch."""
    vertices = [{"id": "switch", "kind": "switch"}]
    edges = []
    for n, gpus in enumerate(nodes):
        vertices += [
            {"id": f"cpu{n}", "kind": "cpu", "node": n},
            {"id": f"nic{n}", "kind": "nic", "node": n},
        ]
        ends = [f"nic{n}"]
        for i, model in enumerate(gpus):
            vertices.append({"id": f"gpu{n}.{i}", "kind": "gpu", "node": n, "gpu": model})
            ends.append(f"gpu{n}.{i}")
        edges += [
            {"source": end, "target": f"cpu{n}", "kind": "pcie", "bandwidth": "25 GB/s"}
            for end in ends
        ]
        edges.append(
            {"source": f"nic{n}", "target": "switch", "kind": "network", "bandwidth": "24 GB/s"}
        )
    return {"name": "mixed", "graph": {"vertices": vertices, "edges": edges}}


def outcome(nodes, level="folded", sets=("model.layers=4",), engine="python"):
    loaded = load(graph(*nodes), "llama3-8b-lora", list(sets))
    return run_step(loaded.topology, loaded.workload, level=level, engine=engine)


def test_an_h100_beside_an_a100_is_no_faster_than_the_a100():
    """The whole job: 8.278 s and an error before kernels were priced for each GPU."""
    both = outcome([[H100], [A100]], sets=()).time_s
    slow = outcome([[A100], [A100]], sets=()).time_s
    assert 10.0 < slow < 14.0
    assert both == pytest.approx(slow, rel=1e-4)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kinds", [(H100, A100), (H100, PCIE), (H100, A100, L40S)])
def test_the_slowest_kind_sets_the_pace_in_any_order(level, kinds):
    """Equal work a rank: at least the slowest alone; the others' waiting costs next to nothing."""
    alone = max(outcome([[kind]] * len(kinds), level).time_s for kind in kinds)
    for order in itertools.permutations(kinds):
        mixed = outcome([[kind] for kind in order], level).time_s
        # less work to do, never: what may differ is when peers come to the collectives
        assert alone * (1 - 1e-3) <= mixed <= alone * 1.01


@pytest.mark.parametrize("nodes", [[[H100] * 4, [A100] * 8], [[A100], [H100, PCIE], [A100]]])
@pytest.mark.parametrize("level", LEVELS)
def test_engines_agree_on_mixed_machines(nodes, level):
    ran = outcome(nodes, level, ["model.layers=1", "gradient_accumulation=1"])
    reference = run(ran.lowered.program, "reference")
    assert ran.timeline.end == pytest.approx(reference.end, rel=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_unequal_nodes_of_one_kind(level):
    """Four and eight GPUs; as many in all, evenly, take the same kernels."""
    uneven = outcome([[A100] * 4, [A100] * 8], level)
    even = outcome([[A100] * 6, [A100] * 6], level)
    assert uneven.breakdown.kernels["gemm"] == pytest.approx(even.breakdown.kernels["gemm"], 1e-3)
    assert uneven.time_s == pytest.approx(even.time_s, rel=0.25)


@pytest.mark.parametrize("nodes", [[[H100], [A100]], [[A100, H100], [H100], [A100, A100]]])
def test_every_rank_takes_the_kernels_of_its_own_gpu(nodes):
    """Interleaved or not: a rank's GEMM seconds, alone, are those it has among its like."""
    sets = ["model.layers=4", "gradient_accumulation=1"]
    ran = outcome(nodes, "ranks", sets)
    kinds = list(itertools.chain(*nodes))
    like = {kind: outcome([[kind]] * len(kinds), sets=sets) for kind in {*kinds}}

    def gemm_s(lowered, lanes):
        ops = np.arange(lanes.compute.start, lanes.compute.stop)
        return lowered.alone_s[ops[lowered.category[ops] == 0]].sum()

    alone = {kind: gemm_s(step.lowered, step.lowered.views[0]) for kind, step in like.items()}
    for lanes, kind in zip(ran.lowered.views, kinds, strict=True):
        assert lanes.role.gpu.name == kind
        assert gemm_s(ran.lowered, lanes) == pytest.approx(alone[kind], rel=1e-9)


def test_roles_tell_gpus_and_hosts_apart():
    loaded = load(graph([A100] * 2, [H100], [A100] * 2, [A100]), "llama3-8b-lora", [])
    roles, of = roles_of(compile_fabric(loaded.topology))
    assert [(r.gpu.name, r.host.gpus) for r in roles] == [(A100, 2), (H100, 1), (A100, 1)]
    assert of == (0, 0, 1, 0, 0, 2)


def test_a_fast_rank_waits_for_a_late_one():
    """One all-reduce at the end of the backward: it waits what the other computes longer.

    Without accumulation and overlap (one bucket), step = slow compute + all-reduce; the H100 comes
    to it earlier by the difference of the two kinds' backward passes.
    """
    sets = [
        "model.layers=4", "gradient_accumulation=1", "method=full",
        "parallelism={strategy: ddp, bucket_cap_mb: 100000}",
    ]  # fmt: skip
    ran = outcome([[H100], [A100]], "ranks", sets)
    fast, slow = waiting(ran)
    assert (fast.ranks, slow.ranks) == ((0,), (1,))
    assert slow.waiting_s == pytest.approx(0.0, abs=1e-6)
    assert fast.waiting_for == {1: pytest.approx(fast.waiting_s)}
    assert fast.waiting_s > 0.05 * ran.time_s
    for group in (fast, slow):
        parts = (group.compute_s, group.waiting_s, group.communication_s, group.idle_s)
        assert sum(parts) == pytest.approx(ran.time_s, rel=1e-9)
    busy = slow.compute_s + slow.communication_s - fast.compute_s - fast.communication_s
    assert fast.waiting_s + fast.idle_s - slow.idle_s == pytest.approx(busy, rel=1e-6)


@pytest.mark.parametrize("accumulation", [1, 3, 8])
def test_waiting_is_the_same_at_folded_and_ranks(accumulation):
    sets = ["model.layers=4", f"gradient_accumulation={accumulation}"]
    folded, ranks = (
        waiting(outcome([[H100] * 2, [A100] * 2], level, sets)) for level in ("folded", "ranks")
    )
    for one, other in zip(folded, ranks, strict=True):
        assert one.ranks == other.ranks
        for name in ("compute_s", "waiting_s", "communication_s", "idle_s"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-6)


def test_the_report_says_who_waits_for_whom():
    mixed = simulate(graph([H100] * 2, [A100]), "llama3-8b-lora", scaling=False, fixes=False)
    first, second = mixed.ranks
    assert (first.ranks, first.gpu, second.ranks) == ("0-1", H100, "2")
    assert list(first.waiting_for) == ["2"]
    line = next(
        line for line in render(view(mixed)).splitlines() if line.strip().startswith("Waiting")
    )
    assert f"ranks 0-1 ({H100})" in line
    assert f"rank 2 ({A100})" in line
    slow = simulate(
        "dgx-h100", "llama3-8b-sft", overrides=["nodes=1"], slow=["rank:3=0.8"], scaling=False,
        fixes=False,
    )  # fmt: skip
    assert [(g.ranks, g.speed) for g in slow.ranks] == [("0-2, 4-7", 1.0), ("3", 0.8)]
    pattern = (
        rf"ranks 0-2, 4-7 \({H100}\) 1\d\.\d % of the step for rank 3 \({H100}\), 80.0 % as fast \("
    )
    assert re.search(pattern, " ".join(render(view(slow)).split()))
    alike = simulate("dgx-h100", "llama3-8b-sft", scaling=False, fixes=False)
    assert alike.ranks == ()


def groups(*kinds, nodes=1, **changes):
    """Node groups of shipped machines: `kinds` are names of topologies."""
    found = [
        {"nodes": nodes, "node": load_topology(kind).node.model_copy(update=changes)}
        for kind in kinds
    ]
    return Topology(name="mixed", node_groups=tuple(NodeGroup(**group) for group in found))


def step_of(topology, level="folded"):
    job = load("dgx-h100", "llama3-8b-sft", ["model.layers=4"]).workload
    return run_step(topology, job, level=level, engine="python")


@pytest.mark.parametrize("level", LEVELS)
def test_groups_of_equal_nodes_are_the_shorthand(level):
    shorthand = load_topology("dgx-h100", ["nodes=2"])
    groups = Topology(
        name="groups", node_groups=(NodeGroup(nodes=1, node=shorthand.node),) * 2,
        network=shorthand.network,
    )  # fmt: skip
    assert step_of(groups, level).time_s == step_of(shorthand, level).time_s


def test_groups_are_the_graph_they_stand_for(tmp_path):
    mixed = load_topology("mixed-h100-a100")
    path = tmp_path / "graph.yaml"
    path.write_text(explicit_yaml(compile_fabric(mixed)))
    written = step_of(load_topology(str(path)))
    assert written.time_s == pytest.approx(step_of(mixed).time_s, rel=1e-9)


def test_order_of_groups_does_not_matter():
    """Only routing may tell the orders apart.

    Sixteen A100s wait for the slowest of sixteen, 2.2 % more than for that of eight.
    """
    one = step_of(groups("dgx-h100", "dgx-a100")).time_s
    other = step_of(groups("dgx-a100", "dgx-h100")).time_s
    assert one == pytest.approx(other, rel=1e-3)
    slow = step_of(groups("dgx-a100", nodes=2)).time_s
    assert one == pytest.approx(slow, rel=0.03)


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        ("nodes=2", "nodes", "nodes has no meaning beside node_groups"),
        ("node_groups[1].node.gpu=v100", "node_groups[1].node.gpu", "is no GPU of the catalogue"),
        ("node_groups[1].node.nics.kind=roce", "node_groups[1].node.nics.kind", "do not talk"),
        ("node_groups[1].node.gpus=7", "node_groups[1].node.pcie.gpus_per_switch", ""),
        ("node_groups[0].node.nvlink.links_per_gpu=20", "node_groups[0].node.nvlink", "has 18"),
        ("node_groups[0].node.storage.read=1 YB/s", "node_groups[0].node.storage.read", ""),
        ("node_groups[0].nodes=300000", "node_groups[0].nodes", "300000 is more than any machine"),
        ("node_groups=[]", "", "neither node, node_groups nor graph"),
        ("node_groups[1].node.nics=null", "node_groups[1].nodes", "has no nics"),
    ],
)
def test_faults_of_groups_name_their_place(change, path, said):
    try:
        notes = load("mixed-h100-a100", "llama3-8b-lora", [change]).notes
    except InputError as error:
        faults = [(f.path, str(f)) for f in error.faults]
    else:
        faults = [(w.path.removeprefix("topology."), w.message) for w in notes.warnings]
    found = [text for where, text in faults if where.startswith(path)]
    assert found, faults
    assert any(said in text for text in found)


def test_a_mixed_cluster_is_told_by_its_kinds():
    small = load_topology("dgx-a100").node.model_copy(update={"gpu": gpu("a100-sxm-40gb")})
    mixed = groups("dgx-h100").model_copy(
        update={
            "node_groups": (
                NodeGroup(nodes=2, node=load_topology("dgx-h100").node),
                NodeGroup(node=small),
            )
        }
    )
    job = load("dgx-h100", "llama3-8b-lora").workload
    result = predict(mixed, job, fixes=False)
    assert result.topology.title == ("2 nodes x 8 h100-sxm-80gb + 1 node x 8 a100-sxm-40gb")
    assert result.memory.binding_gpu == "a100-sxm-40gb"
    assert (
        result.memory.capacity_bytes
        == memory(groups("dgx-a100", gpu=small.gpu), job).capacity_bytes
    )
    assert result.throughput.peak_flops_per_s == pytest.approx((16 * 989.4e12 + 8 * 312e12) / 24)
    assert result.scaling.curve == ()
    # each kind of GPU at its own power: less than all of them as the busy A100s' breakdown has it
    assert 300 < result.energy.gpu_w < 700
