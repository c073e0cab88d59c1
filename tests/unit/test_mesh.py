"""The mesh against recorded process groups, and what holds for every mesh and batch."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.shares import batch_of, batch_on, mesh_of, mesh_on
from sim.inputs.topology import Graph, Vertex
from sim.inputs.workload import Parallelism
from sim.mesh import AXES, EXPERT_AXES, FLATTENED, Batch, Groups, Mesh

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "mesh" / "traces"
CASES = json.loads((ROOT / "tests" / "data" / "mesh_groups.json").read_text())["cases"]
RECORDED = {"dp_shard_cp": "fsdp", "ep+fsdp(world)": "world"}

axis = st.sampled_from([1, 1, 2, 3])
meshes = st.builds(
    lambda ep, *sizes: Mesh(*sizes, ep=ep if prod_of(sizes[2:]) % ep == 0 else 1),
    st.sampled_from([1, 2, 3, 4, 6]), axis, axis, axis, axis, axis,
)  # fmt: skip


def prod_of(sizes):
    found = 1
    for size in sizes:
        found *= size
    return found


def mesh_from(options):
    """The mesh of a recording's options: what is left of the world is sharded."""
    cp, tp, pp = (options.get(k, 1) for k in ("cp", "tp", "pp"))
    replicate, ep = options.get("replicate", 1), options.get("ep", 1)
    world = options.get("ws", pp * options.get("dp", 1) * tp * cp)
    return Mesh(pp, replicate, world // (pp * replicate * cp * tp), cp, tp, ep)


def check(options, groups):
    mesh = mesh_from(options)
    rank = options.get("rank", 0)
    for name, ranks in groups.items():
        found = mesh.groups(RECORDED.get(name, name))
        assert found.of(rank) == tuple(ranks), (options, name)
        assert found.size == len(ranks)


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(f"{k}{v}" for k, v in c[0].items()))
def test_groups_are_those_that_were_recorded(case):
    check(*case)


def test_every_recording_has_the_groups_that_the_mesh_makes():
    if not SHARED.is_dir():
        pytest.skip("the recordings are not beside the repository")
    seen = 0
    for path in SHARED.glob("*.json"):
        options = json.loads(path.read_text())["config"]
        groups = options.get("groups")
        if groups:
            check(options, {name: group["ranks"] for name, group in groups.items()})
            seen += 1
    assert seen >= 60


def test_two_names_for_the_same_ranks_are_one_value():
    """A flattened axis beside axes of length one (rule 1.4: still a communicator each)."""
    mesh = Mesh(dp_shard=4, ep=4)
    assert mesh.groups("fsdp") == mesh.groups("ep") == mesh.groups("world")
    assert mesh.size("efsdp") == 1


def test_experts_swallow_the_tensor_axis():
    """Rule 1.3: tp 2 and ep 4 on 8 ranks: ep neighbouring ranks, efsdp with stride 4."""
    mesh = Mesh(dp_shard=4, tp=2, ep=4)
    assert mesh.groups("ep").of(5) == (4, 5, 6, 7)
    assert mesh.groups("efsdp").all() == ((0, 4), (1, 5), (2, 6), (3, 7))


@given(meshes)
def test_every_kind_of_group_holds_every_rank_once(mesh):
    names = [*AXES, *EXPERT_AXES, *FLATTENED, "node"]
    for groups in [mesh.groups(name) for name in names] + [mesh.groups("pp", "tp")]:
        sisters = groups.all()
        assert sorted(rank for group in sisters for rank in group) == list(range(mesh.world))
        assert {len(group) for group in sisters} == {groups.size}
        assert len(sisters) == groups.count
        assert [group[0] for group in sisters] == sorted(group[0] for group in sisters)
        for group in sisters:
            assert list(group) == sorted(group)
            assert [groups.place(rank) for rank in group] == list(range(groups.size))
            assert {groups.of(rank) for rank in group} == {group}


@given(meshes)
def test_sizes_multiply(mesh):
    for view in (AXES, EXPERT_AXES):
        assert prod_of(mesh.size(axis) for axis in view) == mesh.world
    assert mesh.size("fsdp") == mesh.dp_shard * mesh.cp
    assert mesh.size("efsdp") * mesh.ep == mesh.dp_shard * mesh.cp * mesh.tp
    assert mesh.size("loss") * mesh.pp * mesh.tp == mesh.world
    assert mesh.data_parallel == mesh.size("data")


@given(meshes)
def test_axes_nest_from_the_outside_in(mesh):
    """The last axis varies fastest: neighbours on an axis lie the product of later axes apart."""
    stride = 1
    for name in reversed(AXES):
        group = mesh.groups(name).of(0)
        assert group == tuple(range(0, len(group) * stride, stride))
        stride *= len(group)
    whole, part = mesh.groups("fsdp"), mesh.groups("cp")
    for rank in range(mesh.world):
        assert set(part.of(rank)) <= set(whole.of(rank))


@given(meshes, st.data())
def test_a_rank_stands_where_its_number_says(mesh, data):
    rank = data.draw(st.integers(0, mesh.world - 1))
    for view in (AXES, EXPERT_AXES):
        rest = rank
        for name in reversed(view):
            rest, at = divmod(rest, mesh.size(name))
            assert mesh.groups(name).place(rank) == at


@given(meshes, st.data())
def test_groups_are_cut_into_runs_and_what_lies_across_them(mesh, data):
    whole = mesh.groups(data.draw(st.sampled_from(["fsdp", "world", "tp", "efsdp"])))
    parts = [n for n in range(1, whole.size + 1) if whole.size % n == 0]
    size = data.draw(st.sampled_from(parts))
    near, far = whole.inner(size), whole.outer(size)
    assert (near.size, far.size) == (size, whole.size // size)
    for group in whole.all():
        assert near.of(group[0]) == group[:size]
        assert far.of(group[0]) == group[::size]
        assert set(near.of(group[-1])) & set(far.of(group[-1])) == {group[-1]}


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="groups of 3 do not divide 8 ranks"):
        Mesh(dp_shard=8).groups("fsdp").inner(3)
    with pytest.raises(ValueError, match="ep of 3 does not divide"):
        Mesh(dp_shard=8, ep=3)
    with pytest.raises(ValueError, match="nodes of 3"):
        Mesh(dp_shard=8, gpus_per_node=3)
    with pytest.raises(ValueError, match="tp of 0"):
        Mesh(tp=0)
    with pytest.raises(ValueError, match="cp: not of the axes"):
        Mesh(dp_shard=8, ep=2).groups("ep", "efsdp", "cp")
    with pytest.raises(ValueError, match="rank 8 is not one of 8"):
        Groups.along([(8, True)]).of(8)


def test_a_node_has_the_gpus_of_the_machine():
    """Groups of quantised gradients: 16 on nodes of 16, of unequal nodes what divides both."""
    pair = load("gcp-a2-megagpu-16g", "llama3-8b-sft", ["nodes=2", "parallelism=zero3"])
    assert mesh_of(pair.topology, pair.workload).groups("node").all()[1] == tuple(range(16, 32))
    graph = pair.topology.model_copy(update={"graph": Graph(edges=(), vertices=tuple(
        Vertex(id=f"g{i}", kind="gpu", node=i // 8) for i in range(12)
    ))})  # fmt: skip
    assert mesh_of(graph, pair.workload).size("node") == 4


def test_a_job_on_a_machine():
    pair = load("dgx-h100", "llama3-8b-sft", ["nodes=2", "parallelism.replicate=2"])
    mesh = mesh_of(pair.topology, pair.workload)
    assert mesh == Mesh(dp_replicate=2, dp_shard=8, gpus_per_node=8)
    assert mesh.groups("dp_replicate").of(3) == (3, 11)
    assert mesh.groups("node") == mesh.groups("fsdp")


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, Mesh(dp_shard=16)),
        ({"replicate": 2}, Mesh(dp_replicate=2, dp_shard=8)),
        ({"replicate": 2, "shard": 8}, Mesh(dp_replicate=2, dp_shard=8)),
        ({"context_parallel": 4}, Mesh(dp_shard=4, cp=4)),
        # a shard group with its context-parallel partners, or without
        ({"context_parallel": 4, "shard": 16}, Mesh(dp_shard=4, cp=4)),
        ({"context_parallel": 4, "shard": 4}, Mesh(dp_shard=4, cp=4)),
        ({"context_parallel": 2, "replicate": 2}, Mesh(dp_replicate=2, dp_shard=4, cp=2)),
        ({"strategy": "ddp"}, Mesh(dp_replicate=16)),
        ({"strategy": "fsdp1", "sharding_strategy": "no-shard"}, Mesh(dp_replicate=16)),
        ({"strategy": "zero3"}, Mesh(dp_shard=16)),
    ],
)
def test_knobs_make_a_mesh(knobs, expected):
    workload = load("dgx-h100", "llama3-8b-sft").workload
    job = workload.model_copy(update={"parallelism": Parallelism(**knobs)})
    assert mesh_on(job, 16) == expected


def test_sizes_that_are_not_the_world_are_input_errors():
    workload = load("dgx-h100", "llama3-8b-sft").workload
    for knobs in ({"replicate": 3}, {"shard": 3}, {"shard": 8, "context_parallel": 4}):
        job = workload.model_copy(update={"parallelism": Parallelism(**knobs)})
        with pytest.raises(InputError, match=r"parallelism\.replicate"):
            mesh_on(job, 16)


def test_a_batch_by_hand():
    """4 ranks of 2 data-parallel and 2 parts; 3 micro-steps of 5 sequences of 101 tokens."""
    batch = Batch(101, 5, 3, cp=2, data_parallel=2)
    assert batch.sequences_per_rank == 15
    assert batch.sequences_per_micro_step == 10
    assert batch.sequences == 30
    assert batch.tokens == 3030
    assert batch.tokens_per_rank == batch.tokens_per_gpu == 757.5
    assert Batch(101, 5, 3, cp=2, data_parallel=2, split=4).tokens_per_gpu == 757.5 / 4
    assert (batch.local_length, batch.local_tokens) == (51, 255)
    assert batch.accumulated(64) == (6, 4)


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 4]),
    st.integers(1, 9),
)  # fmt: skip
def test_all_ranks_together_compute_the_batch(length, micro, steps, cp, ranks):
    batch = Batch(length * cp, micro, steps, cp, ranks)
    assert batch.tokens_per_rank * ranks * cp == batch.tokens
    assert batch.local_tokens * steps == batch.tokens_per_rank
    assert batch.accumulated(batch.sequences) == (steps, 0)


def test_the_batch_of_a_job():
    pair = load("dgx-h100", "llama3-8b-sft", ["parallelism.context_parallel=2", "micro_batch=2"])
    workload = pair.workload
    batch = batch_of(pair.topology, workload)
    assert batch.data_parallel == mesh_of(pair.topology, workload).data_parallel == 4
    assert batch_on(workload).sequences == batch.sequences_per_rank
