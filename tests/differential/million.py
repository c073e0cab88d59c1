"""So many random programs through three engines, once: not a test of every day.

    python -m tests.differential.million --programs 1000000 [--first 0]

Program i is the one that `random.Random(i)` makes; every second one has nothing to contend for, and
has to be equal to the bit in all three. A line every 10,000; stops at the first that differs, and
says its number. Several processes with other numbers of `--first` share the work.
"""

from __future__ import annotations

import argparse
import sys
import time
from random import Random

from sim.engine import run
from tests.differential.programs import random_program
from tests.differential.sameness import same_bits, same_meaning, same_run


def check(number: int) -> int:
    """Hold one program against itself in three engines; its number of ops."""
    contended = number % 2 == 0
    program = random_program(Random(number), contended)
    reference, plain, compiled = (run(program, e) for e in ("reference", "python", "compiled"))
    same_run(plain, compiled)
    if contended:
        same_meaning(reference, plain)
    else:
        same_bits(reference, plain)
        assert reference.events == plain.events
    return int(program.lane.size)


def main() -> int:
    """Check a stretch of programs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--programs", type=int, default=100_000)
    options.add_argument("--first", type=int, default=0)
    given = options.parse_args()
    ops, start = 0, time.process_time()
    last = given.first + given.programs
    for number in range(given.first, last):
        try:
            ops += check(number)
        except AssertionError as error:
            print(f"program {number} differs: {error}")
            return 1
        if (number + 1) % 10_000 == 0 or number + 1 == last:
            done = number + 1 - given.first
            print(f"{done:,} equal, {ops:,} ops, {time.process_time() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
