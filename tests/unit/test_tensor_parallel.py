"""Tensor and sequence parallelism: shapes, exchanges, memory and faults."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sim.blocks.flops import token_flops
from sim.blocks.footprint import head_footprint, layer_footprint
from sim.blocks.parameters import count_parameters, tree_of
from sim.blocks.unroll import exchanges, unroll
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.rows import as_run
from sim.inputs.shares import batch_of, mesh_of
from sim.step.run import run_step
from sim.step.step import memory_of
from sim.strategies import build_plan
from sim.strategies.plan import KERNEL

DATA = Path(__file__).parents[1] / "data" / "tensor_parallel_memory.json"
RUNS = json.loads(DATA.read_text())["runs"]
TOKENS, HIDDEN = 8192, 4096
A = 2.0 * TOKENS * HIDDEN  # one activation of Llama-3-8B [B]


def job(*sets, tensor=8):
    return load(
        "dgx-h100", "llama3-8b-sft",
        ["nodes=1", f"sequence_length={TOKENS}", "micro_batch=1", "gradient_accumulation=1",
         f"parallelism.tensor_parallel={tensor}", *sets],
    )  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_kept_bytes_equal_the_recording(name):
    """To the byte; the recording's RoPE table is the input of every block here."""
    run = RUNS[name]
    # SDPA repeats key and value heads, unless there is one: then it is a view
    attention = "flash2" if run["tensor_parallel"] == 8 else "sdpa"
    workload = job(
        f"model={run['model']}", f"attention={attention}",
        f"activation_checkpointing={run['checkpointing']}",
        f"parallelism.sequence_parallel={str(run['sequence_parallel']).lower()}",
        f"parallelism.loss_parallel={str(run['loss_parallel']).lower()}",
        f"parallelism.tensor_parallel_style={run.get('style', 'dtensor')}",
        tensor=run["tensor_parallel"],
    ).workload  # fmt: skip
    kept = dict(layer_footprint(workload, "layer", run["checkpointing"]).tensors)
    table = kept.pop("positions")
    kept = layer_footprint(workload, "layer", run["checkpointing"]).saved
    kept -= table if run["checkpointing"] != "none" else 0.0
    assert kept == run["block"]
    assert head_footprint(workload).saved + 4 == run["head"]


@pytest.mark.parametrize("split", [True, False])
def test_exchanges_of_a_layer(split):
    """Two gathers and two reduce-scatters each way, or two all-reduces of as many bytes."""
    workload = job(f"parallelism.sequence_parallel={str(split).lower()}").workload
    for phase in ("forward", "backward"):
        found = [
            (x.collective, x.sent, x.received)
            for each in exchanges(workload, "layer", phase).values() for x in each
        ]  # fmt: skip
        if split:
            gather, scatter = ("all_gather", A / 8, A), ("reduce_scatter", A, A / 8)
            assert sorted(found) == [gather, gather, scatter, scatter]
        else:
            assert found == [("all_reduce", A, A)] * 2


def test_a_rank_runs_its_share_of_every_product():
    whole, part = unroll(job(tensor=1).workload), unroll(job().workload)
    for phase in ("forward", "backward"):
        mine, all_of_it = (
            sum(k.flops for k in t.of("layer", phase) if k.kind in ("gemm", "attention"))
            for t in (part, whole)
        )
        assert 8 * mine == pytest.approx(all_of_it, rel=1e-12)


def test_work_of_a_token_is_what_it_was():
    assert token_flops(job().workload) == token_flops(job(tensor=1).workload)


def test_shards_hold_the_model_once():
    """Matrices are cut, norms are not: 2 x 32 + 1 norms of 4096 in each of eight parts."""
    workload = job().workload
    tree = tree_of(workload)
    held = sum(
        q.numel
        for block in (tree.embedding, *tree.layers, tree.head)
        for m in block.modules for q in m.parameters
    )  # fmt: skip
    assert 8 * held - 7 * 65 * 4096 == count_parameters(workload.model).total
    partial = [m.name for m in tree.layers[0].modules if m.partial]
    assert partial == ["attention_norm", "ffn_norm"]
    whole = tree_of(job("parallelism.sequence_parallel=false").workload)
    assert not any(m.partial for m in whole.layers[0].modules)


def test_mesh_and_batch():
    loaded = job("nodes=2", tensor=4)
    mesh = mesh_of(loaded.topology, loaded.workload)
    assert (mesh.dp_shard, mesh.tp) == (4, 4)
    assert mesh.groups("tp").all()[0] == (0, 1, 2, 3)
    assert mesh.groups("fsdp").all()[0] == (0, 4, 8, 12)
    assert batch_of(loaded.topology, loaded.workload).sequences == 4


def test_all_of_it_is_exposed():
    """Nothing runs beside an exchange but what FSDP does."""
    loaded = job("model.layers=4", "activation_checkpointing=none")
    outcome = run_step(loaded.topology, loaded.workload)
    inside = {
        k: v for k, v in outcome.priced.collectives.items() if k.group == "tensor"
    }  # fmt: skip
    counts: dict[object, int] = {}
    (view,) = outcome.lowered.views
    for op in view.plan.ops:
        if op.collective and op.group == "tensor" and op.phase != "clip":
            key = (op.collective, max(op.bytes_in, op.bytes_out))
            counts[key] = counts.get(key, 0) + 1
    alone = sum(v.time_s * counts.get((k.collective, k.total), 0) for k, v in inside.items())
    # the gaps hold the fixed part of launches as well
    assert outcome.breakdown.exposed_s >= 0.99 * alone > 0.0


def test_memory_falls_with_every_doubling():
    needed = [memory_of(*pair(t)).peak_allocated_bytes for t in (1, 2, 4, 8)]
    assert needed == sorted(needed, reverse=True)


def pair(tensor):
    loaded = job("model.layers=8", tensor=tensor)
    return loaded.topology, loaded.workload


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["model=phi-2", "parallelism.tensor_parallel=3"], "32 heads of phi-2 cannot be divided"),
        (["parallelism.tensor_parallel=16", "nodes=2"], "8 key-value heads of llama-3.1-8b"),
        (["sequence_length=8190"], "8190 tokens of a sequence cannot be divided among 8 GPUs"),
        (["parallelism.strategy=zero3"], "modelled with fsdp2 or megatron, not with"),
        (["model=deepseek-v2-lite", "parallelism.sequence_parallel=false"], "latent attention"),
        (["method=lora"], "modelled for full training"),
        (
            ["model=mixtral-8x7b", "parallelism.tensor_parallel_style=dtensor-per-linear"],
            "modelled of dense blocks, not mixtral-8x7b",
        ),
        (["parallelism.wrap=linear"], "units of whole blocks"),
        (["node.gpus=4"], "8 does not divide 4 GPUs"),
        (["parallelism.replicate=2"], "8 does not divide 8 GPUs beside replicate"),
    ],
)
def test_faults(sets, said):
    with pytest.raises(InputError, match=said):
        job(*sets)


def test_a_group_wider_than_a_node_is_warned_of():
    loaded = job("nodes=2", "model=llama-2-7b", tensor=16)
    assert "tensor-network" in {w.code for w in loaded.notes.warnings}


def test_ranks_that_share_sequences_wait_for_no_other_reader():
    """16 GPUs with matrices over 4 and stages over 2 read two rows at a time, as 2 GPUs do."""
    lengths = "data.sequence_lengths={mean: 400, maximum: 4000}"
    packing = "data.packing=false"
    split = job(
        "nodes=2", "parallelism.pipeline_parallel=2", "gradient_accumulation=4", lengths, packing,
        tensor=4,
    ).workload  # fmt: skip
    plain = job("gradient_accumulation=4", lengths, packing, tensor=1).workload
    assert split.parallelism.sharing == 8
    assert as_run(split, 16).sequence_length == as_run(plain, 2).sequence_length
    assert as_run(plain, 16).sequence_length > as_run(plain, 2).sequence_length


def megatron(*sets):
    return job("parallelism.tensor_parallel_style=megatron", *sets)


def test_megatron_keeps_parts_and_gathers_them_again():
    """A block keeps parts of two gathered inputs, and gathers them in backward beside GEMMs."""
    theirs, ours = job().workload, megatron().workload
    kept = [layer_footprint(w, "layer").saved for w in (theirs, ours)]
    assert kept[0] - kept[1] == 2 * (A - A / 8)
    found = exchanges(ours, "layer", "backward")
    when = {m: [(x.collective, x.when.value) for x in each] for m, each in found.items()}
    assert when == {
        "w2": [("all_gather", "before")], "wo": [("all_gather", "before")],
        "w3": [("all_gather", "beside inputs")], "wv": [("all_gather", "beside inputs")],
        "w1": [("reduce_scatter", "beside weights")],
        "wq": [("reduce_scatter", "beside weights")],
    }  # fmt: skip
    names = [k.name for k in unroll(ours).of("layer", "forward")]
    assert "tp.copy" not in names  # the sequence is the outermost dimension


def test_nanotron_reduces_beside_and_keeps_what_it_gathered():
    theirs, ours = job().workload, job("parallelism.tensor_parallel_style=nanotron").workload
    kept = [layer_footprint(w, "layer").saved for w in (theirs, ours)]
    assert kept[0] == kept[1]
    found = exchanges(ours, "layer", "backward")
    when = sorted((x.collective, x.when.value) for each in found.values() for x in each)
    assert when == [("all_gather", "before")] * 2 + [("reduce_scatter", "beside weights")] * 2


def test_nanotron_copies_heads_apart():
    """14 e d forward and 10 backward a token, beside the joining of gradients that all have."""
    fused = "model={name: m, layers: 2, hidden_size: 1024, heads: 8, kv_heads: 8, head_dim: 128, "
    fused += "ffn_size: 4096, vocab_size: 1000, fused_qkv: true, fused_gate_up: true}"
    plain, theirs = (
        job(fused, f"modelling={name}", "fused_kernels=none", tensor=1).workload
        for name in ("huggingface", "nanotron")
    )
    for phase, times in (("forward", 14), ("backward", 10)):
        more = [
            sum(k.bytes for k in unroll(w).of("layer", phase)) for w in (plain, theirs)
        ]  # fmt: skip
        assert more[1] - more[0] == times * 2 * 1024 * TOKENS
    joined = [k.bytes for k in unroll(plain).of("layer", "backward") if k.name == "gate.cat"]
    assert joined == [4 * 2 * 4096 * TOKENS]


def test_megatron_hides_what_follows_the_gradients_of_inputs():
    """The re-gather runs beside w3's input gradient, the reduction beside w1's weight gradient."""
    topology, workload, _ = megatron()
    outcome = run_step(topology, workload)
    (view, *_), line = outcome.lowered.views, outcome.timeline
    plan, at = view.plan, dict(zip(view.comm_plan.tolist(), view.comm_begin.tolist(), strict=True))
    middle = [i for i in at if plan.ops[i].block == 4 and plan.ops[i].phase == "backward"]
    segments = {
        (plan.ops[i].module, plan.ops[i].name): i for i in range(len(plan.ops))
        if plan.ops[i].block == 4 and plan.ops[i].phase == "backward" and plan.ops[i].module
    }  # fmt: skip
    assert {("w1", "input"), ("w1", "weight"), ("wq", "weight"), ("wv", "input")} <= set(segments)
    last = max(i for i in middle if plan.ops[i].collective == "reduce_scatter")
    weights = np.flatnonzero(outcome.lowered.plan_op == segments["wq", "weight"])
    begins = line.start[weights][np.isin(weights, np.arange(*view.compute.indices(10**9)))].min()
    assert begins < line.end[at[last]]


def test_megatron_refuses_a_split_backward():
    with pytest.raises(InputError, match="gradients of inputs and of weights in one call"):
        megatron("parallelism.pipeline_parallel=2", "parallelism.pipeline_schedule=zbv",
                 "gradient_accumulation=8", "nodes=2")  # fmt: skip


BF16 = "precision={bf16: {master: bf16}}"


def test_modules_that_nobody_wraps():
    """bf16 weights on one tensor-parallel group: no hook, no copy; norms are summed when read."""
    loaded = job("nodes=1", "model.layers=4", "gradient_accumulation=2", BF16)
    plan = build_plan(
        loaded.workload, tree_of(loaded.workload), mesh_of(loaded.topology, loaded.workload)
    )
    assert {op.name for op in plan.ops if op.kind == KERNEL} == {
        "accumulate", "scale", "grad_norm", "clip",
    }  # fmt: skip
    sums = Counter(op.phase for op in plan.ops if op.collective == "all_reduce")
    norms = 2 * 4 + 1
    assert (sums["clip"], sums["optimizer"]) == (norms + 1, 3 * norms)
    wrapped = job("nodes=1", "model.layers=4", "gradient_accumulation=2")
    kept = memory_of(loaded.topology, loaded.workload).terms
    assert "unsharded parameters" in memory_of(wrapped.topology, wrapped.workload).terms
    assert "unsharded parameters" not in kept
    held = sum(
        2 * q.numel for block in (tree_of(loaded.workload).embedding, *tree_of(
            loaded.workload).layers, tree_of(loaded.workload).head)
        for m in block.modules for q in m.parameters
    )  # fmt: skip
    assert kept["sharded parameters"] == kept["sharded gradients"] == held


def test_a_second_group_is_wrapped_again():
    loaded = job("nodes=2", "model.layers=4", BF16)
    names = {
        op.name for op in build_plan(
            loaded.workload, tree_of(loaded.workload), mesh_of(loaded.topology, loaded.workload)
        ).ops
    }  # fmt: skip
    assert "copy_in" in names
