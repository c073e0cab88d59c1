"""The fabric's table as a networkx graph to look at, draw, and ask for cuts."""

from __future__ import annotations

import networkx as nx

from sim.fabric.shape import KINDS
from sim.fabric.wiring import Wiring


def to_networkx(fabric: Wiring) -> nx.DiGraph[str]:
    """View a fabric as a directed graph.

    Parameters
    ----------
    fabric : Wiring
        Compiled topology.

    Returns
    -------
    networkx.DiGraph
        Vertices by name with ``kind`` (gpu, nvswitch, pcie-switch, cpu, nic, switch) and ``node``;
        GPUs also ``rank`` and ``gpu`` (the catalogue name), NICs ``rail``. Each direction of a link
        is an edge with ``kind``, ``bandwidth`` and ``raw_bandwidth`` [B/s], ``latency`` [s],
        ``links`` (NVLinks bundled) and ``resource``, its column in the fabric.
    """
    graph: nx.DiGraph[str] = nx.DiGraph(name=fabric.topology.name)
    rank = 0
    for n, (shape, names) in enumerate(zip(fabric.shapes, fabric.vertex_names, strict=True)):
        rails = dict(zip(shape.nics, shape.rails, strict=True))
        specs = dict(zip(shape.gpus, shape.gpu_specs, strict=True))
        for v, (name, kind) in enumerate(zip(names, shape.kinds, strict=True)):
            graph.add_node(name, kind=kind, node=n)
            if v in specs:
                graph.nodes[name].update(rank=rank, gpu=specs[v].name)
                rank += 1
            if v in rails:
                graph.nodes[name]["rail"] = rails[v]
        base = int(fabric.node_base[n])
        for i, link in enumerate(shape.links):
            graph.add_edge(
                names[link.tail],
                names[link.head],
                kind=KINDS[link.kind],
                bandwidth=link.capacity,
                raw_bandwidth=link.raw,
                latency=link.latency,
                links=link.links,
                resource=base + i,
            )
    plane, ends = fabric.plane, fabric.network_names
    for name in plane.names:
        graph.add_node(name, kind="switch")
    for i, (a, b, rate, raw, delay) in enumerate(plane.links()):
        graph.add_edge(
            ends[a],
            ends[b],
            kind="network",
            bandwidth=rate,
            raw_bandwidth=raw,
            latency=delay,
            links=0,
            resource=plane.base + i,
        )
    return graph
