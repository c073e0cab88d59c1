"""The machine: `topology.yaml` as frozen specs. All values SI."""

from __future__ import annotations

from typing import Literal

from sim.spec.base import Spec
from sim.spec.gpu import Gpu


class NvLink(Spec):
    """NVLink inside a node."""

    generation: int
    links_per_gpu: int
    fabric: Literal["nvswitch", "pairs", "mesh", "none"] = "nvswitch"
    sharp: bool = False
    link_rate: float | None = None  # [B/s] per link and direction; None: by generation


class Pcie(Spec):
    """PCIe tree inside a node."""

    generation: int
    lanes: int = 16
    gpus_per_switch: int = 1
    nics_per_switch: int = 1
    p2p: bool = True


class Cpu(Spec):
    """Host processors."""

    sockets: int = 2
    interconnect: float = 22e9  # [B/s] per direction, for GPU traffic between sockets
    memory: float = 2e12  # [B]
    memory_bandwidth: float = 400e9  # [B/s] per socket
    vendor: Literal["intel", "amd", "arm"] = "intel"
    cores: int = 96


class Nics(Spec):
    """RDMA network interfaces of a node."""

    count: int = 8
    rate: float = 50e9  # [B/s] each
    kind: Literal["infiniband", "roce", "efa", "tcpx", "tcp"] = "infiniband"
    gpudirect: bool = True


class Storage(Spec):
    """Storage as one node sees it."""

    read: float = 10e9
    write: float = 5e9


class Node(Spec):
    """One node."""

    gpu: Gpu
    gpus: int = 8
    nvlink: NvLink | None = None
    pcie: Pcie
    cpu: Cpu = Cpu()
    nics: Nics | None = None
    storage: Storage = Storage()


class Network(Spec):
    """The fabric between nodes."""

    kind: Literal["rail-optimized", "fat-tree", "single-switch"] = "rail-optimized"
    oversubscription: float = 1.0
    switch_latency: float = 0.6e-6  # [s]
    nodes_per_leaf: int = 32


class Offer(Spec):
    """What the machine costs."""

    price_per_gpu_hour: float | None = None  # [USD]
    provider: str = ""
    region: str = ""
    residency: str = ""
    egress_per_gb: float = 0.0


class Vertex(Spec):
    """A vertex of an explicit graph."""

    id: str
    kind: Literal["gpu", "nvswitch", "pcie-switch", "cpu", "nic", "switch"]
    node: int = 0
    gpu: Gpu | None = None
    rail: int | None = None


class Edge(Spec):
    """A link of an explicit graph: both directions unless ``directed``."""

    source: str
    target: str
    kind: Literal["nvlink", "pcie", "cpu", "network"]
    bandwidth: float  # [B/s] per direction
    latency: float = 0.0  # [s]
    directed: bool = False


class Graph(Spec):
    """An explicit topology, for whatever the shorthand can't say."""

    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]


class Topology(Spec):
    """A cluster: shorthand (`nodes` equal nodes) or an explicit graph."""

    name: str
    nodes: int = 1
    node: Node | None = None
    network: Network = Network()
    offer: Offer | None = None
    graph: Graph | None = None
    hourly_price_source: str = ""
    sources: tuple[str, ...] = ()
