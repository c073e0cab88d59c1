"""Prices that jobs share are those that each would have alone."""

import itertools

import numpy as np
import pytest

from sim.blocks.parameters import tree_of
from sim.fabric import compile_fabric
from sim.inputs.loader import prepare
from sim.inputs.shares import mesh_of
from sim.lowering import pricing
from sim.lowering.costs import price
from sim.lowering.parts import Rows
from sim.step.step import steps
from sim.strategies import plans_of

#: of rows, those of their `kinds` and `draws` among them
COLUMNS = [name for name in Rows._fields if name not in ("kinds", "draws", "curves")]
COLUMNS += ["category", "waits", "demand_ptr", "demand_local"]

#: what prices are shared across, and what they are not
CHANGES = [
    {"micro_batch": 1, "sequence_length": 1024},
    {"micro_batch": 3, "sequence_length": 1024},
    {"micro_batch": 1, "sequence_length": 2048, "optimizer": "adamw-8bit"},
    {"gradient_accumulation": 3, "activation_checkpointing": "full"},
    {"gradient_accumulation": 3, "activation_checkpointing": "full", "optimizer": "sgd"},
    {"stack.distributed_debug": "detail"},
    {"compile": True},
    {"nodes": 2},
]


def rows_of(job):
    topology, workload = job
    plans = plans_of(workload, tree_of(workload), mesh_of(topology, workload))
    (part,) = price(plans, workload, compile_fabric(topology)).parts
    return part


@pytest.mark.parametrize("workload", ["llama3-8b-sft", "llama3-8b-offload", "llama3-8b-zero3"])
def test_shared_prices_are_each_jobs_own(workload):
    base = prepare("dgx-h100", workload)
    jobs = [tuple(base.vary(changes).loaded()[:2]) for changes in CHANGES]
    # whoever compiled the machine first, and under what name, is nothing to those who share
    for topology, _ in jobs:
        compile_fabric(topology.model_copy(update={"name": "seen before"}))
    alone = []
    for job in jobs:
        pricing.forget()
        alone.append(rows_of(job))
    for order in (range(len(jobs)), reversed(range(len(jobs)))):
        pricing.forget()
        for i in order:
            part = rows_of(jobs[i])
            for name in COLUMNS:
                np.testing.assert_array_equal(
                    getattr(part.rows, name), getattr(alone[i].rows, name), f"{CHANGES[i]} {name}"
                )
            np.testing.assert_array_equal(part.row_start, alone[i].row_start)
            np.testing.assert_array_equal(part.row_count, alone[i].row_count)
    assert len(pricing._pricings) < len(jobs)


def test_what_is_kept_of_deep_models_is_bounded_by_their_ops(monkeypatch):
    pricing.forget()
    base = prepare("dgx-h100", "llama3-8b-sft")
    jobs = [tuple(base.vary({"model.layers": n}).loaded()[:2]) for n in (20, 30, 40)]
    ops = [rows_of(job).row_start.size for job in jobs]
    shelves = pricing._fixed, pricing._placed
    assert [shelf.held for shelf in shelves] == [sum(ops)] * 2
    for shelf in shelves:
        monkeypatch.setattr(shelf, "most", ops[1] + ops[2])
    first = rows_of(jobs[0])
    assert [(len(shelf.of), shelf.held) for shelf in shelves] == [(3, sum(ops))] * 2  # it was kept
    pricing.forget()
    for job in jobs:
        rows_of(job)
    assert [(len(shelf.of), shelf.held) for shelf in shelves] == [(2, ops[1] + ops[2])] * 2
    again = rows_of(jobs[0])
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(again.rows, name), getattr(first.rows, name))
    np.testing.assert_array_equal(again.row_start, first.row_start)


def test_a_trainers_calls_are_of_the_samples_of_each_job():
    base = prepare("dgx-h100", "llama3-8b-sft")
    hosts = []
    for batch in (1, 2, 3):
        changes = {"micro_batch": batch, "sequence_length": 1024, "trainer": "huggingface"}
        part = rows_of(tuple(base.vary(changes).loaded()[:2]))
        hosts.append(part.rows.host_s[part.row_start].sum())
    assert hosts[2] - hosts[1] == pytest.approx(hosts[1] - hosts[0])
    assert hosts[1] > hosts[0]


def test_what_transfers_lost_is_all_that_figures_do_without():
    base = prepare("dgx-h100", "llama3-70b-full")
    job = tuple(base.vary({"nodes": 2, "gradient_accumulation": 2}).loaded()[:2])
    (figures,), (whole,) = steps([job], causes=False), steps([job])  # one with causes serves both
    assert whole.breakdown.transfers
    assert not figures.breakdown.transfers
    figures.breakdown.transfers |= whole.breakdown.transfers
    assert figures.breakdown == whole.breakdown


def test_points_of_a_grid_share_the_halves_that_they_have_in_common():
    base = prepare("dgx-h100", "llama3-8b-sft")
    halves = [
        base.vary({"nodes": nodes, "micro_batch": batch, "method": "{lora: {rank: 16}}"})
        for nodes, batch in itertools.product((1, 2), (1, 2))
    ]
    (one, more), (two, _) = halves[:2], halves[2:]
    assert one.topology is more.topology
    assert one.workload is two.workload
    assert one.workload is not more.workload
    assert one.topology is not two.topology
