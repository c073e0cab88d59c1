"""Random programs: lanes, dependencies, rendezvous, shared resources, holds, curves, steps."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from sim.program import Program, ProgramBuilder

# Few values make many ties; the others make none.
TIED = st.sampled_from([1.0, 2.0, 3.0, 0.5, 1 / 3])
FREE = st.floats(0.1, 10.0)


@st.composite
def programs(draw: st.DrawFn, contended: bool = True) -> Program:
    """A program of up to 40 ops on up to 6 lanes.

    With `contended` false each lane has resources of its own and nothing is held, so that every
    engine has to give the same bits.
    """
    amount = draw(st.sampled_from([TIED, FREE]))
    scale = draw(st.sampled_from([1.0, 1e9]))
    build = ProgramBuilder()
    lanes = draw(st.integers(1, 6))
    resources = [build.resource(draw(amount) * scale) for _ in range(draw(st.integers(1, 6)))]
    private = [[build.resource(draw(amount) * scale) for _ in range(2)] for _ in range(lanes)]
    units = [build.countable(draw(st.integers(1, 8))) for _ in range(2)] if contended else []
    curves = [
        build.curve([draw(amount) * scale for _ in range(9)])
        for _ in range(draw(st.integers(0, 3)) if contended else 0)
    ]

    def physics(lane: int) -> dict[str, Any]:
        pool = resources if contended else private[lane]
        demands = {
            r: draw(st.sampled_from([1.0, 2.0, 1.75]) | amount)
            for r in draw(st.lists(st.sampled_from(pool), max_size=3, unique=True))
        }
        curve = draw(st.sampled_from([None, *curves]))
        unbounded = [math.inf] if demands or curve is not None else []
        return {
            "latency": draw(st.sampled_from([0.0, 0.0, 1e-6]) | amount),
            "work": draw(st.sampled_from([0.0, scale, 1e-9 * scale]) | amount.map(scale.__mul__)),
            "bound": draw(st.sampled_from(unbounded) if unbounded else amount.map(scale.__mul__)),
            "weight": draw(st.just(1.0) | amount | amount.map(scale.__mul__)),
            "demands": demands,
            "curve": None if curve is None else (curve, draw(st.sampled_from(units))),
        }

    def hold() -> tuple[int, int] | None:
        if not units or draw(st.booleans()):
            return None
        return draw(st.sampled_from(units)), draw(st.integers(1, 6))

    ops: list[int] = []
    for _ in range(draw(st.integers(1, 20))):
        after = draw(st.lists(st.sampled_from(ops), max_size=2)) if ops else []
        kind = draw(st.sampled_from(["plain", "plain", "plain", "rendezvous", "steps"]))
        if kind == "plain" or lanes == 1:
            lane = draw(st.integers(0, lanes - 1))
            ops.append(build.op(lane, after=after, hold=hold(), **physics(lane)))
        elif kind == "rendezvous":
            members = draw(st.lists(st.integers(0, lanes - 1), min_size=2, unique=True))
            wire = lanes + members[0]  # a lane of its own
            collective = build.op(wire, **physics(members[0]))
            for lane in members:
                arrival = build.op(lane, after=after, hold=hold(), hold_until=collective)
                build.edge(arrival, collective)
                build.op(lane, after=[collective])
            ops.append(collective)
        else:
            members = draw(st.lists(st.integers(0, lanes - 1), min_size=2, unique=True))
            steps = draw(st.integers(1, 5))
            ring = [
                build.op(lane, after=after, hold=hold(), steps=steps, **physics(lane))
                for lane in members
            ]
            build.ring(ring)
            if draw(st.booleans()):
                build.pair(ring[0], -1)  # a chain
            ops += ring
    return build.build()[0]
