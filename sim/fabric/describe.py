"""A machine in numbers: tree, matrix of path classes, link classes, bisection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from sim import units
from sim.documents import SCHEMAS, Document
from sim.errors import InputError
from sim.fabric import paths
from sim.fabric.fabric import Fabric, compile_fabric
from sim.fabric.shape import KINDS, Shape
from sim.inputs.topology import Topology

_MATRIX_RANKS = 32  # wider matrices are unreadable
#: GPUs of a machine that is shown link by link, and of one node: 10 s
MOST_SHOWN, MOST_IN_A_NODE = 32_768, 512


def shown(topology: Topology) -> Fabric:
    """A machine compiled to be shown link by link.

    Raises
    ------
    InputError
        It has more GPUs than `MOST_SHOWN`, or a node of it more than `MOST_IN_A_NODE`.
    """
    widest = max((group.node.gpus for group in topology.groups), default=0)
    for gpus, most, where, less in (
        (topology.world_size, MOST_SHOWN, "", "equal nodes look alike: take fewer"),
        (widest, MOST_IN_A_NODE, " in a node", "take fewer in a node"),
    ):
        if gpus > most:
            message = f"{gpus:,} GPUs{where}; at most {most:,} are shown link by link; {less}"
            raise InputError.single(topology.name, message)
    return compile_fabric(topology)


@dataclass(frozen=True, slots=True)
class LinkClass:
    """Links that are alike.

    Attributes
    ----------
    between : str
        Kinds of the ends.
    kind : str
        ``pcie``, ``nvlink``, ``network``...
    bytes_per_s, raw_bytes_per_s : float
        Each way, as it gives and as its data sheet says. [B/s]
    latency_s : float
        Of the link. [s]
    links : int
        Bundled in one.
    count : float
        Both directions are one link.
    """

    between: str
    kind: str
    bytes_per_s: float
    raw_bytes_per_s: float
    latency_s: float
    links: int
    count: float


@dataclass(frozen=True, slots=True)
class PathMatrix:
    """Path classes of GPUs and NICs, equal nodes once, as ``nvidia-smi topo -m``."""

    names: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class RingsShown:
    """Rings over all GPUs; what they give, and what limits them. [B/s]"""

    count: int
    bus_bytes_per_s: float | None
    limit: str | None


@dataclass(frozen=True, slots=True)
class MachineDescription(Document):
    """What ``topo show`` says of a machine.

    Attributes
    ----------
    name : str
        Of the topology.
    nodes, gpus : int
        Counts.
    tree : tuple of str
        Lines: nodes (alike ones once), sockets, switches, devices, then the network.
    matrix : PathMatrix
        Path classes.
    links : tuple of LinkClass
        Every class of links.
    bisection_bytes_per_s : float
        Between two halves of the GPUs, one way. [B/s]
    rings : RingsShown
        Of all GPUs.
    rank_classes : tuple of tuple of int
        Ranks that are alike.
    """

    schema: ClassVar[str] = SCHEMAS["topology"]

    name: str
    nodes: int
    gpus: int
    tree: tuple[str, ...]
    matrix: PathMatrix
    links: tuple[LinkClass, ...]
    bisection_bytes_per_s: float
    rings: RingsShown
    rank_classes: tuple[tuple[int, ...], ...]

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a class of links."""
        return [asdict(link) for link in self.links]


def link_classes(fabric: Fabric) -> tuple[LinkClass, ...]:
    """Group links that are alike."""
    found: dict[tuple[str, str, float, float, float, int], int] = {}
    for shape in fabric.shapes:
        for e in shape.links:
            ends = "-".join(sorted((shape.kinds[e.tail], shape.kinds[e.head])))
            key = (ends, KINDS[e.kind], e.capacity, e.raw, e.latency, e.links)
            found[key] = found.get(key, 0) + 1
    plane = fabric.plane
    for a, b, rate, raw, delay in plane.links():
        kinds = ["nic" if v < plane.n_ports else "switch" for v in (a, b)]
        key = ("-".join(sorted(kinds)), "network", rate, raw, delay, 0)
        found[key] = found.get(key, 0) + 1
    return tuple(LinkClass(*key, count / 2) for key, count in found.items())


def bisection(fabric: Fabric) -> float:
    """Bandwidth between two halves of the ranks, one direction. [B/s]

    Returns
    -------
    float
        Greatest flow from the first half of the ranks to the second over all links of the graph:
        what the wires allow, whatever NCCL makes of them. Zero for one rank.

    Notes
    -----
    A maximum flow; the halves are by rank, so whole nodes where their number is even.
    """
    if fabric.n_ranks < 2:
        return 0.0
    import networkx as nx

    graph = fabric.graph()
    flow: nx.DiGraph[str] = nx.DiGraph()
    for a, b, link in graph.edges(data=True):
        flow.add_edge(a, b, capacity=link["bandwidth"])
    gpus = [v for v, d in graph.nodes(data=True) if d["kind"] == "gpu"]
    half = fabric.n_ranks // 2
    for place, g in enumerate(gpus):
        # unbounded edges: a missing capacity is infinite to networkx
        if place < half:
            flow.add_edge("first half", g)
        else:
            flow.add_edge(g, "second half")
    value: float = nx.maximum_flow_value(flow, "first half", "second half")
    return value


def matrix(fabric: Fabric) -> PathMatrix:
    """Path classes of GPUs and NICs, equal nodes once, as ``nvidia-smi topo -m``."""
    first = {id(shape): n for n, shape in reversed(list(enumerate(fabric.shapes)))}
    nodes: list[int] = []
    ranks = 0
    for n in sorted(first.values()):
        ranks += len(fabric.shapes[n].gpus)
        if not nodes or ranks <= _MATRIX_RANKS:
            nodes.append(n)
    ends = [(n, v) for n in nodes for v in fabric.shapes[n].gpus]
    ends += [
        (n, v) for n in nodes for v, kind in enumerate(fabric.shapes[n].kinds) if kind == "nic"
    ]
    names = [fabric.vertex_names[n][v] for n, v in ends]
    cells = (
        tuple(_cell(fabric.shapes[n], u, v) if n == m else "NET" for m, v in ends) for n, u in ends
    )
    return PathMatrix(tuple(names), tuple(cells))


def _cell(shape: Shape, u: int, v: int) -> str:
    if u in shape.gpus and v in shape.gpus:
        return paths.printed_class(shape, shape.gpus.index(u), shape.gpus.index(v))
    return "X" if u == v else paths.host_class(shape, u, v) or "-"


def describe_machine(fabric: Fabric) -> MachineDescription:
    """Tree, path classes, links, bisection and rank classes of a machine."""
    rings = fabric.rings(range(fabric.n_ranks))
    bottleneck = fabric.bottleneck(rings.load)
    classes = fabric.rank_classes()
    return MachineDescription(
        name=fabric.topology.name,
        nodes=fabric.n_nodes,
        gpus=fabric.n_ranks,
        tree=tuple(tree(fabric)),
        matrix=matrix(fabric),
        links=link_classes(fabric),
        bisection_bytes_per_s=bisection(fabric),
        rings=RingsShown(
            count=len(rings.orders),
            bus_bytes_per_s=fabric.bandwidth(rings.load) if bottleneck >= 0 else None,
            limit=fabric.name(bottleneck) if bottleneck >= 0 else None,
        ),
        rank_classes=tuple(
            tuple(np.flatnonzero(classes == c).tolist()) for c in range(classes.max() + 1)
        ),
    )


def tree(fabric: Fabric) -> list[str]:
    """Lines of a tree: nodes (alike ones once), sockets, switches, devices, then the network."""
    lines = []
    start = 0
    while start < fabric.n_nodes:
        stop = start + 1
        while stop < fabric.n_nodes and fabric.shapes[stop] is fabric.shapes[start]:
            stop += 1
        head = f"node {start}" if stop == start + 1 else f"nodes {start}-{stop - 1}, each"
        lines.append(head)
        lines += ["  " + line for line in _node_tree(fabric.shapes[start])]
        start = stop
    plane = fabric.plane
    if plane.names:
        names = list(plane.names)
        few = ", ".join(names if len(names) <= 6 else [*names[:4], "...", names[-1]])
        lines.append(f"network: {plane.n_ports} ports, {len(plane.names)} switches ({few})")
    return lines


def _node_tree(shape: Shape) -> list[str]:
    below: dict[int, list[tuple[int, float]]] = {}
    seen = set(shape.cpus)
    frontier = list(shape.cpus)
    while frontier:
        reached = []
        for e in (e for u in frontier for e in shape.links if e.tail == u):
            if KINDS[e.kind] == "pcie" and e.head not in seen:
                seen.add(e.head)
                below.setdefault(e.tail, []).append((e.head, e.capacity))
                reached.append(e.head)
        frontier = [v for v in reached if shape.kinds[v] == "pcie-switch"]

    def grow(v: int, depth: int) -> list[str]:
        lines = []
        for child, rate in below.get(v, []):
            detail = units.show(rate, "B/s")
            if child in shape.gpus:
                detail += f", {shape.gpu_specs[shape.gpus.index(child)].name}"
            lines.append(f"{'  ' * depth}{shape.names[child]}  ({detail})")
            lines += grow(child, depth + 1)
        return lines

    lines = []
    for c in shape.cpus:
        lines += [shape.names[c], *grow(c, 1)]
    lines += [shape.names[g] for g in shape.gpus if g not in seen]
    ports = [e for e in shape.links if KINDS[e.kind] == "nvlink" and e.tail in shape.gpus]
    if ports:
        out: dict[int, float] = {}
        for e in ports:
            out[e.tail] = out.get(e.tail, 0.0) + e.capacity
        rates = sorted(set(out.values()))
        how = "NVSwitch" if "nvswitch" in shape.kinds else "direct links"
        span = " to ".join(units.show(r, "B/s") for r in dict.fromkeys((rates[0], rates[-1])))
        lines.append(f"NVLink by {how}, {span} out of each of {len(out)} GPUs")
    return lines
