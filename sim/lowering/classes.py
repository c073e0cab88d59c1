"""Classes of equal ranks, and the resources they draw on: the machine as a program sees it.

At level ``folded`` ranks that the machine and the job cannot tell apart are one class, found by
colour refinement over ranks, their copies and the collectives they take part in; the quotient has
the same max-min rates. At level ``ranks`` every rank is a class of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.cost.nccl.algorithms import algorithm_named
from sim.fabric.fabric import Fabric
from sim.fabric.folding import fold
from sim.fabric.role import Roles
from sim.lowering.parts import Classes, roles_of
from sim.lowering.teams import Draw, Team, paced, stepped, whole

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

Key = tuple[str, str, str]
"""Operation, group kind, algorithm: what decides a collective's demands per byte."""

ENDLESS = 1e30  # capacity of the resource that pads shorter copy routes


class Orbit(NamedTuple):
    """Equal groups' collectives run as one: classes taking part and demands per byte."""

    classes: tuple[int, ...]
    resource: tuple[int, ...]
    amount: tuple[float, ...]


class Compiled(NamedTuple):
    """Classes, orbits of each collective, and where copy routes stand among local resources."""

    classes: Classes
    orbits: Mapping[Key, tuple[Orbit, ...]]  # where all ranks are one class
    teams: Mapping[Key, Team]  # where they are not
    to_device: slice  # of local resources
    to_host: slice


def compile_classes(
    fabric: Fabric,
    level: str,
    draws: Mapping[Key, Sequence[Draw]],
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
        For each kind of collective, one `Draw` a group.
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


def _routes(fabric: Fabric, direction: str) -> list[tuple[I8, F8]]:
    """Resources and demand of every rank's copies; equal nodes have them at the same places."""
    known: dict[int, list[tuple[I8, F8]]] = {}
    found: list[tuple[I8, F8]] = []
    for node, number in enumerate(fabric.shape_number.tolist()):
        base = int(fabric.node_base[node])
        if number not in known:
            routes = (fabric.offload_route(rank, direction) for rank in fabric.ranks_of(node))
            known[number] = [(r.resource - base, r.demand) for r in routes]
        found += [(resource + base, demand) for resource, demand in known[number]]
    return found


def _classes(
    ranks: Sequence[int],
    of: I8,
    multiplicity: Sequence[int],
    speed: F8,
    fabric: Fabric,
    roles: Roles,
    capacity: F8,
    hbm: Sequence[int],
    copies: Sequence[Sequence[tuple[I8, F8]]],
) -> tuple[Classes, slice, slice]:
    """Local resources of every class: HBM, the route to the device, the route to the host."""
    widths = [max((len(route[0]) for route in routes), default=0) for routes in copies]
    n_local = 1 + sum(widths)
    local = np.full((len(ranks), n_local), capacity.size, dtype=np.int32)
    scale = np.ones((len(ranks), n_local))
    local[:, 0] = hbm
    at = 1
    for routes, width in zip(copies, widths, strict=True):
        for c, (resource, amount) in enumerate(routes):
            local[c, at : at + len(resource)] = resource
            scale[c, at : at + len(resource)] = amount
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


def _every_rank(
    fabric: Fabric,
    draws: Mapping[Key, Sequence[Draw]],
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
        groups = [d.members for d in each] if in_steps else []
        found = [algorithm_named(algorithm).steps(fabric, g, operation) for g in groups]
        steps = [s for s in found if s is not None]
        team = stepped(fabric, groups, steps) if steps else _team(each)
        teams[key] = team if capacity is None else paced(team, fabric.capacity, capacity)
    return Compiled(classes, {}, teams, inward, outward)


def _team(each: Sequence[Draw | Orbit]) -> Team:
    members = [d.members if isinstance(d, Draw) else d.classes for d in each]
    resources = [np.asarray(d.resource, dtype=np.int64) for d in each]
    return whole(members, resources, [np.asarray(d.amount, dtype=float) for d in each])


def _folded(
    fabric: Fabric,
    draws: Mapping[Key, Sequence[Draw]],
    roles: Roles,
    copies: bool,
    speed: F8,
) -> Compiled:
    n = fabric.n_ranks
    kinds: dict[object, int] = {}
    rank_kind = [
        kinds.setdefault(kind, len(kinds)) for kind in zip(roles.of, speed.tolist(), strict=True)
    ]
    # rows: every rank's HBM, its copies, then the collectives
    resources, amounts, sizes = [fabric.hbm_of(range(n))], [np.ones(n)], [np.ones(n, np.int64)]
    colour = [np.array(rank_kind, np.int64)]
    near: list[I8] = []
    far: list[I8] = []
    n_rows, next_colour = n, len(kinds)
    if copies:
        for direction in ("to-device", "to-host"):
            copied = _routes(fabric, direction)
            near.append(np.arange(n))
            far.append(np.arange(n_rows, n_rows + n))
            resources += [resource for resource, _ in copied]
            amounts += [amount for _, amount in copied]
            sizes.append(np.array([len(resource) for resource, _ in copied]))
            colour.append(np.full(n, next_colour))
            n_rows, next_colour = n_rows + n, next_colour + 1
    first_row: dict[Key, int] = {}
    for key, each in draws.items():
        first_row[key] = n_rows
        resources += [draw.resource for draw in each]
        amounts += [draw.amount for draw in each]
        sizes.append(np.array([len(draw.resource) for draw in each]))
        colour.append(np.full(len(each), next_colour))
        members = np.array([len(draw.members) for draw in each])
        near += [np.asarray(draw.members, np.int64) for draw in each]
        far.append(np.repeat(np.arange(n_rows, n_rows + len(each)), members))
        n_rows, next_colour = n_rows + len(each), next_colour + 1
    ptr = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    ties = (np.concatenate(near), np.concatenate(far)) if near else None
    folded = fold(
        fabric.capacity, ptr, np.concatenate(resources), np.concatenate(amounts),
        np.concatenate(colour), ties,
    )  # fmt: skip
    row_class = folded.row_class
    numbers, of = np.unique(row_class[:n], return_inverse=True)
    of = of.ravel()
    found_classes = numbers.tolist()
    first = [int(folded.row_first[c]) for c in found_classes]

    def demands(row: int) -> tuple[I8, F8]:
        begin, end = folded.ptr[row_class[row]], folded.ptr[row_class[row] + 1]
        return folded.resource[begin:end], folded.amount[begin:end]

    hbm = [int(demands(rank)[0][0]) for rank in first]
    routes = [[demands(n * (1 + i) + rank) for rank in first] for i in range(2)] if copies else []
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
    orbits: dict[Key, tuple[Orbit, ...]] = {}
    for key, each in draws.items():
        found: dict[int, Orbit] = {}
        for i, draw in enumerate(each):
            row = first_row[key] + i
            if int(row_class[row]) not in found:
                taking_part = np.unique(of[np.asarray(draw.members, np.int64)])
                resource, amount = demands(row)
                found[int(row_class[row])] = Orbit(
                    tuple(taking_part.tolist()), tuple(resource.tolist()), tuple(amount.tolist())
                )
        orbits[key] = tuple(found.values())
    teams = {key: _team(each) for key, each in orbits.items()} if len(first) > 1 else {}
    return Compiled(classes, orbits, teams, inward, outward)
