"""Each algorithm's bytes on the resources of a fabric, per byte of the collective.

"Per byte" is per total byte as nccl-tests counts: for all-gather and reduce-scatter all shards
together, for all-reduce and broadcast the buffer, for all-to-all and send/recv what one rank sends.
HBM traffic is part of the load: NCCL's kernels read and write it on every hop.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.fabric.compiled import Fabric

I8 = npt.NDArray[np.int64]
F8 = npt.NDArray[np.float64]
Amounts = dict[int, float]


class Demand(NamedTuple):
    """Bytes on resources per byte of the collective."""

    resource: I8  # (k,)
    amount: F8  # (k,)


def ring_share(op: str, n: int) -> float:
    """Bytes each rank passes to its successor per total byte."""
    if op == "all_reduce":
        return 2.0 * (n - 1) / n
    return 1.0 if op in ("broadcast", "send_recv") else (n - 1) / n


def hbm_passes(op: str) -> float:
    """HBM bytes a rank moves per byte it passes on.

    All-gather: read, write. Reduce-scatter: two reads, one write. All-reduce: half of each.

    Source: facts of NCCL's primitives (recvCopySend, recvReduceSend).
    """
    return {"reduce_scatter": 3.0, "all_reduce": 2.5}.get(op, 2.0)


def ring(fabric: Fabric, group: Sequence[int], op: str) -> Demand:
    """All channel rings of a group together."""
    n = len(group)
    load = fabric.ring_load(group)
    share = ring_share(op, n)
    amounts: Amounts = dict(
        zip(load.resource.tolist(), (load.demand * share).tolist(), strict=True)
    )
    if op == "broadcast":  # nothing returns to the root
        amounts = _edges(fabric, _chain_edges(fabric.rings(group).orders))
    _add_hbm(fabric, amounts, group, share * hbm_passes(op))
    return _demand(amounts)


def tree(fabric: Fabric, group: Sequence[int], op: str) -> Demand:
    """Double binary tree over nodes, a chain inside each node; up to reduce, down to broadcast."""
    orders = fabric.rings(group).orders
    edges: dict[tuple[int, int], float] = defaultdict(float)
    share = 1.0 / len(orders)
    for order in orders.tolist():
        segments = _by_node(fabric, order)
        for segment in segments:
            for head, tail in itertools.pairwise(segment):
                edges[tail, head] += share
                edges[head, tail] += share
        heads = [segment[0] for segment in segments]
        _tree_edges(edges, heads, share)
    amounts = _edges(fabric, edges.items())
    _add_hbm(fabric, amounts, group, 2.0 * hbm_passes(op))
    return _demand(amounts)


def nvls(fabric: Fabric, group: Sequence[int], op: str) -> Demand:
    """In-switch reduction and multicast inside a node; binary trees of each head between nodes.

    Notes
    -----
    All-reduce: every GPU's buffer is read through the switch once and every GPU receives the whole
    result: S out and S in, plus S/n each way for the part the GPU itself reduces and multicasts.
    """
    members = _members(fabric, group)
    amounts: Amounts = defaultdict(float)
    for ranks in members:
        g = len(ranks)
        out, into = {
            "all_reduce": (1.0 + 1.0 / g, 1.0 + 1.0 / g),
            "all_gather": (1.0 / g, 1.0),
            "reduce_scatter": (1.0, 1.0 / g),
        }[op]
        for rank in ranks:
            sends, receives = fabric.nvlink_ports(rank)
            for port in sends.tolist():
                amounts[port] += out / len(sends)
            for port in receives.tolist():
                amounts[port] += into / len(receives)
    if len(members) > 1:
        edges: dict[tuple[int, int], float] = defaultdict(float)
        heads = min(len(ranks) for ranks in members)
        for i in range(heads):
            _tree_edges(edges, [ranks[i] for ranks in members], 1.0 / heads)
        for resource, amount in _edges(fabric, edges.items()).items():
            amounts[resource] += amount
    _add_hbm(fabric, amounts, group, 2.0 if op == "all_reduce" else 1.0)
    return _demand(amounts)


def pat(fabric: Fabric, group: Sequence[int], op: str) -> Demand:
    """Parallel aggregated trees: log2 n rounds to peers at distances of powers of two."""
    n = len(group)
    edges: dict[tuple[int, int], float] = defaultdict(float)
    distance = 1
    while distance < n:
        parts = min(distance, n - distance) / n
        for i in range(n):
            edges[group[i], group[(i + distance) % n]] += parts
        distance *= 2
    amounts = _edges(fabric, edges.items())
    _add_hbm(fabric, amounts, group, ring_share(op, n) * hbm_passes(op))
    return _demand(amounts)


def collnet(fabric: Fabric, group: Sequence[int], op: str) -> Demand:
    """Reduce inside the node, let the network's switches reduce between nodes: S on the NICs."""
    members = _members(fabric, group)
    edges: dict[tuple[int, int], float] = defaultdict(float)
    amounts: Amounts = defaultdict(float)
    for ranks in members:
        for head, tail in itertools.pairwise(ranks):
            edges[tail, head] += 1.0
            edges[head, tail] += 1.0
        node = int(fabric.rank_node[ranks[0]])
        nics = sorted({nic for rank in ranks for nic in fabric.nics(rank)})
        for nic in nics:
            for ports in fabric.nic_ports(node, nic):
                for port in ports.tolist():
                    amounts[port] += 1.0 / len(nics) / len(ports)
    for resource, amount in _edges(fabric, edges.items()).items():
        amounts[resource] += amount
    _add_hbm(fabric, amounts, group, 2.0 * hbm_passes(op))
    return _demand(amounts)


def p2p(fabric: Fabric, group: Sequence[int], op: str) -> Demand:
    """Sends and receives: all pairs, or each rank to the next."""
    n = len(group)
    if op == "send_recv":
        edges = [((group[i], group[(i + 1) % n]), 1.0) for i in range(n)] if n > 1 else []
        sent = 1.0
    else:
        edges = [((a, b), 1.0 / n) for a in group for b in group if a != b]
        sent = (n - 1) / n
    amounts = _edges(fabric, edges)
    _add_hbm(fabric, amounts, group, 2.0 * sent)
    return _demand(amounts)


LOADS = {
    "ring": ring, "tree": tree, "nvls": nvls, "nvls_tree": nvls, "pat": pat,
    "collnet_direct": collnet, "collnet_chain": collnet, "p2p": p2p,
}  # fmt: skip


def total(parts: Iterable[Demand]) -> Demand:
    """Sum of what several groups put on the resources."""
    amounts: Amounts = defaultdict(float)
    for part in parts:
        for resource, amount in zip(part.resource.tolist(), part.amount.tolist(), strict=True):
            amounts[resource] += amount
    return _demand(amounts)


def double_tree(n: int) -> tuple[list[int], list[int]]:
    """Parents of 0..n-1 in NCCL's two binary trees, -1 for the root.

    Notes
    -----
    The second tree is the first mirrored (n even) or shifted by one (n odd), so that a node inside
    one tree is a leaf of the other.

    Source: NVIDIA/nccl src/graph/trees.cc, ncclGetBtree and ncclGetDtree.
    """
    first = [_parent(n, i) for i in range(n)]
    if n % 2 == 0:
        second = [n - 1 - first[n - 1 - i] if first[n - 1 - i] >= 0 else -1 for i in range(n)]
    else:
        second = [(first[i - 1] + 1) % n if first[i - 1] >= 0 else -1 for i in range(n)]
    return first, second


def _parent(n: int, i: int) -> int:
    if i == 0:
        return -1
    bit = i & -i
    up = (i ^ bit) | (bit << 1)
    return i ^ bit if up >= n else up


def _tree_edges(edges: dict[tuple[int, int], float], heads: Sequence[int], share: float) -> None:
    """Add both trees over the heads of nodes, half the bytes each, up and down."""
    for parents in double_tree(len(heads)):
        for child, parent in enumerate(parents):
            if parent >= 0:
                edges[heads[child], heads[parent]] += share / 2
                edges[heads[parent], heads[child]] += share / 2


def _chain_edges(orders: I8) -> Iterable[tuple[tuple[int, int], float]]:
    edges: dict[tuple[int, int], float] = defaultdict(float)
    root = int(orders[0, 0])
    for order in orders.tolist():
        start = order.index(root)
        turned = order[start:] + order[:start]
        for a, b in itertools.pairwise(turned):
            edges[a, b] += 1.0 / len(orders)
    return edges.items()


def _edges(fabric: Fabric, edges: Iterable[tuple[tuple[int, int], float]]) -> Amounts:
    amounts: Amounts = defaultdict(float)
    for (a, b), size in edges:
        route = fabric.route(a, b)
        for resource, demand in zip(route.resource.tolist(), route.demand.tolist(), strict=True):
            amounts[resource] += demand * size
    return amounts


def _add_hbm(fabric: Fabric, amounts: Amounts, group: Sequence[int], size: float) -> None:
    for rank in group:
        resource = fabric.hbm(rank)
        amounts[resource] = amounts.get(resource, 0.0) + size


def _by_node(fabric: Fabric, order: Sequence[int]) -> list[list[int]]:
    """Cut a ring order where it leaves a node."""
    segments: list[list[int]] = []
    last = -1
    for rank in order:
        node = int(fabric.rank_node[rank])
        if node != last:
            segments.append([])
            last = node
        segments[-1].append(rank)
    return segments


def _members(fabric: Fabric, group: Sequence[int]) -> list[list[int]]:
    members: dict[int, list[int]] = defaultdict(list)
    for rank in group:
        members[int(fabric.rank_node[rank])].append(rank)
    return [members[node] for node in sorted(members)]


def _demand(amounts: Amounts) -> Demand:
    kept = sorted((resource, amount) for resource, amount in amounts.items() if amount > 0.0)
    return Demand(
        np.array([resource for resource, _ in kept], np.int64),
        np.array([amount for _, amount in kept], np.float64),
    )
