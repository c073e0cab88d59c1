"""Nodes of a group of ranks that are alike: one shape and the same local ranks.

What a group does inside one of them it does in all, so that it is found out once a kind and moved
to each node's own resources.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.fabric.shape import Shape
from sim.fabric.wiring import Wiring
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


class LikeNodes(NamedTuple):
    """Nodes of one shape that have the same local ranks in a group."""

    shape: Shape
    local: tuple[int, ...]  # ranks of the group, numbered in the node
    nodes: I8  # (m,) which nodes of the machine, in order
    place: I8  # (m,) their places among all nodes of the group

    def spread(self, fabric: Wiring, resource: I8, amount: F8) -> tuple[I8, F8]:
        """What one of the nodes has on its own resources, numbered in it, on those of each."""
        every = fabric.node_base[self.nodes][:, None] + np.asarray(resource, np.int64)
        return every.ravel(), np.tile(np.asarray(amount, float), self.nodes.size)


class GroupNodes(NamedTuple):
    """The nodes of a group of ranks, kind by kind in order of first appearance."""

    kinds: tuple[LikeNodes, ...]
    start: I8  # (n_nodes + 1,) place of each node's first rank in the group's sorted ranks

    @property
    def n_nodes(self) -> int:
        """How many there are."""
        return self.start.size - 1

    def heads(self, fabric: Wiring, which: int) -> I8:
        """Of each node, in order, the rank that is so many-th of the group there."""
        found = np.empty(self.n_nodes, np.int64)
        for kind in self.kinds:
            found[kind.place] = fabric.first_rank[kind.nodes] + kind.local[which]
        return found


def nodes_of(fabric: Wiring, ranks: npt.ArrayLike) -> GroupNodes:
    """The nodes that some ranks, (n,) int, are on.

    Raises
    ------
    ValueError
        If there is no rank, or one twice.
    """
    ordered = np.sort(np.asarray(ranks, np.int64))  # nodes have theirs in a row
    if not ordered.size or (np.diff(ordered) == 0).any():
        message = "a group of ranks is empty or names a rank twice"
        raise ValueError(message)
    of = fabric.rank_node[ordered]
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    start = np.append(starts, ordered.size)
    local = fabric.rank_local[ordered].astype(np.int32)
    nodes, shapes, packed = of[starts], fabric.shape_number, local.tobytes()
    bounds = (start * local.itemsize).tolist()
    found: dict[tuple[int, bytes], list[int]] = {}
    for place, number in enumerate(shapes[nodes].tolist()):
        found.setdefault((number, packed[bounds[place] : bounds[place + 1]]), []).append(place)
    kinds = []
    for each in found.values():
        first, places = each[0], np.array(each, np.int64)
        kinds.append(
            LikeNodes(
                fabric.shapes[int(nodes[first])],
                tuple(local[start[first] : start[first + 1]].tolist()),
                nodes[places],
                places,
            )
        )
    return GroupNodes(tuple(kinds), start)
