"""The kernel as machine code: bit for bit what the plain loop says."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from sim.engine import kernel, watch
from sim.engine.blank import blank_of, skeleton_kept
from sim.engine.machine import OPTIONS, MachineCode, checked, table, teach
from sim.engine.state import State, parted, prepare
from sim.program import F8, Program, Timeline, assemble

_LIKE = assemble(lane=[0], latency=1.0)[0]
_EVERY = 64  # op is looked at, to see how far a run is
machine = MachineCode(kernel.simulate, (_LIKE, prepare(_LIKE)), 6, kernel.PARTS)


def simulate(program: Program, state: State) -> kernel.Outcome:
    """Run the compiled kernel; see `sim.engine.kernel.simulate`."""
    plain = _plain(program)
    if checked():
        return _dispatched(plain, state)
    return outcome(machine(table((*plain, *state), machine.like, 1))[0])


def play(
    program: Program, progress: Callable[[int, int], None] | None = None
) -> tuple[F8, Timeline]:
    """Run the compiled kernel on a program, or on those of a stack in one call.

    Parameters
    ----------
    program : Program
        What to run. While a large one runs interrupts are heard.
    progress : callable, optional
        Of a large one called now and then with ops that have ended, and with all of them.

    Returns
    -------
    (programs, 6) float64
        Of each what `outcome` takes.
    Timeline
        Of the program, or with a row a program.
    """
    program, count = _plain(program), program.stack
    blank = None if checked() else blank_of(program)
    if blank is not None:
        memory = blank.fresh(program)
        said = machine(blank.table(program, memory))
        start, end = parted(blank.column(memory, "times"))
    elif count:
        each = [play(program.row(i)) for i in range(count)]
        said = np.concatenate([one for one, _ in each])
        start, end = (np.stack([getattr(t, name) for _, t in each]) for name in ("start", "end"))
    else:
        state = prepare(program, skeleton_kept(program))
        said = np.array([_watched(program, state, progress)], dtype=float)
        start, end = parted(state.times)
    events, solves = said[:, 4].astype(int), said[:, 5].astype(int)
    if count:
        return said, Timeline(start, end, events, solves)
    return said, Timeline(start, end, int(events[0]), int(solves[0]))


def _watched(
    program: Program, state: State, progress: Callable[[int, int], None] | None
) -> kernel.Outcome:
    """`simulate`; in a thread where it takes long."""
    n, some = program.lane.size, state.times[1 :: 2 * _EVERY]
    if n < watch.LARGE or checked():
        return simulate(program, state)

    machine.load()

    def look() -> None:
        if progress is not None:
            progress(min(n, _EVERY * int(np.count_nonzero(some > 0.0))), n)

    return watch.watched(lambda: simulate(program, state), look)


def outcome(said: F8) -> kernel.Outcome:
    """What the kernel returned, (6,)."""
    code, op, finished, now, events, solves = said.tolist()
    return int(code), int(op), int(finished), now, int(events), int(solves)


def _dispatched(program: Program, state: State) -> kernel.Outcome:
    """The kernel as numba runs it when told to check, or not to compile."""
    with np.errstate(all="ignore"):  # not compiled, numpy would warn where numba does not
        found: kernel.Outcome = _jitted()(program, state)
    return found


@cache
def _jitted() -> Any:
    from numba import njit

    for part in kernel.PARTS:
        teach(part)
    return njit(**OPTIONS)(kernel.simulate)


def _plain(program: Program) -> Program:
    """The program with columns whose rows lie in one piece, and may be written."""
    if all(c.flags.carray for c in program[:-1]):  # the last is n_lanes
        return program
    columns: dict[str, Any] = {
        name: np.require(column, requirements=("C", "A", "W"))
        for name, column in program._asdict().items()
        if name != "n_lanes"
    }
    return program._replace(**columns)
