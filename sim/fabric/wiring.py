"""A machine's ranks, its resources as columns, and the routes over them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from sim.errors import InputError
from sim.fabric import paths
from sim.fabric.network import Plane
from sim.fabric.role import Host
from sim.fabric.shape import HBM, KINDS, NETWORK, NVLINK, PCIE, Shape
from sim.inputs.calibration import Calibration
from sim.inputs.gpu import Gpu
from sim.inputs.topology import Cpu, Node, Storage, Topology
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


class Route(NamedTuple):
    """What a byte crosses on its way; HBM at the ends not counted."""

    resource: I8  # (k,)
    demand: F8  # (k,) bytes on the resource per byte sent
    path: str  # NVL | NVB | PIX | PXB | PHB | NODE | SYS | NET | LOC
    transport: str  # p2p | shm | net
    latency_s: float  # of the links, as the spec says [s]
    pxn: bool = False  # passes a GPU beside the NIC


class Wiring:
    """Ranks, resources and routes of a machine; `Fabric` adds what groups of ranks do with them.

    Attributes
    ----------
    topology : Topology
        What it was compiled from.
    shapes : list of Shape
        One per node; equal nodes share one object.
    plane : Plane
        The network between nodes; empty for one node.
    n_ranks, n_nodes, n_resources : int
        Sizes.
    rank_node, rank_local : (n_ranks,) int64
        Node of a rank and its place there.
    node_base : (n_nodes,) int64
        First resource of each node.
    capacity, nominal, raw : (n_resources,) float64
        What bytes reach (with the topology's calibration), what NCCL counts, data sheet. [B/s]
    kind : (n_resources,) int8
        Index into KINDS.
    latency : (n_resources,) float64
        Of links. [s]
    first_rank : (n_nodes + 1,) int64
        First rank of each node.
    """

    def __init__(
        self, topology: Topology, shapes: list[Shape], plane: Plane, labels: list[list[str]] | None
    ) -> None:
        self.topology, self.shapes, self.plane, self._labels = topology, shapes, plane, labels
        self.n_nodes = len(shapes)
        each = [group.node for group in topology.described for _ in range(group.nodes)]
        self._specs = each if len(each) == self.n_nodes else []
        counts = np.array([len(s.gpus) for s in shapes])
        sizes = np.array([s.n_resources for s in shapes])
        self.first_rank = np.concatenate(([0], np.cumsum(counts)))
        self.n_ranks = int(self.first_rank[-1])
        self.rank_node = np.repeat(np.arange(self.n_nodes), counts)
        self.rank_local = np.arange(self.n_ranks) - self.first_rank[self.rank_node]
        self.node_base = np.concatenate(([0], np.cumsum(sizes)))[:-1]
        plane.base = int(sizes.sum())
        self.n_resources = plane.base + len(plane.tail)
        columns: dict[int, tuple[F8, F8, npt.NDArray[np.int8], F8, F8]] = {}
        for s in shapes:
            if id(s) not in columns:
                columns[id(s)] = _columns(s)
        per_node = [columns[id(s)] for s in shapes]
        whole = np.concatenate([c[0] for c in per_node] + [plane.capacity])
        self.nominal = np.concatenate([c[4] for c in per_node] + [plane.raw])
        self.raw = np.concatenate([c[1] for c in per_node] + [plane.raw])
        ports = np.full(len(plane.tail), NETWORK, np.int8)
        self.kind = np.concatenate([c[2] for c in per_node] + [ports])
        self.capacity = _calibrated(whole, self.kind, topology.calibration)
        self.latency = np.concatenate([c[3] for c in per_node] + [plane.latency])
        self._routes: dict[tuple[int, int], Route] = {}

    # ranks ---------------------------------------------------------------------------------

    def gpu(self, rank: int) -> Gpu:
        """GPU model of a rank."""
        shape, local, _ = self._place(rank)
        return shape.gpu_specs[local]

    def spec(self, node: int) -> Node | None:
        """What the shorthand says of a node; None in an explicit graph that has none beside it."""
        return self._specs[node] if self._specs else None

    def host(self, node: int) -> Host:
        """The node around its GPUs; of an explicit graph, a node's defaults."""
        spec = self.spec(node)
        cpu, storage = (spec.cpu, spec.storage) if spec else (Cpu(), Storage())
        return Host(len(self.shapes[node].gpus), cpu, storage)

    def ranks_of(self, node: int) -> range:
        """Ranks of a node."""
        return range(int(self.first_rank[node]), int(self.first_rank[node + 1]))

    def _place(self, rank: int) -> tuple[Shape, int, int]:
        node = int(self.rank_node[rank])
        return self.shapes[node], int(self.rank_local[rank]), node

    # resources -----------------------------------------------------------------------------

    @functools.cached_property
    def shape_number(self) -> I8:
        """Number of each node's shape, (n_nodes,); equal nodes share one."""
        number: dict[int, int] = {}
        return np.array([number.setdefault(id(s), len(number)) for s in self.shapes], np.int64)

    @functools.cached_property
    def port_at(self) -> I8:
        """Vertex of the plane of each node's NICs, (n_nodes, most NICs); -1 where there is none."""
        at = np.full((self.n_nodes, max(len(s.nics) for s in self.shapes)), -1)
        at[self.plane.owner[:, 0], self.plane.owner[:, 1]] = np.arange(self.plane.n_ports)
        return at

    def port(self, node: int, nic: int) -> int:
        """Vertex of the plane of a node's NIC; -1 if it has none."""
        at = self.port_at
        return int(at[node, nic]) if nic < at.shape[1] else -1

    @functools.cached_property
    def vertex_names(self) -> list[list[str]]:
        """Names of every node's vertices."""
        return [self._vertices_of(node) for node in range(self.n_nodes)]

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of all resources: "tail>head" of a link, else vertex and what it is."""
        names = []
        for n in range(self.n_nodes):
            names += self._names_of(n)
        ends = self.network_names
        plane = self.plane
        names += [f"{ends[a]}>{ends[b]}" for a, b in zip(plane.tail, plane.head, strict=True)]
        return names

    def _names_of(self, node: int) -> list[str]:
        """Names of a node's resources."""
        shape, label = self.shapes[node], self._vertices_of(node)
        return [
            *(f"{label[e.tail]}>{label[e.head]}" for e in shape.links),
            *(f"{label[c]} memory" for c in shape.cpus),
            *(f"{label[g]} hbm" for g in shape.gpus),
            f"n{node} storage read", f"n{node} storage write",
        ]  # fmt: skip

    def _vertices_of(self, node: int) -> list[str]:
        """Names of a node's vertices."""
        if self._labels is not None:
            return self._labels[node]
        return [f"n{node}/{name}" for name in self.shapes[node].names]

    @functools.cached_property
    def network_names(self) -> list[str]:
        """Names of the plane's vertices: ports, then switches."""
        ports = [self.vertex_names[n][self.shapes[n].nics[j]] for n, j in self.plane.owner.tolist()]
        return ports + self.plane.names

    def name(self, resource: int) -> str:
        """Name of a resource."""
        if resource >= self.plane.base or "names" in self.__dict__:
            return self.names[resource]
        node = int(np.searchsorted(self.node_base, resource, "right")) - 1
        return self._names_of(node)[resource - int(self.node_base[node])]

    def index(self, name: str) -> int:
        """Number of the resource of a name."""
        return self._index[name]

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def hbm(self, rank: int) -> int:
        """Resource of a rank's HBM."""
        shape, local, node = self._place(rank)
        return int(self.node_base[node]) + shape.hbm_of(local)

    def hbm_of(self, ranks: Sequence[int]) -> I8:
        """Resources of the HBM of ranks, (n,) int64."""
        at = np.asarray(ranks, np.int64)
        return np.asarray(self._first_hbm[self.rank_node[at]] + self.rank_local[at])

    @functools.cached_property
    def _first_hbm(self) -> I8:
        """HBM of each node's first GPU; the others' follow it."""
        first: I8 = np.array([shape.hbm_of(0) for shape in self.shapes], np.int64)
        return self.node_base + first

    def nvlink_ports(self, rank: int) -> tuple[I8, I8]:
        """NVLink resources out of and into a rank's GPU."""
        shape, local, node = self._place(rank)
        out, into = paths.nvlink_ports(shape, shape.gpus[local])
        base = int(self.node_base[node])
        return np.array(out, np.int64) + base, np.array(into, np.int64) + base

    def nic_ports(self, node: int, nic: int) -> tuple[I8, I8]:
        """Network resources out of and into a NIC; empty on a machine of one node."""
        port, plane = self.port(node, nic), self.plane
        if port < 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return (
            np.array(plane.out(port), np.int64) + plane.base,
            np.array(plane.into(port), np.int64) + plane.base,
        )

    # routes --------------------------------------------------------------------------------

    def nics(self, rank: int) -> tuple[int, ...]:
        """NICs, numbered in the rank's node, that a rank sends and receives by."""
        shape, local, _ = self._place(rank)
        return paths.nics_of(shape, local)

    def nvswitch(self, ranks: Iterable[int]) -> bool:
        """Whether all ranks sit on one NVSwitch fabric."""
        places = [self._place(r) for r in ranks]
        if len({node for _, _, node in places}) != 1:
            return False
        return paths.switched(places[0][0], tuple(local for _, local, _ in places))

    def route(self, src: int, dst: int) -> Route:
        """Say which resources a byte from rank to rank crosses, as NCCL would move it.

        Parameters
        ----------
        src, dst : int
            Ranks.

        Returns
        -------
        Route
            Inside a node: NVLink, PCIe up to PXB, else host memory. Between nodes: the NICs of
            both ranks, evenly; where a NIC of the destination's rail is reached through a
            neighbour (PXN) and saves switches, through that.
        """
        found = self._routes.get((src, dst))
        if found is None:
            found = self._routes[src, dst] = self._find_route(src, dst)
        return found

    def nccl_rate(self, a: int, b: int) -> float:
        """What NCCL counts between two ranks of a node, for its choice. [B/s]"""
        (shape, first, _), (_, second, _) = self._place(a), self._place(b)
        if paths.gpu_way(shape, first, second).path in ("NVL", "NVB"):
            links = paths.gpu_way(shape, first, second).loads
            return min(shape.links[i].nccl for i, _ in links)
        return paths.nccl_rate(shape, first, second)

    def nccl_nic_rate(self, rank: int, nic: int) -> float:
        """What NCCL counts between a rank and a NIC of its node, the line apart. [B/s]"""
        shape, local, _ = self._place(rank)
        links = paths.host_links(shape, shape.gpus[local], shape.nics[nic]) or ()
        return min((shape.links[i].nccl for i in links), default=float("inf"))

    def _find_route(self, src: int, dst: int) -> Route:
        (shape, a, node), (_, b, other) = self._place(src), self._place(dst)
        if node == other:
            way = paths.gpu_way(shape, a, b)
            loads = self._local(node, way.loads)
            delay = sum(float(self.latency[r]) for r in loads)
            return _route(loads, way.path, way.transport, delay)
        total: dict[int, float] = {}
        pairs = self.nic_pairs(src, dst)
        delay, pxn = 0.0, False
        for out, into in pairs:
            leg = self.crossing(src, dst, out, into)
            ends = self._local(node, leg.outward), self._local(other, leg.inward)
            for r, amount in (*ends[0].items(), *leg.net, *ends[1].items()):
                total[r] = total.get(r, 0.0) + amount / len(pairs)
            delay, pxn = max(delay, leg.latency_s), pxn or leg.pxn
        return _route(total, "NET", "net", delay, pxn)

    def nic_pairs(self, src: int, dst: int) -> list[tuple[int, int]]:
        """NICs by which a rank sends and a rank of another node receives, an equal part each."""
        out, into = self.nics(src), self.nics(dst)
        if not out or not into:
            message = f"ranks {src} and {dst} are in different nodes, and one has no NIC"
            raise InputError.single(self.topology.name, message, "graph")
        parts = range(max(len(out), len(into)))
        return [(out[j % len(out)], into[j % len(into)]) for j in parts]

    def rail_port(self, src: int, dst: int, into: int) -> int:
        """NIC of a sender's node on the rail of a receiver's NIC; -1 if there is none."""
        shape, rail = self._place(src)[0], self._place(dst)[0].rails[into]
        return shape.rails.index(rail) if rail in shape.rails else -1

    def crossing(self, src: int, dst: int, out: int, into: int) -> Leg:
        """One NIC to one NIC, with their PCIe ends; prefers the receiver's rail by PXN."""
        (shape, a, node), (far, b, other) = self._place(src), self._place(dst)
        proxies = tuple(range(len(shape.gpus)))
        way, nic = paths.nic_way(shape, a, out, True, proxies), out
        net = self.plane.path(self.port(node, out), self.port(other, into))
        same = self.rail_port(src, dst, into)
        if same >= 0 and shape.rails[out] != far.rails[into]:
            by_proxy = paths.nic_way(shape, a, same, True, proxies)
            direct = self.plane.path(self.port(node, same), self.port(other, into))
            if by_proxy.transport == "pxn" and direct[2] < net[2]:
                way, net, nic = by_proxy, direct, same
        inward = paths.nic_way(far, b, into, False)
        return Leg(way.loads, nic, net[0], inward.loads, net[1], way.transport == "pxn")

    def _local(self, node: int, loads: Iterable[tuple[int, float]]) -> dict[int, float]:
        base = int(self.node_base[node])
        return {base + i: amount for i, amount in loads}

    def offload_route(self, rank: int, direction: str) -> Route:
        """Copies between a GPU and the memory of its socket, ``to-host`` or ``to-device``."""
        shape, local, node = self._place(rank)
        place = paths.nearest_cpu(shape, shape.gpus[local])
        ends = (shape.gpus[local], shape.cpus[place])
        links = paths.host_links(shape, *(ends if direction == "to-host" else ends[::-1]))
        loads = [(i, 1.0) for i in links or ()] + [(shape.memory_of(place), 1.0)]
        resources = self._local(node, loads)
        delay = sum(float(self.latency[r]) for r in resources)
        return _route(resources, "PHB", "p2p", delay)


class Leg(NamedTuple):
    """From a GPU to one of another node by one NIC each: pairs of resource and share of bytes."""

    outward: tuple[tuple[int, float], ...]  # in the sender's node, by place there
    nic: int  # that it leaves by
    net: tuple[tuple[int, float], ...]  # resources of the network, ports first and last
    inward: tuple[tuple[int, float], ...]  # in the receiver's node
    latency_s: float
    pxn: bool


def _route(
    loads: dict[int, float], path: str, transport: str, delay: float, pxn: bool = False
) -> Route:
    resource = np.fromiter(loads, np.int64, len(loads))
    demand = np.fromiter(loads.values(), np.float64, len(loads))
    return Route(resource, demand, path, transport, delay, pxn)


def _columns(shape: Shape) -> tuple[F8, F8, npt.NDArray[np.int8], F8, F8]:
    capacity = [e.capacity for e in shape.links] + [o.capacity for o in shape.own]
    raw = [e.raw for e in shape.links] + [o.capacity for o in shape.own]
    kind = [e.kind for e in shape.links] + [o.kind for o in shape.own]
    delay = [e.latency for e in shape.links] + [0.0] * len(shape.own)
    nccl = [e.nccl for e in shape.links] + [o.capacity for o in shape.own]
    return (
        np.array(capacity), np.array(raw), np.array(kind, np.int8), np.array(delay), np.array(nccl)
    )  # fmt: skip


def _calibrated(whole: F8, kind: npt.NDArray[np.int8], known: Calibration | None) -> F8:
    """Capacities of a cluster that was measured."""
    if known is None:
        return whole
    scale = np.ones(len(KINDS))
    scale[[NVLINK, PCIE, NETWORK, HBM]] = (
        known.nvlink_bandwidth, known.pcie_bandwidth, known.network_bandwidth, known.hbm_bandwidth
    )  # fmt: skip
    return np.asarray(whole * scale[kind])
