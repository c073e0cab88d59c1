"""Engines: `run(program)` says when each op of a program starts and ends.

Three engines, one meaning: `reference` defines it (SimPy), `python` is the fast loop as it is,
`compiled` the same loop as machine code, bit for bit. None of them imports numba or SimPy before it
is needed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sim.choices import CHOICES
from sim.engine import account, kernel, objects
from sim.engine.state import State, parted, prepare
from sim.errors import EngineError
from sim.program import Program, Timeline, check_acyclic

# Measured in bench (CPU time): the plain loop does about 0.3 M ops a second; loading the compiled
# one takes 0.003 s, compiling it, `account` and `losses` 12 s, once after installation.
OPS_PER_SECOND = 300_000
LOADING_S = 0.003
COMPILING_S = 12.0

_plain_s = 0.0  # what the plain loop has cost this process so far


def run(
    program: Program, engine: str = "auto", progress: Callable[[int, int], None] | None = None
) -> Timeline:
    """Simulate a program.

    Parameters
    ----------
    program : Program
        From `sim.program.assemble`, or a stack of programs, which run in one call.
    engine : {"auto", "reference", "python", "compiled"}
        Auto takes the plain loop for small programs, and the compiled one for large or many ones,
        or where it is loaded already.
    progress : callable, optional
        Of a large program, compiled, called now and then with ops that have ended, and with all.

    Returns
    -------
    Timeline
        The same from every engine, to rounding; from "python" and "compiled" to the bit.

    Raises
    ------
    EngineError
        If ops wait for each other, or a time or rate leaves the range of floats.
    """
    if engine == "auto":
        engine = choose(program)
    if engine == "compiled":
        from sim.engine import compiled

        outcomes, timeline = compiled.play(program, progress)
        for i, said in enumerate(outcomes):
            if said[0] != kernel.DONE or said[2] < program.lane.size:
                _check(program.row(i), compiled.outcome(said))
        return timeline
    if program.stack:
        return _stacked([run(program.row(i), engine) for i in range(program.stack)])
    if engine == "reference":
        from sim.engine import reference

        return reference.run(program)
    if engine != "python":
        message = f"no engine {engine!r}; there are {', '.join(CHOICES['EngineName'])}"
        raise EngineError(message)
    began = time.process_time()
    columns: Any = _Lists(program)
    state: Any = _Lists(prepare(program))
    status = kernel.simulate(columns, state)
    start, end = parted(np.array(state.times, dtype=float))
    global _plain_s
    _plain_s += time.process_time() - began
    _check(program, status)
    return Timeline(start, end, status[4], status[5])


def _stacked(lines: list[Timeline]) -> Timeline:
    start, end = (np.stack([getattr(line, name) for line in lines]) for name in ("start", "end"))
    events, solves = (np.array([getattr(t, name) for t in lines]) for name in ("events", "solves"))
    return Timeline(start, end, events, solves)


def choose(program: Program) -> str:
    """Engine that should finish first, by the program's size and what this process has run.

    As with renting or buying skis: the plain loop, until it has cost as much as the other would.
    """
    if "sim.engine.compiled" in sys.modules:
        return "compiled"
    ops = (program.lane.size + int((program.steps - 1).sum())) * max(program.stack, 1)
    plain_s = _plain_s + ops / OPS_PER_SECOND
    if plain_s < LOADING_S or (plain_s < COMPILING_S and not _kept()):
        return "python"
    return "compiled"


def _kept() -> bool:
    loop = (kernel.simulate, *kernel.PARTS), (Program, State)
    both = loop, ((account.account,), (account.Watched, account.Sums))
    return all(os.path.exists(objects.kept_at(objects.source_of(*each))) for each in both)


class _Lists:
    """Columns as lists, which plain Python reads and writes twice as fast.

    An attribute is found in a tenth of the time that a named tuple's takes.
    """

    def __init__(self, columns: Program | State) -> None:
        for name, column in columns._asdict().items():
            setattr(self, name, column.tolist() if isinstance(column, np.ndarray) else column)


def check_numbers(status: kernel.Outcome) -> None:
    """Raise where a run has left the range of floats."""
    code, op, _, now = status[:4]
    if code == kernel.NO_RATE:
        message = f"op {op} at {now} s: its rate is too small for a float"
        raise EngineError(message)
    if code == kernel.NOT_FINITE:
        message = f"op {op} after {now} s: its end is too far off for a float"
        raise EngineError(message)


def _check(program: Program, status: kernel.Outcome) -> None:
    check_numbers(status)
    finished, now = status[2:4]
    if finished < program.lane.size:
        check_acyclic(program)
        message = f"stuck at {now} s with {program.lane.size - finished} ops to go, without a cycle"
        raise EngineError(message)
