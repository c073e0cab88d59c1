"""What runs of one program after another start with, where only numbers differ.

Most of `prepare` depends on which ops there are and what waits for what. Where a program has the
very columns of one that ran before (`sim.program.revalue` keeps them), its state is a copy of the
first one's, in one piece of memory; programs of a stack have a copy each. Of a large program what
its structure alone says is kept instead, for as long as others have its columns.
"""

from __future__ import annotations

from operator import attrgetter
from weakref import ref

import numpy as np

from sim.engine.machine import I8, address, table
from sim.engine.state import COUNTS, Skeleton, State, prepare, skeleton_of
from sim.program import Program
from sim.records import NamedTuple

MOST = 600_000  # ops of all structures that are kept
MOST_OPS = 100_000  # of larger ones to copy a state takes as long as to set it up

_STRUCTURE = (
    "succ", "lane", "route", "succ_ptr", "hold_resource", "hold_until", "steps", "peer", "follower",
)  # fmt: skip
_structure = attrgetter(*_STRUCTURE)
#: columns of a state that are not in its memory
_APART = ("curves", *COUNTS)
_ALIGNED = 64  # [B]
# places among the columns of a program, and after them those of a state
_CHANGING = [
    (name, i)
    for i, name in enumerate(Program._fields)
    if name != "n_lanes" and name not in _STRUCTURE
]
_PROGRAM_CURVES = Program._fields.index("curves")
_CURVES, _CURVE_WIDTH = (
    len(Program._fields) + State._fields.index(name) for name in ("curves", "curve_width")
)


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
        self._first = table((*program, *state), (*program, *state), 1)
        #: the program that ran last by itself, and its table; the first may be a stack's, whose
        #: columns would stay for as long as it does
        self._last: tuple[Program | None, I8] = None, self._first

    def table(self, program: Program, memory: np.ndarray) -> I8:
        """Where columns of a program, or of those of a stack, and of their states are."""
        if not program.stack:
            return self._alone(program, memory)
        calls = program.stack
        at = np.repeat(self._first, calls, axis=0)
        each = np.arange(calls)
        for name, i in _CHANGING:
            column = getattr(program, name)
            at[:, i] = address(column)
            if program.stacked(name):
                at[:, i] += each * column.strides[0]
        starts = address(memory) + each * memory.strides[0]
        at[:, self._places] = starts[:, None] + self.offsets
        at[:, _CURVES] = at[:, _PROGRAM_CURVES]
        at[:, _CURVE_WIDTH] = program.curves.shape[-1]
        return at

    def _alone(self, program: Program, memory: np.ndarray) -> I8:
        """`table` of one program: a microsecond for each column that the last one had not."""
        last, at = self._last
        at = at.copy()  # a run in another thread may read the last one's
        for name, i in _CHANGING:
            if last is None or program[i] is not last[i]:
                at[0, i] = address(getattr(program, name))
        at[0, self._places] = address(memory) + self.offsets
        at[0, _CURVES] = at[0, _PROGRAM_CURVES]
        at[0, _CURVE_WIDTH] = program.curves.shape[-1]
        self._last = program, at
        return at

    def fits(self, program: Program) -> bool:
        """Whether a program differs from the first in numbers only."""
        return (
            _same(self.structure, _structure(program))
            and self.sizes == _sizes(program)
            and np.array_equal(self.demand_ptr, program.demand_ptr)
        )

    def fresh(self, program: Program) -> np.ndarray:
        """Memory of a run, or a row of it each, in which columns of the state are at `offsets`."""
        count = program.stack
        memory = np.tile(self._memory, (count, 1)) if count else self._memory.copy()
        self.column(memory, "left")[:] = program.hold_capacity
        return memory

    def column(self, memory: np.ndarray, name: str) -> np.ndarray:
        """A column of the state in some memory."""
        like = getattr(self.shape, name)
        return _at(memory, int(self.offsets[self.names.index(name)]), like)


def _same(some: tuple[np.ndarray | None, ...], other: tuple[np.ndarray, ...]) -> bool:
    return all(mine is its for mine, its in zip(some, other, strict=True))


def _at(memory: np.ndarray, offset: int, like: np.ndarray) -> np.ndarray:
    first = offset // 8
    words = memory[..., first : first + -(-like.nbytes // 8)]
    return words.view(like.dtype)[..., : like.size]


def _sizes(program: Program) -> tuple[int, ...]:
    p = program
    return p.n_lanes, p.capacity.shape[-1], p.hold_capacity.shape[-1], p.demand_resource.size


#: by structure, whose columns are held: of one that was met once these alone
_met: dict[tuple[object, ...], tuple[np.ndarray, ...] | Blank] = {}
_ops: dict[tuple[object, ...], int] = {}  # of each


def blank_of(program: Program) -> Blank | None:
    """The blank of a program's structure, or of a stack's.

    None where a program is the first of its structure, or large.
    """
    if program.lane.size > MOST_OPS:  # nor is it held
        return None
    key = (id(program.succ), program.demand_ptr.tobytes(), _sizes(program))
    found = _met.pop(key, None)
    if isinstance(found, Blank):
        found = found if found.fits(program) else None
    elif found is not None:
        known = _same(found, _structure(program))
        found = Blank(program.row(0)) if known else None
    if found is None and program.stack > 1:
        found = Blank(program.row(0))
    if key not in _ops:
        _ops[key] = program.lane.size
        while _met and sum(_ops.values()) > MOST:
            oldest = next(iter(_met))
            del _met[oldest], _ops[oldest]
    _met[key] = found or _structure(program)  # the last used stands last
    return found


class _Held(NamedTuple):
    """A skeleton, and the columns that it is of, which it does not keep alive."""

    columns: tuple[ref[np.ndarray], ...]
    sizes: tuple[int, ...]
    demand_ptr: np.ndarray
    skeleton: Skeleton


_skeletons: dict[int, _Held] = {}  # by where edges are; an entry goes with its edges


def skeleton_kept(program: Program) -> Skeleton:
    """`skeleton_of` a large program, worked out once for all that have its columns."""
    place = id(program.succ)
    held = _skeletons.get(place)
    if (
        held is not None
        and _same(tuple(column() for column in held.columns), _structure(program))
        and held.sizes == _sizes(program)
        and np.array_equal(held.demand_ptr, program.demand_ptr)
    ):
        return held.skeleton
    found = skeleton_of(program)
    first, *others = _structure(program)
    columns = (ref(first, lambda _: _skeletons.pop(place, None)), *map(ref, others))
    _skeletons[place] = _Held(columns, _sizes(program), program.demand_ptr, found)
    return found
