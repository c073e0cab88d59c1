"""What is kept by machine is let go where the machines are too large, and answers stay."""

import gc
import weakref

import pytest

import sim
from sim.fabric import compile_fabric, held
from sim.inputs.loader import load
from sim.study import executors, sweep
from sim.study.axes import Axis, Grid

JOB = "llama3-8b-sft"


def step_s(nodes: int) -> float:
    return sim.simulate("dgx-h100", JOB, nodes=nodes).step.time_s


def test_machines_are_let_go_and_their_steps_stay(monkeypatch):
    monkeypatch.setattr(held, "_held", 0)
    monkeypatch.setattr(held, "MOST_RESOURCES", 1)
    machine = compile_fabric(load("dgx-h100", JOB, ["nodes=13"]).topology)
    first, kept = step_s(13), weakref.ref(machine)
    del machine
    others = [step_s(nodes) for nodes in (14, 15)]
    gc.collect()
    assert kept() is None
    assert [step_s(13), step_s(14), step_s(15)] == [first, *others]


def test_jobs_of_large_machines_are_computed_some_at_a_time(tmp_path, monkeypatch):
    asked = []

    def counted(jobs):
        asked.append([topology.world_size for topology, _ in jobs])
        return of(jobs)

    of = sweep.measures_of
    monkeypatch.setattr(sweep, "measures_of", counted)
    monkeypatch.setattr(sweep, "MOST_GPUS", 40)
    points = tuple((str(nodes), str(batch)) for nodes in (1, 2, 3, 4) for batch in (1, 2))
    grid = Grid("held", "dgx-h100", JOB, (Axis(("nodes", "micro_batch"), points),))
    monkeypatch.setattr(executors, "FIRST_CHUNK", 8)
    pieces = sweep.sweep(grid, tmp_path / "some.sqlite").rows
    assert sum(map(len, asked)) == 8
    assert all(sum(set(each)) <= 40 for each in asked)  # GPUs of the machines of each piece
    assert len(asked) > 1
    monkeypatch.setattr(sweep, "MOST_GPUS", 1000)
    whole = sweep.sweep(grid, tmp_path / "whole.sqlite").rows
    assert len(asked[-1]) == 8
    assert [row.measures["step_time_s"] for row in pieces] == pytest.approx(
        [row.measures["step_time_s"] for row in whole], rel=1e-12
    )
