"""A program filled into a plan's frame is the program that `lower` makes, column by column."""

import numpy as np
import pytest

from sim.blocks.parameters import build_tree
from sim.fabric import compile_fabric
from sim.inputs.loader import load
from sim.inputs.rows import as_run
from sim.inputs.shares import mesh_of, mesh_on
from sim.lowering import flights, frames, rows
from sim.lowering.costs import price
from sim.lowering.frames import lowered
from sim.lowering.lower import lower
from sim.shelf import Shelf
from sim.step.ready import ready_of
from sim.step.variation import Variation
from sim.strategies import allocations_of, plan_of


@pytest.mark.parametrize("nodes", [1, 4])
def test_frame_serves_another_world(nodes):
    job = load("dgx-h100", "llama3-8b-sft", ["nodes=2", "gradient_accumulation=1"])
    lowered(_priced(job.topology, job.workload))
    priced = _priced(job.topology.model_copy(update={"nodes": nodes}), job.workload)
    filled, fresh = _filled(priced)
    assert filled.lane_names == fresh.lane_names
    for view, expected in zip(filled.views, fresh.views, strict=True):
        assert view.compute == expected.compute
        assert view.multiplicity == expected.multiplicity
        assert view.comm_label == expected.comm_label
        for name in ("copies", "comm_begin", "comm_end", "comm_plan", "comm_bytes"):
            np.testing.assert_array_equal(getattr(view, name), getattr(expected, name))


def _filled(priced):
    """Lowered into a frame that is there, and anew: the same program."""
    first = {id(frame) for frame in frames._frames.of.values()}
    filled = lowered(priced)
    assert {id(frame) for frame in frames._frames.of.values()} == first, "no frame was found"
    fresh = lower(priced.parts, priced.compiled.classes)
    for column, expected in zip(filled.program, fresh.program, strict=True):
        np.testing.assert_array_equal(column, expected)
        assert np.asarray(column).dtype == np.asarray(expected).dtype
    return filled, fresh


def _priced(topology, workload, speed=None):
    fabric = compile_fabric(topology)
    plan = plan_of(
        workload, build_tree(workload.model, workload.method), mesh_of(topology, workload)
    )
    pace = None if speed is None else np.full(fabric.n_ranks, speed)
    return price([plan], workload, fabric, "folded", pace)


@pytest.mark.parametrize("name", ["llama3-8b-sft", "llama3-8b-offload", "llama3-8b-zero3"])
@pytest.mark.parametrize("speed", [None, 0.97])
def test_frame_is_filled_with_equal_columns(name, speed):
    job = load("dgx-h100", name)
    base = job.workload.model_copy(update={"gradient_accumulation": 2})
    lowered(_priced(job.topology, base))  # leaves its frame
    longer = base.model_copy(update={"sequence_length": 2 * base.sequence_length})
    priced = _priced(job.topology, longer, speed)
    filled, fresh = _filled(priced)
    for name in ("plan_op", "category", "alone_s"):
        np.testing.assert_array_equal(getattr(filled, name), getattr(fresh, name))


_STAGES = "parallelism={{strategy: fsdp2, pipeline_parallel: 4, pipeline_schedule: {}, {}}}"


def _several(machine, name, sets):
    job = load(machine, name, sets)
    workload = as_run(job.workload, job.topology.world_size)
    return ready_of(job.topology, workload, workload, Variation(), "folded", None).priced


@pytest.mark.parametrize(
    ("machine", "sets"),
    [
        ("dgx-h100", [_STAGES.format("1f1b", "tensor_parallel: 2")]),
        ("dgx-h100", [_STAGES.format("interleaved-1f1b", "virtual_stages: 2")]),
        ("mixed-h100-a100", []),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "change", [["sequence_length=2048"], ["compile=true"], ["stack.message_time=1ms"], []]
)
def test_an_outline_of_several_classes_is_filled_with_equal_columns(machine, sets, change):
    """Of the very same plans too, at other costs: nothing of the first step is left over."""
    sets = ["gradient_accumulation=8", *sets]
    lowered(_several(machine, "llama3-8b-sft", sets))
    priced = _several(machine, "llama3-8b-sft", [*sets, *change])
    filled = lowered(priced)
    fresh = lower(priced.parts, priced.compiled.classes, priced.flights)
    for column, expected in zip(filled.program, fresh.program, strict=True):
        np.testing.assert_array_equal(column, expected)
        assert np.asarray(column).dtype == np.asarray(expected).dtype
    for name in ("plan_op", "category", "alone_s"):
        np.testing.assert_array_equal(getattr(filled, name), getattr(fresh, name))
    for view, expected, part in zip(filled.views, fresh.views, priced.parts, strict=True):
        assert view.plan is part.plan
        assert (view.compute, view.role) == (expected.compute, expected.role)
        np.testing.assert_array_equal(view.comm_bytes, expected.comm_bytes)


def test_outlines_serve_other_costs_and_are_bounded(monkeypatch):
    shelf = Shelf(100_000_000, frames._outlines.entries, larger=False)
    monkeypatch.setattr(frames, "_outlines", shelf)
    sets = ["gradient_accumulation=8", _STAGES.format("1f1b", "tensor_parallel: 2")]
    lowered(_several("dgx-h100", "llama3-8b-sft", sets))
    [(outline, _)] = shelf.of.values()
    assert outline.lowered.program.latency.size == 0, "numbers of the first are kept"
    assert {view.plan for view in outline.lowered.views} == {None}, "plans of the first are kept"
    lowered(_several("dgx-h100", "llama3-8b-sft", [*sets, "stack.message_time=1ms"]))
    assert [kept is outline for kept, _ in shelf.of.values()] == [True]
    shelf.most = shelf.held
    lowered(_several("dgx-h100", "llama3-8b-sft", [*sets, "model.layers=36"]))
    assert [kept is outline for kept, _ in shelf.of.values()] == [True]
    lowered(_several("dgx-h100", "llama3-8b-sft", [*sets, "model.layers=28"]))
    [(other, flown)] = shelf.of.values()
    assert shelf.held == 35 * other.place.size + flown.ops.nbytes < shelf.most


def test_flights_of_plans_that_differ_in_bytes_are_found_once(monkeypatch):
    entries = flights._known.entries
    monkeypatch.setattr(flights, "_known", Shelf(8_000_000, entries, larger=False))
    sets = ["gradient_accumulation=8", _STAGES.format("1f1b", "tensor_parallel: 2")]
    longer = [*sets, "gradient_accumulation=12"]
    one = _several("dgx-h100", "llama3-8b-sft", sets)
    other = _several("dgx-h100", "llama3-8b-sft", [*sets, "sequence_length=6144"])
    assert one.parts[0].plan is not other.parts[0].plan
    assert one.flights.ops is other.flights.ops
    assert one.flights.of is other.flights.of
    work = [[wire.work for wire in priced.flights.wires] for priced in (one, other)]
    assert work[0] != work[1]
    many = _several("dgx-h100", "llama3-8b-sft", longer).flights.of
    assert many.size > one.flights.of.size
    assert [of is many for (of, _), _ in flights._known.of.values()] == [False, True]
    shelf = Shelf(one.flights.ops.size, entries, larger=False)
    monkeypatch.setattr(flights, "_known", shelf)
    for each in (longer, sets, longer):
        _several("dgx-h100", "llama3-8b-sft", each)
    assert [of.size for (of, _), _ in shelf.of.values()] == [one.flights.of.size]


def test_plans_are_shared_only_where_they_are_equal():
    job = load("dgx-h100", "llama3-8b-sft")
    tree = build_tree(job.workload.model, job.workload.method)
    plan = plan_of(job.workload, tree, mesh_on(job.workload, 8))
    other = job.workload.model_copy(update={"micro_batch": 7, "compile": True})
    assert plan_of(other, tree, mesh_on(other, 8)) is plan
    log = allocations_of(job.workload, tree, mesh_on(job.workload, 8))
    for changed, same in (("nccl", True), ("torch", False)):
        stack = job.workload.stack.model_copy(update={changed: "2.4"})
        another = job.workload.model_copy(update={"stack": stack})
        assert (plan_of(another, tree, mesh_on(another, 8)) is plan) is same
        assert (allocations_of(another, tree, mesh_on(another, 8)) is log) is same
    assert plan_of(other, tree, mesh_on(other, 16)) is not plan
    knobs = job.workload.parallelism.model_copy(update={"reshard_after_forward": False})
    assert (
        plan_of(other.model_copy(update={"parallelism": knobs}), tree, mesh_on(other, 8))
        is not plan
    )


def test_equal_ones_are_one_within_a_bound_of_bytes(monkeypatch):
    monkeypatch.setattr(rows, "_ones", Shelf(rows.MAX_BYTES, rows._ones.entries))
    first = rows.one_of(("a", b"key"), object)
    assert rows.one_of(("a", b"key"), object) is first
    assert rows.one_of(("b", b"key"), object) is not first
    for i in range(200):  # of 1 MB: three times what is kept
        large = bytes([i]) * 10**6
        one = rows.one_of(("large", large), object)
        assert rows.one_of(("large", large), object) is one
        held = sum(len(key[1]) for key in rows._ones.of)
        assert held <= rows._ones.held <= rows.MAX_BYTES
    assert ("a", b"key") not in rows._ones.of
    used = rows.one_of(("b", b"key"), object)
    for i in range(200):  # what is asked for stays, whatever comes beside it
        rows.one_of(("other", bytes([i]) * 10**6), object)
        assert rows.one_of(("b", b"key"), object) is used
    for i in range(2):  # one beyond the bound is kept alone
        rows.one_of(("large", bytes([i]) * int(rows.MAX_BYTES + 1)), object)
    assert len(rows._ones.of) == 1
