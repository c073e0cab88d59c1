"""A run that starts from a copied state is the run that starts from a prepared one."""

from __future__ import annotations

import gc
from weakref import ref

import numpy as np
import pytest

from sim.engine import blank, compiled, prepare, run
from sim.engine.blank import Blank, blank_of
from sim.program import assemble, revalue


def _program(seed: int, holds: bool = True):
    """Two lanes of kernels that share a link and, if asked, SMs that collectives hold."""
    draw = np.random.default_rng(seed)
    n = 40
    collective = np.arange(n) % 7 == 0
    own = {
        "hold_resource": np.where(collective, 0, -1),
        "hold_units": draw.integers(1, 30, n),
        "hold_capacity": [132],
        "curve": np.where(collective, -1, 0),
        "curve_resource": np.where(collective, -1, 0),
        "curves": np.linspace(0.1, 1.0, 133)[None] * draw.uniform(0.5, 1.5),
    }
    program, _ = assemble(
        lane=[0] * 20 + [1] * 20, latency=draw.uniform(0, 1, n), work=draw.uniform(0, 3, n),
        bound=draw.uniform(0.5, 2, n), demand_ptr=[0, 1], demand_resource=[0], demand_amount=[1.0],
        route=[0] * n, capacity=[2.0], src=[3, 8, 25], dst=[24, 29, 12], **own if holds else {},
    )  # fmt: skip
    return program


@pytest.mark.parametrize("holds", [True, False])
def test_the_third_program_of_a_structure_runs_as_if_it_were_the_first(holds):
    first = _program(0, holds)
    numbers = ("latency", "work", "bound", "capacity", "curves", "hold_units", "hold_capacity")
    for seed in range(4):
        other = _program(seed, holds)
        if seed == 2:  # an op that takes no work has its end known beforehand
            other = other._replace(work=np.where(np.arange(40) % 3, other.work, 0.0))
        again = revalue(first, **{name: getattr(other, name) for name in numbers})
        got, state = run(again, "compiled"), prepare(other)
        compiled.simulate(other, state)
        assert got.start.tolist() == state.times[0::2].tolist()
        assert got.end.tolist() == state.times[1::2].tolist()
    # where numba checks, runs take the arrays themselves and no copies are kept
    assert isinstance(blank_of(again), Blank) != compiled.checked()


def test_a_blank_is_of_the_program_that_it_is_used_for():
    program = _program(5)
    assert blank_of(program) is None
    blank = blank_of(program)
    assert blank is not None
    others = (
        program._replace(route=program.route.copy()),
        program._replace(n_lanes=3),
        program._replace(demand_ptr=np.array([0, 0], dtype=np.int32)),
    )
    for other in others:
        assert not blank.fits(other)
        found = blank_of(other)
        assert found is None or found.fits(other)


def test_a_large_program_is_not_held(monkeypatch):
    """It would get no blank: level ``ranks`` runs programs of gigabytes, each once."""
    monkeypatch.setattr(blank, "MOST_OPS", 39)
    program = _program(6)
    lane = ref(program.lane)
    assert blank_of(program) is None
    assert blank_of(program) is None
    del program
    gc.collect()
    assert lane() is None


def test_no_stack_is_held():
    """A blank is made of its first row; what is known of a structure says no numbers."""
    program = _program(7)
    held = []
    for _ in range(2):
        columns = {name: np.stack([getattr(program, name)] * 3) for name in ("latency", "work")}
        stack = program._replace(**columns)
        held.append(ref(stack.work))
        assert run(stack, "compiled").start.shape == (3, 40)
        del columns, stack
    gc.collect()
    assert [column() for column in held] == [None, None]


def test_what_the_structure_of_a_large_program_says_is_worked_out_once(monkeypatch):
    """And goes with the columns that it is of."""
    monkeypatch.setattr(blank, "MOST_OPS", 39)
    first = _program(7)
    kept = blank.skeleton_kept(first)
    other = revalue(first, work=_program(8).work, curves=_program(8).curves)
    assert blank.skeleton_kept(other) is kept
    got, state = run(other, "compiled"), prepare(other)
    compiled.simulate(other, state)
    assert got.start.tolist() == state.times[0::2].tolist()
    assert got.end.tolist() == state.times[1::2].tolist()
    apart = first._replace(demand_ptr=np.array([0, 0], dtype=np.int32))
    assert blank.skeleton_kept(apart).widest.tolist() == [0, 0]
    gone = ref(blank.skeleton_kept(first).kind)
    place = id(first.succ)
    del first, other, apart, kept, got, state
    gc.collect()
    assert place not in blank._skeletons
    assert gone() is None
