"""Bytes on the resources of a fabric, per byte of the collective: what algorithms add them up of.

"Per byte" is per total byte as nccl-tests counts: for all-gather and reduce-scatter all shards
together, for all-reduce and broadcast the buffer, for all-to-all and send/recv what one rank sends.
HBM traffic is part of the load: NCCL's kernels read and write it on every hop.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from sim.fabric.alike import LikeNodes
from sim.fabric.fabric import Fabric
from sim.fabric.traffic import summed, traffic
from sim.records import NamedTuple

B1 = npt.NDArray[np.bool_]
I8 = npt.NDArray[np.int64]
F8 = npt.NDArray[np.float64]


class Demand(NamedTuple):
    """Bytes on resources per byte of the collective."""

    resource: I8  # (k,)
    amount: F8  # (k,)


class Demands(NamedTuple):
    """The same of several groups, group by group."""

    ptr: I8  # (n_groups + 1,)
    resource: I8
    amount: F8

    @classmethod
    def each(cls, found: Sequence[tuple[I8, F8]]) -> Demands:
        """Those that are known one by one."""
        sizes = [resource.size for resource, _ in found]
        resource, amount = (np.concatenate(columns) for columns in zip(*found, strict=True))
        return cls(np.cumsum([0, *sizes]), resource, amount)

    def of(self, group: int) -> Demand:
        """That of one."""
        at = slice(self.ptr[group], self.ptr[group + 1])
        return Demand(self.resource[at], self.amount[at])

    def some(self, first: int, end: int) -> Demands:
        """Those of groups from one to before another."""
        at = slice(self.ptr[first], self.ptr[end])
        ptr = self.ptr[first : end + 1] - self.ptr[first]
        return Demands(ptr, self.resource[at], self.amount[at])

    def without(self, those: B1) -> Demands:
        """Those on other resources than some, (n_resources,)."""
        left = ~those[self.resource]
        before = np.concatenate(([0], np.cumsum(left)))
        return Demands(before[self.ptr], self.resource[left], self.amount[left])


def ring_share(op: str, n: int) -> float:
    """Bytes each rank passes to its successor per total byte."""
    if op == "all_reduce":
        return 2.0 * (n - 1) / n
    return 1.0 if op in ("broadcast", "send_recv", "send") else (n - 1) / n


def hbm_passes(op: str) -> float:
    """HBM bytes a rank moves per byte it passes on.

    All-gather: read, write. Reduce-scatter: two reads, one write. All-reduce: half of each.

    Source: facts of NCCL's primitives (recvCopySend, recvReduceSend).
    """
    return {"reduce_scatter": 3.0, "all_reduce": 2.5}.get(op, 2.0)


def total(parts: Iterable[Demand]) -> Demand:
    """The sum of several, by resource; resources with nothing on them left out."""
    resource, amount = summed(parts)
    used = amount > 0.0
    return Demand(resource[used], amount[used])


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


@functools.cache
def _double_tree_edges(n: int) -> I8:
    """Child and parent of every edge of both trees over 0..n-1, (m, 2)."""
    edges = [
        (child, parent)
        for parents in double_tree(n)
        for child, parent in enumerate(parents)
        if parent >= 0
    ]
    return np.array(edges, np.int64).reshape(-1, 2)


def tree_edges(heads: Iterable[I8]) -> I8:
    """Pairs of ranks, child and parent, of both trees over each of some rows of heads, (m, 2)."""
    return np.concatenate([row[_double_tree_edges(row.size)] for row in heads])


def both_ways(fabric: Fabric, pairs: I8, size: float) -> Demand:
    """Bytes on resources of pairs of ranks, (m, 2), that send so many bytes each to the other."""
    return on(fabric, np.concatenate([pairs, pairs[:, ::-1]]), size)


def on(fabric: Fabric, pairs: npt.ArrayLike, size: F8 | float) -> Demand:
    """Bytes on resources of pairs of ranks, (m, 2): the first sends so many bytes to the second."""
    ends = np.asarray(pairs, np.int64).reshape(-1, 2)
    each = np.broadcast_to(np.asarray(size, float), len(ends))
    return Demand(*traffic(fabric, ends[:, 0], ends[:, 1], each))


def inside(fabric: Fabric, kind: LikeNodes, found: Demand) -> Demand:
    """What the first of some like nodes has on its own resources, on those of all of them."""
    base = int(fabric.node_base[kind.nodes[0]])
    return Demand(*kind.spread(fabric, found.resource - base, found.amount))


def hbm(fabric: Fabric, group: Sequence[int], size: float) -> Demand:
    """`size` bytes on the HBM of every rank."""
    resource = fabric.hbm_of(group)
    return Demand(resource, np.full(resource.size, size))
