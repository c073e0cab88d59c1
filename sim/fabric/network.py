"""The network between nodes: NIC ports, leaf and spine switches, equal-cost paths."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sim.errors import InputError
from sim.fabric.links import Rates
from sim.fabric.placement import leaves_of, uplink_rate
from sim.inputs.topology import Network
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

NetPath = tuple[tuple[tuple[int, float], ...], float, int]
"""Pairs of resource and share of the bytes; latency of one path [s]; links on it."""


def _fault(message: str, path: str) -> InputError:
    return InputError.single("topology", message, path)


class Cables(NamedTuple):
    """Links of a network, one direction each."""

    tail: I8  # (n_links,) vertex
    head: I8
    capacity: F8  # that bytes reach [B/s]
    raw: F8  # data sheet [B/s]
    latency: F8  # [s]

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, float, float, float]]) -> Cables:
        """Those that are known one by one."""
        columns = list(zip(*rows, strict=True)) or [()] * 5
        tail, head = (np.array(column, np.int64) for column in columns[:2])
        capacity, raw, latency = (np.array(column, float) for column in columns[2:])
        return cls(tail, head, capacity, raw, latency)

    @classmethod
    def both_ways(cls, a: I8, b: I8, capacity: F8, raw: F8, latency: float) -> Cables:
        """Links from each a to its b and back, (2 n,), the two of a pair side by side."""
        return cls(
            np.stack((a, b), axis=1).ravel(),
            np.stack((b, a), axis=1).ravel(),
            np.repeat(capacity, 2),
            np.repeat(raw, 2),
            np.full(2 * len(a), latency),
        )

    def then(self, other: Cables) -> Cables:
        """These, and others behind them."""
        return Cables(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class _ByVertex(NamedTuple):
    """Links by the vertex at one of their ends, in order."""

    ptr: I8  # (vertices + 1,)
    order: I8  # (n_links,)

    @classmethod
    def of(cls, end: I8, vertices: int) -> _ByVertex:
        counts = np.bincount(end, minlength=vertices)
        return cls(np.concatenate(([0], np.cumsum(counts))), np.argsort(end, kind="stable"))

    def links(self, vertex: int) -> list[int]:
        found: list[int] = self.order[self.ptr[vertex] : self.ptr[vertex + 1]].tolist()
        return found


class Plane:
    """Network vertices and directed links; vertices 0..n_ports-1 are NIC ports, switches follow.

    Parameters
    ----------
    owner : (n_ports, 2) int64, optional
        Node of each port, and the place of its NIC (or GPU) among the node's.
    names : sequence of str
        Of switches; vertex number less n_ports.
    links : Cables, optional
        Link i is resource ``base + i`` of the fabric.

    Attributes
    ----------
    base : int
        Set by the fabric, which lays the plane out behind its nodes.
    tail, head, capacity, raw, latency : (n_links,)
        As in `Cables`.
    """

    def __init__(
        self, owner: I8 | None = None, names: Sequence[str] = (), links: Cables | None = None
    ) -> None:
        self.base = 0
        self.owner: I8 = np.zeros((0, 2), np.int64) if owner is None else owner
        self.names = list(names)
        self.tail, self.head, self.capacity, self.raw, self.latency = links or Cables.of(())
        self._memo: dict[tuple[int, int], NetPath] = {}
        self._from_switches: dict[int, list[int]] = {}

    @property
    def n_ports(self) -> int:
        """Ports of NICs."""
        return len(self.owner)

    @functools.cached_property
    def _ends(self) -> tuple[_ByVertex, _ByVertex]:
        """Links by the vertex that they leave, and by the one that they enter."""
        vertices = self.n_ports + len(self.names)
        return _ByVertex.of(self.tail, vertices), _ByVertex.of(self.head, vertices)

    def links(self) -> Iterator[tuple[int, int, float, float, float]]:
        """Tail, head, capacity, raw rate and latency of each link."""
        columns = (self.tail, self.head, self.capacity, self.raw, self.latency)
        return zip(*(column.tolist() for column in columns), strict=True)

    def out(self, vertex: int) -> list[int]:
        """Links that leave a vertex."""
        return self._ends[0].links(vertex)

    def into(self, vertex: int) -> list[int]:
        """Links that enter a vertex."""
        return self._ends[1].links(vertex)

    def path(self, a: int, b: int) -> NetPath:
        """Resources that a byte from port a to port b crosses.

        Returns
        -------
        NetPath
            Several shortest paths share evenly, as ECMP does.
        """
        out, into = self.out(a), self.into(b)
        if len(out) == 1 and len(into) == 1 and self.head[out[0]] >= self.n_ports:
            first, last = out[0], into[0]
            middle, delay, hops = self._between(int(self.head[first]), int(self.tail[last]))
            loads = ((self.base + first, 1.0), *middle, (self.base + last, 1.0))
            ends = float(self.latency[first]), float(self.latency[last])
            return loads, delay + ends[0] + ends[1], hops + 2
        return self._between(a, b)

    def _between(self, a: int, b: int) -> NetPath:
        if (a, b) not in self._memo:
            self._memo[a, b] = self._equal_cost(a, b)
        return self._memo[a, b]

    def _equal_cost(self, a: int, b: int) -> NetPath:
        """Split evenly at every vertex over the links that lie on a shortest path."""
        if a == b:
            return (), 0.0, 0
        # from b back, layer by layer; `toward` has the links of a vertex that lead on to b
        reached, frontier, length = {b}, {b: None}, 1
        toward: dict[int, list[int]] = {}
        while not (last := [i for i in self.out(a) if int(self.head[i]) in frontier]):
            ahead: dict[int, None] = {}
            for v in frontier:
                for i in self._switched(v):
                    tail = int(self.tail[i])
                    if tail not in reached:
                        toward.setdefault(tail, []).append(i)
                        ahead[tail] = None
            if not ahead:
                message = f"no way over the network from {self.label(a)} to {self.label(b)}"
                raise _fault(message, "graph")
            reached |= ahead.keys()
            frontier, length = ahead, length + 1
        toward[a] = last
        share = {a: 1.0}
        loads: list[tuple[int, float]] = []
        delay = 0.0
        layer = [a]
        while layer and layer != [b]:
            after: dict[int, float] = {}
            for u in layer:
                for i in toward[u]:
                    part = share[u] / len(toward[u])
                    loads.append((self.base + i, part))
                    delay += part * float(self.latency[i])
                    head = int(self.head[i])
                    after[head] = after.get(head, 0.0) + part
            share.update(after)
            layer = list(after)
        return tuple(loads), delay, length

    def _switched(self, vertex: int) -> list[int]:
        """Links into a vertex from switches: NICs don't forward."""
        found = self._from_switches.get(vertex)
        if found is None:
            found = [i for i in self.into(vertex) if self.tail[i] >= self.n_ports]
            self._from_switches[vertex] = found
        return found

    def label(self, vertex: int) -> str:
        """Name of a port or switch for messages."""
        if vertex < self.n_ports:
            node, nic = self.owner[vertex].tolist()
            return f"n{node}/nic{nic}"
        return self.names[vertex - self.n_ports]


def nodes_per_leaf(network: Network, nics: int) -> int:
    """Nodes under one leaf: as written, or what 32 ports down allow."""
    if network.nodes_per_leaf is not None:
        return max(1, network.nodes_per_leaf)
    return 32 if network.kind == "rail-optimized" else max(1, 32 // nics)


def shorthand_plane(network: Network, nics: Sequence[tuple[int, Rates]]) -> Plane:
    """Lay out the leaves and the spine that the shorthand describes.

    Parameters
    ----------
    network : Network
        Kind, oversubscription of leaf uplinks, latency of one switch [s].
    nics : sequence of (int, Rates)
        NICs of each node, and the rates of one. [B/s]

    Returns
    -------
    Plane
        rail-optimized: NIC i of every node on leaf i of its pod; fat-tree: all NICs of a node on
        one leaf; single-switch: no leaves. Nodes of fewer NICs are on the first rails. All spines
        are one vertex, whose uplinks carry what `uplink_rate` says.

    Notes
    -----
    Half a switch's latency sits on each link that ends at it, so a path sums whole switches.
    """
    counts = np.array([count for count, _ in nics], np.int64)
    node = np.repeat(np.arange(len(nics)), counts)
    nic = np.arange(node.size) - np.repeat(np.cumsum(counts) - counts, counts)
    owner = np.stack((node, nic), axis=1)
    capacity = np.repeat([rates.capacity for _, rates in nics], counts)
    raw = np.repeat([rates.raw for _, rates in nics], counts)
    most, delay = int(counts.max()), network.switch_latency
    if network.oversubscription < 1.0:
        message = f"{network.oversubscription} is not at least 1"
        raise _fault(message, "network.oversubscription")

    def attached(above: I8) -> Cables:
        """Every port joined to the switch above it."""
        return Cables.both_ways(np.arange(node.size), node.size + above, capacity, raw, delay / 2)

    if network.kind == "single-switch":
        if network.oversubscription != 1.0:
            message = "a single switch has no uplinks to oversubscribe; take fat-tree"
            raise _fault(message, "network.oversubscription")
        return Plane(owner, ["switch"], attached(np.zeros(node.size, np.int64)))
    rails = network.kind == "rail-optimized"
    per_leaf = nodes_per_leaf(network, most)
    under = np.array(leaves_of(network, len(nics), per_leaf), np.int64)
    pods, wide = int(under.max()) + 1, most if rails else 1
    above = under[node] * wide + (nic if rails else 0)
    names = [
        f"leaf{pod}.{rail}" if rails else f"leaf{pod}"
        for pod in range(pods)
        for rail in range(wide)
    ]
    links = attached(above)
    if len(names) > 1:
        # rates of the ports below each leaf, in order of nodes
        order = np.argsort(above, kind="stable")
        cuts = np.searchsorted(above[order], np.arange(len(names) + 1)).tolist()
        used = np.flatnonzero(np.diff(cuts))
        whole = per_leaf * (1 if rails else most)
        uplink = np.array(
            [
                uplink_rate(network, raw[order[cuts[leaf] : cuts[leaf + 1]]].tolist(), whole, pods)
                for leaf in used.tolist()
            ]
        )
        spine = np.full(used.size, node.size + len(names))
        links = links.then(Cables.both_ways(node.size + used, spine, uplink, uplink, delay))
        names.append("spine")
    return Plane(owner, names, links)
