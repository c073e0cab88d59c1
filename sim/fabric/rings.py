"""Channel rings over a group of ranks, and what they put on every resource.

A ring visits the ranks node by node. Between nodes there are as many rings as the poorest node has
NICs beside ranks of the group; ring c enters and leaves its nodes on the c-th of them. Inside a
node its order is one of `sim.fabric.orders`.

Source: NVIDIA/nccl src/graph/search.cc (what it looks for, not how).
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt

from sim.errors import InputError
from sim.fabric import paths
from sim.fabric.alike import GroupNodes, nodes_of
from sim.fabric.orders import local_orders
from sim.fabric.shape import Shape
from sim.fabric.traffic import ports_of, summed
from sim.fabric.wiring import Wiring
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


class Load(NamedTuple):
    """Demand on resources per byte that every rank of a group passes on."""

    resource: I8  # (k,)
    demand: F8  # (k,)


class Rings(NamedTuple):
    """C rings over n ranks, equally loaded."""

    orders: I8  # (C, n) ranks in the order of the ring
    load: Load  # per byte each rank sends to its successors, all rings together
    path: str  # worst path class of a hop inside a node: NVL, PIX, ..., SYS; LOC without such hops
    transport: str  # p2p, or shm if any hop inside a node is
    network_latency_s: float  # of it [s]
    pxn: bool  # some rank reaches a NIC through a neighbour


class _NodeRings(NamedTuple):
    orders: list[list[int]]  # local ranks, first is entered from the network
    nic_in: list[int]
    nic_out: list[int]
    resource: I8  # of the node
    demand: F8
    path: str
    transport: str
    pxn: bool
    legs: list[list[paths.Way]]  # per ring: from the NIC, from rank to rank, to the NIC


class Hops(NamedTuple):
    """Every ring's every hop: hop i of ring c, from ``orders[c, i]`` on, is row c * n + i."""

    ptr: I8  # (C * n + 1,)
    resource: I8
    demand: F8  # per byte of the hop


def find_rings(fabric: Wiring, ranks: I8) -> Rings:
    """Lay rings over ``ranks``, (n,) int64, in node order."""
    nodes = nodes_of(fabric, ranks)
    if nodes.n_nodes == 1:
        (kind,) = nodes.kinds
        return _one_node(fabric, int(kind.nodes[0]), kind.local)
    return _many_nodes(fabric, nodes)


def ring_hops(fabric: Wiring, orders: I8) -> Hops:
    """Demands of single hops of (C, n) rings, for a model of ring steps; their mean = `Load`."""
    nodes = nodes_of(fabric, orders[0])
    rows: list[dict[int, float]] = []
    if nodes.n_nodes == 1:
        for order in orders.tolist() if orders.shape[1] > 1 else ():
            for a, b in zip(order, order[1:] + order[:1], strict=True):
                route = fabric.route(a, b)
                rows.append(dict(zip(route.resource.tolist(), route.demand.tolist(), strict=True)))
    else:
        n_rings = len(orders)
        laid = _in_order(nodes, n_rings)
        for c in range(n_rings):
            for here, after in zip(laid, laid[1:] + laid[:1], strict=True):
                base = int(fabric.node_base[here[0]])
                inside = here[1].legs[c][1:-1]
                rows += [{base + i: amount for i, amount in way.loads} for way in inside]
                rows.append(_crossing(fabric, here, after, c))
    ptr = np.concatenate(([0], np.cumsum([len(r) for r in rows], dtype=np.int64)))
    resource = np.array([i for r in rows for i in r], np.int64)
    return Hops(ptr, resource, np.array([x for r in rows for x in r.values()], np.float64))


def _in_order(nodes: GroupNodes, n_rings: int) -> list[tuple[int, _NodeRings]]:
    """A group's nodes in order, each with what rings do in it."""
    found: dict[int, tuple[int, _NodeRings]] = {}
    for kind in nodes.kinds:
        laid = _through_node(kind.shape, kind.local, n_rings)
        places = zip(kind.place.tolist(), kind.nodes.tolist(), strict=True)
        found |= {k: (n, laid) for k, n in places}
    return [found[k] for k in range(nodes.n_nodes)]


def _crossing(
    fabric: Wiring, here: tuple[int, _NodeRings], after: tuple[int, _NodeRings], c: int
) -> dict[int, float]:
    """Demands of ring c on its way from a node to the next."""
    out = fabric.port(here[0], here[1].nic_out[c])
    into = fabric.port(after[0], after[1].nic_in[c])
    row: dict[int, float] = defaultdict(float)
    for i, amount in here[1].legs[c][-1].loads:
        row[int(fabric.node_base[here[0]]) + i] += amount
    for r, share in fabric.plane.path(out, into)[0]:
        row[r] += share
    for i, amount in after[1].legs[c][0].loads:
        row[int(fabric.node_base[after[0]]) + i] += amount
    return row


def _one_node(fabric: Wiring, node: int, group: tuple[int, ...]) -> Rings:
    shape = fabric.shapes[node]
    first = fabric.ranks_of(node).start
    orders = local_orders(shape, group) if len(group) > 1 else [list(group)]
    loads: dict[int, float] = defaultdict(float)
    ways = []
    if len(group) > 1:
        for order in orders:
            for a, b in zip(order, order[1:] + order[:1], strict=True):
                way = paths.gpu_way(shape, a, b)
                ways.append(way)
                for i, amount in way.loads:
                    loads[i] += amount / len(orders)
    base = int(fabric.node_base[node])
    resource = np.fromiter(sorted(loads), np.int64, len(loads))
    demand = np.array([loads[i] for i in resource.tolist()], np.float64)
    path, transport = _worst(ways)
    load = Load(resource + base, demand)
    return Rings(np.array(orders, np.int64) + first, load, path, transport, 0.0, False)


def _many_nodes(fabric: Wiring, nodes: GroupNodes) -> Rings:
    usable = [len(group_nics(kind.shape, kind.local)) for kind in nodes.kinds]
    n_rings = min(usable)
    if n_rings == 0:
        poor = int(nodes.kinds[usable.index(0)].nodes[0])
        message = f"node {poor} has no NIC, and the group spans {nodes.n_nodes} nodes"
        raise InputError.single(fabric.topology.name, message, "graph")
    laid = [_through_node(kind.shape, kind.local, n_rings) for kind in nodes.kinds]
    parts = [
        kind.spread(fabric, part.resource, part.demand)
        for kind, part in zip(nodes.kinds, laid, strict=True)
    ]
    between, delay = _between_nodes(fabric, nodes, laid)
    parts += [(net, shares / n_rings) for net, shares in between]
    orders = np.empty((n_rings, int(nodes.start[-1])), np.int64)
    for kind, part in zip(nodes.kinds, laid, strict=True):
        at = nodes.start[kind.place][:, None] + np.arange(len(kind.local))
        orders[:, at] = fabric.first_rank[kind.nodes][:, None] + np.array(part.orders)[:, None, :]
    path = max((p.path for p in laid), key=paths.CLASSES.index)
    transport = "shm" if any(p.transport == "shm" for p in laid) else "p2p"
    pxn = any(p.pxn for p in laid)
    return Rings(orders, Load(*summed(parts)), path, transport, delay, pxn)


def _between_nodes(
    fabric: Wiring, nodes: GroupNodes, laid: list[_NodeRings]
) -> tuple[list[tuple[I8, F8]], float]:
    """What all rings together put on the network, and the latency of the longest way. [s]

    Ways from switch to switch are alike: one of each says those of all.
    """
    plane = fabric.plane
    ends = np.empty((2, nodes.n_nodes, len(laid[0].nic_in)), np.int64)  # ports left and entered by
    for kind, part in zip(nodes.kinds, laid, strict=True):
        ports = fabric.port_at[kind.nodes]
        ends[:, kind.place] = ports[:, part.nic_out], ports[:, part.nic_in]
    out, into = ends[0].ravel(), np.roll(ends[1], -1, axis=0).ravel()
    links = ports_of(fabric)
    loads: list[tuple[I8, F8]] = []
    switches = out, into
    if links is not None:
        switches = links.above[out], links.below[into]
        loads = [(r, np.ones(r.size)) for r in (links.out[out], links.into[into])]
    ways = switches[0] * (int(switches[1].max()) + 1) + switches[1]
    _, firsts, counts = np.unique(ways, return_index=True, return_counts=True)
    delay = 0.0
    for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
        way, latency, _ = plane.path(int(out[first]), int(into[first]))
        delay = max(delay, latency)
        if links is not None:
            way = way[1:-1]
        loads.append(
            (np.array([r for r, _ in way], np.int64), count * np.array([s for _, s in way]))
        )
    return loads, delay


def group_nics(shape: Shape, group: tuple[int, ...]) -> list[int]:
    """NICs that local ranks of a group use between them, in order of their rails."""
    nics = {j for local in group for j in paths.nics_of(shape, local)}
    return sorted(nics, key=lambda j: (shape.rails[j], j))


def _through_node(shape: Shape, group: tuple[int, ...], n_rings: int) -> _NodeRings:
    key = ("rings", group, n_rings)
    found = shape.memo.get(key)
    if found is None:
        found = shape.memo[key] = _lay_through(shape, group, n_rings)
    return cast("_NodeRings", found)


def _lay_through(shape: Shape, group: tuple[int, ...], n_rings: int) -> _NodeRings:
    cycles = local_orders(shape, group) if len(group) > 1 else [list(group)]
    nic_in = group_nics(shape, group)[:n_rings]
    nic_out: list[int] = []
    orders: list[list[int]] = []
    inside: list[paths.Way] = []
    loads: dict[int, float] = defaultdict(float)
    pxn = False
    everything: list[list[paths.Way]] = []
    entered: dict[int, int] = defaultdict(int)
    left: dict[int, int] = defaultdict(int)
    for c, nic in enumerate(nic_in):
        turns = _turns(shape, group, cycles[c % len(cycles)], nic)
        burden = [entered[o[0]] + left[o[-1]] for o in turns]
        order = turns[burden.index(min(burden))]
        entered[order[0]] += 1
        left[order[-1]] += 1
        orders.append(order)
        legs = [paths.gpu_way(shape, a, b) for a, b in pairwise(order)]
        inside += legs
        leave, exit_nic = _leave(shape, group, order[-1], nic)
        nic_out.append(exit_nic)
        pxn = pxn or leave.transport == "pxn"
        legs = [paths.nic_way(shape, order[0], nic, False), *legs, leave]
        everything.append(legs)
        for way in legs:
            for i, amount in way.loads:
                loads[i] += amount / n_rings
    resource = np.fromiter(sorted(loads), np.int64, len(loads))
    demand = np.array([loads[i] for i in resource.tolist()], np.float64)
    path, transport = _worst(inside)
    return _NodeRings(orders, nic_in, nic_out, resource, demand, path, transport, pxn, everything)


def _turns(shape: Shape, group: tuple[int, ...], cycle: list[int], nic: int) -> list[list[int]]:
    """Orders a ring may take through a node it enters at ``nic``, most natural first."""
    n = shape.nics[nic]
    distance = {g: _distance(shape, shape.gpus[g], n) for g in cycle}
    near = [g for g in cycle if distance[g] == min(distance.values())]
    turned = []
    for g in near:
        i = cycle.index(g)
        turned.append(cycle[i:] + cycle[:i])
    if paths.switched(shape, group):
        # every order costs the same inside, so the exit may be any other GPU beside the NIC
        for order in list(turned):
            for last in near:
                if last != order[0]:
                    turned.append([g for g in order if g != last] + [last])
    elif any(paths.gpu_way(shape, a, b).path != "NVL" for a, b in pairwise(cycle)):
        # a tree may be walked both ways; cycles of a mesh have their own directed links
        turned += [order[:1] + order[:0:-1] for order in list(turned)]
    ends = [order for order in turned if order[-1] in near]
    return ends or turned


def _distance(shape: Shape, gpu: int, nic: int) -> int:
    """Of a GPU from a NIC: beside it, on its socket, farther."""
    path = "PIX" if gpu == nic else paths.host_class(shape, gpu, nic)
    return 0 if path in paths.NEAR_PCIE else 2 if path in ("SYS", None) else 1


def _leave(shape: Shape, group: tuple[int, ...], last: int, nic: int) -> tuple[paths.Way, int]:
    """Way to the ring's own NIC; to the last rank's NIC where that spares host memory."""
    way = paths.nic_way(shape, last, nic, True, group)
    if way.transport == "shm":
        for other in paths.nics_of(shape, last):
            direct = paths.nic_way(shape, last, other, True, group)
            if direct.transport == "p2p":
                return direct, other
    return way, nic


def _worst(ways: list[paths.Way]) -> tuple[str, str]:
    path = max((w.path for w in ways), key=paths.CLASSES.index, default="LOC")
    return path, "shm" if any(w.transport == "shm" for w in ways) else "p2p"
