"""What a collective costs on a machine: the algorithm NCCL picks, and its time alone.

    cost = plan_collective(fabric, "all_gather", ranks, total_bytes, "2.21")
    cost.algorithm, cost.protocol, cost.channels        # ring, simple, 24: 24 SMs held
    cost.time_s, cost.busbw_bytes_per_s                 # with nothing beside it
    cost.latency_s, cost.work, cost.bound_bytes_per_s   # what an engine needs of the op, and
    demand_of(fabric, ranks, "all_gather", cost.algorithm)  # resources, bytes on each per byte

Bytes are total bytes as nccl-tests counts them (all-gather, reduce-scatter: all shards together).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import field

import numpy as np

from sim.cost.communicators import SOURCE, communicator
from sim.cost.demands import Others, demand_of
from sim.cost.nccl.algorithms import algorithm_named, names
from sim.cost.nccl.communicator import OPERATIONS, PROTOCOLS, Communicator, Nccl
from sim.cost.nccl.timing import duration
from sim.cost.nccl.tuner import choose
from sim.errors import InputError
from sim.fabric.fabric import Fabric
from sim.fabric.held import goes_with_machines
from sim.fabric.shape import HBM, NETWORK, NVLINK
from sim.mesh import Sisters
from sim.records import NamedTuple, dataclass

DEFAULT_NCCL = "2.21"


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


@functools.lru_cache(maxsize=16384)
def _plan(
    fabric: Fabric,
    op: str,
    ranks: tuple[int, ...],
    size: float,
    nccl: Nccl,
    algorithm: str | None,
    protocol: str | None,
    sisters: Others,
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
    sisters: Others,
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


goes_with_machines(_plan.cache_clear)
goes_with_machines(_lowered.cache_clear)


def _check(what: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        message = f"{value!r} is not one of {', '.join(known)}"
        raise InputError.single(SOURCE, message, what)


def _switch_delay(
    fabric: Fabric, ranks: tuple[int, ...], comm: Communicator, op: str, algorithm: str
) -> float:
    """Latency of the network's switches on the serial path. [s]"""
    if comm.nodes == 1:
        return 0.0
    crossings = algorithm_named(algorithm).crossings(comm, op)
    return crossings * fabric.rings(ranks).network_latency_s
