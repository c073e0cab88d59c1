"""Programs that repeat themselves, run as short ones whose cycles come again and again."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.engine import run
from sim.engine.cycling import Cycling, GateError
from sim.program import assemble
from sim.program.cycles import Gates, cycles_of

HOST = 0


@st.composite
def looms(draw):
    """One cycle: ops of lanes in their order, and who waits for whom, in it and in the next."""
    lanes = draw(st.integers(1, 3))
    ops = [  # lane, latency, work, whether it draws on what is shared, units it holds, a launch
        (draw(st.integers(1, lanes)), draw(st.sampled_from([0.0, 0.0, 0.3])),
         draw(st.sampled_from([0.25, 0.5, 1.0, 3.0])), draw(st.booleans()),
         draw(st.sampled_from([0, 0, 20])), draw(st.sampled_from([0.01, 0.02])))
        for _ in range(draw(st.integers(lanes, 8)))
    ]  # fmt: skip
    ops = [(i + 1 if i < lanes else lane, *rest) for i, (lane, *rest) in enumerate(ops)]
    n = len(ops)
    pairs = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))
    near = [(a, b) for a, b in draw(st.lists(pairs, max_size=6)) if a < b]
    return ops, near, draw(st.lists(pairs, max_size=4))


def woven(loom, cycles):
    """A program of so many cycles, between two ops before and one behind on each lane."""
    ops, near, far = loom
    lanes = max(lane for lane, *_ in ops)
    rows, edges = [], []  # lane, latency, work, route, units

    def add(lane, latency, work, shared, units, launch=0.02):
        rows.append((HOST, launch, 0.0, -1, 0))
        rows.append((lane, latency, work, 0 if shared else -1, units))
        edges.append((len(rows) - 2, len(rows) - 1))
        return len(rows) - 1

    for lane in range(1, lanes + 1):
        add(lane, 0.1, 0.5 * lane, True, 0)
    known = []
    for cycle in range(cycles):
        known.append([add(*op) for op in ops])
        edges += [(known[-1][a], known[-1][b]) for a, b in near]
        if cycle:
            edges += [(known[-2][a], known[-1][b]) for a, b in far]
    for lane in range(1, lanes + 1):
        add(lane, 0.0, 2.0, lane == 1, 0)
    lane, latency, work, route, units = zip(*rows, strict=True)
    held = np.array(units) > 0
    src, dst = zip(*edges, strict=True)
    program, place = assemble(
        lane=lane, latency=latency, work=work, bound=[1.5 if r < 0 else 2.0 for r in route],
        demand_ptr=[0, 1], demand_resource=[0], demand_amount=[1.0], route=route, capacity=[2.5],
        src=src, dst=dst, hold_resource=np.where(held, 0, -1), hold_units=units,
        hold_capacity=[132],
    )  # fmt: skip
    return program, place, np.bincount([HOST] * len(ops) + [lane for lane, *_ in ops])


def stopped(program, cycles):
    """Gates a cycle before the end of what repeats."""
    gates = cycles.end - cycles.period
    held = int(gates[HOST])
    launched = int(program.succ[program.succ_ptr[held]])
    lane = int(program.lane[launched])
    # who pauses has been launched
    early = np.searchsorted(program.lane, np.arange(program.n_lanes))
    launch = {int(program.succ[program.succ_ptr[o]]): o for o in range(int(early[1]))}
    pausing = [
        max(o for o in range(int(cycles.begin[i]), int(gates[i]) + 1) if launch[o] < held)
        for i in cycles.lanes.tolist() if i != HOST
    ]  # fmt: skip
    assert lane != HOST
    return Gates(np.array(pausing), np.array([held]))


def played(loom, few, more):
    """The short program run with `more` cycles, and how it ended."""
    program, _, period = woven(loom, few)
    cycles = cycles_of(program, period)
    run_ = Cycling(program, cycles, stopped(program, cycles))
    pauses = 0
    while not run_.run():
        pauses += 1
        if not more:
            run_.open()
            continue
        over = (run_.at - cycles.begin)[cycles.lanes] // period[cycles.lanes]
        back = min(more, int(over.min()))
        assume(back > 0)  # else one lane is far behind another
        run_.back(back)
        more -= back
    return program, run_, pauses


@settings(max_examples=60, deadline=None)
@given(looms(), st.integers(1, 12))
def test_cycles_that_come_again_are_those_of_a_long_program(loom, more):
    few = 7
    try:
        program, found, pauses = played(loom, few, more)
    except GateError:  # a host that is hardly ahead
        return
    assert pauses >= 2
    long, _, period = woven(loom, few + more)
    whole = run(long, "compiled")
    for lane in range(program.n_lanes):
        own = np.flatnonzero(program.lane == lane)[-int(period[lane]) - 1 :]
        its = np.flatnonzero(long.lane == lane)[-int(period[lane]) - 1 :]
        assert found.end[own] == pytest.approx(whole.end[its], rel=1e-12)
        assert found.start[own] == pytest.approx(whole.start[its], rel=1e-12)


LOOM = (
    [(1, 0.0, 1.0, True, 0, 0.01), (2, 0.3, 0.5, False, 20, 0.01), (1, 0.0, 0.5, False, 0, 0.01)],
    [(0, 1)], [(1, 0)],
)  # fmt: skip


def test_what_repeats_is_found_on_every_lane():
    program, _, period = woven(LOOM, 6)
    found = cycles_of(program, period)
    assert period.tolist() == [3, 2, 1]
    for lane, (begin, end) in enumerate(zip(found.begin, found.end, strict=True)):
        assert (program.lane[begin:end] == lane).all()
        assert (end - begin) / period[lane] >= 3.0
        n = int(period[lane])
        assert (program.work[begin : end - n] == program.work[begin + n : end]).all()


def test_what_hardly_repeats_or_has_steps_has_no_cycles():
    program, _, period = woven(LOOM, 1)
    assert cycles_of(program, period) is None
    program, _, period = woven(LOOM, 6)
    assert cycles_of(program._replace(steps=program.steps + 1), period) is None


def test_one_op_that_differs_ends_what_repeats():
    program, place, period = woven(LOOM, 9)
    work = program.work.copy()
    op = int(place[2 * 2 + 2 * 3 * 3 + 1])  # the first of the fourth cycle
    assert program.lane[op] == 1
    work[op] *= 2.0
    found = cycles_of(program._replace(work=work), period)
    assert found.begin[1] > op


def test_a_run_that_waits_for_itself_is_told():
    program, _, period = woven(LOOM, 6)
    cycles = cycles_of(program, period)
    run_ = Cycling(program, cycles, stopped(program, cycles))
    run_.end[int(cycles.begin[1])] -= 1.0  # waits for one end more than there will be
    with pytest.raises(Exception, match="stuck at"):
        run_.run()
