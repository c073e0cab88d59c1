"""A machine in numbers and text: tree, matrix of path classes, link classes, bisection."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim import units
from sim.fabric import paths
from sim.fabric.compiled import Fabric
from sim.fabric.shape import KINDS, Shape

_MATRIX_RANKS = 32  # wider matrices are unreadable


def link_classes(fabric: Fabric) -> list[dict[str, Any]]:
    """Group links that are alike.

    Parameters
    ----------
    fabric : Fabric
        Compiled machine.

    Returns
    -------
    list of dict
        ``between`` (kinds of the ends), ``kind``, ``count`` (both directions are one link),
        ``bytes_per_s`` and ``raw_bytes_per_s`` each way, ``latency_s``, ``links`` bundled.
    """
    found: dict[tuple[Any, ...], int] = {}
    for shape in fabric.shapes:
        for e in shape.links:
            ends = "-".join(sorted((shape.kinds[e.tail], shape.kinds[e.head])))
            key: tuple[Any, ...] = (ends, KINDS[e.kind], e.capacity, e.raw, e.latency, e.links)
            found[key] = found.get(key, 0) + 1
    plane = fabric.plane
    for i, (a, b) in enumerate(zip(plane.tail, plane.head, strict=True)):
        kinds = ["nic" if v < plane.n_ports else "switch" for v in (a, b)]
        rates = (plane.capacity[i], plane.raw[i], plane.latency[i])
        key = ("-".join(sorted(kinds)), "network", *rates, 0)
        found[key] = found.get(key, 0) + 1
    names = ("between", "kind", "bytes_per_s", "raw_bytes_per_s", "latency_s", "links")
    return [
        dict(zip(names, key, strict=True)) | {"count": count / 2} for key, count in found.items()
    ]


def bisection(fabric: Fabric) -> float:
    """Bandwidth between two halves of the ranks, one direction. [B/s]

    Parameters
    ----------
    fabric : Fabric
        Compiled machine.

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


def matrix(fabric: Fabric) -> tuple[list[str], list[list[str]]]:
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
    cells = [[_cell(fabric.shapes[n], u, v) if n == m else "NET" for m, v in ends] for n, u in ends]
    return names, cells


def _cell(shape: Shape, u: int, v: int) -> str:
    if u in shape.gpus and v in shape.gpus:
        return paths.printed_class(shape, shape.gpus.index(u), shape.gpus.index(v))
    return "X" if u == v else paths.host_class(shape, u, v) or "-"


def describe(fabric: Fabric) -> dict[str, Any]:
    """Everything ``topo show`` prints, in SI units, for ``--format json``."""
    names, cells = matrix(fabric)
    rings = fabric.rings(range(fabric.n_ranks))
    bottleneck = fabric.bottleneck(rings.load)
    classes = fabric.rank_classes()
    return {
        "name": fabric.topology.name,
        "nodes": fabric.n_nodes,
        "gpus": fabric.n_ranks,
        "tree": tree(fabric),
        "matrix": {"names": names, "classes": cells},
        "links": link_classes(fabric),
        "bisection_bytes_per_s": bisection(fabric),
        "rings": {
            "count": len(rings.orders),
            "bus_bytes_per_s": fabric.bandwidth(rings.load) if bottleneck >= 0 else None,
            "limit": fabric.name(bottleneck) if bottleneck >= 0 else None,
        },
        "rank_classes": [np.flatnonzero(classes == c).tolist() for c in range(classes.max() + 1)],
    }


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
        few = ", ".join(plane.names[:10]) + (", ..." if len(plane.names) > 10 else "")
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


def as_text(facts: dict[str, Any]) -> str:
    """Lay out :func:`describe` for a terminal."""
    lines = [f"{facts['name']}: {facts['gpus']} GPUs in {facts['nodes']} nodes", ""]
    lines += facts["tree"]
    names, cells = facts["matrix"]["names"], facts["matrix"]["classes"]
    short = [n.removeprefix("n0/") for n in names]
    width = max(map(len, [*short, "NV18"])) + 1
    lines += ["", " " * width + "".join(n.rjust(width) for n in short)]
    for name, row in zip(short, cells, strict=True):
        lines.append(name.ljust(width) + "".join(c.rjust(width) for c in row))
    if facts["gpus"] > sum(n.rpartition("/")[2].startswith("gpu") for n in names):
        lines.append("(equal nodes once; between nodes all paths are NET)")
    lines += ["", "links, each way".ljust(32) + "count    effective          raw"]
    for link in facts["links"]:
        label = f"{link['between']} {link['kind']}"
        if link["links"]:
            label += f" x{link['links']}"
        effective = units.show(link["bytes_per_s"], "B/s")
        raw = units.show(link["raw_bytes_per_s"], "B/s")
        lines.append(f"{label:<32}{link['count']:>5g} {effective:>12} {raw:>12}")
    rings = facts["rings"]
    lines += ["", f"bisection        {units.show(facts['bisection_bytes_per_s'], 'B/s')} one way"]
    if rings["limit"] is not None:
        bus = units.show(rings["bus_bytes_per_s"], "B/s")
        lines.append(f"ring bandwidth   {bus} over {rings['count']} rings, limit {rings['limit']}")
    lines.append(f"rank classes     {len(facts['rank_classes'])}")
    for ranks in facts["rank_classes"][:8]:
        few = ", ".join(map(str, ranks[:12])) + (", ..." if len(ranks) > 12 else "")
        lines.append(f"  {len(ranks)} alike: {few}")
    return "\n".join(lines)
