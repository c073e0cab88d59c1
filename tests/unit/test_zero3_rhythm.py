"""Blocks in which ZeRO-3 issues the same again, against plans of more blocks."""

import pytest

from sim.blocks.parameters import tree_of
from sim.inputs.loader import load
from sim.inputs.shares import mesh_of
from sim.step.depth import first_of_blocks, of_layers, rhythm_of
from sim.strategies import plan_of

JOBS = {
    "70B": ("llama3-70b-full", ["parallelism={strategy: zero3}"]),
    "kept": ("llama3-70b-full", ["parallelism={strategy: zero3}", "activation_checkpointing=none"]),
    "8B, small buckets": (
        "llama3-8b-sft",
        ["parallelism={strategy: zero3, reduce_bucket_size: 16777216, offload: all}"],
    ),
}  # fmt: skip


def shape(plan, rhythm, *, without):
    """What is issued; without a block of forward and of backward, or with all."""
    first = first_of_blocks(plan)
    cut = set()
    for row, begins in enumerate(first.tolist()):
        begin = rhythm.backward if row % 2 else rhythm.forward
        if without:
            cut |= set(range(begins[begin], begins[begin + 1]))
    return [
        (op.kind, op.stream, op.name, op.phase, op.module, op.bytes, op.bytes_in, op.bytes_out,
         op.micro_step, len(op.deps), op.host_after < 0)
        for i, op in enumerate(plan.ops)
        if i not in cut and op.phase not in ("clip", "optimizer", "trainer")
    ]  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_a_block_more_is_issued_as_the_one_before(name):
    job, sets = JOBS[name]
    loaded = load("dgx-h100", job, [*sets, "model.layers=400"])
    rhythm = rhythm_of(loaded.topology, loaded.workload)
    assert rhythm is not None
    mesh = mesh_of(loaded.topology, loaded.workload)
    plans = []
    for more in (0, 1, 2):
        few = of_layers(loaded.workload, rhythm.layers + more)
        plans.append(plan_of(few, tree_of(few), mesh))
    assert shape(plans[0], rhythm, without=False) == shape(plans[1], rhythm, without=True)
    assert shape(plans[1], rhythm, without=False) == shape(plans[2], rhythm, without=True)


@pytest.mark.parametrize("job", ["mistral-7b-lora", "llama3-8b-sft"])
def test_what_fills_further_with_every_block_has_no_rhythm(job):
    """Gradients of adapters never fill a bucket; those of 8B do, at another place of each block."""
    sets = ["parallelism={strategy: zero3}", "model.layers=400"]
    loaded = load("dgx-h100", job, sets)
    assert rhythm_of(loaded.topology, loaded.workload) is None


def test_layers_that_are_missing_are_updated_and_gathered_again():
    loaded = load("dgx-h100", "llama3-8b-sft", ["parallelism={strategy: zero3}"])
    whole, few = loaded.workload, of_layers(loaded.workload, 8)
    mesh = mesh_of(loaded.topology, whole)
    of_all = plan_of(whole, tree_of(whole), mesh)
    of_few = plan_of(few, tree_of(few, whole.model.layers - 8), mesh)
    updates = [
        [(op.name, op.bytes, op.bytes_in) for op in plan.ops if op.phase in ("clip", "optimizer")]
        for plan in (of_all, of_few)
    ]
    assert updates[0] == updates[1]
    assert of_all.owned_numel == of_few.owned_numel
    assert len(updates[0]) > 2 * whole.model.layers
