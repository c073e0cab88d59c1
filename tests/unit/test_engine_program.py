"""Assembling and validating programs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sim.engine import run
from sim.errors import EngineError
from sim.program import assemble, check_acyclic, find_cycle
from tests.builder import ProgramBuilder


def test_ops_in_any_order_are_sorted_by_lane():
    program, position = assemble(
        lane=[2, 0, 2, 1],
        latency=[1.0, 2.0, 3.0, 4.0],
        src=[0, 1, 1],
        dst=[1, 3, 3],  # one edge twice
    )
    np.testing.assert_array_equal(position, [2, 0, 3, 1])
    np.testing.assert_array_equal(program.lane, [0, 1, 2, 2])
    np.testing.assert_array_equal(program.latency, [2.0, 4.0, 1.0, 3.0])
    np.testing.assert_array_equal(program.succ_ptr, [0, 1, 1, 2, 2])
    np.testing.assert_array_equal(program.succ, [1, 0])
    # op 0 (1 s), then 1 (2 s), then 3 (4 s); op 2 follows op 0 on its lane
    np.testing.assert_array_equal(run(program, "python").end[position], [1.0, 3.0, 4.0, 7.0])


def test_references_are_renumbered():
    program, position = assemble(
        lane=[1, 0, 1],
        hold_resource=[0, -1, -1],
        hold_units=[1, 0, 0],
        hold_until=[2, 1, 0],
        hold_capacity=[4],
        peer=[1, -1, -1],
        steps=[3, 3, 1],
    )
    np.testing.assert_array_equal(position, [1, 0, 2])
    np.testing.assert_array_equal(program.hold_until, [0, 2, 2])
    np.testing.assert_array_equal(program.peer, [-1, 0, -1])
    np.testing.assert_array_equal(program.follower, [1, -1, -1])


FAULTS = {
    "negative latency": (dict(lane=[0, 1], latency=[0.0, -1.0]), "op 1: latency"),
    "latency not a number": (dict(lane=[0], latency=math.nan), "op 0: latency"),
    "infinite work": (dict(lane=[0], work=math.inf, bound=1.0), "op 0: work"),
    "no rate": (dict(lane=[0, 0], work=[0.0, 1.0]), "op 1: bound must be finite"),
    "bound zero": (dict(lane=[0], bound=0.0), "op 0: bound"),
    "weight zero": (dict(lane=[0], weight=0.0), "op 0: weight"),
    "capacity zero": (dict(lane=[0], capacity=[1.0, 0.0]), "resource 1: capacity"),
    "capacity infinite": (dict(lane=[0], capacity=[math.inf]), "resource 0: capacity"),
    "column too short": (dict(lane=[0, 1], latency=[0.0]), "shape"),
    "lane below zero": (dict(lane=[-1]), "a lane names -1"),
    "lane above all": (dict(lane=[3], n_lanes=2), "a lane names 3"),
    "edge outside": (dict(lane=[0], src=[0], dst=[1]), "an edge names 1"),
    "edge to itself": (dict(lane=[0], src=[0], dst=[0]), "op 0 waits for itself"),
    "half an edge": (dict(lane=[0], src=[0], dst=[]), "1 sources for 0 targets"),
    "route outside": (dict(lane=[0], route=[0]), "a route names 0"),
    "demand outside": (
        dict(
            lane=[0], demand_ptr=[0, 1], demand_resource=[2], demand_amount=[1.0], capacity=[1.0]
        ),
        "a demand names 2",
    ),
    "demand zero": (
        dict(
            lane=[0], demand_ptr=[0, 1], demand_resource=[0], demand_amount=[0.0], capacity=[1.0]
        ),
        "demand 0: amount",
    ),
    "demand twice": (
        dict(
            lane=[0], demand_ptr=[0, 2], demand_resource=[0, 0], demand_amount=1.0 * np.ones(2),
            capacity=[1.0],
        ),
        "route 0 names resource 0 twice",
    ),
    "demand table torn": (dict(lane=[0], demand_ptr=[0, 1]), "pointers"),
    "hold outside": (dict(lane=[0], hold_resource=[0], hold_units=[1]), "a hold names 0"),
    "hold of nothing": (
        dict(lane=[0], hold_resource=[0], hold_units=[0], hold_capacity=[1]),
        "op 0: hold_units",
    ),
    "hold until an earlier op": (
        dict(
            lane=[0, 0], hold_resource=[-1, 0], hold_units=[0, 1], hold_until=[0, 0],
            hold_capacity=[1],
        ),
        "op 1: holds until op 0, which does not follow",
    ),
    "curve without resource": (dict(lane=[0], curve=[0], curves=[[1.0]]), "op 0: a curve needs"),
    "curve outside": (dict(lane=[0], curve=[0]), "a curve names 0"),
    "curve too short": (
        dict(lane=[0], curve=[0], curve_resource=[0], hold_capacity=[2], curves=[[1.0, 1.0]]),
        "curves reach 1 units, their resources have 2",
    ),
    "curve of zero": (dict(lane=[0], curves=[[1.0, 0.0]]), "curve entry 1"),
    "steps zero": (dict(lane=[0], steps=[0]), "op 0: steps"),
    "two followers": (dict(lane=[0, 1, 2], peer=[2, 2, -1]), "same peer"),
    "peer of other length": (dict(lane=[0, 1], peer=[1, -1], steps=[2, 3]), "op 0: a peer must"),
    "peer of itself": (dict(lane=[0], peer=[0], steps=[2]), "op 0: a peer must"),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_named(columns, message):
    with pytest.raises(EngineError, match=message):
        assemble(**columns)


def test_a_hold_may_reach_along_any_path():
    program, _ = assemble(
        lane=[0, 1, 2], hold_resource=[0, -1, -1], hold_units=[1, 0, 0], hold_until=[2, 1, 2],
        hold_capacity=[1], src=[0, 1], dst=[1, 2],
    )  # fmt: skip
    assert program.hold_until[0] == 2


def test_cycles_are_named_in_order():
    # 0 -> 1 by lane, 1 -> 2, 2 -> 3 by lane, 3 -> 0; op 4 only follows.
    program, _ = assemble(lane=[0, 0, 1, 1, 2], src=[1, 3, 3], dst=[2, 0, 4])
    cycle = find_cycle(program)
    turn = cycle.index(0)
    assert cycle[turn:] + cycle[:turn] == [0, 1, 2, 3]
    with pytest.raises(EngineError, match="ops wait for each other"):
        check_acyclic(program)


def test_a_peer_that_cannot_start_is_a_cycle():
    # 0 needs steps of 1 (its peer), which starts after 0 has ended.
    program, _ = assemble(lane=[0, 1], steps=2, peer=[1, -1], src=[0], dst=[1])
    assert set(find_cycle(program)) == {0, 1}


def test_a_chain_of_peers_reaches_as_far_as_it_has_steps():
    # 0's one step needs peer 1's one step only, so 2 may wait for 0 although 1's peer is 2;
    # with two steps 0 needs 1's second, which needs 2's first.
    for steps, stuck in ((1, False), (2, True)):
        program, _ = assemble(lane=[0, 1, 2], steps=steps, peer=[1, 2, -1], src=[0], dst=[2])
        assert bool(find_cycle(program)) is stuck, steps


def test_builder_refuses_cycles():
    build = ProgramBuilder()
    first, second = build.op(0), build.op(1)
    build.edge(first, second)
    build.edge(second, first)
    with pytest.raises(EngineError, match="wait for each other"):
        build.build()


def test_no_such_engine():
    program, _ = assemble(lane=[0])
    with pytest.raises(EngineError, match="no engine 'abacus'"):
        run(program, "abacus")
