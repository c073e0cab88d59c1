"""The network between nodes: NIC ports, leaf and spine switches, equal-cost paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sim.errors import InputError
from sim.fabric.links import Rates
from sim.fabric.placement import leaves_of, uplink_rate
from sim.inputs.topology import Network


def _fault(message: str, path: str) -> InputError:
    return InputError.single("topology", message, path)


@dataclass
class Plane:
    """Network vertices and directed links; vertices 0..n_ports-1 are NIC ports.

    A port is NIC (or GPU) ``owner[p] = (node, place in the node's NICs)``. Link i is resource
    ``base + i`` of the fabric.
    """

    base: int = 0
    owner: list[tuple[int, int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of switches; vertex number less n_ports
    tail: list[int] = field(default_factory=list)
    head: list[int] = field(default_factory=list)
    capacity: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    out: dict[int, list[int]] = field(default_factory=dict)
    into: dict[int, list[int]] = field(default_factory=dict)
    memo: dict[tuple[int, int], tuple[tuple[tuple[int, float], ...], float, int]] = field(
        default_factory=dict
    )
    _from_switches: dict[int, list[int]] = field(default_factory=dict)

    @property
    def n_ports(self) -> int:
        """Ports of NICs."""
        return len(self.owner)

    def switch(self, name: str) -> int:
        """Add a switch, after all ports."""
        self.names.append(name)
        return self.n_ports + len(self.names) - 1

    def link(
        self, a: int, b: int, capacity: float, latency: float, raw: float | None = None
    ) -> None:
        """Add one direction of a link, of which the data sheet says `raw`, or the same."""
        i = len(self.tail)
        self.tail.append(a)
        self.head.append(b)
        self.capacity.append(capacity)
        self.raw.append(capacity if raw is None else raw)
        self.latency.append(latency)
        self.out.setdefault(a, []).append(i)
        self.into.setdefault(b, []).append(i)

    def join(
        self, a: int, b: int, capacity: float, latency: float, raw: float | None = None
    ) -> None:
        """Add both directions of a link."""
        self.link(a, b, capacity, latency, raw)
        self.link(b, a, capacity, latency, raw)

    def attach(self, switches: Sequence[int], rates: Sequence[Rates], latency: float) -> None:
        """Join every port to a switch, both ways, before any other link."""
        for port, (switch, rate) in enumerate(zip(switches, rates, strict=True)):
            self.tail += (port, switch)
            self.head += (switch, port)
            self.capacity += (rate.capacity, rate.capacity)
            self.raw += (rate.raw, rate.raw)
            out, into = 2 * port, 2 * port + 1
            self.out[port], self.into[port] = [out], [into]
            self.out.setdefault(switch, []).append(into)
            self.into.setdefault(switch, []).append(out)
        self.latency += [latency] * (2 * len(switches))

    def path(self, a: int, b: int) -> tuple[tuple[tuple[int, float], ...], float, int]:
        """Resources that a byte from port a to port b crosses.

        Returns
        -------
        tuple
            Pairs of resource and share of the bytes (several shortest paths share evenly, as ECMP
            does); latency of one path [s]; links on it.
        """
        out, into = self.out.get(a, ()), self.into.get(b, ())
        if len(out) == 1 and len(into) == 1 and self.head[out[0]] >= self.n_ports:
            first, last = out[0], into[0]
            middle, delay, hops = self._between(self.head[first], self.tail[last])
            loads = ((self.base + first, 1.0), *middle, (self.base + last, 1.0))
            return loads, delay + self.latency[first] + self.latency[last], hops + 2
        return self._between(a, b)

    def _between(self, a: int, b: int) -> tuple[tuple[tuple[int, float], ...], float, int]:
        if (a, b) not in self.memo:
            self.memo[a, b] = self._equal_cost(a, b)
        return self.memo[a, b]

    def _equal_cost(self, a: int, b: int) -> tuple[tuple[tuple[int, float], ...], float, int]:
        """Split evenly at every vertex over the links that lie on a shortest path."""
        if a == b:
            return (), 0.0, 0
        # from b back, layer by layer; `toward` has the links of a vertex that lead on to b
        reached, frontier, length = {b}, {b: None}, 1
        toward: dict[int, list[int]] = {}
        while not (last := [i for i in self.out.get(a, ()) if self.head[i] in frontier]):
            ahead: dict[int, None] = {}
            for v in frontier:
                for i in self._switched(v):
                    if self.tail[i] not in reached:
                        toward.setdefault(self.tail[i], []).append(i)
                        ahead[self.tail[i]] = None
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
                    delay += part * self.latency[i]
                    after[self.head[i]] = after.get(self.head[i], 0.0) + part
            share.update(after)
            layer = list(after)
        return tuple(loads), delay, length

    def _switched(self, vertex: int) -> list[int]:
        """Links into a vertex from switches: NICs don't forward."""
        found = self._from_switches.get(vertex)
        if found is None:
            links = self.into.get(vertex, ())
            found = [i for i in links if self.tail[i] >= self.n_ports]
            self._from_switches[vertex] = found
        return found

    def label(self, vertex: int) -> str:
        """Name of a port or switch for messages."""
        if vertex < self.n_ports:
            node, nic = self.owner[vertex]
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
    plane = Plane(owner=[(n, j) for n, (count, _) in enumerate(nics) for j in range(count)])
    rates = [each for count, each in nics for _ in range(count)]
    most = max(count for count, _ in nics)
    delay = network.switch_latency
    if network.oversubscription < 1.0:
        message = f"{network.oversubscription} is not at least 1"
        raise _fault(message, "network.oversubscription")
    if network.kind == "single-switch":
        if network.oversubscription != 1.0:
            message = "a single switch has no uplinks to oversubscribe; take fat-tree"
            raise _fault(message, "network.oversubscription")
        switch = plane.switch("switch")
        plane.attach([switch] * len(rates), rates, delay / 2)
        return plane
    rails = network.kind == "rail-optimized"
    per_leaf = nodes_per_leaf(network, most)
    under = leaves_of(network, len(nics), per_leaf)
    pods = max(under) + 1
    leaves = [
        plane.switch(f"leaf{pod}.{rail}" if rails else f"leaf{pod}")
        for pod in range(pods)
        for rail in range(most if rails else 1)
    ]
    members: list[list[float]] = [[] for _ in leaves]
    above = [under[node] * most + nic if rails else under[node] for node, nic in plane.owner]
    plane.attach([leaves[leaf] for leaf in above], rates, delay / 2)
    for leaf, rate in zip(above, rates, strict=True):
        members[leaf].append(rate.raw)
    if len(leaves) > 1:
        spine = plane.switch("spine")
        for leaf, below in zip(leaves, members, strict=True):
            if below:
                whole = per_leaf * (1 if rails else most)
                plane.join(leaf, spine, uplink_rate(network, below, whole, pods), delay)
    return plane
