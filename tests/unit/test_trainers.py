"""What trainers and autograd add to a step: accumulation, casts, metrics, hooks, hybrid ZeRO-1."""

import pytest

from sim import simulate
from sim.blocks.parameters import build_tree
from sim.blocks.unroll import unroll
from sim.cost.host import known_calls
from sim.inputs.loader import load
from sim.inputs.modelling import taken
from sim.inputs.shares import mesh_of
from sim.step.run import run_step
from sim.strategies import build_plan
from sim.strategies.plan import COLLECTIVE, SEGMENT

MODEL = {
    "name": "m", "layers": 4, "hidden_size": 256, "heads": 4, "kv_heads": 4, "head_dim": 64,
    "ffn_size": 1024, "ffn": "swiglu", "norm": "rmsnorm", "positions": "rope", "vocab_size": 1000,
    "max_positions": 512,
}  # fmt: skip


def loaded(strategy, nodes=1, **keys):
    parallelism = {"strategy": strategy, **keys.pop("parallelism", {})}
    work = {"name": "w", "model": MODEL, "sequence_length": 512, "parallelism": parallelism, **keys}
    return load("dgx-a100", work, [f"nodes={nodes}"])


def plan_of(found):
    w = found.workload
    return build_plan(w, build_tree(w.model, w.method), mesh_of(found.topology, w))


def names(plan, name):
    return [op for op in plan.ops if op.name == name]


@pytest.mark.parametrize("strategy", ["ddp", "zero1"])
def test_gradients_are_added_from_the_second_micro_step_on(strategy):
    """Every parameter's gradient is read, read and written: 3 x size x elements a micro-step."""
    plan = plan_of(loaded(strategy, gradient_accumulation=3))
    added = [op for op in plan.ops if op.name == "accumulate"]
    assert {op.micro_step for op in added} <= {1, 2}
    elements = sum(p.numel for b in _blocks() for m in b.modules for p in m.parameters)
    size = 4.0 if strategy == "ddp" else 2.0
    second = sum(op.bytes for op in added if op.micro_step == 1)
    assert second == pytest.approx(3 * size * elements)


def _blocks():
    found = loaded("ddp").workload
    tree = build_tree(found.model, found.method)
    return (tree.embedding, *tree.layers, tree.head)


EACH, LAST = {0, 1, 2, 3}, {3}


@pytest.mark.parametrize(
    ("trainer", "strategy", "reduced"),
    [("huggingface", "ddp", LAST), ("accelerate", "fsdp1", LAST), ("huggingface", "fsdp2", EACH),
     ("composer", "ddp", LAST), ("composer", "fsdp1", EACH), ("torchtitan", "ddp", EACH)],
)  # fmt: skip
def test_trainers_accumulate_under_no_sync_or_reduce_each(trainer, strategy, reduced):
    """Micro-steps that reduce gradients, where the job does not say; what it says counts."""
    for said, expected in ((None, reduced), ("every", EACH), ("last", LAST)):
        keys = {"gradient_accumulation": 4, "trainer": trainer}
        plan = plan_of(loaded(strategy, **keys, parallelism={"gradient_sync": said}))
        kind = "all_reduce" if strategy == "ddp" else "reduce_scatter"
        found = [op for op in plan.ops if op.kind == COLLECTIVE and op.name == kind]
        assert {op.micro_step for op in found if op.group != "clip"} == expected


def test_a_trainers_no_sync_keeps_whole_gradients_and_says_so():
    """Llama-3 8B under FSDP1 on eight A100s, four micro-steps: 16.06 GB of bf16 gradients."""
    sets = ["nodes=1", "parallelism={strategy: fsdp1, reduce_dtype: bf16}"]
    named = {
        name: simulate(
            "dgx-a100", "llama3-8b-sft", overrides=[*sets, f"trainer={name}"],
            scaling=False, fixes=False,
        )
        for name in ("huggingface", "none")
    }  # fmt: skip
    kept, reduced = (named[name].memory.peak_reserved_bytes for name in ("huggingface", "none"))
    assert kept - reduced == pytest.approx(16.06e9, rel=0.1)
    why = "last (Hugging Face Trainer accumulates under no_sync())"
    assert f"workload.parallelism.gradient_sync = {why}" in named["huggingface"].assumptions
    assert "workload.parallelism.gradient_sync = every" in named["none"].assumptions


def test_frozen_weights_in_bf16_are_not_cast():
    lora = {"lora": {"rank": 8}}
    cast = sum(op.bytes for op in names(plan_of(loaded("ddp", method=lora)), "cast"))
    wide = {"lora": {"rank": 8, "frozen_dtype": "fp32"}}
    assert cast < 0.1 * sum(op.bytes for op in names(plan_of(loaded("ddp", method=wide)), "cast"))


def test_zero1_in_groups():
    """Two replicas of eight: gradients over sixteen, parameters over eight, twice the states."""
    whole = plan_of(loaded("zero1", nodes=2))
    halved = plan_of(loaded("zero1", nodes=2, parallelism={"replicate": 2}))
    assert halved.owned_numel == pytest.approx(2 * whole.owned_numel, rel=1e-3)
    gather = next(op for op in halved.ops if op.collective == "all_gather")
    assert halved.groups[gather.group].size == 8
    reduced = [op for op in halved.ops if op.collective == "all_reduce" and op.phase == "backward"]
    assert reduced
    assert {halved.groups[op.group].size for op in reduced} == {16}
    sizes = [sum(op.bytes_in for op in p.ops if op.kind == COLLECTIVE and op.phase == "backward")
             for p in (whole, halved)]  # fmt: skip
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-3)


def test_metrics_take_the_loss_again():
    plain, twice = (
        unroll(loaded("ddp", loss="compiled", train_metrics=n).workload) for n in (0, 2)
    )
    more = twice.of("head", "forward")[len(plain.of("head", "forward")) :]
    assert {k.kind for k in more} == {"loss"}
    assert len({k.name for k in more}) * 2 == len(more)
    assert twice.of("head", "backward") == plain.of("head", "backward")


def test_zero3_pays_for_its_hooks():
    """A tiny model is launch-bound: at least two hooks for each module with kernels."""
    found = loaded("zero3")
    segments = sum(op.kind == SEGMENT and op.module != "" for op in plan_of(found).ops)
    seconds = run_step(found.topology, found.workload).time_s
    assert seconds > segments * known_calls()["zero3.module"]
    assert seconds > 2 * run_step(*loaded("fsdp2")[:2]).time_s  # which has hooks too, a unit


@pytest.mark.parametrize(
    ("strategy", "keys", "dtype"),
    [
        ("fsdp2", {}, "fp32"),
        ("fsdp1", {"trainer": "composer"}, "fp32"),
        ("fsdp1", {"trainer": "huggingface"}, "bf16"),  # MixedPrecision(reduce_dtype=bf16)
        ("fsdp2", {"trainer": "accelerate"}, "bf16"),
        ("fsdp2", {"trainer": "huggingface", "precision": "fp32"}, "fp32"),
        ("fsdp1", {"trainer": "huggingface", "precision": "fp16"}, "fp16"),
        ("ddp", {"trainer": "huggingface"}, "fp32"),  # autocast: gradients are the parameters'
        ("fsdp2", {"trainer": "accelerate", "parallelism": {"reduce_dtype": "fp32"}}, "fp32"),
        ("fsdp2", {"parallelism": {"reduce_dtype": None}}, "bf16"),
    ],
)
def test_gradients_are_reduced_as_the_trainer_has_it(strategy, keys, dtype):
    found = loaded(strategy, **keys)
    reductions = [op for op in plan_of(found).ops if op.kind == COLLECTIVE and "reduce" in op.name]
    assert {op.dtype for op in reductions if op.phase != "clip"} == {dtype}
    said = taken(found.workload).get("parallelism.reduce_dtype", dtype)
    assert said == dtype
