"""Bytes on every resource of bytes between many pairs of ranks at once.

Pairs alike in shape of node, local ranks and leaf switches take alike routes: the legs of one say
those of all, moved to each pair's own nodes and ports. `Wiring.route` says what a route is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim.fabric import paths
from sim.fabric.held import goes_with_machines
from sim.fabric.wiring import Wiring
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

_SPARSE = 16  # resources of the machine to one that is named, from which sorting is quicker


def traffic(fabric: Wiring, source: I8, target: I8, size: F8) -> tuple[I8, F8]:
    """Sum of what pairs of ranks put on the resources.

    Parameters
    ----------
    fabric : Wiring
        The machine.
    source, target : (m,) int64
        Ranks.
    size : (m,) float64
        Bytes from one to the other. [B]

    Returns
    -------
    resource : (k,) int64
        In order, each once.
    amount : (k,) float64
        HBM at the ends not counted. [B]
    """
    parts: list[tuple[I8, F8]] = []
    for at in _alike(fabric, source, target):
        src, dst, bytes_ = source[at], target[at], size[at]
        node, other = fabric.rank_node[src], fabric.rank_node[dst]
        if node[0] == other[0]:
            local = fabric.rank_local
            way = paths.gpu_way(fabric.shapes[node[0]], int(local[src[0]]), int(local[dst[0]]))
            for i, part in way.loads:
                parts.append((fabric.node_base[node] + i, part * bytes_))
        elif (ports := ports_of(fabric)) is None:
            for a, b, each in zip(src.tolist(), dst.tolist(), bytes_.tolist(), strict=True):
                route = fabric.route(a, b)
                parts.append((route.resource, route.demand * each))
        else:
            parts += _crossing(fabric, ports, src, dst, bytes_)
    return summed(parts)


def summed(parts: Iterable[tuple[I8, F8]]) -> tuple[I8, F8]:
    """Amounts on resources, each resource once and in order."""
    listed = list(parts)
    if not listed:
        return np.zeros(0, np.int64), np.zeros(0)
    resource, amounts = (
        listed[0] if len(listed) == 1 else (np.concatenate(c) for c in zip(*listed, strict=True))
    )
    if not resource.size:
        return resource, np.zeros(0)
    if int(resource.max()) > _SPARSE * resource.size:  # a few nodes' of a machine of thousands
        named, place = np.unique(resource, return_inverse=True)
        return named, np.bincount(place.ravel(), amounts).astype(float)
    amount: F8 = np.bincount(resource, amounts).astype(float)
    asked = np.zeros(amount.size, np.bool_)
    asked[resource] = True
    found = np.flatnonzero(asked)
    return found, amount[found]


def _alike(fabric: Wiring, source: I8, target: I8) -> Iterator[I8]:
    """Places of pairs between like nodes and the same local ranks, kind by kind."""
    shape, most = fabric.shape_number, int(fabric.rank_local.max()) + 1
    kinds = int(shape.max()) + 1
    node, other = fabric.rank_node[source], fabric.rank_node[target]
    kind = (shape[node] * kinds + shape[other]) * 2 + (node == other)
    kind = (kind * most + fabric.rank_local[source]) * most + fabric.rank_local[target]
    order = np.argsort(kind, kind="stable")
    cuts = np.flatnonzero(np.diff(kind[order])) + 1
    return iter(np.split(order, cuts) if len(order) else ())


class Ports(NamedTuple):
    """Ports that have one link each way, to a switch: their links and switches."""

    out: I8  # (n_ports,) resource of its link out
    into: I8
    above: I8  # (n_ports,) switch that it sends to
    below: I8  # and that it receives from


@lru_cache(maxsize=8)
def ports_of(fabric: Wiring) -> Ports | None:
    """None where a port has several links, as an explicit graph may have it."""
    plane = fabric.plane
    n = plane.n_ports
    if not n:
        return None
    tail, head = plane.tail, plane.head
    leaves, enters = np.flatnonzero(tail < n), np.flatnonzero(head < n)
    for ends in (tail[leaves], head[enters]):
        if not np.array_equal(np.bincount(ends, minlength=n), np.ones(n)):
            return None
    out, into = np.empty(n, np.int64), np.empty(n, np.int64)
    out[tail[leaves]], into[head[enters]] = leaves, enters
    above, below = head[out], tail[into]
    if min(above.min(), below.min()) < plane.n_ports:
        return None
    return Ports(plane.base + out, plane.base + into, above, below)


goes_with_machines(ports_of.cache_clear)


Loads = tuple[tuple[int, float], ...]
Ends = tuple[Loads, int, Loads]  # in the sender's node, NIC it leaves by, in the receiver's


def _crossing(
    fabric: Wiring, ports: Ports, source: I8, target: I8, size: F8
) -> Iterator[tuple[I8, F8]]:
    """What pairs between like nodes, of the same local ranks, put on resources."""
    first = int(source[0]), int(target[0])
    pairs = fabric.nic_pairs(*first)
    node, other = fabric.rank_node[source], fabric.rank_node[target]
    for out, into in pairs:
        # a leg depends on the switch of the port it may leave by, of the one on the receiver's rail
        # and of the one it comes in by
        rail = fabric.rail_port(first[0], first[1], into)
        leave, by_rail = (ports.above[fabric.port_at[node, nic]] for nic in (out, max(rail, 0)))
        arrive = ports.below[fabric.port_at[other, into]]
        most = int(max(leave.max(), by_rail.max(), arrive.max())) + 1
        _, at, which = np.unique(
            (leave * most + by_rail) * most + arrive, return_index=True, return_inverse=True
        )
        legs = [
            fabric.crossing(a, b, out, into)
            for a, b in zip(source[at].tolist(), target[at].tolist(), strict=True)
        ]
        bytes_ = size / len(pairs)
        # which ways through the nodes there are: few, however many switches
        ways: dict[Ends, int] = {}
        way = np.array([ways.setdefault((g.outward, g.nic, g.inward), len(ways)) for g in legs])
        for (outward, nic, inward), number in ways.items():
            some = np.flatnonzero(way[which] == number) if len(ways) > 1 else slice(None)
            each, left, came = bytes_[some], node[some], other[some]
            for base, loads in ((left, outward), (came, inward)):
                for i, part in loads:
                    yield fabric.node_base[base] + i, part * each
            yield ports.out[fabric.port_at[left, nic]], each
            yield ports.into[fabric.port_at[came, into]], each
        # and what each puts on links between switches
        sums = np.bincount(which, bytes_, minlength=len(legs))
        links = [(r, part * s) for g, s in zip(legs, sums, strict=True) for r, part in g.net[1:-1]]
        yield np.array([r for r, _ in links], np.int64), np.array([s for _, s in links], float)
