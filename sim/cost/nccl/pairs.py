"""What all-to-all puts on a machine: every rank to every other, in time linear in the ranks.

Nodes of one shape, the same local ranks and the same leaves are alike: between two kinds of node
the routes of one pair of nodes say those of all, moved to each node's own resources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from sim.cost.nccl.loads import Demand
from sim.errors import InputError
from sim.fabric.alike import nodes_of
from sim.fabric.fabric import Fabric

MOST_ROUTES = 150_000  # looked up one by one: some seconds

Amounts = dict[int, float]
Switches = tuple[int, ...]
PairPlace = tuple[str, int, int]


def all_pairs(fabric: Fabric, group: Sequence[int], size: float) -> Demand:
    """Bytes on resources when every rank of a group sends `size` bytes to every other. [B]

    Raises
    ------
    InputError
        For more routes than `MOST_ROUTES`: thousands of nodes under many leaf switches.
    """
    kinds: dict[tuple[int, Switches], list[list[int]]] = defaultdict(list)
    for number, like in enumerate(nodes_of(fabric, group).kinds):
        for node in like.nodes.tolist():
            base = int(fabric.first_rank[node])
            kinds[number, _switches(fabric, node)].append([base + i for i in like.local])
    routes = sum(len(same[0]) for same in kinds.values()) ** 2
    if routes > MOST_ROUTES:
        message = (
            f"all to all over {len(group):,} ranks under {len(kinds):,} kinds of node and leaf "
            f"switch takes {routes:,} routes, more than {MOST_ROUTES:,}; take fewer nodes"
        )
        raise InputError.single(fabric.topology.name, message, "all_to_all")
    amounts: Amounts = defaultdict(float)
    for same in kinds.values():
        _inside(amounts, fabric, same, size)
    for first in kinds.values():
        for second in kinds.values():
            _between(amounts, fabric, first, second, size)
    return Demand(
        np.fromiter(amounts, np.int64, len(amounts)),
        np.fromiter(amounts.values(), np.float64, len(amounts)),
    )


def _switches(fabric: Fabric, node: int) -> Switches:
    """Leaf switches above a node's NICs: nodes of a kind under the same ones have like routes."""
    plane, switches = fabric.plane, list[int]()
    for nic in range(len(fabric.shapes[node].nics)):
        port = fabric.port(node, nic)
        ends = plane.head[plane.out(port)].tolist() if port >= 0 else []
        switches += ends if all(e >= plane.n_ports for e in ends) else [-1 - node]
    return tuple(switches)


def _add(amounts: Amounts, fabric: Fabric, a: int, b: int, size: float) -> None:
    route = fabric.route(a, b)
    for resource, part in zip(route.resource.tolist(), route.demand.tolist(), strict=True):
        amounts[resource] += part * size


def _inside(amounts: Amounts, fabric: Fabric, nodes: Sequence[list[int]], size: float) -> None:
    """Add what the ranks of each of some like nodes send to one another."""
    found: Amounts = defaultdict(float)
    for a in nodes[0]:
        for b in nodes[0]:
            if a != b:
                _add(found, fabric, a, b, size)
    places = _places(fabric, nodes[0])
    for resource, amount in found.items():
        for ranks in nodes:
            amounts[_at(fabric, ranks, places[resource])] += amount


def _between(
    amounts: Amounts,
    fabric: Fabric,
    senders: Sequence[list[int]],
    receivers: Sequence[list[int]],
    size: float,
) -> None:
    """Add what nodes of one kind send to those of another, or to the others of their own."""
    same = senders is receivers
    pairs = len(senders) * (len(receivers) - same)
    if not pairs:
        return
    src, dst = senders[0], receivers[1 if same else 0]
    found: Amounts = defaultdict(float)
    for a in src:
        for b in dst:
            _add(found, fabric, a, b, size)
    out, into = _places(fabric, src), _places(fabric, dst)
    for resource, amount in found.items():
        if resource in out:
            each = amount * (len(receivers) - same)
            for ranks in senders:
                amounts[_at(fabric, ranks, out[resource])] += each
        elif resource in into:
            each = amount * (len(senders) - same)
            for ranks in receivers:
                amounts[_at(fabric, ranks, into[resource])] += each
        else:
            amounts[resource] += amount * pairs


def _places(fabric: Fabric, ranks: Sequence[int]) -> dict[int, PairPlace]:
    """Resources of a node and of its network ports, and where in the node each is."""
    node = int(fabric.rank_node[ranks[0]])
    base, shape = int(fabric.node_base[node]), fabric.shapes[node]
    found: dict[int, PairPlace] = {base + i: ("node", i, 0) for i in range(shape.n_resources)}
    for nic in range(len(shape.nics)):
        for side, ports in zip(("out", "into"), fabric.nic_ports(node, nic), strict=True):
            found |= {int(r): (side, nic, i) for i, r in enumerate(ports.tolist())}
    return found


def _at(fabric: Fabric, ranks: Sequence[int], place: PairPlace) -> int:
    """The resource at the same place in another node."""
    node = int(fabric.rank_node[ranks[0]])
    side, which, i = place
    if side == "node":
        return int(fabric.node_base[node]) + which
    ports = fabric.nic_ports(node, which)[0 if side == "out" else 1]
    return int(ports[i])
