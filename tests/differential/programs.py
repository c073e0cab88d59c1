"""Random programs: lanes, dependencies, rendezvous, shared resources, holds, curves, steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any, TypeVar

from hypothesis import strategies as st

from sim.program import Program
from tests.builder import ProgramBuilder

T = TypeVar("T")

# Few values make many ties; the others make none.
TIED = (1.0, 2.0, 3.0, 0.5, 1 / 3)


def programs(contended: bool = True) -> st.SearchStrategy[Program]:
    """Programs as `random_program` makes them, which Hypothesis shrinks."""
    return st.randoms(use_true_random=False).map(lambda rng: random_program(rng, contended))


def twice_as_fast(program: Program) -> Program:
    """The same at twice the rates and half the latencies: powers of two change exponents only."""
    return program._replace(
        latency=program.latency / 2,
        bound=program.bound * 2,
        weight=program.weight * 2,
        capacity=program.capacity * 2,
        curves=program.curves * 2,
    )


def random_program(rng: Random, contended: bool = True) -> Program:
    """A program of up to 40 ops on up to 6 lanes.

    With `contended` false each lane has resources of its own and nothing is held, so that every
    engine has to give the same bits.
    """
    tied = rng.random() < 0.5

    def amount() -> float:
        return rng.choice(TIED) if tied else rng.uniform(0.1, 10.0)

    scale = rng.choice((1.0, 1e9))
    build = ProgramBuilder()
    lanes = rng.randint(1, 6)
    resources = [build.resource(amount() * scale) for _ in range(rng.randint(1, 6))]
    private = [[build.resource(amount() * scale) for _ in range(2)] for _ in range(lanes)]
    units = [build.countable(rng.randint(1, 8)) for _ in range(2)] if contended else []
    curves = [
        build.curve([amount() * scale for _ in range(9)])
        for _ in range(rng.randint(0, 3) if contended else 0)
    ]

    def some(pool: Sequence[T], least: int, most: int) -> list[T]:
        return rng.sample(pool, rng.randint(least, min(most, len(pool))))

    def physics(lane: int) -> dict[str, Any]:
        pool = resources if contended else private[lane]
        demands = {r: rng.choice((1.0, 2.0, 1.75, amount())) for r in some(pool, 0, 3)}
        curve = rng.choice((None, *curves))
        bound = math.inf if demands or curve is not None else amount() * scale
        return {
            "latency": rng.choice((0.0, 0.0, 1e-6, amount())),
            "work": rng.choice((0.0, scale, 1e-9 * scale, amount() * scale)),
            "bound": rng.choice((bound, amount() * scale)),
            "weight": rng.choice((1.0, amount(), amount() * scale)),
            "demands": demands,
            "curve": None if curve is None else (curve, rng.choice(units)),
        }

    def hold() -> tuple[int, int] | None:
        if not units or rng.random() < 0.5:
            return None
        return rng.choice(units), rng.randint(1, 6)

    ops: list[int] = []
    for _ in range(rng.randint(1, 20)):
        after = some(ops, 0, 2)
        kind = rng.choice(("plain", "plain", "plain", "rendezvous", "steps"))
        if kind == "plain" or lanes == 1:
            lane = rng.randrange(lanes)
            ops.append(build.op(lane, after=after, hold=hold(), **physics(lane)))
            continue
        members = some(range(lanes), 2, lanes)
        if kind == "rendezvous":
            wire = lanes + members[0]  # a lane of its own
            collective = build.op(wire, **physics(members[0]))
            for lane in members:
                arrival = build.op(lane, after=after, hold=hold(), hold_until=collective)
                build.edge(arrival, collective)
                build.op(lane, after=[collective])
            ops.append(collective)
        else:
            steps = rng.randint(1, 5)
            ring = [
                build.op(lane, after=after, hold=hold(), steps=steps, **physics(lane))
                for lane in members
            ]
            build.ring(ring)
            if rng.random() < 0.5:
                build.pair(ring[0], -1)  # a chain
            ops += ring
    return build.build()[0]
