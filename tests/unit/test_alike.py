"""Plans that are like a traced one equal plans that were recorded for themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import strategies
from sim.blocks.parameters import build_tree
from sim.inputs.loader import load
from sim.inputs.model import Model
from sim.inputs.shares import mesh_of, mesh_on
from sim.lowering.table import comm_bytes_of, distinct, table_of
from sim.shelf import Shelf
from sim.step.kept import forget
from sim.step.step import steps
from sim.strategies import allocations_of, build_plan, plan_of
from sim.strategies.alike import MAX_KEYS, MAX_WAYS, Patterns
from sim.strategies.columns import columns_of
from sim.strategies.plan import Plan
from sim.strategies.recorder import Quiet, Recorder
from sim.strategies.traced import Untraceable, ValueTrace, filled, placed, traced
from sim.strategies.tree_form import form_of, with_sizes
from tests.unit.test_fsdp_repeat import FSDP1, FSDP2, job


def same_columns(ours, theirs):
    for one, other in zip(columns_of(ours), columns_of(theirs), strict=True):
        np.testing.assert_equal(one, other)
    assert (ours.host, ours.ranks) == (theirs.host, theirs.ranks)
    assert list(ours.layers) == list(theirs.layers)


def same_plans(ours: Plan, theirs: Plan):
    assert list(ours.ops) == list(theirs.ops)
    assert [list(map(type, op)) for op in ours.ops] == [list(map(type, op)) for op in theirs.ops]
    assert list(ours.groups.items()) == list(theirs.groups.items())
    owned = "owned_numel", "owned_tensors", "owned_experts", "optimizer_on_host"
    assert [getattr(ours, k) for k in owned] == [getattr(theirs, k) for k in owned]
    same_columns(ours.memory, theirs.memory)
    kinds = tuple(f"layer {op.block}" for op in theirs.ops if op.block > 0)[:1] * 100
    for one, other in zip(table_of(ours), table_of(theirs), strict=True):
        np.testing.assert_equal(one, other)
    np.testing.assert_equal(comm_bytes_of(ours), comm_bytes_of(theirs))
    one, other = distinct(ours, kinds), distinct(theirs, kinds)
    assert one[1:] == other[1:]
    np.testing.assert_equal(one.of, other.of)


@settings(max_examples=60)
@given(
    knobs=st.one_of(FSDP1, FSDP2),
    layers=st.integers(2, 20),
    accumulate=st.integers(1, 3),
    lora=st.booleans(),
    recompute=st.sampled_from(["none", "full", "reentrant"]),
    tied=st.booleans(),
    offload=st.booleans(),
)
def test_plans_alike_are_as_recorded(knobs, layers, accumulate, lora, recompute, tied, offload):
    patterns, knobs = Patterns(), {**knobs, "context_parallel": 1}
    if offload and accumulate == 1:
        knobs["offload"] = "all"
    made = 0
    for width, world in ((4, 8), (4, 6), (8, 8), (8, 64), (6, 10), (4, 2), (8, 16), (8, 48)):
        workload = job(knobs, layers, accumulate, lora, recompute, tied, width)
        tree, mesh = build_tree(workload.model, workload.method), mesh_on(workload, world)
        for kind in (Recorder, Quiet):

            def record(job, tree, mesh, kind=kind):
                return build_plan(job, tree, mesh, recorder=kind)

            found = patterns.plan(kind, record, workload, tree, mesh)
            made += found.like is not None
            if kind is Recorder:
                same_plans(found, record(workload, tree, mesh))
            else:
                same_columns(found.memory, record(workload, tree, mesh).memory)
    assert made >= (0 if offload else 12)  # all but the first of each kind


@pytest.mark.parametrize(
    "knobs",
    [
        {"strategy": "ddp"},
        {"strategy": "ddp", "bucket_cap_mb": 0.01, "reduce_dtype": "bf16"},
        {"strategy": "zero1"},
        {"strategy": "zero1", "overlap_comm": True, "reduce_bucket_size": 9000},
        {"strategy": "zero2"},
        {"strategy": "zero2", "reduce_scatter": False, "reduce_bucket_size": 9000},
        {"strategy": "zero3"},
        {"strategy": "zero3", "stage3_param_persistence_threshold": 10, "reduce_bucket_size": 9000,
         "stage3_prefetch_bucket_size": 3000, "stage3_max_live_parameters": 20_000},
        {"strategy": "zero3", "zero_hpz_partition_size": 2},
        {"strategy": "zero3", "zero_quantized_gradients": True, "reduce_scatter": False},
    ],
    ids=lambda knobs: "-".join(map(str, knobs.values())),
)  # fmt: skip
@pytest.mark.parametrize("lora", [False, True])
def test_plans_of_other_meshes_are_as_recorded_where_sizes_order_ops(knobs, lora):
    workload = job(knobs, 5, 2, lora, "full", tied=False)
    patterns, tree, made = Patterns(), build_tree(workload.model, workload.method), 0
    for world in (8, 6, 16, 2, 64, 10, 48, 12):
        mesh = mesh_on(workload, world, 8 if world % 8 == 0 else None)
        for kind in (Recorder, Quiet):

            def record(job, tree, mesh, kind=kind):
                return build_plan(job, tree, mesh, recorder=kind)

            found = patterns.plan(kind, record, workload, tree, mesh, sizes=False)
            made += found.like is not None
            if kind is Recorder:
                same_plans(found, record(workload, tree, mesh))
            else:
                same_columns(found.memory, record(workload, tree, mesh).memory)
    assert made >= 12


def test_a_sweep_records_few_plans_and_is_as_if_it_recorded_all(monkeypatch):
    sets = [("micro_batch=1", f"nodes={n}", f"model={m}") for n in (1, 2, 3, 5)
            for m in ("llama3-8b", "llama3-70b", "qwen3-8b")]  # fmt: skip
    jobs = [load("dgx-h100", "llama3-8b-sft", each)[:2] for each in sets]
    forget()
    found = [step.time_s for step in steps(jobs)]
    monkeypatch.setattr("sim.inputs.strategy.Strategy.traceable", False)
    for strategy in ("fully_shard.Fsdp2", "flat_shard.Fsdp1"):
        monkeypatch.setattr(f"sim.strategies.{strategy}.traceable", False)
    forget()
    assert found == [step.time_s for step in steps(jobs)]


def test_what_is_kept_of_a_job_serves_other_machines():
    for nodes in (1, 2, 4, 8):
        sets = f"nodes={nodes}", "gradient_accumulation=2"
        topology, workload = load("dgx-h100", "llama3-8b-sft", sets)[:2]
        tree = build_tree(workload.model, workload.method)
        mesh = mesh_of(topology, workload)
        found = plan_of(workload, tree, mesh)
        same_plans(found, build_plan(workload, tree, mesh))
        same_columns(
            allocations_of(workload, tree, mesh),
            build_plan(workload, tree, mesh, recorder=Quiet).memory,
        )
    assert found.like is not None


def test_a_strategy_that_asks_for_more_than_sizes_is_recorded_each_time():
    asked = []

    def record(job, tree, mesh):
        asked.append(type(job.model))
        return build_plan(job, tree, mesh) if job.model.layers else None

    patterns = Patterns()
    workload = load("dgx-h100", "llama3-8b-sft")[1]
    tree = build_tree(workload.model, workload.method)
    for world in (8, 16, 32):
        assert patterns.plan("key", record, workload, tree, mesh_on(workload, world)).like is None
    assert [kind is Model for kind in asked] == [True, False, True, True]


def test_a_recording_that_goes_ever_other_ways_is_traced_a_few_times():
    def record(job, tree, mesh):
        for size in range(100):
            if mesh.dp_shard == size:
                break
        return build_plan(job, tree, mesh)

    patterns = Patterns()
    workload = load("dgx-h100", "llama3-8b-sft")[1]
    tree = build_tree(workload.model, workload.method)
    like = [patterns.plan("key", record, workload, tree, mesh_on(workload, n)).like is not None
            for n in range(1, 20)]  # fmt: skip
    assert like == [False] + [True] * MAX_WAYS + [False] * (18 - MAX_WAYS)


def test_jobs_that_never_come_again_are_forgotten():
    workload = load("dgx-h100", "llama3-8b-sft")[1]
    tree, mesh = build_tree(workload.model, workload.method), mesh_on(workload, 8)
    plan = build_plan(workload, tree, mesh)
    patterns = Patterns()
    for key in range(MAX_KEYS + 20):
        patterns.plan(key, lambda *_: plan, workload, tree, mesh)
    assert [key for _, key in patterns._of] == list(range(20, MAX_KEYS + 20))


def test_as_many_allocations_are_kept_as_have_so_many_entries(monkeypatch):
    """Those of a pattern, whose log is not written, count as those that were recorded do."""
    workload = load("dgx-h100", "llama3-8b-sft")[1]
    tree = build_tree(workload.model, workload.method)
    forget()
    monkeypatch.setattr(strategies, "_patterns", Patterns())
    shelf = Shelf(32_000, strategies._allocations.entries)
    monkeypatch.setattr(strategies, "_allocations", shelf)
    entries = len(allocations_of(workload, tree, mesh_on(workload, 8)).log)
    shelf.most = 5 * entries
    found = [allocations_of(workload, tree, mesh_on(workload, 8 * n)) for n in range(2, 30)]
    assert [bool(each.log) for each in found] == [True] * 3 + [False] * 25
    assert list(shelf.of.values()) == found[-5:]
    assert shelf.held == 5 * entries > 0


def test_a_trace_repeats_what_was_done_and_says_where_it_would_go_another_way():
    trace = ValueTrace(12, 5.0)
    n, x = trace.inputs()

    def reckoned(n, x):
        rest = -(n % 5) + (7 - x) / 2 + 3 // n + round(x * 1.4) + max(n, 6)
        return (rest, (n + x, "text")) if rest > 0 else "less"

    found = placed(reckoned(n, x))
    assert filled(found, trace.values) == reckoned(12, 5.0)
    for other in ((13, 5.0), (100, 0.25), (7, 5.0)):
        assert filled(found, trace.at(*other)) == reckoned(*other)
    assert trace.at(5, 5.0) is None  # the larger of it and 6 is another
    assert trace.at(12, -1e3) is None


def test_functions_of_plain_numbers_decide_for_themselves():
    def steps_down(n):
        return 0 if n < 2 else 1 + steps_down(n // 2)

    trace = ValueTrace(8)
    place = placed(traced(steps_down, trace.inputs()[0]))
    assert [filled(place, trace.at(n)) for n in (1, 8, 1000)] == [0, 3, 9]
    assert traced(steps_down, 8) == 3


@pytest.mark.parametrize(
    "use", [int, float, str, hash, list, len, range, "{}".format, lambda n: [0] * n, lambda n: n[0]]
)
def test_what_would_lose_a_trace_is_refused(use):
    [n] = ValueTrace(3).inputs()
    with pytest.raises(Untraceable):
        use(n)


def test_a_tree_with_its_own_sizes_is_itself():
    for name in ("llama3-8b-lora", "llama3-70b-full"):
        workload = load("dgx-h100", name)[1]
        tree = build_tree(workload.model, workload.method)
        form = form_of(tree)
        again = with_sizes(tree, form.sizes)
        assert again == tree
        assert len({id(block.modules) for block in again.layers}) == 1
        assert form_of(again).structure == form.structure
