"""Configurations computed together are those computed one at a time, whatever they are."""

import dataclasses
import math
import sys

import numpy as np
import pytest

import sim.step.kept as kept
from sim.blocks.parameters import tree_of
from sim.engine import run
from sim.errors import EngineError, InputError
from sim.fabric import compile_fabric
from sim.inputs.loader import load, prepare
from sim.inputs.shares import mesh_of
from sim.lowering import frames
from sim.lowering.costs import price
from sim.lowering.frames import folds, lowered, stacks
from sim.program import revalue
from sim.step.breakdown import measure
from sim.step.run import StepJob, run_together
from sim.step.step import step, steps
from sim.step.windows import Window, Windows
from sim.strategies import plans_of
from sim.study.executors import Task, run_here
from sim.study.measures import measures, measures_of

#: machines and jobs of every kind that a sweep may mix; each is varied by `SHAPES`
KINDS = [
    ("dgx-h100", "llama3-8b-sft", {}),
    ("dgx-a100", "llama3-8b-sft", {}),
    ("dgx-h100", "llama3-70b-full", {"activation_checkpointing": "{selective: op}"}),
    ("dgx-h100", "llama3-8b-sft", {"activation_checkpointing": "none", "nodes": 2}),
    ("dgx-h100", "llama3-8b-sft", {"parallelism.strategy": "fsdp1"}),
    ("dgx-h100", "llama3-8b-sft", {"parallelism.strategy": "ddp"}),
    ("dgx-h100", "llama3-8b-sft", {"parallelism.strategy": "zero1"}),
    ("dgx-h100", "llama3-8b-sft", {"parallelism.strategy": "zero2", "nodes": 2}),
    ("dgx-h100", "llama3-8b-zero3", {}),
    ("dgx-h100", "llama3-8b-offload", {}),
    ("dgx-h100", "llama3-8b-sft", {"parallelism.tensor_parallel": 2}),
    ("dgx-h100", "llama3-8b-sft", {"parallelism.pipeline_parallel": 2, "nodes": 2}),
    ("dgx-h100", "llama3-8b-sft", {"method": "{lora: {rank: 16}}"}),
    ("dgx-h100", "llama3-8b-sft", {"model": "qwen3-30b-a3b"}),
    ("aws-p4d", "mistral-7b-lora", {"nodes": 2}),
]
SHAPES = [
    {"micro_batch": batch, "sequence_length": length, "gradient_accumulation": steps}
    for batch, length, steps in ((1, 1024, 1), (2, 1024, 1), (1, 2048, 4), (2, 2048, 8))
]


@pytest.fixture(scope="module")
def jobs():
    found = []
    for topology, workload, changes in KINDS:
        base = prepare(topology, workload)
        for shape in SHAPES:
            try:
                found.append(tuple(base.vary({**changes, **shape}).loaded()[:2]))
            except InputError:
                continue
    assert len(found) > 3 * len(KINDS)
    return found


def close(got, expected, where=""):
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), where
        for key in expected:
            close(got[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, float):
        assert math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-15), (where, got, expected)
    else:
        assert got == expected, where


def test_a_step_that_was_forgotten_is_simulated_again(jobs, monkeypatch):
    asked, simulate = [], kept.simulated
    monkeypatch.setattr(kept, "simulated", lambda *a: asked.append(1) or simulate(*a))
    kept.forget()
    first = [step(*jobs[0]).time_s for _ in range(2)]
    kept.forget()
    assert len({*first, step(*jobs[0]).time_s}) == 1
    assert len(asked) == 2


def test_a_mixed_space_has_the_figures_of_each_alone(jobs):
    kept.forget()
    together = measures_of(jobs)
    reports = steps(jobs)
    kept.forget()
    for job, row, report in zip(jobs, together, reports, strict=True):
        alone = step(*job)
        close(row, measures(*job))
        for field in dataclasses.fields(alone.breakdown):
            name = field.name
            close(getattr(report.breakdown, name), getattr(alone.breakdown, name), name)
        assert report.algorithms == alone.algorithms


def test_most_are_run_together_and_pipelines_alone(jobs):
    ran = list(run_together([StepJob(t, w, w.model.layers) for t, w in jobs[:8]], "compiled"))
    assert sorted(place for each in ran for place in each.places) == list(range(8))
    assert max(each.lowered.program.stack for each in ran) >= 2
    piped = [job for job in jobs if job[1].parallelism.pipeline_parallel > 1]
    assert piped
    for each in run_together([StepJob(t, w, w.model.layers) for t, w in piped], "compiled"):
        assert (each.lowered.program.stack, len(each.places)) == (0, 1)


def priced(sets):
    job = load("dgx-h100", "llama3-8b-sft", ["gradient_accumulation=1", *sets])
    topology, workload = job.topology, job.workload
    plans = plans_of(workload, tree_of(workload), mesh_of(topology, workload))
    return price(plans, workload, compile_fabric(topology))


@pytest.fixture(scope="module")
def stack():
    many = [priced([f"sequence_length={n}"]) for n in (1024, 2048, 4096)]
    assert all(map(folds, many))
    (found,) = stacks(many)
    assert found.places == [0, 1, 2]
    return found.lowered, [lowered(one) for one in many]


def test_a_row_of_a_stack_is_the_program_alone(stack):
    together, alone = stack
    for i, one in enumerate(alone):
        row = together.row(i)
        for name in ("latency", "work", "bound", "weight", "hold_units", "demand_amount"):
            np.testing.assert_array_equal(getattr(row.program, name), getattr(one.program, name))
        has = one.program.curve >= 0
        np.testing.assert_array_equal(row.program.curve >= 0, has)
        np.testing.assert_array_equal(  # the stack keeps those curves alone that are in use
            row.program.curves[row.program.curve[has]], one.program.curves[one.program.curve[has]]
        )


def test_a_stack_is_no_higher_than_memory_wants(monkeypatch):
    many = [priced([f"sequence_length={n}"]) for n in (1024, 2048, 4096)]
    monkeypatch.setattr(frames, "HIGHEST", 2 * lowered(many[0]).plan_op.size)
    assert [found.places for found in stacks(many)] == [[0, 1], [2]]


@pytest.mark.parametrize("engine", ["compiled", "python"])
def test_a_stack_runs_as_its_programs_do(stack, engine):
    together, alone = stack
    line = run(together.program, engine)
    for i, one in enumerate(alone):
        expected = run(one.program, "python")
        assert line.row(i).start.tolist() == expected.start.tolist()
        assert line.row(i).end.tolist() == expected.end.tolist()
        assert (line.row(i).events, line.row(i).solves) == (expected.events, expected.solves)


def test_a_fault_of_one_program_of_a_stack_is_found(stack):
    program = stack[0].program
    work = program.work.copy()
    work[1, -1] = -1.0
    with pytest.raises(EngineError, match=f"op {work.shape[1] - 1}: work must be finite and >= 0"):
        revalue(program, work=work)
    work[1, -1] = np.finfo(float).max
    with pytest.raises(EngineError, match="its end is too far off"):
        run(revalue(program, work=work, bound=np.full_like(work, 1e-9)), "compiled")


def test_the_account_of_a_lane_is_the_same_as_machine_code_and_in_plain_python(stack, monkeypatch):
    together, _ = stack
    line = run(together.program, "compiled")
    views = together.views
    windows = Windows.of([[Window(0.0, float(end.max()), 1)] for end in line.end])
    far = [np.zeros(len(view.plan.ops), dtype=bool) for view in views]
    blocks = np.ones(len(views[0].plan.ops), dtype=bool)
    ranks = [None] * len(views)  # kernels are told as they ran
    fast = measure(together, line, views, windows, far, blocks, ranks)
    monkeypatch.delitem(sys.modules, "sim.engine.compiled")
    slow = measure(together, line, views, windows, far, blocks, ranks)
    assert fast == slow
    assert fast[0][0].compute_s > 0.0
    assert fast[0][0].exposed_s > 0.0


def test_one_that_fails_does_not_take_the_others_with_it():
    def work(context, payload):
        if payload == 2:
            raise ValueError(payload)
        return payload

    def many(context, payloads):
        return [work(context, payload) for payload in payloads]

    answers = list(run_here(work, None, [Task(i, i) for i in range(5)], many, 4))
    assert [a.status for a in answers] == ["ok", "ok", "failed", "ok", "ok"]
    assert answers[2].error == "ValueError: 2"
