"""What a collective costs on a machine: the algorithm NCCL picks, its time alone, its demands.

    cost = plan_collective(fabric, "all_gather", ranks, total_bytes, "2.21")
    cost.algorithm, cost.protocol, cost.channels        # ring, simple, 24: 24 SMs held
    cost.time_s, cost.busbw_bytes_per_s                 # with nothing beside it
    cost.latency_s, cost.work, cost.bound_bytes_per_s   # what an engine needs of the op, and
    demand_of(fabric, ranks, "all_gather", cost.algorithm)  # resources, bytes on each per byte

Bytes are total bytes as nccl-tests counts them (all-gather, reduce-scatter: all shards together).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.cost.nccl import loads
from sim.cost.nccl.algorithms import algorithm_named, names
from sim.cost.nccl.communicator import (
    OPERATIONS,
    PROTOCOLS,
    Communicator,
    Nccl,
    constants,
    generation_of,
    parse_version,
)
from sim.cost.nccl.timing import duration
from sim.cost.nccl.tuner import choose
from sim.errors import InputError
from sim.fabric.alike import LikeNodes, nodes_of
from sim.fabric.fabric import Fabric
from sim.fabric.shape import HBM, NETWORK, NVLINK
from sim.fabric.sisters import moved, sisters
from sim.inputs.gpu import Gpu
from sim.mesh import Sisters
from sim.records import dataclass

B1 = npt.NDArray[np.bool_]
F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

_NVLINK_PATHS = ("NVL", "NVB")
DEFAULT_NCCL = "2.21"
_SOURCE = "collective"


def bus_factor(op: str, ranks: int) -> float:
    """Bus bandwidth over algorithm bandwidth, as nccl-tests defines it.

    Source: nccl-tests doc/PERFORMANCE.md.
    """
    if op == "all_reduce":
        return 2.0 * (ranks - 1) / ranks
    if op in ("all_gather", "reduce_scatter", "all_to_all"):
        return (ranks - 1) / ranks
    return 1.0


@dataclass(frozen=True, slots=True)
class CollectiveCost:
    """One collective, or several equal ones of sister groups run together as one.

    Attributes
    ----------
    work : float
        Total bytes of one group. [B]
    latency_s : float
        Fixed part, shares nothing. [s]
    bound_bytes_per_s : float
        Rate at which `work` is done when nothing else runs.
    channels : int
        Thread blocks, so SMs held on every rank.
    limit_resource : int
        The tightest resource; -1 if there is none.
    limit_bytes_per_s, wire_bytes_per_s : float
        Rate of work at which it is full: by effective capacity, and by the data sheet's.
    network_bound : bool
        Whether it lies on the way between nodes.
    nodes : int
        Nodes that its ranks are on.
    link : str
        Slowest kind of link between neighbours inside a node: "nvlink", "pcie" or "shm".
    """

    op: str
    ranks: int
    algorithm: str
    protocol: str
    channels: int
    work: float
    latency_s: float
    bound_bytes_per_s: float
    limit_resource: int
    limit_bytes_per_s: float
    wire_bytes_per_s: float
    network_bound: bool = False
    nodes: int = 1
    link: str = "nvlink"
    _fabric: Fabric | None = field(repr=False, compare=False, default=None)

    @property
    def time_s(self) -> float:
        """Duration with nothing beside it. [s]"""
        return self.latency_s + self.work / self.bound_bytes_per_s

    @property
    def algbw_bytes_per_s(self) -> float:
        """Algorithm bandwidth: work over time."""
        return self.work / self.time_s if self.time_s > 0 else 0.0

    @property
    def busbw_bytes_per_s(self) -> float:
        """Bus bandwidth as nccl-tests defines it."""
        return self.algbw_bytes_per_s * bus_factor(self.op, self.ranks)

    @property
    def limit_busbw_bytes_per_s(self) -> float:
        """Bus bandwidth that the data-sheet rates allow this algorithm."""
        factor = bus_factor(self.op, self.ranks)
        return self.wire_bytes_per_s * factor if factor > 0.0 else 0.0

    @property
    def limit(self) -> str:
        """What holds it back: "latency" where that is over half the time, else a resource."""
        if self.limit_resource < 0 or self._fabric is None:
            return "none"
        if self.latency_s > 0.5 * self.time_s:
            return "latency"
        return self._fabric.name(self.limit_resource)


def plan_collective(
    fabric: Fabric,
    op: str,
    ranks: Sequence[int],
    total_bytes: float,
    nccl: str | Nccl = DEFAULT_NCCL,
    *,
    algorithm: str | None = None,
    protocol: str | None = None,
    concurrent_groups: Iterable[Sequence[int]] | Sisters = (),
) -> CollectiveCost:
    """Cost of one collective.

    Parameters
    ----------
    fabric : Fabric
        Compiled machine.
    op : str
        all_gather, reduce_scatter, all_reduce, broadcast, all_to_all, send_recv or send.
    ranks : sequence of int
        The group, in rank order.
    total_bytes : float
        As nccl-tests counts: all shards of an all-gather or reduce-scatter, the buffer of the
        others, what one rank sends of all-to-all and send/recv. [B]
    nccl : str or Nccl
        Its version, such as "2.21", and the path the program asks for.
    algorithm, protocol : str, optional
        Force what NCCL would choose otherwise.
    concurrent_groups : Sisters, or iterable of sequences of int
        Sister groups that run the same collective at the same time (HSDP's replica groups, or the
        shard groups of all nodes). Their demands are added; `ranks` may be among them.

    Returns
    -------
    CollectiveCost
        Cached: calls that repeat arguments cost a look-up.

    Raises
    ------
    InputError
        For an unknown operation, algorithm, protocol or version, or one that cannot run here.
    """
    if not isinstance(concurrent_groups, Sisters):
        concurrent_groups = tuple(tuple(group) for group in concurrent_groups)
    return _plan(
        fabric, op, tuple(ranks), float(total_bytes), Nccl.of(nccl), algorithm, protocol,
        concurrent_groups,
    )  # fmt: skip


_Others = Sisters | tuple[tuple[int, ...], ...]


@functools.lru_cache(maxsize=16384)
def _plan(
    fabric: Fabric,
    op: str,
    ranks: tuple[int, ...],
    size: float,
    nccl: Nccl,
    algorithm: str | None,
    protocol: str | None,
    sisters: _Others,
) -> CollectiveCost:
    _check("op", op, OPERATIONS)
    _check("algorithm", algorithm, names())
    _check("protocol", protocol, PROTOCOLS)
    n = len(ranks)
    if n < 2 or size <= 0.0:
        inf = float("inf")
        return CollectiveCost(
            op, n, "none", "none", 0, size, 0.0, inf, -1, inf, inf, _fabric=fabric
        )  # fmt: skip
    comm = communicator(fabric, ranks, nccl)
    try:
        choice = choose(comm, op, size, algorithm, protocol)
    except ValueError as error:
        raise InputError.single(fabric.topology.name, str(error), "algorithm") from None
    wire, limits = _lowered(
        fabric, ranks, op, choice.algorithm, sisters, comm.nodes > 1, comm.link == "nvlink"
    )
    # links inside a node and between nodes keep unlike shares of their rate: the slower way holds
    alone, tight = max(
        (
            (duration(comm, op, choice.algorithm, choice.protocol, size, t.rate, t.crosses), t)
            for t in limits
        ),
        key=lambda found: found[0].transfer_s,
    )
    latency = alone.latency_s + _switch_delay(fabric, ranks, comm, op, choice.algorithm)
    if fabric.topology.calibration is not None:
        latency *= fabric.topology.calibration.collective_latency
    return CollectiveCost(
        op, n, choice.algorithm, choice.protocol, choice.channels, size, latency,
        size / alone.transfer_s, tight.resource, tight.rate, wire, tight.crosses,
        comm.nodes, comm.link, fabric,
    )  # fmt: skip


class _Tight(NamedTuple):
    """The tightest resource inside the nodes, or on the way between them."""

    resource: int
    rate: float  # total bytes a second that it lets through
    crosses: bool


class _Way(NamedTuple):
    """What an algorithm is held back by on a fabric."""

    wire: float  # total bytes a second that the tightest lets through, by data-sheet rates
    limits: tuple[_Tight, ...]


@functools.lru_cache(maxsize=1024)
def _lowered(
    fabric: Fabric,
    ranks: tuple[int, ...],
    op: str,
    algorithm: str,
    sisters: _Others,
    many_nodes: bool,
    nvlinked: bool,
) -> _Way:
    demand = demand_of(fabric, ranks, op, algorithm, sisters)
    ratio = fabric.capacity[demand.resource] / demand.amount
    kind = fabric.kind[demand.resource]
    # between nodes: the network, and where NVLink joins a node's GPUs whatever else there is
    own = (kind == NVLINK) | (kind == HBM)
    between = (~own if nvlinked else kind == NETWORK) & many_nodes
    limits = []
    for crosses in (False, True):
        places = np.flatnonzero(between == crosses)
        if places.size:
            place = places[np.argmin(ratio[places])]
            limits.append(_Tight(int(demand.resource[place]), float(ratio[place]), crosses))
    return _Way(float(np.min(fabric.raw[demand.resource] / demand.amount)), tuple(limits))


def _check(what: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        message = f"{value!r} is not one of {', '.join(known)}"
        raise InputError.single(_SOURCE, message, what)


def _switch_delay(
    fabric: Fabric, ranks: tuple[int, ...], comm: Communicator, op: str, algorithm: str
) -> float:
    """Latency of the network's switches on the serial path. [s]"""
    if comm.nodes == 1:
        return 0.0
    crossings = algorithm_named(algorithm).crossings(comm, op)
    return crossings * fabric.rings(ranks).network_latency_s


@functools.lru_cache(maxsize=1024)
def demand_of(
    fabric: Fabric,
    ranks: tuple[int, ...],
    op: str,
    algorithm: str,
    sisters: _Others = (),
) -> loads.Demand:
    """Bytes on each resource per byte of work, of a group and its sisters."""
    if not sisters:
        return algorithm_named(algorithm).loads(fabric, ranks, op)
    parts = [demand_of(fabric, ranks, op, algorithm)]
    for groups in _tables(sisters):
        if groups.shape[1] == len(ranks):
            groups = groups[(groups != np.array(ranks)).any(axis=1)]
        if len(groups):
            many = demands_of(fabric, groups, op, algorithm)
            parts.append(loads.Demand(many.resource, many.amount))
    return loads.total(parts) if len(parts) > 1 else parts[0]


def _tables(sisters: _Others) -> list[I8]:
    """Groups of equally many ranks, (groups, ranks of one), size by size."""
    if isinstance(sisters, Sisters):
        return [sisters.rows()]
    by_size: dict[int, list[tuple[int, ...]]] = {}
    for group in sisters:
        by_size.setdefault(len(group), []).append(group)
    return [np.array(groups, np.int64) for groups in by_size.values()]


def demands_of(
    fabric: Fabric, groups: I8, op: str, algorithm: str, without: B1 | None = None
) -> loads.Demands:
    """`demand_of` each of many groups; one of those alike says those of all.

    Parameters
    ----------
    fabric : Fabric
        Compiled machine.
    groups : (n_groups, n) int64
        Ranks of each.
    op, algorithm : str
        As for `plan_collective`.
    without : (n_resources,) bool, optional
        Resources to leave out.
    """
    found: list[tuple[I8, I8, F8]] = []  # places of groups, (m,), and (m, k) what each is on
    sizes = np.zeros(len(groups), np.int64)
    for alike in sisters(fabric, groups):
        first = groups[alike[0]]
        resource, amount = demand_of(fabric, tuple(first.tolist()), op, algorithm)
        if without is not None:
            left = ~without[resource]
            resource, amount = resource[left], amount[left]
        others = moved(fabric, resource, first, groups[alike[1:]])
        found.append((alike, np.concatenate((resource[None], others)), amount))
        sizes[alike] = resource.size
    ptr = np.concatenate(([0], np.cumsum(sizes)))
    resources, amounts = np.empty(ptr[-1], np.int64), np.empty(ptr[-1])
    for alike, resource, amount in found:
        at = ptr[alike][:, None] + np.arange(amount.size)
        resources[at], amounts[at] = resource, amount
    return loads.Demands(ptr, resources, amounts)


@functools.lru_cache(maxsize=1024)
def communicator(fabric: Fabric, ranks: tuple[int, ...], nccl: str | Nccl) -> Communicator:
    """What NCCL sees of a group of ranks.

    Raises
    ------
    InputError
        If the version is none.
    """
    library = Nccl.of(nccl)
    try:
        parsed = parse_version(library.version)
    except ValueError as error:
        raise InputError.single(_SOURCE, str(error), "stack.nccl") from None
    rings = fabric.rings(ranks)
    nodes = nodes_of(fabric, ranks)
    # NCCL takes the least of what its ranks have, and like nodes have the same
    parts = [_NodeSeen.of(fabric, kind, nodes.n_nodes > 1) for kind in nodes.kinds]
    gpus = {gpu for part in parts for gpu in part.gpus}
    nvlink = rings.path in _NVLINK_PATHS
    if rings.path == "LOC":
        nvlink = all(gpu.nvlink_generation for gpu in gpus)
    link = "nvlink" if nvlink else ("shm" if rings.transport == "shm" else "pcie")
    nics = min(parts, key=lambda part: (part.nics * part.nic_rate, part.nic_kind))
    generation = min(
        (gpu.nvlink_generation or 0) if nvlink else part.pcie_generation
        for part in parts for gpu in part.gpus
    )  # fmt: skip
    return Communicator(
        generation=generation_of(min(gpu.compute_capability for gpu in gpus)),
        ranks=len(ranks),
        nodes=nodes.n_nodes,
        link=link,
        link_generation=generation,
        intra_rate=min(_intra_rate(fabric, part.local, nvlink) for part in parts),
        nics=nics.nics,
        nic_rate=nics.nic_rate,
        nic_kind=nics.nic_kind,
        efa=nics.efa,
        gpudirect=all(part.gpudirect for part in parts),
        superchip=any(gpu.form_factor == "superchip" for gpu in gpus),
        cpu_vendor=min(part.vendor for part in parts),
        nvls=all(part.nvls for part in parts),
        collnet=fabric.topology.network.sharp,
        version=parsed,
        path=library.path,
    )


class _NodeSeen(NamedTuple):
    """A node as its ranks in a communicator see it."""

    local: list[int]
    gpus: tuple[Gpu, ...]
    nics: int
    nic_rate: float  # [B/s]
    nic_kind: str
    efa: int  # generation of an EFA, else 0
    gpudirect: bool  # as far as the shorthand says
    pcie_generation: int
    vendor: str
    nvls: bool

    @classmethod
    def of(cls, fabric: Fabric, kind: LikeNodes, joined: bool) -> _NodeSeen:
        """What a communicator's ranks have in like nodes; NICs only if it is `joined` to others."""
        node = int(kind.nodes[0])
        local = [int(fabric.first_rank[node]) + i for i in kind.local]
        gpus = tuple({id(gpu): gpu for gpu in map(fabric.gpu, local)}.values())
        nics, rate = 0, 0.0
        if joined:
            used = sorted({nic for rank in local for nic in fabric.nics(rank)})
            nics = len(used)
            rate = float(fabric.nominal[fabric.nic_ports(node, used[0])[0]].sum())
            bundle = _bundle(fabric, node, local, used)
            nics, rate = nics // bundle, rate * bundle
        spec = fabric.spec(node)
        own = spec.nics if spec is not None else None
        switched = fabric.nvswitch(local) if len(local) > 1 else False
        sharp = spec.nvlink.sharp if spec is not None and spec.nvlink is not None else switched
        generations = [gpu.pcie_generation for gpu in gpus]
        return cls(
            local, gpus, nics, rate, own.kind if own else "infiniband",
            own.efa_generation if own else 0, own.gpudirect and own.kind != "tcp" if own else True,
            min(generations if spec is None else [spec.pcie.generation, *generations]),
            fabric.shapes[node].vendor or "intel",
            switched and sharp and all(gpu.multicast for gpu in gpus),
        )  # fmt: skip


def _bundle(fabric: Fabric, node: int, local: Sequence[int], used: Sequence[int]) -> int:
    """NICs that a vendor's plugin shows NCCL as one: those beside a GPU, up to so many rails."""
    spec = fabric.spec(node)
    plugins = constants("nccl_tuner")["plugins"]
    plugin = plugins.get(spec.nics.kind, {}) if spec is not None and spec.nics is not None else {}
    if (
        spec is None
        or spec.nics is None
        or spec.nics.efa_generation not in plugin.get("bundles", ())
    ):
        return 1
    beside = min(len(fabric.nics(rank)) for rank in local)
    bundle = min(beside, int(plugin["rails"]))
    return bundle if len(used) % bundle == 0 else 1


def _intra_rate(fabric: Fabric, local: Sequence[int], nvlink: bool) -> float:
    """What a rank can pass to its neighbour in the node, as NCCL counts it. [B/s]"""
    if len(local) == 1:
        out, _ = fabric.nvlink_ports(local[0])
        return float(fabric.nominal[out].sum()) if len(out) else 24e9
    if nvlink:
        out, _ = fabric.nvlink_ports(local[0])
        return float(fabric.nominal[out].sum())
    order = fabric.rings(local).orders[0].tolist()
    return min(fabric.nccl_rate(a, b) for a, b in itertools.pairwise(order))
