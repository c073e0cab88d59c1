"""A fabric written out as an explicit graph, to be edited by hand."""

from __future__ import annotations

import json
import re

from sim import units
from sim.fabric.fabric import Fabric
from sim.fabric.shape import KINDS

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")


def text(value: str) -> str:
    """Quote a YAML scalar where it needs it."""
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def node_link_json(fabric: Fabric) -> str:
    """The graph as networkx' node-link JSON."""
    import networkx as nx

    return json.dumps(nx.node_link_data(fabric.graph(), edges="edges"), indent=1)


def explicit_yaml(fabric: Fabric, name: str | None = None) -> str:
    """Write a fabric's vertices and links.

    Parameters
    ----------
    fabric : Fabric
        Compiled machine.
    name : str, optional
        Of the topology; its own by default.

    Returns
    -------
    str
        YAML with ``graph: {vertices, edges}``; bandwidths are the effective ones. Links whose
        directions differ are written as two directed edges.
    """
    lines = [f"name: {text(name or fabric.topology.name)}"]
    models = {g.name for s in fabric.shapes for g in s.gpu_specs}
    if len(models) == 1:
        lines.append(f"gpu: {text(next(iter(models)))}")
    lines += ["graph:", "  vertices:"]
    ends: list[tuple[str, str, str, float, float]] = []
    for n, (shape, names) in enumerate(zip(fabric.shapes, fabric.vertex_names, strict=True)):
        specs = dict(zip(shape.gpus, shape.gpu_specs, strict=True))
        rails = dict(zip(shape.nics, shape.rails, strict=True))
        for v, kind in enumerate(shape.kinds):
            more = f", rail: {rails[v]}" if v in rails else ""
            if v in rails and shape.nics.index(v) in shape.staged:
                more += ", gpudirect: false"
            if v in shape.cpus:
                rate = shape.memory[shape.cpus.index(v)]
                more += f", vendor: {shape.vendor}" if shape.vendor else ""
                more += f", memory_bandwidth: {units.write(rate, 'B/s')}"
            if v in specs and len(models) > 1:
                more += f", gpu: {text(specs[v].name)}"
            lines.append(f"    - {{id: {text(names[v])}, kind: {kind}, node: {n}{more}}}")
        ends += [
            (names[e.tail], names[e.head], KINDS[e.kind], e.capacity, e.latency)
            for e in shape.links
        ]
    plane, labels = fabric.plane, fabric.network_names
    lines += [f"    - {{id: {text(s)}, kind: switch}}" for s in plane.names]
    ends += [
        (labels[a], labels[b], "network", plane.capacity[i], plane.latency[i])
        for i, (a, b) in enumerate(zip(plane.tail, plane.head, strict=True))
    ]
    lines.append("  edges:")
    left = {(a, b): (rate, delay) for a, b, _, rate, delay in ends}
    for a, b, kind, rate, delay in ends:
        if (a, b) not in left:
            continue
        del left[a, b]
        more = f", latency: {units.write(delay, 's')}" if delay else ""
        if left.get((b, a)) == (rate, delay):
            del left[b, a]
        else:
            more += ", directed: true"
        lines.append(
            f"    - {{source: {text(a)}, target: {text(b)}, kind: {kind}, "
            f"bandwidth: {units.write(rate, 'B/s')}{more}}}"
        )
    return "\n".join(lines) + "\n"
