"""Advice is never followed by a warning of it: random jobs, every change that `run` offers made.

python -m bench.advised             # 200 jobs, what is refused or warned of
python -m bench.advised 40 7        # so many, from another seed
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bench.drawn import varied
from sim import simulate
from sim.errors import InputError
from sim.result.result import Result


class Tried(NamedTuple):
    """A change that was made: of which job, and what the tool says against it; "" where nothing."""

    machine: Mapping[str, Any]
    workload: Mapping[str, Any]
    change: Mapping[str, Any]
    said: str


def tried(count: int, seed: int) -> Iterator[Tried]:
    """Every change offered to so many jobs that pass the checks, made."""
    draw = random.Random(seed)
    while count:
        machine, workload = varied(draw)
        try:
            found = simulate(machine, workload, scaling=False)
        except InputError:
            continue
        count -= 1
        for fix in found.bottleneck.fixes:
            yield Tried(
                machine, workload, fix.change,
                against(machine, workload, found, fix.change, fix.verdict),
            )  # fmt: skip


def against(
    machine: Mapping[str, Any],
    workload: Mapping[str, Any],
    found: Result,
    change: Mapping[str, Any],
    verdict: str = "",
) -> str:
    """What is said of a change's own keys once it is made, that was not said of them before.

    Advice whose `verdict` is "at risk" has told that there is little room.
    """
    sets = [f"{key}={json.dumps(value)}" for key, value in change.items()]
    try:
        then = simulate(machine, workload, overrides=sets, scaling=False, fixes=False)
    except InputError as error:
        return str(error)
    before = {(w.code, w.path, w.message) for w in found.warnings}
    keys = [key.rpartition(".")[2] for key in change]
    said = [
        f"{w.path}: {w.message} [{w.code}]"
        for w in then.warnings
        if w.path.rpartition(".")[2] in keys
        and (w.code, w.path, w.message) not in before
        and (w.code, verdict) != ("allocator-retries", "at risk")
    ]
    return "; ".join(said)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began, made, wrong = time.process_time(), 0, 0
    for one in tried(count, seed):
        made += 1
        if one.said:
            wrong += 1
            print(f"{dict(one.change)}: {one.said}\n    {one.machine} {one.workload}")
    print(f"{count} jobs, {made} changes made, {wrong} refused or warned of", end=", ")
    print(f"{time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
