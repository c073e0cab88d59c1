"""The kernel jitted by numba: imported only where a program is worth it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from sim.engine import kernel
from sim.engine.state import State
from sim.program import Program

# No fastmath: results are bit-identical to plain Python. `_nrt=False` keeps reference counting
# out of the loop; division follows numpy (the kernel checks what could be zero).
OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}


def compile_kernel() -> Any:
    """The kernel jitted; kept for the next process where there is a place to keep it."""
    try:
        return njit(cache=True, **OPTIONS)(kernel.simulate)
    except RuntimeError:  # home and site-packages are read-only
        return njit(**OPTIONS)(kernel.simulate)


jitted: Any = compile_kernel()


def simulate(program: Program, state: State) -> kernel.Outcome:
    """Run the jitted kernel; see `sim.engine.kernel.simulate`."""
    # Read-only or strided columns would be other types to numba, each compiled anew.
    if not all(c.flags.carray for c in program[:-1]):  # the last is n_lanes
        columns: dict[str, Any] = {
            name: np.require(column, requirements=("C", "A", "W"))
            for name, column in program._asdict().items()
            if name != "n_lanes"
        }
        program = program._replace(**columns)
    with np.errstate(all="ignore"):  # with NUMBA_DISABLE_JIT numpy would warn where numba does not
        outcome: kernel.Outcome = jitted(program, state)
    return outcome
