"""Kernels in a row that others come between again and again, as a deep step's do."""

import pytest

from sim.engine import lookahead, run
from tests.builder import ProgramBuilder

#: kernels of 1 B at 1 B/s; every tenth second somebody shares their resource for 0.5 B each
KERNELS, EVERY = 2_000, 10
VISITS = KERNELS // EVERY


def interrupted():
    build = ProgramBuilder()
    hbm = build.resource(1.0)
    for _ in range(KERNELS):
        build.op(0, work=1.0, demands={hbm: 1.0})
    # from 9.25 s on: half of it is shared for 1 s, so that the kernels lose 0.5 s a visit
    for _ in range(VISITS):
        build.op(1, latency=9.25)
        build.op(1, work=0.5, demands={hbm: 1.0})
    return build.build()


@pytest.mark.parametrize("engine", ["reference", "python", "compiled"])
def test_what_is_cut_again_and_again_ends_when_it_must(engine):
    # 2,000 s of kernels, and the visits' 0.5 B each: visits are over before the kernels are
    program, position = interrupted()
    end = run(program, engine).end[position]
    assert end[KERNELS - 1] == pytest.approx(KERNELS + 0.5 * VISITS, rel=1e-12)
    assert end[-1] == pytest.approx(VISITS * 10.25, rel=1e-12)


def test_what_is_cut_was_not_reckoned_to_the_end_of_the_step(monkeypatch):
    """Else a step twice as deep takes four times as long: ZeRO-3's of 2,000 layers did."""
    asked = []
    rate_alone = lookahead.rate_alone
    monkeypatch.setattr(lookahead, "rate_alone", lambda *a: asked.append(1) or rate_alone(*a))
    program, _ = interrupted()
    run(program, "python")
    assert len(asked) < KERNELS + 2 * VISITS * lookahead.LONGEST_RUN
