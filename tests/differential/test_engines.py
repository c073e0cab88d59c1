"""Random programs through the reference, the plain kernel and the compiled one."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.engine import filling, run
from sim.program import Program
from tests.differential.programs import programs, twice_as_fast
from tests.differential.sameness import same_bits, same_meaning, same_run

several = settings(
    max_examples=int(os.environ.get("PROGRAMS", "80")),  # CI takes 2,000 once
    database=None,
)  # fmt: skip


@several
@given(programs())
def test_kernel_means_what_the_reference_means(program: Program) -> None:
    same_meaning(run(program, "reference"), run(program, "python"))


@several
@given(programs())
def test_a_change_on_one_resource_of_a_wide_op_is_tried_alone(program: Program) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "WIDE", 2)  # any op on two resources
        found = run(program, "python")
    same_meaning(run(program, "reference"), found)


@several
@given(programs())
def test_what_is_left_alone_on_its_resource_is_settled_at_once(program: Program) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "FEW", 0)  # whatever is left rising
        found = run(program, "python")
    same_meaning(run(program, "reference"), found)


@several
@given(programs())
def test_compiled_and_plain_kernel_agree_to_the_bit(program: Program) -> None:
    same_run(run(program, "python"), run(program, "compiled"))


@several
@given(programs(contended=False))
def test_uncontended_programs_agree_to_the_bit(program: Program) -> None:
    expected = run(program, "reference")
    same_bits(run(program, "python"), expected)
    same_bits(run(program, "compiled"), expected)
    assert run(program, "python").events == expected.events


@several
@given(programs(), st.sampled_from(["python", "compiled", "reference"]))
def test_twice_the_rates_and_half_the_latencies_halve_every_time(program, engine) -> None:
    # every quotient and sum keeps its bits
    slow, fast = run(program, engine), run(twice_as_fast(program), engine)
    np.testing.assert_array_equal(fast.end * 2, slow.end)
    np.testing.assert_array_equal(fast.start * 2, slow.start)


@several
@given(programs())
def test_order_holds(program: Program) -> None:
    # Lanes never overlap, and an op starts exactly when the last of its predecessors ends.
    line = run(program, "python")
    n = program.lane.size
    latest = np.zeros(n)
    source = np.repeat(np.arange(n), np.diff(program.succ_ptr))
    np.maximum.at(latest, program.succ, line.end[source])
    follows = program.lane[1:] == program.lane[:-1]
    latest[1:] = np.maximum(latest[1:], np.where(follows, line.end[:-1], 0.0))
    np.testing.assert_array_equal(line.start, latest)
    assert (line.end >= line.start).all()


@pytest.mark.parametrize(
    ("machine", "job"),
    [("dgx-h100", "llama3-8b-zero3"), ("pcie4-a100-8", "llama3-8b-lora")],
)
def test_an_engine_changes_no_digit_of_a_result(machine: str, job: str) -> None:
    texts = {
        simulate(machine, job, engine=engine, scaling=False, fixes=False).to_json()
        for engine in ("reference", "python", "compiled")
    }
    assert len(texts) == 1
