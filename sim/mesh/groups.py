"""Equal groups of ranks, as a device mesh makes them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from sim.records import NamedTuple, dataclass

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Group = tuple[int, ...]
"""Ranks of one group, ascending."""

Dims = tuple[tuple[int, bool], ...]


@dataclass(frozen=True, slots=True)
class Groups:
    """Sister groups: equal groups that together hold every rank once and work at the same time.

    Attributes
    ----------
    dims : tuple of (int, bool)
        A box of ranks, outermost dimension first, the last varying fastest: how long each
        dimension is, and whether a group runs along it. Neighbours differ in the second, none is
        of length 1, so that equal groups are equal values.
    """

    dims: Dims

    @classmethod
    def along(cls, dims: Iterable[tuple[int, bool]]) -> Groups:
        """Groups along the dimensions marked true, of a box of ranks."""
        merged: list[tuple[int, bool]] = []
        for ranks, inside in dims:
            if ranks == 1:
                continue
            if merged and merged[-1][1] == inside:
                merged[-1] = (merged[-1][0] * ranks, inside)
            else:
                merged.append((ranks, inside))
        return cls(tuple(merged))

    @property
    def size(self) -> int:
        """Ranks in one group."""
        return prod(ranks for ranks, inside in self.dims if inside)

    @property
    def count(self) -> int:
        """How many sister groups there are."""
        return prod(ranks for ranks, inside in self.dims if not inside)

    @property
    def world(self) -> int:
        """Ranks in all."""
        return prod(ranks for ranks, _ in self.dims)

    def all(self) -> tuple[Group, ...]:
        """Every group, in the order of its first rank."""
        return _all(self.dims)

    def crosses(self, parts: int) -> bool:
        """Whether a group has ranks in several of `parts` equal runs of ranks."""
        ranks = self.world // parts
        first = self.of(0)
        return first[-1] // ranks != 0

    def rows(self, part: int, parts: int) -> npt.NDArray[np.int64]:
        """Those in one of `parts` equal runs of ranks, all where groups cross them.

        Returns
        -------
        (n, size) int64
            Ranks of each group, in the order of `all`.
        """
        import numpy as np  # inputs are checked without it

        box = np.arange(self.world).reshape([ranks for ranks, _ in self.dims])
        axes = range(len(self.dims))
        order = sorted(axes, key=lambda axis: self.dims[axis][1])
        found = box.transpose(order).reshape(self.count, self.size)
        if parts == 1 or self.crosses(parts):
            return found
        mine: npt.NDArray[np.int64] = found[found[:, 0] // (self.world // parts) == part]
        return mine

    def of(self, rank: int) -> Group:
        """The group that holds a rank."""
        own = self._offset(rank, inside=False)
        return tuple(own + step for step in _offsets(self.dims, inside=True))

    def place(self, rank: int) -> int:
        """Position of a rank in its group, from 0."""
        return _offsets(self.dims, inside=True).index(self._offset(rank, inside=True))

    def inner(self, size: int) -> Groups:
        """Each group cut into runs of `size` consecutive members.

        Raises
        ------
        ValueError
            If `size` does not divide the groups, or cuts across an axis.
        """
        return self._cut(size, inner=True)

    def outer(self, size: int) -> Groups:
        """Members at the same place of every run of `size` (see `inner`).

        Raises
        ------
        ValueError
            As `inner`.
        """
        return self._cut(size, inner=False)

    def _cut(self, size: int, *, inner: bool) -> Groups:
        left = size
        cut: list[tuple[int, bool]] = []
        for ranks, inside in reversed(self.dims):
            if not inside:
                cut.append((ranks, False))
                continue
            near = min(left, ranks)
            if near < 1 or left % near or ranks % near:
                break
            cut += [(near, inner), (ranks // near, not inner)]
            left //= near
        else:
            if left == 1:
                return Groups.along(reversed(cut))
        msg = f"groups of {size} do not divide {self.size} ranks"
        raise ValueError(msg)

    def _offset(self, rank: int, *, inside: bool) -> int:
        """The part of a rank's number that dimensions inside (or outside) groups contribute."""
        if not 0 <= rank < self.world:
            msg = f"rank {rank} is not one of {self.world}"
            raise ValueError(msg)
        found, stride = 0, 1
        for ranks, marked in reversed(self.dims):
            rank, digit = divmod(rank, ranks)
            found += digit * stride * (marked is inside)
            stride *= ranks
        return found


@dataclass(frozen=True, slots=True)
class Pairs:
    """Ranks of two pipeline stages that send to each other, at equal places in their stage.

    Attributes
    ----------
    first, second : int
        Stages in the order of the mesh. [1]
    stages : int
        How many there are. [1]
    ranks : int
        Ranks of one stage. [1]
    """

    first: int
    second: int
    stages: int
    ranks: int

    @property
    def size(self) -> int:
        """Ranks in one group."""
        return 2

    def all(self) -> tuple[Group, ...]:
        """Every pair."""
        a, b = self.first * self.ranks, self.second * self.ranks
        return tuple((a + i, b + i) for i in range(self.ranks))

    def as_far_apart(self) -> list[Pairs]:
        """Those of all stages that are as far from each other, the same way."""
        ahead = self.second - self.first
        starts = range(max(0, -ahead), self.stages - max(0, ahead))
        return [Pairs(start, start + ahead, self.stages, self.ranks) for start in starts]

    def crosses(self, parts: int) -> bool:
        """Always."""
        return True

    def rows(self, part: int, parts: int) -> npt.NDArray[np.int64]:
        """Every pair, (ranks, 2)."""
        import numpy as np

        ends = np.array([self.first, self.second]) * self.ranks
        return ends + np.arange(self.ranks)[:, None]


class Sisters(NamedTuple):
    """Sister groups among one of equal runs of ranks, a pipeline stage; all that cross them."""

    groups: Groups | Pairs
    part: int
    parts: int

    @classmethod
    def among(cls, groups: Groups | Pairs, part: int, parts: int) -> Sisters:
        """Those that such a part takes part in: equal for all parts that have the same."""
        return cls(groups, 0, 1) if groups.crosses(parts) else cls(groups, part, parts)

    def first(self) -> Group:
        """Ranks of the first."""
        return _first(self)

    def rows(self) -> npt.NDArray[np.int64]:
        """Ranks of each, (groups, ranks of one)."""
        return self.groups.rows(self.part, self.parts)

    def everywhere(self) -> list[Sisters]:
        """The same of every part, or between all stages as far apart; itself among them."""
        groups = self.groups
        if isinstance(groups, Pairs):
            return [self._replace(groups=pairs) for pairs in groups.as_far_apart()]
        if self.parts == 1 or groups.crosses(self.parts):
            return [self]
        return [self._replace(part=part) for part in range(self.parts)]


@lru_cache(maxsize=8)
def _first(sisters: Sisters) -> Group:
    """Kept, as each collective of a group is known by its ranks: 10 MiB of a large machine's."""
    return tuple(sisters.rows()[0].tolist())


@lru_cache(maxsize=256)
def _offsets(dims: Dims, *, inside: bool) -> tuple[int, ...]:
    """What the dimensions inside (or outside) groups add to a rank, ascending."""
    spans, stride = [], 1
    for ranks, marked in reversed(dims):
        if marked is inside:
            spans.append(range(0, ranks * stride, stride))
        stride *= ranks
    return tuple(map(sum, product(*reversed(spans))))


@lru_cache(maxsize=256)
def _all(dims: Dims) -> tuple[Group, ...]:
    steps = _offsets(dims, inside=True)
    return tuple(tuple([first + step for step in steps]) for first in _offsets(dims, inside=False))
