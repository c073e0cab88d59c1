"""Classes of equal ranks, and the resources they draw on: the machine as a program sees it.

At level ``folded`` ranks that the machine and the job cannot tell apart are one class, found by
colour refinement over ranks, their copies and the collectives they take part in; the quotient has
the same max-min rates. At level ``ranks`` every rank is a class of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sim.cost.nccl.algorithms import algorithm_named
from sim.cost.nccl.loads import Demands
from sim.fabric.fabric import Fabric
from sim.fabric.folding import Csr, Fold, fold
from sim.fabric.refinement import codes_of, distinct_of
from sim.fabric.role import Roles
from sim.lowering.parts import Classes, roles_of
from sim.lowering.teams import Draws, Team, paced, stepped, whole
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

Key = tuple[str, str, str]
"""Operation, group kind, algorithm: what decides a collective's demands per byte."""

ENDLESS = 1e30  # capacity of the resource that pads shorter copy routes


class Compiled(NamedTuple):
    """Classes, orbits of each collective, and where copy routes stand among local resources.

    An orbit is equal groups' collectives run as one: classes that take part in it.
    """

    classes: Classes
    orbits: Mapping[Key, Draws]
    teams: Mapping[Key, Team]  # where they are not
    to_device: slice  # of local resources
    to_host: slice
    #: (n_classes, 2) rates of copies to the device and the host by themselves [B/s]; those of equal
    #: ranks go at the same moments, so that ranks one by one have the rates of their class
    copy_rates: F8


def compile_classes(
    fabric: Fabric,
    level: str,
    draws: Mapping[Key, Draws],
    roles: Roles | None = None,
    *,
    copies: bool = False,
    speed: F8 | None = None,
    capacity: F8 | None = None,
) -> Compiled:
    """Classes, resources and demands of a job on a machine.

    Parameters
    ----------
    fabric : Fabric
        The compiled topology.
    level : str
        ``folded``, ``ranks`` or ``steps``.
    draws : mapping
        For each kind of collective.
    roles : Roles, optional
        What each rank is; `roles_of` the machine if left out.
    copies : bool
        Whether ranks copy to or from host memory.
    speed : (n_ranks,) float64, optional
        Relative kernel speed of each rank.
    capacity : (n_resources,) float64, optional
        Capacities with some links slower than the fabric's, for the levels of every rank.
    """
    pace = np.ones(fabric.n_ranks) if speed is None else speed
    roles = roles or roles_of(fabric)
    if level != "folded":
        return _every_rank(fabric, draws, roles, copies, pace, capacity, level == "steps")
    return _folded(fabric, draws, roles, copies, pace)


def _routes(fabric: Fabric, direction: str) -> Demands:
    """Resources and demand of every rank's copies; equal nodes have them at the same places."""
    first = np.unique(fabric.shape_number, return_index=True)[1]
    at_first = [
        [fabric.offload_route(rank, direction) for rank in fabric.ranks_of(node)]
        for node in first.tolist()
    ]
    size = np.zeros(fabric.n_ranks, np.int64)
    nodes = [np.flatnonzero(fabric.shape_number == kind) for kind in range(len(at_first))]
    for mine, routes in zip(nodes, at_first, strict=True):
        each = np.array([route.resource.size for route in routes])
        size[fabric.first_rank[mine][:, None] + np.arange(each.size)] = each
    ptr = np.concatenate(([0], np.cumsum(size)))
    resource, amount = np.empty(ptr[-1], np.int64), np.empty(ptr[-1])
    for mine, node, routes in zip(nodes, first.tolist(), at_first, strict=True):
        there = np.concatenate([route.resource for route in routes])
        at = ptr[fabric.first_rank[mine]][:, None] + np.arange(there.size)
        resource[at] = (fabric.node_base[mine] - fabric.node_base[node])[:, None] + there
        amount[at] = np.concatenate([route.demand for route in routes])
    return Demands(ptr, resource, amount)


def _classes(
    ranks: Sequence[int],
    of: I8,
    multiplicity: Sequence[int],
    speed: F8,
    fabric: Fabric,
    roles: Roles,
    capacity: F8,
    hbm: Sequence[int],
    copies: Sequence[Demands],
) -> tuple[Classes, slice, slice]:
    """Local resources of every class: HBM, the route to the device, the route to the host."""
    widths = [int(np.diff(routes.ptr).max(initial=0)) for routes in copies]
    n_local = 1 + sum(widths)
    local = np.full((len(ranks), n_local), capacity.size, dtype=np.int32)
    scale = np.ones((len(ranks), n_local))
    local[:, 0] = hbm
    at = 1
    for routes, width in zip(copies, widths, strict=True):
        sizes = np.diff(routes.ptr)
        row = np.repeat(np.arange(len(ranks)), sizes)
        place = at + np.arange(row.size) - routes.ptr[row]
        local[row, place], scale[row, place] = routes.resource, routes.amount
        at += width
    # padding must not name one resource twice in a route
    padding = np.append(capacity, np.full(n_local, ENDLESS))
    pads = local == capacity.size
    local = np.where(pads, capacity.size + np.arange(n_local, dtype=np.int32), local)
    classes = Classes(
        ranks=tuple(int(r) for r in ranks),
        of=of,
        multiplicity=np.array(multiplicity, dtype=np.int32),
        role=np.array([roles.of[r] for r in ranks], dtype=np.int64),
        speed=speed,
        local=local.astype(np.int32),
        scale=scale,
        capacity=padding,
        sms=np.array([fabric.gpu(int(r)).sms for r in ranks], dtype=np.int32),
    )
    first = 1 + (widths[0] if widths else 0)
    return classes, slice(1, first), slice(first, n_local)


def _copy_rates(classes: Classes, *routes: slice) -> F8:
    rates = [
        (classes.capacity[classes.local[:, route]] / classes.scale[:, route]).min(axis=1)
        for route in routes
        if route.start < route.stop
    ]
    return np.array(rates).T


def _every_rank(
    fabric: Fabric,
    draws: Mapping[Key, Draws],
    roles: Roles,
    copies: bool,
    speed: F8,
    capacity: F8 | None,
    in_steps: bool,
) -> Compiled:
    ranks = range(fabric.n_ranks)
    routes = [_routes(fabric, d) for d in ("to-device", "to-host")] if copies else []
    hbm = fabric.hbm_of(ranks).tolist()
    ones = [1] * fabric.n_ranks
    now = fabric.capacity if capacity is None else capacity
    classes, inward, outward = _classes(
        ranks, np.arange(fabric.n_ranks), ones, speed, fabric, roles, now, hbm, routes
    )
    teams = {}
    for key, each in draws.items():
        operation, _, algorithm = key
        groups = [each.members(g).tolist() for g in range(each.groups)] if in_steps else []
        found = [algorithm_named(algorithm).steps(fabric, g, operation) for g in groups]
        steps = [s for s in found if s is not None]
        team = stepped(fabric, groups, steps) if steps else whole(each)
        teams[key] = team if capacity is None else paced(team, fabric.capacity, capacity)
    rates = _copy_rates(classes, inward, outward)
    if copies:
        alike = _folded(fabric, draws, roles, copies, np.ones(fabric.n_ranks))
        rates = np.minimum(rates, alike.copy_rates[alike.classes.of])
    return Compiled(classes, {}, teams, inward, outward, rates)


def _said_by(draws: Mapping[Key, Draws]) -> dict[Key, Key]:
    """For each kind of collective, the first one that tells the same ranks and links apart.

    Their groups and resources are the same, and where amounts of one are equal, so are the other's:
    a ring's all-gather and reduction draw on a link alike, on HBM not.
    """
    found: dict[Key, Key] = {}
    first: dict[tuple[int, ...], list[Key]] = {}  # of those that nobody said before
    for key, each in draws.items():
        columns = each.ptr, each.member, each.demands.ptr, each.demands.resource
        sketch = tuple([n for column in columns for n in (column.size, int(column.sum()))])
        others = first.setdefault(sketch, [])
        found[key] = next((other for other in others if _like(draws[other], each)), key)
        if found[key] == key:
            others.append(key)
    return found


def _like(one: Draws, other: Draws) -> bool:
    mine, yours = one.demands, other.demands
    pairs = (
        (one.ptr, other.ptr), (one.member, other.member),
        (mine.ptr, yours.ptr), (mine.resource, yours.resource),
    )  # fmt: skip
    if not all(np.array_equal(a, b) for a, b in pairs):
        return False
    amounts = codes_of(mine.amount), codes_of(yours.amount)
    kinds = [1 + int(codes.max(initial=-1)) for codes in amounts]
    both = codes_of(amounts[0] * kinds[1] + amounts[1])
    return kinds[0] == kinds[1] == 1 + int(both.max(initial=-1))


def _folded(
    fabric: Fabric,
    draws: Mapping[Key, Draws],
    roles: Roles,
    copies: bool,
    speed: F8,
) -> Compiled:
    n = fabric.n_ranks
    paces = codes_of(speed)
    kind = codes_of(np.array(roles.of, np.int64) * (1 + int(paces.max())) + paces)
    # rows: every rank's HBM, its copies, then the collectives
    tables: list[Csr] = [(np.arange(n + 1), fabric.hbm_of(range(n)), np.ones(n))]
    colour = [kind]
    near: list[I8] = []
    far: list[I8] = []
    n_rows, next_colour = n, 1 + int(kind.max())
    if copies:
        for direction in ("to-device", "to-host"):
            tables.append(_routes(fabric, direction))
            near.append(np.arange(n))
            far.append(np.arange(n_rows, n_rows + n))
            colour.append(np.full(n, next_colour))
            n_rows, next_colour = n_rows + n, next_colour + 1
    said_by, first_row = _said_by(draws), dict[Key, int]()
    for key in dict.fromkeys(said_by.values()):
        each = draws[key]
        first_row[key] = n_rows
        tables.append(each.demands)
        colour.append(np.full(each.groups, next_colour))
        near.append(each.member)
        far.append(np.repeat(np.arange(n_rows, n_rows + each.groups), np.diff(each.ptr)))
        n_rows, next_colour = n_rows + each.groups, next_colour + 1
    ties = (np.concatenate(near), np.concatenate(far)) if near else None
    folded = fold(fabric.capacity, tables, np.concatenate(colour), ties)
    row_class = folded.row_class
    numbers, of = np.unique(row_class[:n], return_inverse=True)
    of = of.ravel()
    found_classes = numbers.tolist()
    first = [int(folded.row_first[c]) for c in found_classes]

    def demands(row: int) -> tuple[I8, F8]:
        begin, end = folded.ptr[row_class[row]], folded.ptr[row_class[row] + 1]
        return folded.resource[begin:end], folded.amount[begin:end]

    hbm = [int(demands(rank)[0][0]) for rank in first]
    ahead = [n * (1 + i) for i in range(2)] if copies else []
    routes = [Demands.each([demands(row + rank) for rank in first]) for row in ahead]
    classes, inward, outward = _classes(
        first,
        of,
        [int(folded.row_count[c]) for c in found_classes],
        speed[first],
        fabric,
        roles,
        folded.capacity,
        hbm,
        routes,
    )
    orbits = {
        key: _orbits(each, folded, first_row[said_by[key]], of) for key, each in draws.items()
    }
    teams = {key: whole(each) for key, each in orbits.items()} if len(first) > 1 else {}
    rates = _copy_rates(classes, inward, outward)
    return Compiled(classes, orbits, teams, inward, outward, rates)


def _orbits(draws: Draws, folded: Fold, first_row: int, of: I8) -> Draws:
    """Groups of a kind of collective as classes, in the order of their first."""
    rows = folded.row_class[first_row : first_row + draws.groups]
    _, first, count = np.unique(rows, return_index=True, return_counts=True)
    order = np.argsort(first)
    members, demands = [], []
    for group, equal in zip(first[order].tolist(), count[order].tolist(), strict=True):
        members.append(distinct_of(of[draws.members(group)]))
        demands.append(folded.spread(*draws.demands.of(group), equal))
    return Draws.of(members, demands)
