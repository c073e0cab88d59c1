"""The machine: `topology.yaml` as frozen specs. All values SI."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import lru_cache
from math import gcd
from typing import Annotated, Literal

from sim.choices import Field
from sim.inputs.base import (
    Dollars,
    Duration,
    Factor,
    Fraction,
    MemorySize,
    NotNegative,
    Positive,
    Rate,
    Seconds,
    Spec,
)
from sim.inputs.calibration import Calibration
from sim.inputs.gpu import GPUS_A_NODE, Gpu
from sim.units import DAY_S

EfaGeneration = Annotated[int, Field(ge=1, le=4)]


class NvLink(Spec):
    """NVLink inside a node."""

    generation: Positive
    links_per_gpu: NotNegative
    fabric: Literal["nvswitch", "pairs", "mesh", "none"] = "nvswitch"
    sharp: bool = False
    link_rate: Rate | None = None  # [B/s] per link and direction; None: by generation


class Pcie(Spec):
    """PCIe tree inside a node."""

    generation: Positive
    lanes: Positive = 16
    gpus_per_switch: NotNegative = 1
    nics_per_switch: NotNegative = 1
    p2p: bool = True  # peer-to-peer over PCIe works


class Cpu(Spec):
    """Host processors."""

    sockets: Positive = 2
    interconnect: Rate | None = None  # [B/s] per direction between two sockets; None: by vendor
    memory: MemorySize = 2e12  # [B]
    memory_bandwidth: Rate = 400e9  # [B/s] per socket
    vendor: Literal["intel", "amd", "arm"] = "intel"
    cores: Positive = 96
    cores_per_rank: Positive | None = None  # that a job is given; None: its share of the node's
    speed: Factor = 1.0  # of a core at Python, against the host of data/constants/host.toml


class Nics(Spec):
    """RDMA network interfaces of a node."""

    count: Positive = 8
    rate: Rate = 50e9  # [B/s] each
    kind: Literal["infiniband", "roce", "efa", "slingshot", "tcpx", "tcp"] = "infiniband"
    efa: EfaGeneration | None = None  # of an Elastic Fabric Adapter; None: `efa_generation`
    gpudirect: bool = True
    socket_threads: Positive | None = None  # each way over TCP (NCCL_SOCKET_NTHREADS); None: ranks'

    @property
    def efa_generation(self) -> int:
        """Generation of the EFA as given, or inferred from how many of what rate; 0 for other NICs.

        Notes
        -----
        One to four of 100 Gb/s: the first (p4d, p4de); more of them: the second (p5, 32); 200 Gb/s:
        the third (p5en, 16); 400 Gb/s: the fourth (p6-b200, 8).

        Source: stas00/ml-engineering, network/README.md.
        """
        if self.kind != "efa":
            return 0
        if self.efa is not None:
            return self.efa
        if self.rate > 12.5e9:
            return 4 if self.rate > 25e9 else 3
        return 1 if self.count <= 4 else 2


class Storage(Spec):
    """Storage as one node sees it."""

    read: Rate = 10e9
    write: Rate = 5e9


class Node(Spec):
    """One node."""

    gpu: Gpu
    gpus: Positive = GPUS_A_NODE
    nvlink: NvLink | None = None  # left out: the board's of an SXM GPU; "none": PCIe alone
    pcie: Pcie  # left out: the slot of its GPU, a switch each
    cpu: Cpu = Cpu.model_construct()
    nics: Nics | None = None
    storage: Storage = Storage.model_construct()
    virtual: bool = False  # its hypervisor's rates through host memory: a wide band; dear retries
    p2p_level: Literal["LOC", "NVL", "PIX", "PXB", "PHB", "SYS"] | None = (
        None  # NCCL_P2P_LEVEL; LOC: NCCL_P2P_DISABLE=1; None: NCCL's own
    )


class Network(Spec):
    """The fabric between nodes."""

    kind: Literal["rail-optimized", "fat-tree", "single-switch"] = "rail-optimized"
    oversubscription: Factor = 1.0
    switch_latency: Seconds = 0.6e-6  # [s]
    nodes_per_leaf: Positive | None = (
        None  # None: 32 on a rail leaf; fat-tree 32 ports / NICs a node
    )
    placement: Literal["packed", "random", "fragmented"] = "packed"  # of the job's nodes on leaves
    routing: Literal["adaptive", "ecmp"] = "adaptive"  # of packets over uplinks, or flows by a hash
    tenants: Annotated[Fraction, Field(lt=1)] = 0.0  # share of the job's uplinks that others take
    sharp: bool = False  # switches reduce (InfiniBand SHARP): CollNet


class Ownership(Spec):
    """A machine of one's own, each figure a GPU's share of nodes, network, storage and room.

    Electricity comes on top: the site's, cooling included, at `offer.energy_per_kwh`.
    """

    price_per_gpu: Dollars  # [USD] paid once
    lifetime: Duration = 4 * 365.25 * DAY_S  # [s] written off over, evenly
    resale: Fraction = 0.0  # of the price, at its end
    interest: Fraction = 0.0  # a year, on what is tied up on average
    staff_per_gpu_year: Dollars = 0.0  # [USD]
    space_per_gpu_month: Dollars = 0.0  # [USD] a rack's rent
    in_use: Annotated[Fraction, Field(gt=0)] = 1.0  # share of its life: the rest is paid for too


class Offer(Spec):
    """What the machine costs; an `instance` of the catalogue of offers fills in the rest."""

    price_per_gpu_hour: Dollars | None = None  # [USD]
    provider: str = ""
    instance: str = ""
    region: str = ""
    residency: str = ""
    egress_per_gb: Dollars = 0.0
    spot_price_per_gpu_hour: Dollars | None = None  # [USD]
    date: str = ""  # month or year the price was read
    source: str = ""
    confidence: str = ""  # of the price, as in a price file: listed or unchecked; "": your own
    capacity: Literal["on-demand", "spot", "owned"] = "on-demand"  # spot can be taken away
    own: Ownership | None = None  # what pays where there is no price, or with capacity: owned
    preemption_mtbf: Duration | None = None  # [s] of a spot node; None: see reliability.toml
    preemption_wait: Seconds | None = None  # [s] mean, until spot capacity is there again
    preemption_notice: Seconds = 0.0  # [s] warning before a node is taken
    commitment_discount: Fraction = 0.0  # off the on-demand price
    commitment: Seconds = 0.0  # [s] paid for at the least
    # [s] paid for before the first step; None: 0, and what `size --setup` says
    setup: Seconds | None = None
    storage_per_gb_month: Dollars = 0.0
    energy_per_kwh: Dollars = 0.0  # where electricity is paid apart, as for a machine of one's own
    pue: Factor | None = None  # power usage effectiveness of the site; None: see energy.toml
    country: str = ""  # ISO 3166 alpha-3, for CO2 where the region is in no table


class FailureDomain(Spec):
    """Nodes that fail together, beside what fails alone: a rack, a switch, a power feed."""

    name: str = "domain"
    nodes: Positive  # under one of them
    mtbf: Duration  # [s] of one of them
    repair: Seconds | None = None  # [s] until its nodes are back; None: as of a node


class Reliability(Spec):
    """How often the machine fails and for how long; None: see data/constants/reliability.toml."""

    failures: bool = True
    gpu_mtbf: Duration | None = None  # [s] of one GPU, its memory and NVLink included
    node_mtbf: Duration | None = None  # [s] of one node, everything but its GPUs
    detect: Seconds | None = None  # [s] from failure to noticing
    restart: Seconds | None = None  # [s] scheduling, process groups, warm-up; not reading state
    repair: Seconds | None = None  # [s] a broken node is away
    spare_nodes: NotNegative | None = None  # None: a broken node is replaced at once
    # [s] starting again where spares stand ready, image and data in place; None: as `restart`
    warm_restart: Seconds | None = None
    least_nodes: Positive | None = None  # with so many the job goes on, slower; None: it needs all
    domains: tuple[FailureDomain, ...] = ()  # add to what `gpu_mtbf` and `node_mtbf` say
    pace_spread: Fraction | None = None  # relative standard deviation of a run's mean step time


class Vertex(Spec):
    """A vertex of an explicit graph."""

    id: str
    kind: Literal["gpu", "nvswitch", "pcie-switch", "cpu", "nic", "switch"]
    node: NotNegative = 0
    gpu: Gpu | None = None
    rail: int | None = None
    vendor: Literal["intel", "amd", "arm"] | None = None  # of a CPU
    memory_bandwidth: Rate | None = None  # [B/s] of a CPU
    gpudirect: bool = True  # of a NIC


class Edge(Spec):
    """A link of an explicit graph: both directions unless ``directed``."""

    source: str
    target: str
    kind: Literal["nvlink", "pcie", "cpu", "network"]
    bandwidth: Rate  # [B/s] per direction
    latency: Seconds = 0.0  # [s]
    directed: bool = False


class Graph(Spec):
    """An explicit topology, for whatever the shorthand can't say."""

    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]
    written_from: str = ""  # digest of the graph that the shorthand beside it was laid out as

    def unedited(self) -> bool:
        """Whether it is as `topo show` wrote it, so that the shorthand beside it says it all."""
        return bool(self.written_from) and self.written_from == self.digest()

    def digest(self) -> str:
        """Of vertices and edges."""
        parts = [
            (v.id, v.kind, v.node, v.gpu.name if v.gpu else "", v.rail, v.vendor,
             v.memory_bandwidth, v.gpudirect)
            for v in self.vertices
        ] + [
            (e.source, e.target, e.kind, e.bandwidth, e.latency, e.directed) for e in self.edges
        ]  # fmt: skip
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class NodeGroup(Spec):
    """Equal nodes of a cluster that has several kinds."""

    nodes: Positive = 1
    node: Node

    @property
    def gpus(self) -> int:
        """GPUs of the group."""
        return self.nodes * self.node.gpus


@lru_cache(maxsize=256)
def _of_one_kind(nodes: int, node: Node) -> tuple[NodeGroup, ...]:
    return (NodeGroup.model_construct(nodes=nodes, node=node),)


class Topology(Spec):
    """A cluster: `nodes` equal ones of `node`, groups of unlike nodes, or an explicit graph.

    A graph that was written from a shorthand and then edited stands beside it: the graph is the
    wiring, the shorthand says what vertices and edges do not.
    """

    name: str
    nodes: Positive = 1
    node: Node | None = None
    node_groups: tuple[NodeGroup, ...] = ()  # nodes of several kinds, ranks in this order
    network: Network = Network.model_construct()
    offer: Offer | None = None
    calibration: Calibration | None = None  # of this cluster, from its own measurements
    reliability: Reliability = Reliability.model_construct()
    graph: Graph | None = None
    gpu: Gpu | None = None  # of an explicit graph's GPU vertices that name none
    sources: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[NodeGroup, ...]:
        """Equal nodes, kind by kind in the order of ranks; none where the machine is a graph."""
        if self.graph is not None:
            return ()
        if self.node_groups or self.node is None:
            return self.node_groups
        return _of_one_kind(self.nodes, self.node)

    @property
    def described(self) -> tuple[NodeGroup, ...]:
        """Nodes as the shorthand has them, a graph edited or not."""
        return self.model_copy(update={"graph": None}).groups if self.graph else self.groups

    @property
    def world_size(self) -> int:
        """GPUs in all."""
        if self.graph is not None:
            return sum(v.kind == "gpu" for v in self.graph.vertices)
        if self.node is not None:  # asked for often
            return self.nodes * self.node.gpus
        return sum(group.gpus for group in self.node_groups)

    @property
    def gpus_per_node(self) -> int:
        """GPUs of a node; of unequal nodes the largest number that divides all."""
        if self.graph is not None:
            nodes = Counter(v.node for v in self.graph.vertices if v.kind == "gpu")
            return gcd(*nodes.values())
        if self.node is not None:  # asked for often
            return self.node.gpus
        return gcd(*(group.node.gpus for group in self.groups))

    @property
    def node_count(self) -> int:
        """Nodes in all."""
        if self.graph is not None:
            return len({v.node for v in self.graph.vertices if v.kind == "gpu"})
        return sum(group.nodes for group in self.groups)

    @property
    def gpu_counts(self) -> dict[Gpu, int]:
        """GPUs of each model, in the order of their first rank."""
        found: Counter[Gpu] = Counter()
        if self.graph is None:
            for group in self.groups:
                found[group.node.gpu] += group.gpus
            return dict(found)
        for vertex in self.graph.vertices:
            gpu = vertex.gpu or self.gpu
            if vertex.kind == "gpu" and gpu is not None:
                found[gpu] += 1
        return dict(found)

    @property
    def storage(self) -> Storage:
        """Storage of a node, the slowest where they differ; of a bare graph, the defaults."""
        each = [group.node.storage for group in self.described]
        if len(each) < 2:
            return each[0] if each else Storage.model_construct()
        return Storage(read=min(s.read for s in each), write=min(s.write for s in each))

    @property
    def slowest_gpu(self) -> Gpu:
        """The GPU model of the least peak: where they differ, the others wait for it."""
        return min(self.gpu_counts, key=lambda gpu: gpu.peak_bf16 or gpu.peak_fp16 or 0.0)

    @property
    def first_gpu(self) -> Gpu:
        """The GPU model (of the first GPU where they differ)."""
        if self.node is not None:  # asked for often
            return self.node.gpu
        if not self.gpu_counts:
            msg = "a topology has nodes, or a graph whose GPUs are named"
            raise ValueError(msg)
        return next(iter(self.gpu_counts))
