"""Colour refinement: which vertices of a weighted graph nothing tells apart.

Source: Grohe, Kersting, Mladenov, Selman, "Dimension reduction via colour refinement" (2014).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

I8 = npt.NDArray[np.int64]
I4 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint64]


_SAMPLE = 1024  # values that are looked at first
_BLOCK = 1 << 18  # what is looked at together: what is worked out of it stays in the cache
_VERTICES = 1 << 15  # that have changed, likewise
_ROUNDS = 3  # over all edges, before those of vertices that have changed are looked for
_LOOKS = 8  # through all edges for them, before they are put in order
_WORTH = 0.9  # of the edges: if more are left, taking the others out costs more than it spares


def mixed(x: U8) -> U8:
    """Scramble 64-bit words (splitmix64), so that sums of them tell multisets apart."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def refine(colour: npt.ArrayLike, tail: I8 | I4, head: I8 | I4, weight: npt.ArrayLike) -> I8:
    """Coarsest equitable refinement of a colouring of a weighted directed graph.

    Parameters
    ----------
    colour : (n,) array
        Initial colours, any sortable values.
    tail, head : (m,) int64 or int32
        Ends of the edges; both ends see an edge, and which end they are.
    weight : (m,) array
        Any sortable values; edges are alike only if these are equal.

    Returns
    -------
    (n,) int64
        Colours 0..k-1.

    Notes
    -----
    Neighbourhoods are told apart by sums of scrambled 64-bit words: two different ones are taken
    for equal with a chance near 2^-64 a pair.
    """
    tails, heads = np.asarray(tail, np.int32), np.asarray(head, np.int32)
    return refined_by(colour, tails, heads, joint_codes([np.asarray(weight)]))


def refined_by(colour: npt.ArrayLike, tail: I4, head: I4, code: I4) -> I8:
    """`refine` by edges whose weights are codes from 0 on, (m,) int32 each: 10^7 at times."""
    now, tails, heads, codes = _told_by_singles(codes_of(colour), tail, head, code)
    labels = [mixed(_labels(np.arange(codes.max(initial=-1) + 1), end)) for end in (0, 1)]
    every = np.arange(len(now))
    for _ in range(_ROUNDS):
        seen = np.zeros(len(now), np.uint64)
        key = _key(now)
        for start in range(0, len(tails), _BLOCK):
            at = slice(start, start + _BLOCK)
            here_there = tails[at], heads[at]
            for here, there, label in zip(here_there, here_there[::-1], labels, strict=True):
                np.add.at(seen, here, mixed(key[there] ^ label[codes[at]]))
        colours = _Colours(now, seen)
        changed, before = colours.split(every)
        if not changed.size:
            return now
    sides = [_Side(here, there, len(now)) for here, there in ((tails, heads), (heads, tails))]
    while changed.size:
        # those that they are seen by, and what those see now and saw
        asked = np.zeros(len(now), np.bool_)
        new, old = _key(now[changed]), _key(before)
        for side, label in zip(sides, reversed(labels), strict=True):
            for edges, of in side.edges(changed):
                there, said = side.there[edges], label[codes[edges]]
                np.add.at(seen, there, mixed(new[of] ^ said) - mixed(old[of] ^ said))
                asked[there] = True
        changed, before = colours.split(np.flatnonzero(asked))
    return now


def entries_of(ptr: I8, rows: I8) -> tuple[I8 | slice, I8]:
    """Places of the entries of some rows of a CSR table, and which of those rows each is of."""
    counts = ptr[rows + 1] - ptr[rows]
    if rows.size == 1:
        return slice(int(ptr[rows[0]]), int(ptr[rows[0] + 1])), np.zeros(int(counts[0]), np.int64)
    of = np.repeat(np.arange(rows.size), counts)
    ahead = np.cumsum(counts) - counts
    return np.arange(of.size) + (ptr[rows] - ahead)[of], of


class _Side:
    """Edges by the vertex at one of their ends, (m,) int32 each: here, and there the other.

    They are looked through some times before they are put in order, which takes as long, and more
    memory than all else.
    """

    def __init__(self, here: I4, there: I4, n: int) -> None:
        self.here, self.there, self.n = here, there, n
        self._looks = 0

    def edges(self, vertices: I8) -> Iterator[tuple[I8, I8 | I4]]:
        """Edges of some vertices, and the place of each one's vertex among these."""
        self._looks += 1
        if self._looks > _LOOKS:
            ptr, order = self._in_order
            for start in range(0, vertices.size, _VERTICES):
                entries, of = entries_of(ptr, vertices[start : start + _VERTICES])
                yield order[entries], of + start
            return
        place = np.full(self.n, -1, np.int32)
        place[vertices] = np.arange(vertices.size)
        for start in range(0, self.here.size, _BLOCK):
            of_all = place[self.here[start : start + _BLOCK]]
            found = np.flatnonzero(of_all >= 0)
            if found.size:
                yield found + start, of_all[found]

    @functools.cached_property
    def _in_order(self) -> tuple[I8, I8]:
        ptr = np.concatenate([[0], np.cumsum(np.bincount(self.here, minlength=self.n))])
        return ptr, np.argsort(self.here, kind="stable")


class _Colours:
    """Colours of vertices, split by what the vertices see of their neighbours' colours.

    Only vertices that see something new are looked at: where a difference goes on through a machine
    from leaf to leaf, a round has few of them.
    """

    def __init__(self, now: I8, seen: U8) -> None:
        self.now, self.seen, self.count = now, seen, int(now.max(initial=-1)) + 1
        self.size = np.bincount(now, minlength=len(now))
        self.told = np.zeros(len(now), np.uint64)  # what a colour's vertices see, those not asked

    def split(self, asked: I8) -> tuple[I8, I8]:
        """Give new colours where some see something else than others of their colour.

        Returns
        -------
        changed, before : (m,) int64
            The vertices of a new colour, and their old one.
        """
        colour, seen = self.now[asked], self.seen[asked]
        part = codes_of(_key(colour) + seen)
        size = np.bincount(part)
        first = np.empty(size.size, np.int64)
        first[part] = np.arange(part.size)
        whose, sees = colour[first], seen[first]
        colours, of = np.unique(whose, return_inverse=True)
        left = self.size[colours] - np.bincount(of, size).astype(np.int64)  # not asked
        order = np.lexsort((size, of))
        most = np.zeros(size.size, np.bool_)
        most[order[np.flatnonzero(np.diff(of[order], append=-1))]] = True
        # the old colour stays with those not asked, or else with most
        stays = np.where(left[of] > 0, sees == self.told[whose], most)
        self.told[whose[stays]] = sees[stays]
        new = np.flatnonzero(~stays)
        number = np.full(size.size, -1)
        number[new] = np.arange(self.count, self.count + new.size)
        self.told[number[new]], self.size[number[new]] = sees[new], size[new]
        np.subtract.at(self.size, whose[new], size[new])
        self.count += new.size
        at = np.flatnonzero(number[part] >= 0)
        self.now[asked[at]] = number[part[at]]
        return asked[at], colour[at]


def _key(colour: I8) -> U8:
    return mixed(colour.astype(np.uint64) + np.uint64(1))


def _labels(codes: I8 | I4, end: int) -> U8:
    """Of edges of some weight, as a vertex at that end sees them."""
    return (2 * codes + end).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)


def _told_by_singles(now: I8, tail: I4, head: I4, codes: I4) -> tuple[I8, I4, I4, I4]:
    """Colours told apart by edges to vertices alone in their colour; those edges are then done.

    Such a vertex can't be split, and neither can what it says of the other end: a collective of
    the whole machine names every resource, which would else be looked at again in every round.
    """
    alone = (np.bincount(now) == 1)[now]
    if not alone.any():
        return now, tail, head, codes
    said = _key(now)
    for end, (here, there) in enumerate(((tail, head), (head, tail))):
        at = np.flatnonzero(alone[there] & ~alone[here])
        label = mixed(_labels(codes[at], end))
        np.add.at(said, here[at], mixed(mixed(now[there[at]].astype(np.uint64)) ^ label))
    left = ~(alone[tail] | alone[head])
    if np.count_nonzero(left) > _WORTH * left.size:  # what those few say again tells nobody apart
        return codes_of(said), tail, head, codes
    return codes_of(said), tail[left], head[left], codes[left]


def codes_of(values: npt.ArrayLike) -> I8:
    """Each value's place among those that there are, in order."""
    return joint_codes([np.asarray(values)]).astype(np.int64)


def distinct_of(values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Values in order, each once: `numpy.unique`, which imports masked arrays to know of none."""
    ordered = np.sort(np.asarray(values))
    return np.concatenate((ordered[:1], ordered[1:][ordered[1:] != ordered[:-1]]))


def joint_codes(columns: Sequence[npt.NDArray[Any]]) -> I4:
    """`codes_of` columns of one type, one behind the other.

    There are few values, as a rule, so that to look them up is quicker than to sort all.
    """
    size = sum(column.size for column in columns)
    sample = [column[:: 1 + column.size // _SAMPLE] for column in columns]
    known = distinct_of(np.concatenate(sample))
    codes = np.empty(size, np.int32)
    missed = _look_up(known, columns, codes)
    if missed:
        known = distinct_of(np.concatenate([known, *missed]))
        _look_up(known, columns, codes)
    return codes


def _look_up(
    known: npt.NDArray[Any], columns: Sequence[npt.NDArray[Any]], codes: I4
) -> list[npt.NDArray[Any]]:
    """Fill in places of values among those known; return the values that are not."""
    missed, at = [], 0
    for column in columns:
        for start in range(0, column.size, _BLOCK):
            some = column[start : start + _BLOCK]
            found = np.searchsorted(known, some)
            strange = known[np.minimum(found, known.size - 1)] != some
            if strange.any():
                missed.append(distinct_of(some[strange]))
            codes[at : at + some.size] = found
            at += some.size
    return missed
