"""What runs of one program after another start with, where only numbers differ.

Most of `prepare` depends on which ops there are and what waits for what. Where a program has the
very columns of one that ran before (`sim.program.revalue` keeps them), its state is a copy of the
first one's, in one piece of memory.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np

from sim.engine.state import State, ahead, kinds, prepare
from sim.program import I8, Program

MOST = 32  # structures that are kept
MOST_OPS = 100_000  # of larger ones a run takes so long that its state does not matter

_STRUCTURE = (
    "lane", "route", "succ_ptr", "succ", "hold_resource", "hold_until", "steps", "peer", "follower",
)  # fmt: skip
_structure = attrgetter(*_STRUCTURE)
#: columns of a state that are not in its memory
_APART = ("curves", "curve_width", "n_ready")
_ALIGNED = 64  # [B]
# places among the columns of a program, and after them those of a state
_CHANGING = [
    (name, i)
    for i, name in enumerate(Program._fields)
    if name != "n_lanes" and name not in _STRUCTURE
]
_PROGRAM_CURVES = Program._fields.index("curves")
_CURVES = len(Program._fields) + State._fields.index("curves")


def address(column: np.ndarray) -> int:
    """Of an array's first element."""
    found: int = column.__array_interface__["data"][0]
    return found


def addresses(columns: tuple[Any, ...]) -> list[int]:
    """Columns as machine code takes them: an address, or the number itself."""
    return [address(c) if isinstance(c, np.ndarray) else c for c in columns]


def shapes(columns: tuple[Any, ...]) -> I8:
    """Sizes of the columns that are arrays, (n_columns, 2)."""
    found = [c.shape if isinstance(c, np.ndarray) else () for c in columns]
    return np.array([(*shape, 0, 0)[:2] for shape in found], dtype=np.int64)


class Blank:
    """The state that every run of a structure starts with."""

    def __init__(self, program: Program) -> None:
        self.structure = _structure(program)
        self.demand_ptr = program.demand_ptr
        self.sizes = _sizes(program)
        self.shape = state = prepare(program)
        self.names = tuple(name for name in State._fields if name not in _APART)
        self._places = [len(Program._fields) + State._fields.index(name) for name in self.names]
        columns = [np.ascontiguousarray(getattr(state, name)) for name in self.names]
        ends = np.cumsum([-(-column.nbytes // _ALIGNED) * _ALIGNED for column in columns])
        self.offsets = np.concatenate(([0], ends[:-1]))
        self._memory = np.zeros(int(ends[-1]) // 8, dtype=np.float64)
        for column, offset in zip(columns, self.offsets.tolist(), strict=True):
            _at(self._memory, offset, column)[:] = column
        self._ahead = ahead(program, state.release_ptr)
        first = (*program, *state)
        self._arguments, self._shapes = addresses(first), shapes(first)

    def arguments(self, program: Program, memory: np.ndarray) -> tuple[list[int], I8]:
        """What the compiled kernel is called with: addresses or values, and `shapes`."""
        arguments, sizes = self._arguments.copy(), self._shapes.copy()
        for name, i in _CHANGING:
            arguments[i] = address(getattr(program, name))
        places = (self.offsets + address(memory)).tolist()
        for i, place in zip(self._places, places, strict=True):
            arguments[i] = place
        arguments[_CURVES] = address(program.curves)
        arguments[_CURVES + 1] = program.curves.shape[1]
        sizes[_PROGRAM_CURVES] = program.curves.shape
        sizes[_CURVES, 0] = program.curves.size
        return arguments, sizes

    def fits(self, program: Program) -> bool:
        """Whether a program differs from the first in numbers only."""
        return (
            _same(self.structure, _structure(program))
            and self.sizes == _sizes(program)
            and np.array_equal(self.demand_ptr, program.demand_ptr)
        )

    def fresh(self, program: Program) -> np.ndarray:
        """Memory of a run, in which columns of the state stand at `offsets`."""
        memory = self._memory.copy()
        self.column(memory, "kind")[:] = kinds(program, *self._ahead)
        self.column(memory, "left")[:] = program.hold_capacity
        return memory

    def column(self, memory: np.ndarray, name: str) -> np.ndarray:
        """A column of the state in some memory."""
        like = getattr(self.shape, name)
        return _at(memory, int(self.offsets[self.names.index(name)]), like)


def _same(some: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> bool:
    return all(mine is its for mine, its in zip(some, other, strict=True))


def _at(memory: np.ndarray, offset: int, like: np.ndarray) -> np.ndarray:
    first = offset // 8
    words = memory[first : first + -(-like.nbytes // 8)]
    return words.view(like.dtype)[: like.size]


def _sizes(program: Program) -> tuple[int, ...]:
    p = program
    return p.n_lanes, p.capacity.size, p.hold_capacity.size, p.demand_resource.size


_met: dict[int, Program | Blank] = {}  # by the id of the successors, which are held


def blank_of(program: Program) -> Blank | None:
    """The blank of a program's structure; None where it is met for the first time, or large."""
    if program.lane.size > MOST_OPS:  # nor is it held
        return None
    key = id(program.succ)
    found = _met.pop(key, None)
    if isinstance(found, Blank) and not found.fits(program):
        found = None
    elif isinstance(found, Program):
        known = _same(_structure(found), _structure(program))
        found = Blank(program) if known else None
    _met[key] = found or program  # the last used stands last
    if len(_met) > MOST:
        del _met[next(iter(_met))]
    return found
