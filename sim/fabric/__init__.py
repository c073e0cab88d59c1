"""The machine as resources and routes: topology spec -> arrays, routes, rings, folds, graph.

    fabric = compile_fabric(topology)          # cached by the content of the spec; no networkx
    fabric.n_ranks, fabric.n_nodes, fabric.n_resources
    fabric.rank_node, fabric.rank_local        # (n_ranks,) int: node of a rank, place in its node
    fabric.gpu(rank) -> Gpu
    fabric.ranks_of(node) -> range

Resources are columns. A link is two resources, one each way.

    fabric.capacity     (n_resources,) float64 [B/s], effective: 20.6 GB/s an NVLink 4, as NCCL
    fabric.raw          (n_resources,) float64 [B/s], the data sheet's rate
    fabric.kind         (n_resources,) int8, index into KINDS
    fabric.latency      (n_resources,) float64 [s]
    fabric.name(i), fabric.names, fabric.index(name)     # "n0/gpu3>n0/nvswitch", "n1/cpu0 memory"

Routes say which resources a byte crosses, and how often (HBM is not in a route: a collective's own
HBM traffic depends on its algorithm; add it on ``fabric.hbm(rank)``).

    fabric.route(src, dst) -> Route(resource, demand, path, transport, latency_s)
        path: NVL | NVB | PIX | PXB | PHB | NODE | SYS | NET;  transport: p2p | shm | net
        ("net" through the NIC of the GPU's rail, PXN over NVLink where that keeps the rail;
        ``shm`` and NICs without GPUDirect cross host memory twice.)
    fabric.nics(rank) -> tuple of NIC numbers in the rank's node that the rank uses
    fabric.nic_ports(node, nic) -> (tx resources, rx resources)
    fabric.nvlink_ports(rank) -> (out resources, in resources)
    fabric.nvswitch(ranks) -> bool          # all on one NVSwitch fabric (NVLS possible)
    fabric.offload_route(rank, "to-host" | "to-device") -> Route
    fabric.copies_bandwidth("to-host" | "to-device") -> B/s of the slowest GPU while all copy
    fabric.hbm(rank) -> resource

Rings: C channel rings over a group, each leaving its node on another rail. All ranks of a ring pass
equal bytes to their successors; the group's traffic is spread evenly over the rings.

    fabric.rings(group) -> Rings(orders (C, n) of ranks, load: Load, path, transport,
                                 network_latency_s, pxn)
    fabric.ring_load(group) -> Load(resource, demand)       # per byte each rank sends in all
    fabric.ring_hops(group) -> Hops(ptr, resource, demand)  # of hop i of ring c: row c * n + i
    fabric.bottleneck(load) -> resource
        bus bandwidth = min(capacity[resource] / demand)  -> fabric.bandwidth(load)
        all-gather of S bytes over n ranks sends S (n-1)/n bytes from each rank to its successor

Folding (``folding.py``): equal ranks, resources and demand rows found by colour refinement.

    fold(capacity, tables, ...) -> Fold
    fabric.rank_classes() -> (n_ranks,) int

``fabric.graph()`` is the same table as a networkx DiGraph.
"""

from __future__ import annotations

from sim.fabric.fabric import Fabric, compile_fabric
from sim.fabric.folding import Fold, fold
from sim.fabric.refinement import refine
from sim.fabric.rings import Hops, Load, Rings
from sim.fabric.shape import KINDS
from sim.fabric.wiring import Route

__all__ = [
    "KINDS",
    "Fabric",
    "Fold",
    "Hops",
    "Load",
    "Rings",
    "Route",
    "compile_fabric",
    "fold",
    "refine",
]
