"""What collectives put on a fabric: bytes on each resource per byte of work, by group."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sim.cost.nccl import loads
from sim.cost.nccl.algorithms import algorithm_named
from sim.fabric.fabric import Fabric
from sim.fabric.held import goes_with_machines
from sim.fabric.sisters import moved, sisters
from sim.mesh import Sisters
from sim.shelf import Shelf

B1 = npt.NDArray[np.bool_]
F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

_MOST = 1 << 23  # resources of demands that are kept: 128 MiB
_shelf = Shelf[loads.Demand](_MOST, lambda demand: demand.resource.size)
_TOGETHER = 1 << 15  # ranks of a machine up to which sister groups of all stages are kept
#: of sister groups: costs ask for them, and classes of ranks
_sisters = Shelf[loads.Demands](1_000_000, lambda every: every.resource.size, larger=False)

goes_with_machines(_shelf.clear)
goes_with_machines(_sisters.clear)

#: groups that run the same collective at the same time
Others = Sisters | tuple[tuple[int, ...], ...]


def demand_of(
    fabric: Fabric,
    ranks: tuple[int, ...],
    op: str,
    algorithm: str,
    sisters: Others = (),
) -> loads.Demand:
    """Bytes on each resource per byte of work, of a group and its sisters."""
    if not sisters:
        return _shelf.get(
            (fabric, ranks, op, algorithm),
            lambda: algorithm_named(algorithm).loads(fabric, ranks, op),
        )
    if isinstance(sisters, Sisters) and ranks == sisters.first():
        every = _sisters.get(
            (fabric, sisters, op, algorithm),
            lambda: _of_stages(fabric, sisters, op, algorithm),
        )
        whole = loads.Demand(every.resource, every.amount)
        return loads.total([whole]) if every.ptr.size > 2 else whole
    parts = [demand_of(fabric, ranks, op, algorithm)]
    for groups in _tables(sisters):
        if groups.shape[1] == len(ranks):
            groups = groups[(groups != np.array(ranks)).any(axis=1)]
        if len(groups):
            many = demands_of(fabric, groups, op, algorithm)
            parts.append(loads.Demand(many.resource, many.amount))
    return loads.total(parts) if len(parts) > 1 else parts[0]


def _tables(sisters: Others) -> list[I8]:
    """Groups of equally many ranks, (groups, ranks of one), size by size."""
    if isinstance(sisters, Sisters):
        return [sisters.rows()]
    by_size: dict[int, list[tuple[int, ...]]] = {}
    for group in sisters:
        by_size.setdefault(len(group), []).append(group)
    return [np.array(groups, np.int64) for groups in by_size.values()]


def _of_stages(fabric: Fabric, where: Sisters, op: str, algorithm: str) -> loads.Demands:
    """`demands_of` sister groups; those of other stages, which are asked for next, on the way."""
    stages = where.everywhere()
    if len(stages) == 1 or fabric.n_ranks > _TOGETHER:
        return demands_of(fabric, where.rows(), op, algorithm)
    rows = [stage.rows() for stage in stages]
    every = demands_of(fabric, np.concatenate(rows), op, algorithm)
    ends = np.cumsum([0, *map(len, rows)])
    each = [every.some(*pair) for pair in pairwise(ends.tolist())]
    for stage, found in zip(stages, each, strict=True):
        key = (fabric, stage, op, algorithm)
        if stage != where and _sisters.find(key) is None:
            _sisters.keep(key, found)
    return each[stages.index(where)]


def demands_of_sisters(
    fabric: Fabric, where: Sisters, op: str, algorithm: str, without: B1 | None = None
) -> loads.Demands:
    """`demands_of` sister groups; those that `demand_of` has found are not looked for again."""
    every = _sisters.find((fabric, where, op, algorithm))
    if every is None:
        return demands_of(fabric, where.rows(), op, algorithm, without)
    return every if without is None else every.without(without)


def demands_of(
    fabric: Fabric, groups: I8, op: str, algorithm: str, without: B1 | None = None
) -> loads.Demands:
    """`demand_of` each of many groups; one of those alike says those of all.

    Parameters
    ----------
    groups : (n_groups, n) int64
        Ranks of each.
    op, algorithm : str
        As for `plan_collective`.
    without : (n_resources,) bool, optional
        Resources to leave out.
    """
    found: list[tuple[I8, I8, F8]] = []  # places of groups, (m,), and (m, k) what each is on
    sizes = np.zeros(len(groups), np.int64)
    for alike in sisters(fabric, groups):
        first = groups[alike[0]]
        resource, amount = demand_of(fabric, tuple(first.tolist()), op, algorithm)
        if without is not None:
            resource, amount = _left(resource, amount, ~without[resource])
        each = resource[None]
        if alike.size > 1:
            each = np.concatenate((each, moved(fabric, resource, first, groups[alike[1:]])))
        found.append((alike, each, amount))
        sizes[alike] = resource.size
    ptr = np.concatenate(([0], np.cumsum(sizes)))
    if len(groups) == 1:  # of a whole machine, it may be: not copied
        return loads.Demands(ptr, found[0][1][0], found[0][2])
    resources, amounts = np.empty(ptr[-1], np.int64), np.empty(ptr[-1])
    for alike, resource, amount in found:
        at = ptr[alike][:, None] + np.arange(amount.size)
        resources[at], amounts[at] = resource, amount
    return loads.Demands(ptr, resources, amounts)


def _left(resource: I8, amount: F8, kept: B1) -> tuple[I8, F8]:
    """Demands on resources that are kept; no copies where those come first: uplinks come last."""
    n = int(np.count_nonzero(kept))
    at = slice(n) if kept[:n].all() else kept
    return resource[at], amount[at]
