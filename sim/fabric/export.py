"""A fabric written out as an explicit graph, to be edited by hand."""

from __future__ import annotations

import json
from typing import Any

from sim import units
from sim.fabric.fabric import Fabric
from sim.fabric.shape import KINDS
from sim.inputs.topology import Edge, Graph, Vertex
from sim.inputs.written import lines_of, text


def node_link_json(fabric: Fabric) -> str:
    """The graph as networkx' node-link JSON."""
    import networkx as nx

    return json.dumps(nx.node_link_data(fabric.graph(), edges="edges"), indent=1)


def explicit_yaml(fabric: Fabric, given: frozenset[str] = frozenset()) -> str:
    """Write a fabric's vertices and links.

    Parameters
    ----------
    given : frozenset of str
        Dotted paths of the topology to write although they are defaults.

    Returns
    -------
    str
        YAML with ``graph: {vertices, edges}``; bandwidths are what bytes reach. Links whose
        directions differ are written as two directed edges. The machine's other keys stand above:
        as long as nobody edits the graph they are the machine, afterwards they say what a graph
        does not.
    """
    topology = fabric.topology
    graph = graph_of(fabric)
    models = {g.name for s in fabric.shapes for g in s.gpu_specs}
    kept = lines_of(topology, frozenset({"graph"}), given)
    if topology.node is None and not topology.node_groups and topology.gpu is None:
        kept += [f"gpu: {text(next(iter(models)))}"] if len(models) == 1 else []
    lines = [*kept, "graph:"]
    if topology.node is not None or topology.node_groups:
        lines.append(f"  written_from: {json.dumps(_digest(fabric, graph))}")
    lines.append("  vertices:")
    for v in graph.vertices:
        more = "" if v.kind == "switch" else f", node: {v.node}"
        more += f", rail: {v.rail}" if v.rail is not None else ""
        more += "" if v.gpudirect else ", gpudirect: false"
        more += f", vendor: {v.vendor}" if v.vendor else ""
        if v.memory_bandwidth is not None:
            more += f", memory_bandwidth: {units.write(v.memory_bandwidth, 'B/s')}"
        more += f", gpu: {text(v.gpu.name)}" if v.gpu is not None else ""
        lines.append(f"    - {{id: {text(v.id)}, kind: {v.kind}{more}}}")
    lines.append("  edges:")
    for e in graph.edges:
        more = f", latency: {units.write(e.latency, 's')}" if e.latency else ""
        more += ", directed: true" if e.directed else ""
        lines.append(
            f"    - {{source: {text(e.source)}, target: {text(e.target)}, kind: {e.kind}, "
            f"bandwidth: {units.write(e.bandwidth, 'B/s')}{more}}}"
        )
    return "\n".join(lines) + "\n"


def _digest(fabric: Fabric, graph: Graph) -> str:
    """Of the graph that the shorthand was laid out as, which an edited machine keeps."""
    edited = fabric.topology.graph
    return edited.written_from if edited is not None else graph.digest()


def graph_of(fabric: Fabric) -> Graph:
    """A fabric's vertices and links as a user would write them."""
    models = {g.name for s in fabric.shapes for g in s.gpu_specs}
    vertices: list[Vertex] = []
    ends: list[tuple[str, str, str, float, float]] = []
    for n, (shape, names) in enumerate(zip(fabric.shapes, fabric.vertex_names, strict=True)):
        specs = dict(zip(shape.gpus, shape.gpu_specs, strict=True))
        rails = dict(zip(shape.nics, shape.rails, strict=True))
        for v, kind in enumerate(shape.kinds):
            more: dict[str, Any] = {}
            if v in rails:
                more["rail"] = rails[v]
                more["gpudirect"] = shape.nics.index(v) not in shape.staged
            if v in shape.cpus:
                more["memory_bandwidth"] = shape.memory[shape.cpus.index(v)]
                more["vendor"] = shape.vendor or None
            if v in specs and len(models) > 1:
                more["gpu"] = specs[v]
            found = {"id": names[v], "kind": kind, "node": n, **more}
            vertices.append(Vertex.model_construct(**found))
        ends += [
            (names[e.tail], names[e.head], KINDS[e.kind], e.capacity, e.latency)
            for e in shape.links
        ]
    plane, labels = fabric.plane, fabric.network_names
    vertices += [Vertex.model_construct(id=s, kind="switch") for s in plane.names]
    ends += [
        (labels[a], labels[b], "network", rate, delay) for a, b, rate, _, delay in plane.links()
    ]
    edges: list[Edge] = []
    left = {(a, b): (rate, delay) for a, b, _, rate, delay in ends}
    for a, b, kind, rate, delay in ends:
        if (a, b) not in left:
            continue
        del left[a, b]
        both = left.get((b, a)) == (rate, delay)
        if both:
            del left[b, a]
        edge: dict[str, Any] = {"source": a, "target": b, "kind": kind, "bandwidth": rate}
        edges.append(Edge.model_construct(**edge, latency=delay, directed=not both))
    return Graph.model_construct(vertices=tuple(vertices), edges=tuple(edges))
