"""So many random programs through three engines, once: not a test of every day.

    python -m tests.differential.million --programs 1000000 [--first 0]

Program i is the one that `random.Random(i)` makes; every second one has nothing to contend for, and
has to be equal to the bit in all three. A line every 10,000; stops at the first that differs, and
says its number. Several processes with other numbers of `--first` share the work.

Rates of a program may lie nine orders apart: what rounding leaves of an op at 1e9 a second then
takes long at one a second, whoever reckons. Where the reference differs by more than 1e-9, it
must do so from itself, too, when latencies and works are changed by as little as a float holds
(`as_conditioned`).
"""

from __future__ import annotations

import argparse
import sys
import time
from random import Random

import numpy as np

from sim.engine import run
from sim.program import Program, Timeline
from tests.differential.programs import random_program
from tests.differential.sameness import same_bits, same_meaning, same_run

TRIALS = 16  # ways to round the inputs
TIMES = 4  # more than inputs of the last bit move: the engines round on the way, too


def check(number: int) -> tuple[int, bool]:
    """Hold one program against itself in three engines.

    Returns
    -------
    ops : int
    exactly : bool
        Whether the reference agrees to 1e-9, not just as far as the program determines its times.
    """
    contended = number % 2 == 0
    program = random_program(Random(number), contended)
    reference, plain, compiled = (run(program, e) for e in ("reference", "python", "compiled"))
    same_run(plain, compiled)
    exactly = True
    if contended:
        try:
            same_meaning(reference, plain)
        except AssertionError:
            if not as_conditioned(program, reference, plain):
                raise
            exactly = False
    else:
        same_bits(reference, plain)
        assert reference.events == plain.events
    return int(program.lane.size), exactly


def as_conditioned(program: Program, reference: Timeline, plain: Timeline) -> bool:
    """Whether two runs differ no more than the reference does under inputs of another last bit."""
    rng = np.random.default_rng(0)
    apart = np.zeros(program.lane.size)
    for _ in range(TRIALS):
        other = run(
            program._replace(
                latency=program.latency * rounded(rng, program.lane.size),
                work=program.work * rounded(rng, program.lane.size),
            ),
            "reference",
        )
        apart = np.maximum(
            apart, np.maximum(abs(other.start - reference.start), abs(other.end - reference.end))
        )
    allowed = TIMES * apart + 1e-9 * reference.end
    return bool(
        (abs(plain.start - reference.start) <= allowed).all()
        and (abs(plain.end - reference.end) <= allowed).all()
    )


def rounded(rng: np.random.Generator, n: int) -> np.ndarray:
    """Factors of one, or of the float below or above it."""
    return 1.0 + rng.integers(-1, 2, n) * np.finfo(float).eps


def main() -> int:
    """Check a stretch of programs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--programs", type=int, default=100_000)
    options.add_argument("--first", type=int, default=0)
    given = options.parse_args()
    ops, loose, start = 0, [], time.process_time()
    last = given.first + given.programs
    for number in range(given.first, last):
        try:
            size, exactly = check(number)
        except AssertionError as error:
            print(f"program {number} differs: {error}")
            return 1
        ops += size
        if not exactly:
            loose.append(number)
        if (number + 1) % 10_000 == 0 or number + 1 == last:
            done = number + 1 - given.first
            spent = time.process_time() - start
            print(
                f"{done:,} equal, {ops:,} ops, {spent:.0f} s; badly conditioned: {loose}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
