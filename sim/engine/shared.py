"""Columns that classes of ranks share, read as if each had its own.

Such a column takes the place of an array in the kernel, which asks for ``column[op]`` as ever:
`sim.engine.machine` compiles `item` for it. Ops of class c are ``c * stride`` and on; those of the
wire follow the last class's and are a class of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

MOST = 1 << 30  # what is divided by a stride lies below


class StrideGrid(NamedTuple):
    """``i // stride``, but at most `last`, as a product and a shift."""

    magic: int
    shift: int
    last: int


def grid(stride: int, last: int) -> StrideGrid:
    """Division by a stride, exact below `MOST`.

    Notes
    -----
    m = floor(2^s / d) + 1 is above 2^s / d by e / d, 0 < e <= d: (i m) >> s is i // d while
    i e < 2^s, which s = 30 + bits of d sees to; i m stays below 2^62.
    """
    shift = 30 + stride.bit_length()
    return StrideGrid((1 << shift) // stride + 1, shift, last)


def class_at(i: Any, magic: int, shift: int, last: int) -> Any:
    """Class of op `i`, by a `StrideGrid`."""
    c = (i * magic) >> shift
    return c if c < last else last


class KindColumn(NamedTuple):
    """Values of kinds and of the wire: the same for all classes of a kind."""

    values: npt.NDArray[Any]
    first: I8  # (classes + 1,) what to subtract from an op to find its value
    magic: int
    shift: int
    last: int

    def item(self, i: Any) -> Any:
        """Of op `i`."""
        c = class_at(i, self.magic, self.shift, self.last)
        return self.values[i - self.first[c]]


class OwnColumn(NamedTuple):
    """Indices that count from each class's first, but for negative ones: there is none."""

    values: npt.NDArray[Any]
    first: I8
    plus: I8  # (classes + 1,) each one's first
    magic: int
    shift: int
    last: int

    def item(self, i: Any) -> Any:
        """Of op `i`."""
        c = class_at(i, self.magic, self.shift, self.last)
        value = self.values[i - self.first[c]]
        if value >= 0:
            value += self.plus[c]
        return value


class PacedColumn(NamedTuple):
    """Values of which some are multiplied by the pace of a class."""

    values: F8
    paced: npt.NDArray[np.uint8]
    first: I8
    pace: F8  # (classes + 1,)
    magic: int
    shift: int
    last: int

    def item(self, i: Any) -> Any:
        """Of op `i`."""
        c = class_at(i, self.magic, self.shift, self.last)
        at = i - self.first[c]
        value = self.values[at]
        if self.paced[at] != 0:
            value *= self.pace[c]
        return value


class LinkColumn(NamedTuple):
    """Ops that others name: of the same class, or, as -1, -2, ..., a class's collectives."""

    values: npt.NDArray[np.int32]
    first: I8
    plus: I8
    wire: npt.NDArray[np.int32]  # (classes * width,) ops on the wire
    width: int
    magic: int
    shift: int
    last: int

    def item(self, i: Any) -> Any:
        """The `i`-th of them."""
        c = class_at(i, self.magic, self.shift, self.last)
        value = self.values[i - self.first[c]]
        if value >= 0:
            return value + self.plus[c]
        return self.wire[c * self.width - 1 - value]


class SameColumn(NamedTuple):
    """One value for all. (A tuple of equal types would be read by position.)"""

    value: int
    nothing: npt.NDArray[np.int8]

    def item(self, i: Any) -> Any:
        """Of any."""
        return self.value


def same(value: int) -> Any:
    """One value for all, in place of an array."""
    return SameColumn(value, np.zeros(0, dtype=np.int8))
