"""Folding: equal ranks, resources and demands, found by colour refinement.

Colours are refined until the partition is equitable: any two members of a class see the same
classes, equally often and with the same amounts. Max-min rates are then equal in a class, and the
quotient system (one row and one resource a class, demands multiplied) has exactly these rates.

Source: Grohe, Kersting, Mladenov, Selman, "Dimension reduction via colour refinement" (2014).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.fabric.traffic import summed
from sim.fabric.wiring import Wiring

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
I4 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint64]


_SAMPLE = 1024  # values that are looked at first
_BLOCK = 1 << 18  # edges that are looked at together: what is worked out of them stays in the cache
_VERTICES = 1 << 15  # that have changed, likewise
_ROUNDS = 3  # over all edges, before they are put in the order of their vertices


class Fold(NamedTuple):
    """A system of demand rows over resources, and its quotient."""

    row_class: I8  # (n_rows,)
    row_first: I8  # (n_classes,) first member of each class
    row_count: I8  # (n_classes,) members
    resource_class: I8  # (n_resources,) -1 where no row asks for it
    resource_count: I8  # (k,)
    capacity: F8  # (k,) of one member
    ptr: I8  # (n_classes+1,) CSR of the quotient, a row per class
    resource: I8  # class of resources
    amount: F8  # demand of all members of the row class on one member of the resource class

    def spread(self, resource: I8, amount: F8, equal: int) -> tuple[I8, F8]:
        """What so many equal rows demand together of classes of resources, by what one demands.

        Returns
        -------
        resource, amount : (k,) int64, (k,) float64
            Classes, in order, and the demand on one member of each.
        """
        found, total = summed([(self.resource_class[resource], amount * equal)])
        kept = total != 0.0
        return found[kept], total[kept] / self.resource_count[found[kept]]


def _mix(x: U8) -> U8:
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
    # 10^7 at times
    short = [np.asarray(column, np.int32) for column in (tail, head, codes_of(weight))]
    now, tails, heads, codes = _told_by_singles(codes_of(colour), *short)
    labels = [_mix(_labels(np.arange(codes.max(initial=-1) + 1), end)) for end in (0, 1)]
    every = np.arange(len(now))
    for _ in range(_ROUNDS):
        seen = np.zeros(len(now), np.uint64)
        key = _key(now)
        for start in range(0, len(tails), _BLOCK):
            at = slice(start, start + _BLOCK)
            here_there = tails[at], heads[at]
            for here, there, label in zip(here_there, here_there[::-1], labels, strict=True):
                np.add.at(seen, here, _mix(key[there] ^ label[codes[at]]))
        colours = _Colours(now, seen)
        changed, before = colours.split(every)
        if not changed.size:
            return now
    sides = [_Side.of(*ends, codes, len(now)) for ends in ((tails, heads), (heads, tails))]
    while changed.size:
        # those that they are seen by, and what those see now and saw
        asked = np.zeros(len(now), np.bool_)
        for start in range(0, changed.size, _VERTICES):
            some, was = (column[start : start + _VERTICES] for column in (changed, before))
            for side, label in zip(sides, reversed(labels), strict=True):
                edges, of = _entries(side.ptr, some)
                there, code = side.there[edges], label[side.code[edges]]
                new, old = _key(now[some])[of], _key(was)[of]
                np.add.at(seen, there, _mix(new ^ code) - _mix(old ^ code))
                asked[there] = True
        changed, before = colours.split(np.flatnonzero(asked))
    return now


def _entries(ptr: I8, rows: I8) -> tuple[I8, I8]:
    """Places of the entries of some rows of a CSR table, and which of those rows each is of."""
    counts = ptr[rows + 1] - ptr[rows]
    of = np.repeat(np.arange(rows.size), counts)
    ahead = np.cumsum(counts) - counts
    return np.arange(of.size) + (ptr[rows] - ahead)[of], of


class _Side(NamedTuple):
    """Edges by the vertex at one of their ends."""

    ptr: I8  # (n+1,)
    there: I4  # the vertex at the other end
    code: I4  # of the weight

    @classmethod
    def of(cls, here: I4, there: I4, code: I4, n: int) -> _Side:
        order = np.argsort(here, kind="stable")
        ptr = np.concatenate([[0], np.cumsum(np.bincount(here, minlength=n))])
        return cls(ptr, there[order], code[order])


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
    return _mix(colour.astype(np.uint64) + np.uint64(1))


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
        label = _mix(_labels(codes[at], end))
        np.add.at(said, here[at], _mix(_mix(now[there[at]].astype(np.uint64)) ^ label))
    left = np.flatnonzero(~(alone[tail] | alone[head]))
    return codes_of(said), tail[left], head[left], codes[left]


def _first_order(colour: I8) -> tuple[I8, I8, I8]:
    """Renumber colours 0..k-1 by first appearance; first member and size of each."""
    first = np.empty(int(colour.max(initial=-1)) + 1, np.int64)
    first[colour[::-1]] = np.arange(len(colour) - 1, -1, -1)  # of equal places the last one stays
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[colour], first[order], np.bincount(colour, minlength=len(order))[order]


def fold(
    capacity: F8,
    ptr: I8,
    resource: I8,
    amount: F8,
    colour: npt.ArrayLike | None = None,
    ties: tuple[I8, I8] | None = None,
) -> Fold:
    """Fold demand rows over resources into classes.

    Parameters
    ----------
    capacity : (n_resources,) float64
        Of every resource. [unit/s]
    ptr : (n_rows+1,) int64
        CSR pointer of the rows.
    resource, amount : (ptr[-1],) int64, float64
        Resource, and demand on it per unit of the row's work.
    colour : (n_rows,) array, optional
        Rows of different colour are never folded: bound, weight, kind of op.
    ties : pair of (m,) int64, optional
        Rows that belong together other than by resources (a rank and the collectives it takes part
        in), as pairs row, row.

    Returns
    -------
    Fold
        Classes and quotient. A max-min solve of the quotient, with each row class standing as one
        flow of its members' common rate, gives every member's rate.
    """
    n_rows, sizes = len(ptr) - 1, np.diff(ptr)
    start = np.zeros(n_rows, np.int64) if colour is None else codes_of(colour)
    # a row that is like no other can't be split: what it says of its resources it says once
    alone = (np.bincount(start) == 1)[start]
    single = np.flatnonzero(alone).tolist()
    kept = np.repeat(~alone, sizes) if single else slice(None)
    others, amounts = resource[kept], amount[kept]
    told = np.zeros(len(capacity), np.uint64)
    asked = np.zeros(len(capacity), np.bool_)
    for row in single:
        at = slice(ptr[row], ptr[row + 1])
        asked[resource[at]] = True
        said = _mix(np.asarray(amount[at], float).view(np.uint64))
        np.add.at(told, resource[at], _mix(said + np.uint64(start[row] + 1)))
    shared = np.zeros(len(capacity), np.bool_)
    shared[others] = True
    used = np.flatnonzero(asked | shared)
    kinds = codes_of(_mix(told[used]) + np.asarray(capacity[used], float).view(np.uint64))
    left = shared[used]
    place = (np.cumsum(shared) - 1 + n_rows).astype(np.int32)
    tail = np.repeat(np.arange(n_rows, dtype=np.int32)[~alone], sizes[~alone])
    head, weight = place[others], codes_of(amounts)
    if ties is not None:
        tail, head = (
            np.concatenate([ends, tied.astype(np.int32)])
            for ends, tied in zip((tail, head), ties, strict=True)
        )
        weight = np.concatenate([weight, np.full(len(ties[0]), -1)])
    above = kinds[left] + (int(start.max(initial=0)) + 1)
    refined = refine(np.concatenate([start, above]), tail, head, weight)
    row_class, row_first, row_count = _first_order(codes_of(refined[:n_rows]))
    kinds[left] = refined[n_rows:] + len(used)  # told apart from those that single rows alone ask
    kinds, resource_first, resource_count = _first_order(codes_of(kinds))
    resource_class = np.full(len(capacity), -1, np.int64)
    resource_class[used] = kinds
    # of a class of rows one says what all demand; spread over a class of resources
    entries, of = _entries(ptr, row_first)
    cell = of * len(resource_first) + resource_class[resource[entries]]
    cells, total = summed([(cell, amount[entries] * row_count[of])])
    cells, total = cells[total != 0.0], total[total != 0.0]
    row, column = np.divmod(cells, max(len(resource_first), 1))
    return Fold(
        row_class,
        row_first,
        row_count,
        resource_class,
        resource_count,
        capacity[used[resource_first]],
        np.searchsorted(row, np.arange(len(row_first) + 1)),
        column,
        total / resource_count[column],
    )


def codes_of(values: npt.ArrayLike) -> I8:
    """Each value's place among those that there are, in order.

    There are few, as a rule, so that to look them up is quicker than to sort all.
    """
    column = np.asarray(values)
    known = np.unique(column[:: 1 + column.size // _SAMPLE])
    codes = np.searchsorted(known, column)
    missed = known[np.minimum(codes, known.size - 1)] != column if column.size else codes
    if missed.any():
        known = np.unique(np.concatenate((known, column[missed])))
        codes = np.searchsorted(known, column)
    return codes.astype(np.int64, copy=False)


def classes_of_ranks(fabric: Wiring) -> I8:
    """Classes of ranks under colour refinement of the machine's graph.

    Parameters
    ----------
    fabric : Wiring
        Compiled machine.

    Returns
    -------
    (n_ranks,) int64
        Numbered by first appearance. Links are alike by kind, rates and latency; vertices by kind,
        GPU model and the capacities of their memories.
    """
    kinds = ("gpu", "nvswitch", "pcie-switch", "cpu", "nic", "switch")
    models: dict[object, int] = {}
    colour: list[tuple[int, int, float]] = []
    vertex_base: list[int] = []
    gpus: list[int] = []
    tails: list[int] = []
    heads: list[int] = []
    ids: list[int] = []
    for n, shape in enumerate(fabric.shapes):
        base = len(colour)
        vertex_base.append(base)
        specs = dict(zip(shape.gpus, shape.gpu_specs, strict=True))
        own = {c: shape.own[i].capacity for i, c in enumerate(shape.cpus)}
        for v, kind in enumerate(shape.kinds):
            model = models.setdefault(specs[v], len(models)) if v in specs else -1
            colour.append((kinds.index(kind), model, own.get(v, 0.0)))
        gpus += [base + g for g in shape.gpus]
        tails += [base + e.tail for e in shape.links]
        heads += [base + e.head for e in shape.links]
        first = int(fabric.node_base[n])
        ids += range(first, first + len(shape.links))
    plane = fabric.plane
    ports = [vertex_base[n] + fabric.shapes[n].nics[j] for n, j in plane.owner.tolist()]
    ends = ports + list(range(len(colour), len(colour) + len(plane.names)))
    colour += [(kinds.index("switch"), -1, 0.0)] * len(plane.names)
    tails += [ends[a] for a in plane.tail.tolist()]
    heads += [ends[b] for b in plane.head.tolist()]
    ids += range(plane.base, fabric.n_resources)
    codes = {c: i for i, c in enumerate(sorted(set(colour)))}
    link = np.array(ids, np.int64)
    columns = (fabric.capacity, fabric.raw, fabric.latency, fabric.kind)
    weight = np.zeros(len(link), np.int64)
    for column in columns:
        weight = weight * (len(link) + 1) + codes_of(column[link])
        weight = codes_of(weight)
    ends_of = np.array(tails, np.int64), np.array(heads, np.int64)
    refined = refine(np.array([codes[c] for c in colour]), *ends_of, weight)
    return _first_order(codes_of(refined[np.array(gpus, np.int64)]))[0]
