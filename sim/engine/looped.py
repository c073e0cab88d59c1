"""Functions over columns beside the engine's loop: machine code where it is, else plain Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sim.engine.machine import MachineCode


class Looped:
    """A function that calls nothing, of what is looked at and of room to find sums in.

    Parameters
    ----------
    function : callable
        Of one `columns` and one `room`, with arrays or with lists in them; returns two numbers.
    columns, room : types
        Named tuples whose fields are annotated as ``F8``, ``I4`` (arrays of one axis) or ``int``.
        The first of a `room` are the sums, which are zeros at first; the rest is left as it was
        found, or is written before it is read.
    """

    def __init__(self, function: Callable[..., Any], columns: type, room: type) -> None:
        self.function, self.kinds = function, (columns, room)

    def __call__(self, columns: Any, room: Any, calls: int) -> None:
        """Fill the sums of some calls, (calls, sums).

        Columns with a leading axis have a row a call; so have numbers that are arrays.
        """
        if "sim.engine.compiled" in sys.modules:  # it pays, or somebody wants it
            from sim.engine.machine import checked, table

            if not checked():
                self.machine(table((*columns, *room), self.machine.like, calls))
                return
        sums, *rest = room
        zeros = [0.0] * sums.shape[-1]
        lists = self.kinds[1](zeros[:], *(column.tolist() for column in rest))
        for i in range(calls):
            lists[0][:] = zeros
            self.function(self._row(columns, i), lists)
            sums[i] = lists[0]

    @cached_property
    def machine(self) -> MachineCode:
        """It as machine code."""
        from sim.engine.machine import MachineCode

        return MachineCode(self.function, self._like, 2)

    @cached_property
    def _like(self) -> tuple[Any, ...]:
        """Arguments of one call."""
        like = {"F8": np.zeros(1), "I4": np.zeros(1, dtype=np.int32), "int": 0}

        def made(of: Any) -> Any:
            names = [kind.partition(" ")[0] for kind in of.__annotations__.values()]
            return of(*(like[name] for name in names))

        return tuple(map(made, self.kinds))

    def _row(self, columns: Any, i: int) -> Any:
        """One call's, as lists."""

        def one(column: Any, like: Any) -> Any:
            if not isinstance(column, np.ndarray):
                return column
            return (column[i] if column.ndim > np.ndim(like) else column).tolist()

        return self.kinds[0](*map(one, columns, self._like[0]))
