"""An explicit graph -> shapes of its nodes and the plane between them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sim.errors import Fault, InputError
from sim.fabric.links import (
    Joined,
    joined,
    nic_passes,
    nvlink_rates,
    one_nvlink,
    pcie_rates,
    socket_rates,
)
from sim.fabric.network import Cables, Plane
from sim.fabric.shape import CPU, NVLINK, PCIE, Link, Shape
from sim.inputs.gpu import Gpu
from sim.inputs.topology import Cpu, Edge, Graph, Node, Storage, Topology, Vertex

_KIND = {"nvlink": NVLINK, "pcie": PCIE, "cpu": CPU}
_PORTS = ("nic", "gpu")  # vertices of a node that may be joined to the network
_MAY_JOIN = {
    "nvlink": {"gpu", "nvswitch", "cpu"},
    "pcie": {"gpu", "pcie-switch", "cpu", "nic"},
    "cpu": {"cpu"},
    "network": {"nic", "gpu", "switch"},
}


@dataclass
class Parts:
    """Nodes (their shapes and the users' names of their vertices) and the network between."""

    shapes: list[Shape] = field(default_factory=list)
    labels: list[list[str]] = field(default_factory=list)
    plane: Plane = field(default_factory=Plane)


def parts_of(topology: Topology, graph: Graph) -> Parts:
    """Split an explicit graph into nodes and network.

    Parameters
    ----------
    topology : Topology
        Whose ``node`` or ``gpu``, where given, says what vertices leave out.
    graph : Graph
        Vertices and edges. A node is what hangs together without network links, so GPUs of
        several hosts joined by NVLink are one node to the model, as they are to NCCL.

    Returns
    -------
    Parts
        Nodes in order of their least ``node`` number; equal nodes share one Shape.

    Raises
    ------
    InputError
        For every fault found: unknown or doubled ids, links that can't be, a graph in pieces.
    """
    source = topology.name
    _check(graph, source)
    vertices = {v.id: v for v in graph.vertices}
    local = _Groups(vertices)
    whole = _Groups(vertices)
    for edge in graph.edges:
        whole.merge(edge.source, edge.target)
        if edge.kind != "network":
            local.merge(edge.source, edge.target)
    pieces = whole.groups()
    if len(pieces) > 1:
        few = "; ".join(", ".join(p[:3]) + (", ..." if len(p) > 3 else "") for p in pieces[:4])
        message = f"the graph is in {len(pieces)} pieces that no link joins: {few}"
        raise InputError.single(source, message, "graph.edges")
    return _assemble(topology, graph, vertices, local)


def _assemble(
    topology: Topology, graph: Graph, vertices: dict[str, Vertex], local: _Groups
) -> Parts:
    switches = [v.id for v in graph.vertices if v.kind == "switch"]
    groups = [g for g in local.groups() if vertices[g[0]].kind != "switch"]
    groups.sort(key=lambda g: min(vertices[v].node for v in g))
    inside: dict[str, list[Edge]] = {g[0]: [] for g in groups}
    ports = set()
    for edge in graph.edges:
        if edge.kind == "network":
            ports |= {e for e in (edge.source, edge.target) if vertices[e].kind in _PORTS}
        else:
            inside[local.find(edge.source)].append(edge)
    parts, shared = Parts(), dict[object, Shape]()
    each = [group.node for group in topology.described for _ in range(group.nodes)]
    beside = each if len(each) == len(groups) else [None] * len(groups)
    ports_of: list[tuple[str, int, int]] = []  # name, node, place among its NICs
    for place, group in enumerate(groups):
        edges = inside[local.find(group[0])]
        shape = _shape(topology, beside[place], [vertices[v] for v in group], edges, ports)
        key = (
            tuple(shape.kinds),
            tuple(shape.links),
            tuple(g.name for g in shape.gpu_specs),
            tuple(shape.rails),
            tuple(shape.nics),
            tuple(shape.memory),
            shape.staged,
            shape.nic_passes,
            shape.vendor,
            shape.p2p,
            shape.level,
        )
        parts.shapes.append(shared.setdefault(key, shape))
        parts.labels.append(group)
        ports_of += [(group[v], place, nic) for nic, v in enumerate(shape.nics)]
    parts.plane = _network(graph, switches, ports_of)
    return parts


def _network(graph: Graph, switches: list[str], ports: list[tuple[str, int, int]]) -> Plane:
    names = [name for name, _, _ in ports] + switches
    place = {name: i for i, name in enumerate(names)}
    rows: list[tuple[int, int, float, float, float]] = []
    for edge in graph.edges:
        if edge.kind == "network":
            a, b = place[edge.source], place[edge.target]
            figures = edge.bandwidth, edge.bandwidth, edge.latency
            rows.append((a, b, *figures))
            if not edge.directed:
                rows.append((b, a, *figures))
    owner = np.array([(node, nic) for _, node, nic in ports], np.int64).reshape(-1, 2)
    return Plane(owner, switches, Cables.of(rows))


def _shape(
    topology: Topology,
    node: Node | None,
    vertices: list[Vertex],
    edges: list[Edge],
    ports: set[str],
) -> Shape:
    shape = Shape()
    if node is not None:
        shape.p2p, shape.vendor = node.pcie.p2p, node.cpu.vendor
        shape.nic_passes = nic_passes(node.nics)
        shape.level = node.p2p_level or ""
        edges = [e for e in edges if e.kind != "nvlink"] if shape.level == "LOC" else edges
    memory = (node.cpu if node else Cpu()).memory_bandwidth
    staged = []
    place: dict[str, int] = {}
    for v in vertices:
        i = place[v.id] = shape.vertex(v.kind, v.id)
        if v.kind == "gpu":
            shape.gpus.append(i)
            shape.gpu_specs.append(_gpu(topology, v))
        elif v.kind == "cpu":
            shape.cpus.append(i)
            shape.memory.append(v.memory_bandwidth or memory)
            shape.vendor = v.vendor or shape.vendor
        if v.id in ports:
            if not v.gpudirect:
                staged.append(len(shape.nics))
            shape.nics.append(i)
            shape.rails.append(len(shape.rails) if v.rail is None else v.rail)
    shape.staged = frozenset(staged)
    shape.p2p = shape.p2p and all(g.p2p for g in shape.gpu_specs)
    rates: dict[int, float] = {}
    specs = dict(zip(shape.gpus, shape.gpu_specs, strict=True))
    ends = [place[end] for e in edges if e.kind == "nvlink" for end in (e.source, e.target)]
    fabric = joined(ends, not specs.keys() >= set(ends))
    for edge in edges:
        a, b = place[edge.source], place[edge.target]
        count = _links(specs.get(a, specs.get(b)), edge, fabric, rates)
        for tail, head in ((a, b),) if edge.directed else ((a, b), (b, a)):
            rate, counted, raw = _rates(edge, node)
            shape.links.append(
                Link(tail, head, _KIND[edge.kind], rate, raw, counted, edge.latency, count)
            )
    shape.add_own(node.storage if node else Storage())
    return shape


def _rates(edge: Edge, node: Node | None) -> tuple[float, float, float]:
    """Bandwidth as written; as NCCL counts it and by the data sheet, in the node's proportions."""
    rate = edge.bandwidth
    if node is None:
        return rate, rate, rate
    known = None
    if edge.kind == "pcie":
        known = pcie_rates(node.pcie.generation, node.pcie.lanes)
    elif edge.kind == "nvlink" and node.nvlink is not None:
        known = nvlink_rates(node.nvlink, node.gpu)
    elif edge.kind == "cpu":
        known = socket_rates(node)
    if known is None:
        return rate, rate, rate
    return rate, rate * known.nccl / known.capacity, rate * known.raw / known.capacity


def _gpu(topology: Topology, vertex: Vertex) -> Gpu:
    gpu = vertex.gpu or topology.gpu or (topology.node.gpu if topology.node else None)
    if gpu is None:
        message = "names no GPU, and the topology has no `gpu` for those that don't"
        raise InputError.single(topology.name, message, f"graph.vertices[{vertex.id}].gpu")
    return gpu


def _links(gpu: Gpu | None, edge: Edge, fabric: Joined, rates: dict[int, float]) -> int:
    """How many NVLinks make up an edge, at the GPU's rate of one; ``rates`` remembers it."""
    if edge.kind != "nvlink" or gpu is None or gpu.nvlink_generation is None:
        return 0
    if id(gpu) not in rates:
        rates[id(gpu)] = one_nvlink(gpu, gpu.nvlink_generation, fabric)
    links = max(1, round(edge.bandwidth / rates[id(gpu)]))
    return min(links, gpu.nvlink_links or links) if fabric == "pairs" else links


def _check(graph: Graph, source: str) -> None:
    faults = []
    kinds: dict[str, str] = {}
    for i, v in enumerate(graph.vertices):
        if v.id in kinds:
            faults.append(Fault(source, None, None, f"graph.vertices[{i}].id", f"{v.id} twice"))
        kinds.setdefault(v.id, v.kind)
    if "gpu" not in kinds.values():
        faults.append(Fault(source, None, None, "graph.vertices", "not one GPU"))
    seen: set[tuple[str, str]] = set()
    for i, e in enumerate(graph.edges):
        path = f"graph.edges[{i}]"
        if e.source not in kinds or e.target not in kinds:
            for end in (e.source, e.target):
                if end not in kinds:
                    faults.append(Fault(source, None, None, path, f"no vertex {end!r}"))
            continue
        if e.source == e.target:
            faults.append(Fault(source, None, None, path, f"joins {e.source} to itself"))
        for end in (e.source, e.target):
            if kinds[end] not in _MAY_JOIN[e.kind]:
                message = f"a link of kind {e.kind} can't end at {end}, of kind {kinds[end]}"
                faults.append(Fault(source, None, None, path, message))
        way, back = (e.source, e.target), (e.target, e.source)
        if way in seen or (back in seen and not e.directed):
            message = f"{e.source} and {e.target} are joined already; add the bandwidths up"
            faults.append(Fault(source, None, None, path, message))
        seen.add(way)
        if not e.directed:
            seen.add(back)
    if faults:
        raise InputError(faults)


class _Groups:
    """Union-find over vertex ids; a group's name is its first vertex in order of appearance."""

    def __init__(self, ids: dict[str, Vertex]) -> None:
        self._order = {v: i for i, v in enumerate(ids)}
        self._parent = {v: v for v in ids}

    def find(self, v: str) -> str:
        while self._parent[v] != v:
            self._parent[v] = self._parent[self._parent[v]]
            v = self._parent[v]
        return v

    def merge(self, a: str, b: str) -> None:
        first, second = self.find(a), self.find(b)
        if self._order[first] > self._order[second]:
            first, second = second, first
        self._parent[second] = first

    def groups(self) -> list[list[str]]:
        """Groups and their members in order of appearance."""
        found: dict[str, list[str]] = {}
        for v in self._parent:
            found.setdefault(self.find(v), []).append(v)
        return list(found.values())
