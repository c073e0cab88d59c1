"""How `million` tells rounding from a fault, where rates lie nine orders apart."""

from __future__ import annotations

from random import Random

import pytest

from sim.engine import run
from tests.differential.million import as_conditioned, check
from tests.differential.programs import random_program

# An op of 1e9 at 1e9 a second has 2.4e-7 too much left by rounding, and goes on at 0.38 a second;
# two nanoseconds after 11 s are known to a millionth, and at 3e8 a second that is work.
BADLY_CONDITIONED = (3_191_984, 3_308_564)


@pytest.mark.parametrize("number", BADLY_CONDITIONED)
def test_what_rounding_of_the_inputs_moves_as_far_is_equal(number: int) -> None:
    ops, exactly = check(number)
    assert ops > 0
    assert not exactly


@pytest.mark.parametrize("number", [2, *BADLY_CONDITIONED])
def test_a_millionth_that_nothing_explains_is_a_difference(number: int) -> None:
    program = random_program(Random(number))
    timeline = run(program, "reference")
    assert as_conditioned(program, timeline, timeline)
    assert not as_conditioned(program, timeline, timeline._replace(end=timeline.end * (1 + 1e-6)))
