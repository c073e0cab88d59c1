"""The compiled machine: its wiring, and what groups of ranks do with it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sim.errors import InputError
from sim.fabric.explicit import parts_of
from sim.fabric.folding import classes_of_ranks
from sim.fabric.held import goes_with_machines, hold
from sim.fabric.links import nic_rates, staging_range
from sim.fabric.network import Plane, shorthand_plane
from sim.fabric.rings import Hops, Load, Rings, find_rings, ring_hops
from sim.fabric.shape import Shape, shape_of
from sim.fabric.wiring import F8, I8, Route, Wiring
from sim.inputs.topology import Offer, Topology

if TYPE_CHECKING:
    import networkx as nx


HOST_MEMORY = "in host memory"


class Fabric(Wiring):
    """A machine compiled to arrays. Make it with :func:`compile_fabric`."""

    def __init__(
        self, topology: Topology, shapes: list[Shape], plane: Plane, labels: list[list[str]] | None
    ) -> None:
        super().__init__(topology, shapes, plane, labels)
        self._rings: dict[bytes, Rings] = {}

    def rings(self, group: Sequence[int] | I8) -> Rings:
        """Channel rings over a group of ranks; see ``rings.py``."""
        ranks = np.asarray(group, np.int64)
        key = ranks.tobytes()
        found = self._rings.get(key)
        if found is None:
            found = self._rings[key] = find_rings(self, ranks)
        return found

    def ring_hops(self, group: Sequence[int] | I8) -> Hops:
        """Demands of every hop of every ring, for the level of single ring steps."""
        return ring_hops(self, self.rings(group).orders)

    def ring_load(self, group: Sequence[int] | I8) -> Load:
        """Bytes on each resource per byte that every rank passes on, over all rings."""
        return self.rings(group).load

    def bandwidth(self, load: Load | Route, capacity: F8 | None = None) -> float:
        """Rate at which a load alone saturates its tightest resource; inf if it has none. [B/s]

        `capacity`, (n_resources,), stands for the machine's own.
        """
        if not len(load.resource):
            return float("inf")
        given = self.capacity if capacity is None else capacity
        return float(np.min(given[load.resource] / load.demand))

    def copies_bandwidth(self, direction: str) -> float:
        """What the slowest GPU gets while all copy, ``to-host`` or ``to-device``. [B/s]"""
        load = np.zeros(self.n_resources)
        for node in np.unique(self.shape_number, return_index=True)[1].tolist():
            for rank in self.ranks_of(node):
                route = self.offload_route(rank, direction)
                load[route.resource] += route.demand
        used = load > 0.0
        return float(np.min(self.capacity[used] / load[used]))

    def bottleneck(self, load: Load | Route, capacity: F8 | None = None) -> int:
        """Tightest resource of a load, by `capacity` or the machine's own; -1 if it has none."""
        if not len(load.resource):
            return -1
        given = self.capacity if capacity is None else capacity
        return int(load.resource[np.argmin(given[load.resource] / load.demand)])

    def staging_range(self) -> tuple[float, float]:
        """`sim.fabric.links.staging_range`, where the first node's GPUs meet in host memory."""
        spec = self.spec(0)
        known = staging_range(spec) if spec is not None else (1.0, 1.0)
        return known if known[0] < 1.0 and self.meeting_place() == HOST_MEMORY else (1.0, 1.0)

    def meeting_place(self) -> str:
        """Where rings of the first node's GPUs pass, other than PCIe; empty for one GPU."""
        local = np.flatnonzero(self.rank_node == 0)
        if local.size < 2:
            return ""
        rings = self.rings(local)
        if rings.transport == "shm":
            return HOST_MEMORY
        return "over NVLink" if rings.path in ("NVL", "NVB") else ""

    def rank_classes(self) -> I8:
        """Class of each rank under the symmetries that colour refinement sees in the graph."""
        return classes_of_ranks(self)

    def graph(self) -> nx.DiGraph[str]:
        """Return the same table as a networkx graph."""
        from sim.fabric.graph import to_networkx

        return to_networkx(self)


@functools.lru_cache(maxsize=64)
def _compile(key: _FabricKey) -> Fabric:
    found = _compiled(key.topology)
    hold(found.n_resources)
    return found


# One fabric a name and offer: what is known of a fabric is looked up by which it is.
@functools.lru_cache(maxsize=64)
def _renamed(key: _FabricKey, name: str, offer: Offer | None) -> Fabric:
    fabric = copy.copy(_compile(key))
    fabric.topology = key.topology
    return fabric


goes_with_machines(_compile.cache_clear)
goes_with_machines(_renamed.cache_clear)


def _compiled(topology: Topology) -> Fabric:
    if topology.graph is not None:
        parts = parts_of(topology, topology.graph)
        return Fabric(topology, parts.shapes, parts.plane, parts.labels)
    groups = topology.groups
    if not groups:
        message = "has neither `node`, `node_groups` nor `graph`"
        raise InputError.single(topology.name, message)
    shapes = {id(group.node): shape_of(group.node, topology.name) for group in groups}
    each = [group.node for group in groups for _ in range(group.nodes)]
    plane = Plane()
    if len(each) > 1:
        if any(node.nics is None or not node.nics.count for node in each):
            message = f"{len(each)} nodes, and no NICs to join them"
            raise InputError.single(topology.name, message, "node.nics")
        ports = [(n.nics.count, nic_rates(n, n.nics)) for n in each if n.nics is not None]
        plane = shorthand_plane(topology.network, ports)
    return Fabric(topology, [shapes[id(node)] for node in each], plane, None)


class _FabricKey:
    """The part of a topology that the fabric depends on."""

    __slots__ = ("content", "topology")

    def __init__(self, topology: Topology) -> None:
        t = topology
        self.topology = t
        self.content = (t.nodes, t.node, t.network, t.graph, t.gpu, t.calibration, t.node_groups)

    def __hash__(self) -> int:
        return hash(self.content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _FabricKey) and self.content == other.content


def compile_fabric(topology: Topology) -> Fabric:
    """Compile a topology, or return the fabric compiled from equal content before.

    Parameters
    ----------
    topology : Topology
        Shorthand or explicit graph. Another name or offer doesn't compile anew.

    Returns
    -------
    Fabric
        Arrays are shared: don't change them.

    Raises
    ------
    InputError
        If the machine can't be: unknown generations, nodes that nothing joins, a bad graph.
    """
    key = _FabricKey(topology)
    fabric = _compile(key)
    known = fabric.topology
    if known is not topology and (known.name, known.offer) != (topology.name, topology.offer):
        return _renamed(key, topology.name, topology.offer)
    return fabric
