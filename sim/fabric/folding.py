"""Folding: equal ranks, resources and demands, found by colour refinement.

Colours are refined until the partition is equitable: any two members of a class see the same
classes, equally often and with the same amounts. Max-min rates are then equal in a class, and the
quotient system (one row and one resource a class, demands multiplied) has exactly these rates.

Source: Grohe, Kersting, Mladenov, Selman, "Dimension reduction via colour refinement" (2014).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sim.fabric.refinement import codes_of, entries_of, joint_codes, mixed, refine, refined_by
from sim.fabric.traffic import summed
from sim.fabric.wiring import Wiring
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
I4 = npt.NDArray[np.int32]
B1 = npt.NDArray[np.bool_]

Csr = tuple[I8, I8, F8]
"""Rows of demands as CSR: pointer, (n_rows + 1,); resource and demand on it, a unit of work."""


_ENTRIES = 1 << 20  # of rows that are looked at together


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
    tables: Sequence[Csr],
    colour: npt.ArrayLike | None = None,
    ties: tuple[I8, I8] | None = None,
) -> Fold:
    """Fold demand rows over resources into classes.

    Parameters
    ----------
    capacity : (n_resources,) float64
        Of every resource. [unit/s]
    tables : sequence of Csr
        The rows, table after table.
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
    sizes = np.concatenate([np.diff(ptr) for ptr, _, _ in tables])
    n_rows = sizes.size
    start = np.zeros(n_rows, np.int64) if colour is None else codes_of(colour)
    alone = (np.bincount(start) == 1)[start]
    kinds, used, others = _said_once(capacity, tables, start, alone)
    shared = np.zeros(len(capacity), np.bool_)
    for resource, _ in others:
        shared[resource] = True
    left = shared[used]
    place = (np.cumsum(shared) - 1 + n_rows).astype(np.int32)
    rows = np.arange(n_rows, dtype=np.int32)[~alone]
    edges = _tied(np.repeat(rows, sizes[~alone]), *_ends(place, others), ties)
    above = kinds[left] + (int(start.max(initial=0)) + 1)
    refined = refined_by(np.concatenate([start, above]), *edges)
    row_class, row_first, row_count = _first_order(codes_of(refined[:n_rows]))
    kinds[left] = refined[n_rows:] + len(used)  # told apart from those that single rows alone ask
    kinds, resource_first, resource_count = _first_order(codes_of(kinds))
    resource_class = np.full(len(capacity), -1, np.int64)
    resource_class[used] = kinds
    # of a class of rows one says what all demand; spread over a class of resources
    width = max(len(resource_first), 1)
    found = list(_quotient(tables, row_first, row_count, resource_class, width))
    cells, total = (np.concatenate(column) for column in zip(*found, strict=True))
    cells, total = cells[total != 0.0], total[total != 0.0]
    row, column = np.divmod(cells, width)
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


def _said_once(
    capacity: F8, tables: Sequence[Csr], start: I8, alone: B1
) -> tuple[I8, I8, list[tuple[I8, F8]]]:
    """What rows that are like no other say of their resources: they can't be split.

    Returns
    -------
    kinds, used : (k,) int64
        Colours of the resources that rows ask for, and which these are.
    others : list of ((m,) int64, (m,) float64)
        Resources and demands of the other rows, table by table.
    """
    told = np.zeros(len(capacity), np.uint64)
    asked = np.zeros(len(capacity), np.bool_)
    others: list[tuple[I8, F8]] = []
    first = 0
    for ptr, resource, amount in tables:
        single = alone[first : first + len(ptr) - 1]
        asked[resource] = True
        for row in np.flatnonzero(single).tolist():
            at = slice(ptr[row], ptr[row + 1])
            said = mixed(np.asarray(amount[at], float).view(np.uint64))
            np.add.at(told, resource[at], mixed(said + np.uint64(start[first + row] + 1)))
        if single.any():
            kept = np.repeat(~single, np.diff(ptr))
            others.append((resource[kept], amount[kept]))
        else:
            others.append((resource, amount))
        first += single.size
    used = np.flatnonzero(asked)
    kinds = codes_of(mixed(told[used]) + np.asarray(capacity[used], float).view(np.uint64))
    return kinds, used, others


def _ends(place: I4, others: Sequence[tuple[I8, F8]]) -> tuple[I4, I4]:
    """Vertices of the resources at the ends of edges, and codes of the demands on them."""
    head = np.concatenate([place[resource] for resource, _ in others])
    return head, joint_codes([amount for _, amount in others])


def _tied(tail: I4, head: I4, code: I4, ties: tuple[I8, I8] | None) -> tuple[I4, I4, I4]:
    """Edges of demands, and those of ties, whose code is their own."""
    if ties is None:
        return tail, head, code
    own = np.full(len(ties[0]), int(code.max(initial=-1)) + 1, np.int32)
    return (
        np.concatenate((tail, ties[0].astype(np.int32))),
        np.concatenate((head, ties[1].astype(np.int32))),
        np.concatenate((code, own)),
    )


def _quotient(
    tables: Sequence[Csr], row_first: I8, row_count: I8, resource_class: I8, width: int
) -> Iterator[tuple[I8, F8]]:
    """Cells, class of rows x width + class of resources, and what all rows demand there."""
    first = 0
    for ptr, resource, amount in tables:
        after = first + len(ptr) - 1
        classes = np.arange(*np.searchsorted(row_first, (first, after)))
        rows = row_first[classes] - first
        ends = np.cumsum(ptr[rows + 1] - ptr[rows])
        cuts = np.flatnonzero(np.diff(ends // _ENTRIES)) + 1
        for some in np.split(np.arange(rows.size), cuts) if rows.size else ():
            entries, of = entries_of(ptr, rows[some])
            cell = of * width + resource_class[resource[entries]]
            demand = amount[entries] * row_count[classes[some]][of]
            cells, total = summed([(cell, demand)])
            yield cells + int(classes[some[0]]) * width, total
        first = after


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
