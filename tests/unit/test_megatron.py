"""Megatron's data parallelism: what is reduced, gathered and kept, beside TP and PP."""

import pytest

from sim.blocks.parameters import count_parameters, tree_of
from sim.blocks.unroll import unroll
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.pipeline import stage_layers
from sim.inputs.shares import mesh_of
from sim.pipeline.stages import layers_by_cost
from sim.step.run import run_step
from sim.step.step import memory_of
from sim.strategies import plans_of
from sim.strategies.plan import COLLECTIVE, SEGMENT

MODEL = {
    "layers": 8, "hidden_size": 1024, "heads": 16, "kv_heads": 16, "head_dim": 64,
    "ffn_size": 4096, "ffn": "swiglu", "norm": "rmsnorm", "positions": "rope",
    "vocab_size": 32000, "name": "small", "fused_qkv": True, "fused_gate_up": True,
}  # fmt: skip
NORMS = 1024 * (2 * 8 + 1)


def job(*sets, nodes=2, model=MODEL, **knobs):
    workload = {
        "name": "t", "model": model, "sequence_length": 2048, "micro_batch": 1, "steps": 10,
        "gradient_accumulation": 8, "parallelism": {"strategy": "megatron"} | knobs,
    }  # fmt: skip
    return load("dgx-h100", workload, [f"nodes={nodes}", *sets])


def plans(*sets, **knobs):
    topology, workload, _ = job(*sets, **knobs)
    return plans_of(workload, tree_of(workload), mesh_of(topology, workload))


def sent(plan, *kinds):
    return [
        (op.collective, op.phase, op.group, round(op.bytes_in), op.micro_step)
        for op in plan.ops if op.kind == COLLECTIVE and op.collective in kinds
    ]  # fmt: skip


def test_gradients_are_reduced_once_in_fp32_and_parameters_gathered_in_bf16():
    total = count_parameters(job().workload.model).total
    (plan,) = plans(grad_bucket_size=40e6)
    found = sent(plan, "reduce_scatter", "all_reduce", "all_gather")
    *reduced, clip, gathered = found
    assert {(kind, micro) for kind, _, _, _, micro in reduced} == {("reduce_scatter", 7)}
    assert len(reduced) > 1
    assert sum(size for *_, size, _ in reduced) == 4 * total
    assert clip[:4] == ("all_reduce", "clip", "shard", 4)
    assert gathered[:3] == ("all_gather", "optimizer", "shard")
    assert gathered[3] == pytest.approx(2 * total / 16, abs=2)
    (plan,) = plans(overlap_grad_reduce=False, reduce_scatter=False)
    assert sent(plan, "all_reduce")[0][:4] == ("all_reduce", "backward", "shard", 4 * total)
    (plan,) = plans(use_distributed_optimizer=False)
    assert not sent(plan, "all_gather", "reduce_scatter")
    assert plan.owned_numel == total


def test_only_the_first_stage_has_buckets_unless_asked():
    """Megatron's rule: elsewhere nothing hides a reduction, which comes when all is done."""
    chunks = {"pipeline_parallel": 2, "pipeline_schedule": "interleaved-1f1b"}
    counts = [[s[0] for s in sent(p, "reduce_scatter")] for p in plans(nodes=4, **chunks)]
    assert [len(found) for found in counts] == [3, 2]  # of stages 0 and 2, of 1 and 3
    asked = plans(nodes=4, grad_bucket_size=20e6, **chunks)
    assert [len(sent(p, "reduce_scatter")) for p in asked] > [3, 2]


def test_parameters_of_the_next_step_come_beside_its_forward():
    total = count_parameters(job().workload.model).total
    (plan,) = plans(overlap_param_gather=True, grad_bucket_size=40e6)
    gathers = sent(plan, "all_gather")
    assert {phase for _, phase, *_ in gathers} == {"forward"}
    assert 16 * sum(size for *_, size, _ in gathers) == pytest.approx(2 * total, rel=1e-6)
    late, early = (
        run_step(*job(overlap_param_gather=on, grad_bucket_size=40e6, nodes=8)[:2]).time_s
        for on in (False, True)
    )
    assert early < late


def test_gradients_are_added_in_a_pass_of_their_own_where_products_do_not():
    total = count_parameters(job().workload.model).total
    for fused, passes in ((True, 0), (False, 8)):
        (plan,) = plans(gradient_accumulation_fusion=fused, overlap_grad_reduce=False)
        found = [op.bytes for op in plan.ops if op.name == "accumulate"]
        assert len(found) == passes
        assert sum(found) == passes * 10 * total


def test_tensor_parallel_ranks_sum_norms_once_a_step():
    (plan,) = plans(tensor_parallel=4)
    sums = [s for s in sent(plan, "all_reduce") if s[2] == "tensor" and s[1] == "backward"]
    assert sums == [("all_reduce", "backward", "tensor", 4 * NORMS, 7)]
    assert mesh_of(*job(tensor_parallel=4)[:2]).dp_shard == 4


def test_nanotron_sums_norms_one_after_another():
    """tied_parameters.py: tied over the ranks of a matrix, each is an all-reduce of its own."""
    (plan,) = plans("trainer=nanotron", tensor_parallel=8)
    sums = [s for s in sent(plan, "all_reduce") if s[1:3] == ("backward", "tensor")]
    assert sums == [("all_reduce", "backward", "tensor", 4 * 1024, 7)] * (NORMS // 1024)


def test_a_tied_table_is_on_both_end_stages_and_summed():
    tied = MODEL | {"tied_embeddings": True}
    total = count_parameters(job(model=tied).workload.model).total
    found = plans(model=tied, pipeline_parallel=4, use_distributed_optimizer=False)
    table = 32000 * 1024
    assert sum(plan.owned_numel for plan in found) == total + table
    sums = [[s for s in sent(p, "all_reduce") if s[2] == "embedding"] for p in found]
    assert [len(s) for s in sums] == [1, 0, 0, 1]
    assert sums[0][0][3] == 4 * table


def test_stages_of_equal_work():
    """nanotron's thresholds: of 28 layers and a head worth 3.56 a stage has 31.56 / n."""
    layer, head = 113.2e6, 402.7e6
    assert layers_by_cost(28, 2, layer, head) == (16, 12)
    assert layers_by_cost(28, 4, layer, head) == (8, 8, 8, 4)
    assert layers_by_cost(28, 8, layer, head) == (4,) * 7 + (0,)
    assert layers_by_cost(28, 16, layer, head) == (2,) * 14 + (0, 0)
    workload = job(pipeline_parallel=4, pipeline_split="cost").workload
    # a layer is 16.8e6, the head 32.8e6: 1.95 layers of 9.95
    assert stage_layers(workload) == (3, 2, 3, 0)
    found = plans(pipeline_parallel=4, pipeline_split="cost")
    forwards = [{op.block for op in p.ops if op.kind == SEGMENT and op.block >= 0} for p in found]
    assert forwards == [{0, 1, 2, 3}, {4, 5}, {6, 7, 8}, {9}]


def test_a_pipeline_with_fewer_micro_batches_than_ranks():
    """Ranks that it never fills up to run forward, then backward; messages still meet."""
    times = {
        m: run_step(*job(f"gradient_accumulation={m}", pipeline_parallel=4)[:2]).time_s
        for m in (1, 2, 3, 4, 5)
    }
    slots = {m: t / (m + 3) for m, t in times.items()}
    assert max(slots.values()) < 1.2 * min(slots.values())
    with pytest.raises(InputError, match="1F1B on 4 ranks needs 4 micro-batches"):
        job("gradient_accumulation=3", strategy="fsdp2", pipeline_parallel=4)


@pytest.mark.parametrize("strategy", ["megatron", "fsdp2"])
def test_stages_without_blocks_pass_messages_on(strategy):
    """4 layers and a head worth 1.95 on 8 stages: a layer each, then nothing, then the head."""
    model = MODEL | {"layers": 4}
    knobs = {"strategy": strategy, "pipeline_parallel": 8, "pipeline_split": "cost"}
    topology, workload, _ = job(model=model, nodes=1, **knobs)
    assert stage_layers(workload) == (1, 1, 1, 1, 0, 0, 0, 0)
    assert memory_of(topology, workload).fits
    found = run_step(topology, workload)
    idle = next(v.plan for v in found.lowered.views if v.plan.stage == 5)
    sent = " ".join(op.unit for op in idle.ops if op.kind == COLLECTIVE)
    for m in range(8):
        assert all(f"{way}{m} {a}>{b}" in sent for way, a, b in
                   (("F", 4, 5), ("F", 5, 6), ("B", 6, 5), ("B", 5, 4)))  # fmt: skip
    assert not any(op.kind == SEGMENT and op.block >= 0 for op in idle.ops)


def test_what_a_rank_keeps():
    """bf16 parameters and fp32 gradients whole, fp32 masters and moments in parts."""
    total = count_parameters(job().workload.model).total
    for nodes, spread, ranks in ((1, True, 8), (2, True, 16), (2, False, 1)):
        topology, workload, _ = job(nodes=nodes, use_distributed_optimizer=spread)
        terms = memory_of(topology, workload).terms
        assert terms["sharded parameters"] == 2 * total
        assert terms["unsharded gradients"] == 4 * total
        assert terms["optimizer states"] == pytest.approx(12 * total / ranks, rel=1e-3)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"pipeline_parallel": 2, "pipeline_schedule": "zbv"}, "Megatron has no ZBV"),
        ({"overlap_param_gather": True, "overlap_grad_reduce": False}, "only a distributed"),
        ({"bucket_cap_mb": 10}, "grad_bucket_size"),
        ({"pipeline_parallel": 16}, "8 layers of small do not fill 16 stages"),
    ],
)  # fmt: skip
def test_refusals(knobs, said):
    with pytest.raises(InputError, match=said):
        job("gradient_accumulation=32", **knobs)


@pytest.mark.parametrize(("nodes", "waits"), [(2, False), (4, True)])
def test_nanotron_copies_what_it_gathers_part_by_part(nodes, waits):
    """6 x 8 + 3 parameters in 16 or 32 parts each; the GPU's queue takes 1,024 launches."""
    ranks = 8 * nodes
    (plan,) = plans("trainer=nanotron", nodes=nodes)
    (copied,) = [op for op in plan.ops if ("trainer.gathered_part", 51.0 * ranks) in op.calls]
    total = count_parameters(job().workload.model).total
    assert (copied.name, copied.phase) == ("copy", "optimizer")
    assert copied.bytes == pytest.approx(8 * total, abs=8 * ranks)
    before = plan.ops[plan.ops.index(copied) - 1]
    assert (before.name == "synchronize") is waits
    (plain,) = plans(nodes=nodes)
    assert not any(name == "trainer.gathered_part" for op in plain.ops for name, _ in op.calls)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_python_of_a_layer_goes_along_with_its_segments(ranks):
    """Forward under tensor parallelism: norm; wqkv, wo; norm; w13, w2."""
    (plan,) = plans("trainer=nanotron", tensor_parallel=ranks)
    own = [op for op in plan.ops if (op.block, op.micro_step) == (1, 1) and op.kind == SEGMENT]
    for phase in ("forward", "backward"):
        shares = [dict(op.calls)[f"trainer.layer_{phase}"] for op in own if op.phase == phase]
        assert sum(shares) == pytest.approx(1.0)
        if phase == "forward":
            assert shares == pytest.approx([1.0] if ranks == 1 else [1 / 6, 2 / 6] * 2)


def syncs(plan):
    """Of each micro-step, the op that its first kernel's launch waits for."""
    first = {}
    for op in plan.ops:
        if op.kind == SEGMENT and op.phase == "forward":
            first.setdefault(op.micro_step, op)
    return [op.host_after for op in first.values()]


def test_nanotron_copies_a_batch_behind_all_that_it_has_issued():
    """Seven of eight micro-steps start after the backward before them has ended."""
    (plan,) = plans("trainer=nanotron")
    (plain,) = plans("trainer=megatron")
    first, *others = syncs(plan)
    assert first == -1
    for micro, index in enumerate(others):
        waited = plan.ops[index]
        assert (waited.stream, waited.phase, waited.micro_step) == ("compute", "backward", micro)
    assert syncs(plain) == [-1] * 8


def test_the_first_stage_reads_a_batch_too():
    """It awaits no message in forward; once four are in flight, forward follows a backward."""
    plan, *_ = plans("trainer=nanotron", pipeline_parallel=4)
    plain, *_ = plans("trainer=megatron", pipeline_parallel=4)
    waited = [plan.ops[index] for index in syncs(plan)[4:]]
    assert [(op.phase, op.micro_step) for op in waited] == [("backward", m) for m in range(4)]
    assert syncs(plain) == [-1] * 8


MIXTURE = {
    **MODEL, "name": "mixture", "experts": 16, "experts_per_token": 4, "expert_ffn_size": 512,
}  # fmt: skip
EXPERTS = 8 * 16 * 3 * 512 * 1024  # in all layers


def test_experts_have_a_buffer_of_their_own():
    """Of 16 ranks two hold the same 2 of 16 experts: those reduce, step and gather them."""
    (plan,) = plans(model=MIXTURE, expert_parallel=8, grad_bucket_size=1e9)
    rest = count_parameters(job(model=MIXTURE).workload.model).total - EXPERTS
    reduced = {group: size for _, _, group, size, _ in sent(plan, "reduce_scatter")}
    assert reduced == {"shard": 4 * rest, "expert-shard": 4 * EXPERTS / 8}
    gathered = {group: size for _, _, group, size, _ in sent(plan, "all_gather")}
    assert gathered == {"shard": 2 * rest / 16, "expert-shard": 2 * EXPERTS / 16}
    assert plan.owned_numel == (rest + EXPERTS) / 16
    assert plan.groups["expert-shard"].of(0) == (0, 8)
    assert plan.groups["expert"].of(0) == tuple(range(8))
    norms = [g for _, phase, g, _, _ in sent(plan, "all_reduce") if phase == "clip"]
    assert norms == ["expert-shard", "expert", "shard"]
    moves = [op for op in plan.ops if op.kind == COLLECTIVE and op.collective == "all_to_all"]
    assert len(moves) == 8 * 8 * (3 + 2)  # layers, micro-batches; counts, there, back; gradients


def test_experts_that_no_other_rank_has_are_not_reduced():
    (plan,) = plans(nodes=1, model=MIXTURE, expert_parallel=8)
    groups = {group for _, _, group, _, _ in sent(plan, "reduce_scatter", "all_gather")}
    assert groups == {"shard"}
    found = job(nodes=1, model=MIXTURE, expert_parallel=8)
    terms = memory_of(found.topology, found.workload).terms
    rest = count_parameters(found.workload.model).total - EXPERTS
    held = rest + EXPERTS / 8
    assert terms["unsharded gradients"] == 4 * held
    assert terms["optimizer states"] == pytest.approx(12 * (rest + EXPERTS) / 8, rel=1e-6)


def test_experts_beside_tensors_and_stages():
    """Buckets of parameters beside forward, for both kinds; the times of a step."""
    axes = {"expert_parallel": 4, "tensor_parallel": 2, "pipeline_parallel": 2}
    for plan in plans(model=MIXTURE, overlap_param_gather=True, **axes):
        gathers = [
            (op.group, op.phase) for op in plan.ops
            if op.kind == COLLECTIVE and op.collective == "all_gather" and op.group != "tensor"
        ]  # fmt: skip
        assert set(gathers) == {("shard", "forward"), ("expert-shard", "forward")}
    found = job(model=MIXTURE, **axes)
    assert run_step(found.topology, found.workload).time_s > 0
    with pytest.raises(InputError, match="modelled with the distributed optimizer"):
        job(model=MIXTURE, expert_parallel=4, use_distributed_optimizer=False)


@pytest.mark.parametrize(
    ("sets", "able"),
    [
        (("model.layers=10", "parallelism.pipeline_parallel=4"), "1, 2, 5"),
        (
            (
                "model.layers=32", "parallelism.pipeline_parallel=8",
                "parallelism.virtual_stages=3", "parallelism.pipeline_schedule=interleaved-1f1b",
            ),
            "1, 2, 4, 8, 16",
        ),
        (
            (
                "model.layers=6", "parallelism.pipeline_parallel=8",
                "parallelism.pipeline_first_stage_less_layers=1",
                "parallelism.pipeline_last_stage_less_layers=1",
            ),
            "1, 2, 4",
        ),
    ],
)  # fmt: skip
def test_stages_that_megatron_asserts_against_are_refused(sets, able):
    """(3, 3, 2, 2), 32 over 24, and an embedding alone on a stage."""
    with pytest.raises(InputError) as caught:
        job(*sets)
    (fault,) = caught.value.faults
    assert fault.path == "parallelism.pipeline_parallel"
    assert f"one of {able}" in fault.message
    assert job(*sets, "trainer=nanotron").workload  # which cuts by work


@pytest.mark.parametrize(
    ("sets", "fused"),
    [
        ((), True),
        (("sequence_length=16384",), True),
        (("sequence_length=16388",), False),
        (("sequence_length=2046",), False),
        (("precision.kind=fp32",), False),
        (("model.heads=2", "model.kv_heads=2", "model.head_dim=512"), False),
        (("model.heads=2", "model.kv_heads=2", "model.head_dim=512", "micro_batch=2"), True),
    ],
)
def test_the_fused_softmax_runs_on_shapes_that_it_takes(sets, fused):
    """fp16 or bf16, keys up to 16,384, lengths and batch x heads multiples of 4; else in fp32."""
    _, workload, _ = job("attention=eager", "trainer=megatron", *sets)
    found = unroll(workload).of("layer", "forward")
    launches = sum(k.launches for k in found if k.name.startswith("softmax"))
    assert (launches == 1) is fused
