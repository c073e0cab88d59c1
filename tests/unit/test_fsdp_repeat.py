"""Plans lengthened by copies of a layer equal plans of which every layer was recorded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.blocks.parameters import build_tree
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Workload
from sim.strategies import build_plan
from sim.strategies.columns import columns_of
from sim.strategies.recorder import Quiet
from tests.unit.in_full import recorded_in_full


def job(knobs, layers, accumulate, lora, recompute, tied, width=4):
    """A model of so many heads and layers, however it is sharded, adapted and recomputed."""
    model = Model(
        name="m", layers=layers, hidden_size=16 * width, heads=width, kv_heads=2, head_dim=16,
        ffn_size=40 * width, vocab_size=512, tied_embeddings=tied,
    )  # fmt: skip
    return Workload(
        name="w",
        model=model,
        method=Method(kind="lora", rank=4, targets=("q", "down")) if lora else Method(),
        sequence_length=8,
        gradient_accumulation=accumulate,
        parallelism=Parallelism(**knobs),
        activation_checkpointing=Checkpointing(
            kind="none" if recompute == "none" else "full", reentrant=recompute == "reentrant"
        ),
    )


def allocated(plan):
    """Moments, next ops, and the coefficient of every quantity that changes at an instant."""
    c = columns_of(plan.memory)
    found = {}
    keys = zip(c.instant.tolist(), c.term.tolist(), c.quantity.tolist(), strict=True)
    for key, size in zip(keys, c.coefficient.tolist(), strict=True):
        found[key] = found.get(key, 0.0) + size
    return c.moment.tolist(), c.before.tolist(), {k: v for k, v in found.items() if v}


COMMON = {
    "replicate": st.sampled_from([1, 2]),
    "gradient_sync": st.sampled_from(["every", "last"]),
}
FSDP2 = st.fixed_dictionaries(
    COMMON
    | {
        "strategy": st.just("fsdp2"),
        "wrap": st.sampled_from(["block+root", "torchtitan"]),
        "reshard_after_forward": st.booleans(),
        "root_reshard_after_forward": st.sampled_from([None, True]),
        "forward_prefetch": st.integers(0, 4),
        "backward_prefetch": st.sampled_from(["pre", "none", 1, 2, 3]),
        "reduce_scatter_max_input_buffers": st.integers(1, 4),
        "requires_all_reduce": st.sampled_from(["every", "last"]),
        "reshard_after_backward": st.booleans(),
        "unshard_embedding_in_backward": st.booleans(),
        "separate_reduce_scatter_group": st.booleans(),
        "context_parallel": st.sampled_from([1, 2]),
    }
)
FSDP1 = st.fixed_dictionaries(
    COMMON
    | {
        "strategy": st.just("fsdp1"),
        "forward_prefetch": st.integers(0, 1),
        "backward_prefetch": st.sampled_from(["pre", "none", "post"]),
        "limit_all_gathers": st.booleans(),
        "sharding_strategy": st.sampled_from(["full-shard", "shard-grad-op", "no-shard"]),
        "checkpoint_wrapper": st.sampled_from(["inside", "outside"]),
    }
)


#: with which allocations alone are copied
FURTHER = {
    "wrap": st.sampled_from(["block+root", "peft"]),
    "offload": st.sampled_from(["none", "all"]),
}


@settings(max_examples=100)
@given(
    knobs=st.one_of(FSDP2, st.builds(dict.__or__, FSDP1, st.fixed_dictionaries(FURTHER))),
    layers=st.integers(5, 30),
    accumulate=st.integers(1, 3),
    lora=st.booleans(),
    recompute=st.sampled_from(["none", "full", "reentrant"]),
    tied=st.booleans(),
    steps=st.sampled_from([1, 2]),
)
def test_copied_layers_equal_recorded_ones(knobs, layers, accumulate, lora, recompute, tied, steps):
    workload = job(knobs, layers, accumulate, lora, recompute, tied)
    tree = build_tree(workload.model, workload.method)
    short = build_plan(workload, tree, mesh_on(workload, 8), steps)
    full = recorded_in_full(workload, tree, mesh_on(workload, 8), steps)
    assert short.ops == full.ops
    assert short.groups == full.groups
    for ours, theirs in zip(allocated(short), allocated(full), strict=True):
        assert ours == theirs
    quiet = allocated(build_plan(workload, tree, mesh_on(workload, 8), steps, recorder=Quiet))
    assert quiet[::2] == allocated(full)[::2]  # it knows of no ops
    assert (short.owned_numel, short.owned_tensors) == (full.owned_numel, full.owned_tensors)
