"""Groups of ranks that load a machine alike: what one puts on it says what all of them do.

Two groups are alike if, member by member, they are on nodes of one shape at the same local ranks,
on one node where the other is, and if NICs of theirs share a leaf switch where the other's do. A
demand of one is then that of the other, moved to its nodes, its ports and its leaves' uplinks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sim.fabric.held import goes_with_machines
from sim.fabric.traffic import Ports, ports_of
from sim.fabric.wiring import Wiring
from sim.records import NamedTuple

B1 = npt.NDArray[np.bool_]
I8 = npt.NDArray[np.int64]

_MOST = 512  # NICs of a group beyond which it is not compared to others: it is its own work
_ROUNDING = 1e-12  # of sums of rates


class Leaves(NamedTuple):
    """Uplinks of the leaf switches of a machine whose leaves meet at one spine."""

    ports: Ports
    up: I8  # (n_ports,) resource of the link from the leaf above to the spine; -1 where it has none
    down: I8


@functools.lru_cache(maxsize=8)
def leaves_of(fabric: Wiring) -> Leaves | None:
    """None without NICs, and for a graph that was drawn: its switches may be joined in any way."""
    ports, plane = ports_of(fabric), fabric.plane
    if fabric.topology.graph is not None or ports is None:
        return None
    ends = np.stack((plane.tail, plane.head))[:, 2 * plane.n_ports :]
    vertices = plane.n_ports + len(plane.names)
    up, down = np.full(vertices, -1), np.full(vertices, -1)
    spine = vertices - 1  # the last switch, where there are links between switches at all
    for found, (here, there) in ((up, ends), (down, ends[::-1])):
        at = np.flatnonzero(there == spine)
        found[here[at]] = plane.base + 2 * plane.n_ports + at
    return Leaves(ports, up[ports.above], down[ports.above])


@functools.lru_cache(maxsize=8)
def never_full(fabric: Wiring) -> B1:
    """Uplinks that carry all that the ports below them can send or take, (n_resources,).

    What crosses such a link crosses those ports' links too, so that it holds nobody back: shares
    are the same without it. It would tell nodes under full leaves from others, and, where stages of
    a pipeline begin in the middle of a leaf, each leaf from the next.
    """
    found = np.zeros(fabric.n_resources, np.bool_)
    leaves = leaves_of(fabric)
    if leaves is None:
        return found
    ports = leaves.ports
    for link, uplink in ((ports.out, leaves.up), (ports.into, leaves.down)):
        joined = uplink >= 0
        below = np.bincount(
            uplink[joined], fabric.capacity[link[joined]], minlength=fabric.n_resources
        )
        found |= (below > 0.0) & (below <= fabric.capacity * (1.0 + _ROUNDING))
    return found


goes_with_machines(leaves_of.cache_clear)
goes_with_machines(never_full.cache_clear)


def sisters(fabric: Wiring, groups: I8) -> Iterator[I8]:
    """Places of groups, (g, n) ranks, that are alike, kind by kind, for `moved`."""
    node = fabric.rank_node[groups]
    # rings and trees go through nodes in order
    signs = [fabric.shape_number[node], fabric.rank_local[groups], np.argsort(groups, axis=1)]
    if (node != node[:, :1]).any():
        leaves = leaves_of(fabric)
        if leaves is None or groups.shape[1] * fabric.port_at.shape[1] > _MOST:
            yield from np.arange(len(groups)).reshape(-1, 1)
            return
        signs += [_first_like(node), _first_like(_switches(fabric, leaves, groups))]
    rows = np.ascontiguousarray(np.concatenate(signs, axis=1))
    whole = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    _, which, counts = np.unique(whole, return_inverse=True, return_counts=True)
    alike = np.split(np.argsort(which.ravel(), kind="stable"), np.cumsum(counts)[:-1])
    yield from sorted(alike, key=lambda places: int(places[0]))


def moved(fabric: Wiring, resource: I8, group: I8, others: I8) -> I8:
    """Where other groups, (m, n), have what a group, (n,), has on some resources: (m, k)."""
    found = np.empty((len(others), resource.size), np.int64)
    if not len(others):
        return found
    node, far = fabric.rank_node[group], fabric.rank_node[others]
    member = np.full(fabric.n_nodes, -1)
    member[node[::-1]] = np.arange(node.size)[::-1]
    inside = np.flatnonzero(resource < fabric.plane.base)
    at = np.searchsorted(fabric.node_base, resource[inside], side="right") - 1
    bases = fabric.node_base[far[:, member[at]]]
    found[:, inside] = bases + (resource[inside] - fabric.node_base[at])
    leaves = leaves_of(fabric)
    if leaves is None or inside.size == resource.size:
        return found
    # what else there is: links of the nodes' ports, and uplinks of the leaves above them
    port, there = fabric.port_at[node], fabric.port_at[far]
    known: dict[int, tuple[I8, int, int]] = {}
    for table in (leaves.ports.out, leaves.ports.into, leaves.up, leaves.down):
        for (j, nic), p in np.ndenumerate(port):
            if p >= 0:
                known.setdefault(int(table[p]), (table, j, nic))
    for place in np.flatnonzero(resource >= fabric.plane.base).tolist():
        table, j, nic = known[int(resource[place])]
        found[:, place] = table[there[:, j, nic]]
    return found


def _switches(fabric: Wiring, leaves: Leaves, groups: I8) -> I8:
    """Leaf above every NIC of the members' nodes, (g, n x NICs); -1 where there is no NIC."""
    port = fabric.port_at[fabric.rank_node[groups]]
    above = np.where(port >= 0, leaves.ports.above[port], -1)
    return above.reshape(len(groups), -1)


def _first_like(rows: I8) -> I8:
    """In each row, (m, w), the first place that has what each place has."""
    found = np.empty_like(rows)
    step = max(1, (1 << 24) // max(rows.shape[1] ** 2, 1))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        found[start : start + step] = (some[:, :, None] == some[:, None, :]).argmax(axis=1)
    return found
