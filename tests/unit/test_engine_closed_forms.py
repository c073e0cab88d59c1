"""Programs whose times can be worked out by hand; every engine has to give them."""

from __future__ import annotations

import pytest

from sim.engine import run
from sim.errors import EngineError
from sim.program import Timeline, assemble
from tests.builder import ProgramBuilder

pytestmark = pytest.mark.parametrize("engine", ["reference", "python", "compiled"])


def solve(build: ProgramBuilder, engine: str) -> tuple[list[float], list[float]]:
    """Starts and ends by the builder's op indices."""
    program, position = build.build()
    line: Timeline = run(program, engine)
    return line.start[position].tolist(), line.end[position].tolist()


def test_latency_then_work_alone(engine):
    # 1 s latency, then 50 B at min(bound 20, 100/4) = 20 B/s: 1 + 50/20 = 3.5
    build = ProgramBuilder()
    link = build.resource(100.0)
    build.op(0, latency=1.0, work=50.0, bound=20.0, demands={link: 4.0})
    assert solve(build, engine) == ([0.0], [3.5])


def test_two_flows_one_link(engine):
    # Both at 5 B/s until the short one is done at 4 s; the other has 40-20 left at 10 B/s: 6 s.
    build = ProgramBuilder()
    link = build.resource(10.0)
    build.op(0, work=20.0, demands={link: 1.0})
    build.op(1, work=40.0, demands={link: 1.0})
    assert solve(build, engine)[1] == [4.0, 6.0]


def test_late_second_flow(engine):
    # Alone for 1 s (10 B), then 5 B/s each: first has 10 left, done at 3; second 30-10 at 10: 5.
    build = ProgramBuilder()
    link = build.resource(10.0)
    build.op(0, work=20.0, demands={link: 1.0})
    build.op(1, latency=1.0, work=30.0, demands={link: 1.0})
    assert solve(build, engine)[1] == [3.0, 5.0]


def test_seventy_thousand_ranks_in_one_collective(engine):
    # All come after 1 s but one after 2; then 20 B over a link of 10 B/s: 2 to 4; 0.5 s more.
    build, ranks = ProgramBuilder(), range(70_000)
    link = build.resource(10.0)
    arrive = [build.op(rank, latency=1.0 + (rank == 40_000)) for rank in ranks]
    gather = build.op(len(ranks), work=20.0, demands={link: 1.0}, after=arrive)
    follow = [build.op(rank, latency=0.5, after=[gather]) for rank in ranks]
    start, end = solve(build, engine)
    assert (start[gather], end[gather]) == (2.0, 4.0)
    assert {end[op] for op in follow} == {4.5}


def test_weights_share_in_proportion(engine):
    # 12 = 3w + w: 9 and 3 B/s. First done at 18/9 = 2; the other has 30-6 left at 12: 4 s.
    build = ProgramBuilder()
    link = build.resource(12.0)
    build.op(0, work=18.0, weight=3.0, demands={link: 1.0})
    build.op(1, work=30.0, weight=1.0, demands={link: 1.0})
    assert solve(build, engine)[1] == [2.0, 4.0]


def test_what_a_bounded_flow_leaves_goes_to_the_other(engine):
    # First is held to 2 B/s, the other takes the remaining 8: 16/8 = 2 s, then 4 more for first.
    build = ProgramBuilder()
    link = build.resource(10.0)
    build.op(0, work=8.0, bound=2.0, demands={link: 1.0})
    build.op(1, work=16.0, demands={link: 1.0})
    assert solve(build, engine)[1] == [4.0, 2.0]


def test_filling_goes_in_stages(engine):
    # Flows a (thin), b (thin and wide), c (wide); thin 2, wide 9. Level 1 fills thin: a = b = 1;
    # c rises on to 9 - 1 = 8. All works equal their rate: 1 s.
    build = ProgramBuilder()
    thin, wide = build.resource(2.0), build.resource(9.0)
    build.op(0, work=1.0, demands={thin: 1.0})
    build.op(1, work=1.0, demands={thin: 1.0, wide: 1.0})
    build.op(2, work=8.0, demands={wide: 1.0})
    assert solve(build, engine)[1] == [1.0, 1.0, 1.0]


def test_a_flow_of_tiny_weight_beside_a_heavy_one(engine):
    # Weights 1e12 and 1, the heavy one bound to 1: it stops at level 1e-12, the other then takes
    # the remaining 9 of 10. A sum that kept 1e12 + 1 - 1e12 would be off by 1e-4 here.
    build = ProgramBuilder()
    link = build.resource(10.0)
    build.op(0, work=1.0, bound=1.0, weight=1e12, demands={link: 1.0})
    build.op(1, work=9.0, weight=0.3, demands={link: 1.0})
    assert solve(build, engine)[1] == pytest.approx([1.0, 1.0], rel=1e-12)


def test_demand_counts_and_multiplicity_does_not_change_weight(engine):
    # Folding four equal flows on one link: demand 4 at weight 1 gives 12/4 = 3 B/s, as four would.
    build = ProgramBuilder()
    link = build.resource(12.0)
    build.op(0, work=6.0, demands={link: 4.0})
    assert solve(build, engine)[1] == [2.0]


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_ring_of_equal_flows(engine, ranks):
    # Flow i draws on links i and i+1; each link carries two: 5 B/s each, 20 B take 4 s.
    build = ProgramBuilder()
    links = [build.resource(10.0) for _ in range(ranks)]
    for i in range(ranks):
        build.op(i, work=20.0, demands={links[i]: 1.0, links[(i + 1) % ranks]: 1.0})
    assert solve(build, engine)[1] == [4.0] * ranks


def test_components_do_not_disturb_each_other(engine):
    # The second pair starts on its own link at 1/3 s; the first pair's end keeps its bits.
    build = ProgramBuilder()
    one, two = build.resource(0.3), build.resource(0.7)
    build.op(0, work=0.1, demands={one: 1.0})
    build.op(1, latency=1 / 3, work=1.0, demands={two: 1.0})
    build.op(2, latency=0.1, work=1.0, demands={two: 1.0})
    assert solve(build, engine)[1][0] == 0.1 / 0.3


def test_rendezvous_waits_for_the_last(engine):
    # Ranks arrive after 1 and 3 s; 10 B at 5 B/s: 3 to 5 s, both go on then.
    build = ProgramBuilder()
    link = build.resource(5.0)
    arrivals = [build.op(0, latency=1.0), build.op(1, latency=3.0)]
    wire = build.op(2, work=10.0, demands={link: 1.0}, after=arrivals)
    build.op(0, after=[wire])
    build.op(1, latency=1.0, after=[wire])
    starts, ends = solve(build, engine)
    assert (starts[2], ends[2:]) == (3.0, [5.0, 5.0, 6.0])


def test_a_hold_slows_the_kernel_beside_it_while_it_waits(engine):
    # 10 units. The collective's arrival takes 4 at t = 1 and waits for the late rank until 3, its
    # wire runs 3 to 5. Kernel: 1 s at 1.0, 4 s at 0.5 (6 units left): 3 of 8 done at t = 5,
    # 5 s more: 10.
    build = ProgramBuilder()
    link, sms = build.resource(5.0), build.countable(10)
    curve = build.curve([0.1] * 6 + [0.5] * 4 + [1.0])
    kernel = build.op(0, work=8.0, curve=(curve, sms))
    build.op(1, latency=1.0)
    early = build.op(1, hold=(sms, 4))
    late = build.op(2, latency=3.0)
    wire = build.op(3, work=10.0, demands={link: 1.0}, after=[early, late])
    build._ops[early]["hold_until"] = wire
    starts, ends = solve(build, engine)
    assert (starts[early], ends[wire], ends[kernel]) == (1.0, 5.0, 10.0)


def test_more_held_than_there_is_leaves_none(engine):
    # 3 + 3 of 4 units held to t = 2 and t = 1: curve entries 0 (rate 1), 1 (rate 2), 4 (rate 4).
    # 1 s at 1, 1 s at 2, then 5 left at 4: 3.25.
    build = ProgramBuilder()
    sms = build.countable(4)
    curve = build.curve([1.0, 2.0, 3.0, 3.0, 4.0])
    build.op(0, latency=2.0, hold=(sms, 3))
    build.op(1, latency=1.0, hold=(sms, 3))
    kernel = build.op(2, work=8.0, curve=(curve, sms))
    assert solve(build, engine)[1][kernel] == 3.25


def test_a_curve_and_a_shared_resource_together(engine):
    # HBM 10, both draw 1 a unit. While 2 of 4 units are held (to t = 2) the kernel is bound to 3,
    # the copy takes 7: 14 in 2 s, done. Then 6 left of 12 at 10 (bound 20): 2.6 s.
    build = ProgramBuilder()
    hbm, sms = build.resource(10.0), build.countable(4)
    curve = build.curve([3.0, 3.0, 3.0, 3.0, 20.0])
    kernel = build.op(0, work=12.0, curve=(curve, sms), demands={hbm: 1.0})
    build.op(1, latency=2.0, hold=(sms, 2))
    copy = build.op(2, work=14.0, demands={hbm: 1.0})
    ends = solve(build, engine)[1]
    assert (ends[copy], ends[kernel]) == (2.0, 2.6)


@pytest.mark.parametrize("ranks", [2, 4, 7])
def test_stepped_ring(engine, ranks):
    # Equal links: (n-1) steps of latency + chunk / B.
    build = ProgramBuilder()
    ops = [
        build.op(i, latency=0.25, work=3.0, steps=ranks - 1, demands={build.resource(4.0): 1.0})
        for i in range(ranks)
    ]
    build.ring(ops)
    assert solve(build, engine)[1] == [(ranks - 1) * (0.25 + 3.0 / 4.0)] * ranks


def test_straggler_in_a_stepped_ring(engine):
    # Four ranks, three steps of 1 s, rank 0 starts 10 s late. Its successor 1 has done step 0 at 1
    # and step 1 waits for rank 0's step 0 (11): 11-12, 12-13; rank 2's step 1 ran 1-2 after rank
    # 1's step 0, step 2 waits for rank 1's step 1 (12): 12-13. Rank 3 waits for 2's step 1 (2):
    # 0-3, but ends with its peer at 13. Rank 0: 10-11, 11-12, 12-13; peer 3 long done.
    build = ProgramBuilder()
    build.op(0, latency=10.0)
    ops = [build.op(i, work=1.0, bound=1.0, steps=3) for i in range(4)]
    build.ring(ops)
    starts, ends = solve(build, engine)
    assert starts[1:] == [10.0, 0.0, 0.0, 0.0]
    assert ends[1:] == [13.0, 13.0, 13.0, 13.0]


def test_chain_of_steps_is_a_pipeline(engine):
    # Stage i may do step s once stage i-1 has done step s-1, and ends after it has done all. Stage
    # 0: 2 steps of 1 s; stage 1: 2 steps of 3 s, starting at once: ends 6; stage 2 of 1 s: step 1
    # waits for stage 1's step 0 (3): 3-4, ends with stage 1 at 6.
    build = ProgramBuilder()
    ops = [build.op(i, work=x, bound=1.0, steps=2) for i, x in enumerate([1.0, 3.0, 1.0])]
    build.pair(ops[1], ops[0])
    build.pair(ops[2], ops[1])
    assert solve(build, engine)[1] == [2.0, 6.0, 6.0]


def test_zero_time_ops_pass_at_once(engine):
    build = ProgramBuilder()
    last = build.op(0)
    for lane in (1, 0, 1, 2, 0):
        last = build.op(lane, after=[last])
    assert solve(build, engine) == ([0.0] * 6, [0.0] * 6)


def test_nothing_to_do(engine):
    build = ProgramBuilder()
    program, _ = build.build()
    line = run(program, engine)
    assert (line.end.size, line.events) == (0, 0)


def test_work_too_small_to_move_the_clock(engine):
    # After 1e9 s a flow of 1e-9 s adds nothing to the clock; it ends all the same.
    build = ProgramBuilder()
    link = build.resource(1.0)
    build.op(0, latency=1e9)
    build.op(0, work=1e-9, demands={link: 1.0})
    build.op(1, latency=1e9)
    build.op(1, work=1e-9, demands={link: 1.0})
    assert solve(build, engine)[1] == [1e9] * 4


def test_every_engine_names_a_cycle(engine):
    # 0 before 1 by lane, 1 before 0 by an edge.
    program, _ = assemble(lane=[0, 0], latency=1.0, src=[1], dst=[0])
    with pytest.raises(EngineError, match=r"wait for each other: (0 -> 1 -> 0|1 -> 0 -> 1)"):
        run(program, engine)


def test_a_time_beyond_floats_is_an_error(engine):
    build = ProgramBuilder()
    build.op(0, work=1e300, bound=1e-300)
    with pytest.raises(EngineError, match="op 0"):
        run(build.build()[0], engine)
