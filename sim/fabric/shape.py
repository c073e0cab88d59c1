"""One node as a light table of vertices and directed links; equal nodes share one shape."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.errors import InputError
from sim.fabric.links import Rates, nic_passes, nvlink_rates, pcie_rates, socket_rates
from sim.inputs import check_topology
from sim.inputs.gpu import Gpu
from sim.inputs.topology import Nics, Node, Storage
from sim.records import NamedTuple

KINDS = ("nvlink", "pcie", "cpu", "network", "memory", "hbm", "storage")
NVLINK, PCIE, CPU, NETWORK, MEMORY, HBM, STORAGE = range(len(KINDS))


class Link(NamedTuple):
    """One direction of a link."""

    tail: int
    head: int
    kind: int  # index into KINDS
    capacity: float  # [B/s] that bytes reach
    raw: float  # [B/s] data sheet
    nccl: float  # [B/s] as NCCL counts
    latency: float  # [s]
    links: int  # NVLinks bundled; 0 unknown


class Own(NamedTuple):
    """A resource of a vertex or of the node, rather than of a link."""

    name: str
    kind: int
    capacity: float


@dataclass
class Shape:
    """Vertices and links of one node. Resources: links, memories, HBM, storage, in this order."""

    names: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    gpus: list[int] = field(default_factory=list)  # vertices, in the order of local ranks
    gpu_specs: list[Gpu] = field(default_factory=list)
    nics: list[int] = field(default_factory=list)
    rails: list[int] = field(default_factory=list)
    cpus: list[int] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # of CPUs [B/s]
    links: list[Link] = field(default_factory=list)
    own: list[Own] = field(default_factory=list)
    p2p: bool = True
    level: str = ""  # farthest path class that NCCL is told to cross peer to peer; empty: its own
    staged: frozenset[int] = frozenset()  # NICs (places in ``nics``) without GPUDirect
    nic_passes: float = 2.0  # of a byte of theirs through host memory
    vendor: str = ""  # of the CPUs; empty: unknown, and no vendor's rule applies
    memo: dict[object, object] = field(default_factory=dict)  # paths found so far (paths.py)

    @property
    def n_resources(self) -> int:
        """Resources of one node of this shape, its network ports not counted."""
        return len(self.links) + len(self.own)

    def vertex(self, kind: str, name: str) -> int:
        """Add a vertex and return its number."""
        self.names.append(name)
        self.kinds.append(kind)
        return len(self.names) - 1

    def join(self, a: int, b: int, kind: int, rates: Rates, count: int = 0) -> None:
        """Add both directions of a link."""
        raw, capacity, nccl = rates
        self.links.append(Link(a, b, kind, capacity, raw, nccl, 0.0, count))
        self.links.append(Link(b, a, kind, capacity, raw, nccl, 0.0, count))

    def add_own(self, storage: Storage) -> None:
        """Add the memories and the storage once all vertices are known."""
        for c, rate in zip(self.cpus, self.memory, strict=True):
            self.own.append(Own(f"{self.names[c]} memory", MEMORY, rate))
        for g, spec in zip(self.gpus, self.gpu_specs, strict=True):
            self.own.append(Own(f"{self.names[g]} hbm", HBM, spec.memory_bandwidth))
        self.own.append(Own("storage read", STORAGE, storage.read))
        self.own.append(Own("storage write", STORAGE, storage.write))

    def memory_of(self, cpu_place: int) -> int:
        """Resource of the memory of the n-th CPU."""
        return len(self.links) + cpu_place

    def hbm_of(self, local: int) -> int:
        """Resource of the HBM of a local rank."""
        return len(self.links) + len(self.cpus) + local


def spread(count: int, places: int) -> list[int]:
    """Places 0..places-1 of ``count`` things, in contiguous runs as equal as can be."""
    return [i * places // count for i in range(count)]


def shape_of(node: Node, source: str = "topology") -> Shape:
    """Lay out the node that the shorthand describes.

    Parameters
    ----------
    node : Node
        Shorthand.
    source : str
        Named in faults.

    Returns
    -------
    Shape
        GPUs, NICs and switches spread in contiguous runs: GPU i under switch i // gpus_per_switch,
        switch s on socket s * sockets // switches. ``gpus_per_switch: 0`` puts GPUs on root ports.
    """
    faults = [f.at(source) for f in check_topology.node_findings(node) if f.error]
    if faults:
        raise InputError(faults)
    shape = Shape(p2p=node.pcie.p2p and node.gpu.p2p, vendor=node.cpu.vendor)
    shape.level = node.p2p_level or ""
    shape.gpus = [shape.vertex("gpu", f"gpu{i}") for i in range(node.gpus)]
    shape.gpu_specs = [node.gpu] * node.gpus
    _add_host(shape, node)
    _add_nvlink(shape, node)
    shape.add_own(node.storage)
    return shape


def _add_host(shape: Shape, node: Node) -> None:
    pcie, cpu = node.pcie, node.cpu
    link = pcie_rates(pcie.generation, pcie.lanes)
    gpu_link = pcie_rates(
        min(pcie.generation, node.gpu.pcie_generation), min(pcie.lanes, node.gpu.pcie_lanes)
    )
    shape.cpus = [shape.vertex("cpu", f"cpu{i}") for i in range(cpu.sockets)]
    shape.memory = [cpu.memory_bandwidth] * cpu.sockets
    between = socket_rates(node)
    for i, a in enumerate(shape.cpus):
        for b in shape.cpus[i + 1 :]:
            shape.join(a, b, CPU, between)
    switches: list[int] = []
    if pcie.gpus_per_switch > 0:
        n_switches = -(-node.gpus // pcie.gpus_per_switch)
        switches = [shape.vertex("pcie-switch", f"pcie{i}") for i in range(n_switches)]
        for s, socket in zip(switches, spread(n_switches, cpu.sockets), strict=True):
            shape.join(s, shape.cpus[socket], PCIE, link)
        for i, g in enumerate(shape.gpus):
            shape.join(g, switches[i // pcie.gpus_per_switch], PCIE, gpu_link)
    else:
        for g, socket in zip(shape.gpus, spread(node.gpus, cpu.sockets), strict=True):
            shape.join(g, shape.cpus[socket], PCIE, gpu_link)
    if node.nics is not None and node.nics.count:
        _add_nics(shape, node.nics, switches, pcie.nics_per_switch, link)


def _add_nics(shape: Shape, nics: Nics, switches: list[int], per_switch: int, link: Rates) -> None:
    on_switches = min(nics.count, len(switches) * per_switch)
    on_cpus = nics.count - on_switches
    hosts = [switches[s] for s in spread(on_switches, len(switches))] if on_switches else []
    hosts += [shape.cpus[c] for c in spread(on_cpus, len(shape.cpus))] if on_cpus else []
    shape.nics = [shape.vertex("nic", f"nic{i}") for i in range(nics.count)]
    shape.rails = list(range(nics.count))
    if not nics.gpudirect or nics.kind == "tcp":
        shape.staged = frozenset(range(nics.count))
    shape.nic_passes = nic_passes(nics)
    for n, host in zip(shape.nics, hosts, strict=True):
        shape.join(n, host, PCIE, link)


def _add_nvlink(shape: Shape, node: Node) -> None:
    nvlink = node.nvlink
    if nvlink is None or nvlink.fabric == "none" or node.gpus < 2 or shape.level == "LOC":
        return
    one = nvlink_rates(nvlink, node.gpu)
    n, links = len(shape.gpus), nvlink.links_per_gpu

    def join(a: int, b: int, count: int) -> None:
        shape.join(a, b, NVLINK, Rates(*(count * rate for rate in one)), count)

    if nvlink.fabric == "nvswitch":
        switch = shape.vertex("nvswitch", "nvswitch")
        for g in shape.gpus:
            join(g, switch, links)
    elif nvlink.fabric == "pairs":
        for i in range(0, n - 1, 2):
            join(shape.gpus[i], shape.gpus[i + 1], links)
    else:
        # links left over go to the nearest neighbours, as in a hybrid mesh
        each, spare = divmod(links, n - 1)
        for i in range(n):
            for j in range(i + 1, n):
                extra = 1 if (j - i) % n <= spare // 2 or (i - j) % n <= spare // 2 else 0
                join(shape.gpus[i], shape.gpus[j], each + extra)
