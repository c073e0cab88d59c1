"""Free GPUs of a cluster, node by node: what fits, and where it is put."""

from __future__ import annotations

from collections.abc import Iterable

from sim.study.cluster import Request

Placed = list[tuple[int, int]]  # a node, and GPUs of it


class Pool:
    """Nodes of equal size under leaf switches.

    Parameters
    ----------
    nodes, per_node, per_leaf : int
        Nodes, GPUs of each, and nodes under one leaf.
    """

    def __init__(self, nodes: int, per_node: int, per_leaf: int) -> None:
        self.per_node, self.per_leaf = per_node, per_leaf
        self.free = [per_node] * nodes
        self.with_free = [0] * per_node + [nodes]  # nodes, by how many of their GPUs are free

    def copy(self) -> Pool:
        """Another one of the same, to try things on."""
        other = Pool(0, self.per_node, self.per_leaf)
        other.free, other.with_free = list(self.free), list(self.with_free)
        return other

    @property
    def any_free(self) -> bool:
        """Whether a GPU is free."""
        return any(self.with_free[1:])

    def fits(self, request: Request) -> bool:
        """Whether a job could start now."""
        if not request.gpus:
            return self.with_free[-1] >= request.nodes
        return any(self.with_free[request.gpus :])

    def place(self, request: Request) -> Placed:
        """Take GPUs for a job that fits.

        Whole nodes lie under as few leaves as possible, the tightest fit first; a part of a node is
        of the fullest that has room.
        """
        if request.gpus:
            room = [(free, node) for node, free in enumerate(self.free) if free >= request.gpus]
            placed = [(min(room)[1], request.gpus)]
        else:
            placed = [(node, self.per_node) for node in self._nodes(request.nodes)]
        for node, gpus in placed:
            self._free(node, -gpus)
        return placed

    def release(self, placed: Iterable[tuple[int, int]]) -> None:
        """Give GPUs back."""
        for node, gpus in placed:
            self._free(node, gpus)

    def _free(self, node: int, more: int) -> None:
        """Count a node among those with so many more GPUs free."""
        self.with_free[self.free[node]] -= 1
        self.free[node] += more
        self.with_free[self.free[node]] += 1

    def _nodes(self, count: int) -> list[int]:
        leaves: dict[int, list[int]] = {}
        for node, free in enumerate(self.free):
            if free == self.per_node:
                leaves.setdefault(node // self.per_leaf, []).append(node)
        whole = [g for g in leaves.values() if len(g) >= count]
        if whole:
            return min(whole, key=len)[:count]
        chosen: list[int] = []
        for group in sorted(leaves.values(), key=len, reverse=True):
            chosen.extend(group[: count - len(chosen)])
        return chosen
