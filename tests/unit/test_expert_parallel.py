"""Experts spread over ranks: what each holds, computes and sends."""

import numpy as np
import pytest

from sim.blocks.flops import token_flops
from sim.blocks.footprint import layer_footprint
from sim.blocks.parameters import tree_of
from sim.blocks.unroll import exchanges, unroll
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.models import catalogue_model
from sim.inputs.shares import mesh_on
from sim.interop.emit import write_plan
from sim.job.basis import checkpoint_bytes
from sim.memory.report import memory
from sim.mesh.routing import busiest_load, parts_met
from sim.result.advice import changes
from sim.step.step import step
from sim.strategies import build_plan, build_plans
from sim.strategies.plan import COLLECTIVE, SEGMENT
from sim.strategies.units import trainable_elements
from tests.unit.in_full import recorded_in_full

MIXTURE = {
    "name": "small", "layers": 4, "hidden_size": 1024, "heads": 8, "kv_heads": 4, "head_dim": 128,
    "ffn_size": 4096, "vocab_size": 32000, "experts": 16, "experts_per_token": 4,
    "expert_ffn_size": 512,
}  # fmt: skip


def job(*sets, model=MIXTURE, **axes):
    work = {"name": "j", "model": model, "sequence_length": 2048, "steps": 1,
            "experts": "grouped", "parallelism": {"strategy": "fsdp2", **axes}}  # fmt: skip
    return load("dgx-h100", work, list(sets))


def products(workload, phase="forward"):
    t = unroll(workload)
    return [k for k in t.of(t.layer_kinds[0], phase) if k.kind == "gemm" and k.module == "experts"]


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_a_rank_multiplies_fewer_experts_on_more_tokens(phase):
    """2048 tokens x 4 choices arrive at 2 of 16 experts: 4096 rows each; FLOPs are as without."""
    alone, spread = (products(job(expert_parallel=e).workload, phase) for e in (1, 8))
    assert [k.flops for k in spread] == [k.flops for k in alone]
    forward = products(job(expert_parallel=8).workload)
    assert [k.shape for k in forward] == [(4096, 512, 1024, 2)] * 2 + [(4096, 1024, 512, 2)]


def test_tokens_travel_as_often_as_they_have_experts():
    """2048 x 4 x 1024 columns in bf16; the counts are an int64 an expert."""
    workload = job(expert_parallel=8).workload
    sent = exchanges(workload, "layer", "forward")
    assert [(m, x.sent, x.received) for m, found in sent.items() for x in found] == [
        ("router", 128.0, 128.0), ("dispatch", 2.0**24, 2.0**24), ("experts", 2.0**24, 2.0**24),
    ]  # fmt: skip
    (split,) = (k for k in unroll(workload).of("layer", "forward") if k.waits)
    assert split.module == "dispatch"


def test_sequence_parallel_ranks_send_their_positions():
    workload = job(expert_parallel=8, tensor_parallel=2).workload
    sent = exchanges(workload, "layer", "forward")
    assert [x.sent for x in sent["dispatch"]] == [2.0**23]
    assert products(workload)[0].shape == (2048, 512, 1024, 2)


@pytest.mark.parametrize(
    ("experts", "ranks", "imbalance", "load"),
    [
        (16, 8, 1.0, 1.0),  # as many for all
        (16, 1, 1.3, 1.0),  # all of them here
        (16, 16, 1.3, 1.3),  # an expert a rank
        (2, 2, 2.0, 2.0),  # one has everything
    ],
)
def test_load_of_the_busiest_rank(experts, ranks, imbalance, load):
    assert busiest_load(experts, ranks, imbalance, 0, 3) == pytest.approx(load)


def test_autograd_keeps_what_the_busiest_rank_gets():
    """A copy of a token keeps its d columns, w1, its silu, w3 and their product of f, two indices.

    What comes back, d columns a copy, is of this rank's own tokens.
    """
    even, skewed = (
        layer_footprint(
            job("nodes=2", f"routing.imbalance={share}", expert_parallel=16).workload, "layer"
        )
        for share in (1, 1.5)
    )
    copies, width, experts = 2048 * 4, 1024, 512
    more = 0.5 * copies * (2 * (width + 4 * experts) + 2 * 8)
    assert skewed.saved - even.saved == pytest.approx(more)


def test_experts_that_share_a_rank_even_out():
    loads = [busiest_load(128, ranks, 2.0, 7, 40) for ranks in (2, 8, 32, 128)]
    assert loads == sorted(loads)
    assert 1.0 < loads[0] < 1.2
    assert loads[-1] == pytest.approx(2.0)
    assert busiest_load(128, 8, 2.0, 7, 40) == loads[1]
    assert busiest_load(128, 8, 2.0, 8, 40) != loads[1]


@pytest.mark.parametrize(
    ("experts", "parts", "choices", "met"),
    [
        (16, 16, 4, 4.0),  # as many as there are choices
        (16, 1, 4, 1.0),
        (4, 2, 2, 5 / 3),  # of 6 pairs, 2 are in one half
        (128, 8, 8, 8 * (1 - np.prod([(112 - i) / (128 - i) for i in range(8)]))),
    ],
)
def test_parts_that_a_token_meets(experts, parts, choices, met):
    assert parts_met(experts, parts, choices) == pytest.approx(met)


def test_deepep_sends_a_token_once_to_a_rank():
    """16 experts on 8 ranks, 4 a token: 8 (1 - C(14, 4) / C(16, 4)) = 3.6 ranks; no counts."""
    workload = job("parallelism.expert_dispatch=deepep", expert_parallel=8).workload
    sent = exchanges(workload, "layer", "forward")
    assert list(sent) == ["dispatch", "experts"]
    for found in sent.values():
        assert [x.sent for x in found] == [pytest.approx(3.6 * 2048 * 1024 * 2)]
    assert [k.module for k in unroll(workload).of("layer", "forward") if k.waits] == ["dispatch"]
    plain = job(expert_parallel=8).workload
    assert [k.flops for k in products(workload)] == [k.flops for k in products(plain)]
    assert token_flops(workload) == token_flops(plain)


def test_deepep_crosses_nodes_once():
    """On two nodes of 8 every rank talks to its like across, and to its node, at the same time."""
    found = job("nodes=2", "parallelism.expert_dispatch=deepep", expert_parallel=16)
    workload = found.workload
    plan = build_plan(workload, tree_of(workload), mesh_on(workload, 16, 8))
    assert plan.groups["expert-nodes"].all()[0] == (0, 8)
    assert plan.groups["expert-node"].all()[1] == tuple(range(8, 16))
    across, within = (
        next(op for op in plan.ops if op.group == group and op.block == 1)
        for group in ("expert-nodes", "expert-node")
    )
    token = 2048 * 1024 * 2
    assert across.bytes_in == pytest.approx(parts_met(16, 2, 4) * token)
    assert within.bytes_in == pytest.approx(4 * token)
    first = plan.ops.index(within)
    assert plan.ops.index(across) == first - 1
    assert within.deps == across.deps  # neither waits for the other
    plain = job("nodes=2", expert_parallel=16)
    fast, slow = (step(f.topology, f.workload).breakdown.time_s for f in (found, plain))
    assert fast < slow


def test_imbalance_is_the_busiest_ranks_work_and_memory():
    """16 experts on 16 ranks, the busiest with 1.5 times the mean: its products, bytes, tensors."""
    sets = ["nodes=2", "micro_batch=8"]
    even, skewed = (
        job(*sets, f"routing.imbalance={share}", expert_parallel=16) for share in (1, 1.5)
    )
    rows = [products(found.workload)[0].shape[0] for found in (even, skewed)]
    assert rows == [65536, 98304]
    there, back = (
        exchanges(skewed.workload, "layer", "forward")[m][0] for m in ("dispatch", "experts")
    )
    assert (there.sent, there.received) == (back.received, back.sent) == (2.0**27, 1.5 * 2.0**27)
    assert token_flops(even.workload) == token_flops(skewed.workload)
    slow, fast = (step(found.topology, found.workload).breakdown.time_s for found in (skewed, even))
    assert slow > fast


@pytest.mark.parametrize(("expert", "tensor"), [(1, 1), (4, 1), (8, 1), (8, 2), (4, 4)])
def test_ranks_hold_every_parameter_once(expert, tensor):
    """All shares are the model, but for norms and routers, which tensor parallelism copies."""
    workload = job(expert_parallel=expert, tensor_parallel=tensor).workload
    mesh = mesh_on(workload, 8)
    whole = trainable_elements(job().workload, 1)[0]
    copied = 4 * (2 * 1024 + 16 * 1024) + 1024
    held = 8 * trainable_elements(workload, mesh.size("fsdp"))[0]
    assert held == whole + (tensor - 1) * copied
    assert checkpoint_bytes(workload) == checkpoint_bytes(job().workload)
    plan = build_plan(workload, tree_of(workload), mesh)
    assert plan.owned_numel * 8 == held


def test_a_segment_ends_where_something_is_exchanged():
    workload = job(expert_parallel=8).workload
    plan = build_plan(workload, tree_of(workload), mesh_on(workload, 8))
    forward, backward = (
        [op.module for op in plan.ops if (op.kind, op.name, op.block) == (SEGMENT, way, 2)]
        for way in ("forward", "backward")
    )
    modules = ["attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "router"]
    assert forward == [" ".join(modules), "dispatch", "experts", "combine"]
    assert backward == ["combine", "experts", "dispatch " + " ".join(reversed(modules))]


def test_what_is_advised():
    def offered(**axes):
        found = job("nodes=2", **axes)
        every = (c for aim in ("faster", "smaller") for c in changes(*found[:2], aim))
        return {key: value for c in every for key, value in c.settings.items() if "expert" in key
                or "buffers" in key}  # fmt: skip

    assert offered() == {"parallelism.expert_parallel": 8}
    assert offered(expert_parallel=16) == {
        "parallelism.expert_dispatch": "deepep",
        "parallelism.reduce_scatter_max_input_buffers": 2,
    }
    assert not [c for c in changes(*job("method=lora")[:2], "faster") if "expert" in c.text]


@pytest.mark.parametrize(
    ("axes", "groups"),
    [
        ({}, 1),
        ({"expert_parallel": 8}, 2),  # experts have no other rank to be sharded over
        ({"expert_parallel": 4}, 3),
        ({"expert_parallel": 4, "tensor_parallel": 2}, 4),
        ({"context_parallel": 2}, 2),
    ],
)
def test_every_axis_has_a_communicator(axes, groups):
    found = job(**axes)
    report = memory(found.topology, found.workload)
    assert report.overheads["communicators"] == pytest.approx(groups * 0.385e9)


def test_norms_of_experts_and_of_the_rest_are_summed_apart():
    """3 tensors of experts a layer; 4 + 1 + 2 others, and table, norm and head."""
    workload = job("nodes=2", expert_parallel=8).workload
    plan = build_plan(workload, tree_of(workload), mesh_on(workload, 16))
    clip = [
        (op.group, op.bytes_in) for op in plan.ops if op.kind == COLLECTIVE and op.phase == "clip"
    ]
    assert clip == [("expert-shard", 48.0), ("expert", 48.0), ("shard", 4.0 * (4 * 7 + 3))]


@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["parallelism.forward_prefetch=2", "parallelism.backward_prefetch=2"],
        ["parallelism.reduce_scatter_max_input_buffers=3", "parallelism.replicate=2"],
        ["parallelism.tensor_parallel=2", "activation_checkpointing=full"],
    ],
)
def test_a_folded_plan_is_the_plan_in_full(sets):
    deep = {**MIXTURE, "layers": 24}
    workload = job(*sets, model=deep, expert_parallel=4).workload
    tree, mesh = tree_of(workload), mesh_on(workload, 8)
    assert build_plan(workload, tree, mesh).ops == recorded_in_full(workload, tree, mesh).ops


def test_stages_spread_their_experts():
    """A stage's experts are gathered once, reduced after the rest of their block."""
    axes = {"expert_parallel": 4, "pipeline_parallel": 2}
    found = job("gradient_accumulation=4", **axes)
    plans = build_plans(found.workload, tree_of(found.workload), mesh_on(found.workload, 8))
    for plan in plans:
        ops = [op for op in plan.ops if op.kind == COLLECTIVE]
        sent = [op.block for op in ops if op.group == "expert" and op.phase != "clip"]
        # counts, there and back; gradients both ways
        assert len(sent) == 4 * len(set(sent)) * 5
    assert sum(plan.owned_numel for plan in plans) * 4 == trainable_elements(job().workload, 1)[0]
    assert step(found.topology, found.workload).breakdown.time_s > 0


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["model=llama-3.1-8b"], "llama-3.1-8b has no experts to share among 8 GPUs"),
        (["parallelism.expert_parallel=3"], "16 experts of small cannot be divided among 3"),
        (["parallelism.expert_parallel=16"], "16 does not divide the 8 GPUs of a replica"),
        (["parallelism.strategy=zero3"], "expert parallelism is modelled with fsdp2 or"),
        (["parallelism={strategy: fsdp2, expert_parallel: 8, tensor_parallel: 2,"
          " sequence_parallel: false}"], "need tokens split among tensor-parallel ranks"),
        (["experts=eager"], "a loop over the experts"),
        (["method=lora"], "modelled for full training"),
        (["parallelism.wrap=linear"], "units of whole blocks"),
        (["parallelism.offload=all"], "offloading is not modelled with expert"),
        (["parallelism.reshard_after_forward=4"], "sharded over other ranks"),
        (["routing.imbalance=5"], "at most 4 times the mean"),
        (["routing.imbalance=0.5"], "at least 1"),
    ],
)  # fmt: skip
def test_faults(sets, said):
    with pytest.raises(InputError, match=said):
        job(*sets, expert_parallel=8)


def test_what_is_for_other_ranks_alone_is_said():
    found = job("routing.imbalance=1.3", "parallelism.expert_dispatch=deepep")
    assert [w.code for w in found.notes.warnings].count("experts-alone") == 2
    assert np.isfinite(step(found.topology, found.workload).breakdown.time_s)


@pytest.mark.parametrize("tool", ["torchtitan", "axolotl"])
def test_a_written_file_is_read_as_the_same_spread(tool, tmp_path):
    model = catalogue_model("qwen3-30b-a3b").model_dump()
    sets = ["parallelism.expert_dispatch=deepep", "nodes=2"]
    found = job(*sets, model=model, expert_parallel=8, wrap="torchtitan")
    (path,) = write_plan(found.topology, found.workload, [tool], tmp_path)
    again = load("dgx-h100", path, ["nodes=2"]).workload
    assert again.parallelism.expert_parallel == 8
    assert again.experts == "grouped"
    if tool == "torchtitan":
        assert again.parallelism.expert_dispatch == "deepep"
    assert mesh_on(again, 16).efsdp == 2


def test_tools_that_spread_no_experts_are_refused(tmp_path):
    found = job(expert_parallel=8)
    with pytest.raises(InputError, match=r"accelerate cannot say parallelism\.expert_parallel"):
        write_plan(found.topology, found.workload, ["accelerate"], tmp_path)


def test_grouped_experts_are_one_parameter_a_matrix():
    """3 x 16 x 1024 x 512: three tensors, padded to as many as ranks; apart, 48 matrices."""
    loop, grouped = (
        trainable_elements(job(f"experts={how}").workload, 8) for how in ("eager", "grouped")
    )
    assert grouped[0] == loop[0]
    assert loop[1] - grouped[1] == 4 * (48 - 3)
    found = job("nodes=4")
    held = (
        trainable_elements(found.workload, 32)[0]
        - trainable_elements(job("nodes=4", "experts=eager").workload, 32)[0]
    )
    assert held == 4 * 3 * 16 * 1024 * 512 / 32
    assert "expert-padding" in {w.code for w in found.notes.warnings}
    spread = job("nodes=4", expert_parallel=8)
    assert "expert-padding" not in {w.code for w in spread.notes.warnings}


@pytest.mark.parametrize("strategy", ["zero3", "zero1", "fsdp1"])
def test_flat_shards_of_grouped_experts_are_not_padded(strategy):
    """12 B of each of 46.7e9 parameters over 64 ranks; eight rows were taken for 64."""
    keys = {"name": "m", "model": "mixtral-8x7b", "sequence_length": 512, "steps": 1}
    sets = ["nodes=8", "stack.torch=2.11", f"parallelism={strategy}", "experts=grouped"]
    found = load("aws-p4d", keys, sets)
    assert "expert-padding" not in {w.code for w in found.notes.warnings}
    elements, _, largest, _ = trainable_elements(found.workload, 64)
    assert elements == pytest.approx(46_702_792_704 / 64, rel=1e-6)
    assert largest == 8 * 4096 * 14336 / 64
