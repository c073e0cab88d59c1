"""Ways inside one node: NVLink, PCIe, through host memory; and which NIC a GPU leaves by.

All functions remember what they found in ``shape.memo``, so equal nodes pay once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from sim.errors import InputError
from sim.fabric.links import constants, transfer_cost
from sim.fabric.shape import CPU, NVLINK, PCIE, Shape
from sim.records import NamedTuple

# nearest first
CLASSES = ("LOC", "NVL", "NVB", "PIX", "PXB", "PHB", "NODE", "SYS", "NET")
NEAR_PCIE = frozenset({"PIX", "PXB"})  # NCCL's default limit of P2P and of GPUDirect


def _fault(message: str) -> InputError:
    return InputError.single("topology", message, "graph")


class Way(NamedTuple):
    """A route inside a node: local resources and the bytes each carries per byte sent."""

    path: str  # one of CLASSES
    transport: str  # p2p | shm | pxn
    loads: tuple[tuple[int, float], ...]


def _outgoing(shape: Shape) -> list[list[int]]:
    found = shape.memo.get("out")
    if found is None:
        found = [[] for _ in shape.names]
        for i, link in enumerate(shape.links):
            cast("list[list[int]]", found)[link.tail].append(i)
        shape.memo["out"] = found
    return cast("list[list[int]]", found)


def _search(shape: Shape, start: int, kinds: frozenset[int], through: frozenset[str]) -> list[int]:
    """Breadth-first tree of links from ``start``: link by which each vertex is entered, -1 none."""
    key = ("tree", start, kinds, through)
    found = shape.memo.get(key)
    if found is not None:
        return cast("list[int]", found)
    out, entered = _outgoing(shape), [-1] * len(shape.names)
    seen, frontier = {start}, [start]
    while frontier:
        reached = []
        for u in frontier:
            if u != start and shape.kinds[u] not in through:
                continue
            for i in out[u]:
                link = shape.links[i]
                if link.kind in kinds and link.head not in seen:
                    seen.add(link.head)
                    entered[link.head] = i
                    reached.append(link.head)
        frontier = reached
    shape.memo[key] = entered
    return entered


def _trace(shape: Shape, entered: list[int], start: int, end: int) -> list[int] | None:
    links: list[int] = []
    while end != start:
        i = entered[end]
        if i < 0:
            return None
        links.append(i)
        end = shape.links[i].tail
    return links[::-1]


_SWITCHED = frozenset({"nvswitch"})
_HOST = frozenset({"pcie-switch", "cpu"})
_NV = frozenset({NVLINK})
_BUS = frozenset({PCIE, CPU, NVLINK})  # an NVLink from a GPU to a CPU is its host link (C2C)


def nvlink_ports(shape: Shape, vertex: int) -> tuple[list[int], list[int]]:
    """NVLinks that leave a vertex, and that enter it."""
    found = shape.memo.get("nvlink ports")
    if found is None:
        ports: dict[int, tuple[list[int], list[int]]] = {}
        for i, link in enumerate(shape.links):
            if link.kind == NVLINK:
                ports.setdefault(link.tail, ([], []))[0].append(i)
                ports.setdefault(link.head, ([], []))[1].append(i)
        found = shape.memo["nvlink ports"] = ports
    return cast("dict[int, tuple[list[int], list[int]]]", found).get(vertex, ([], []))


def nvlink_links(shape: Shape, a: int, b: int) -> list[int] | None:
    """Links from GPU vertex a to b by NVLink alone, direct or through NVSwitches; None if none."""
    return _trace(shape, _search(shape, a, _NV, _SWITCHED), a, b)


def _bridged_links(shape: Shape, a: int, b: int) -> list[int] | None:
    """NVLink through one GPU between (NCCL's NVB)."""
    best: tuple[float, list[int]] | None = None
    for g in shape.gpus:
        if g in (a, b):
            continue
        first, second = nvlink_links(shape, a, g), nvlink_links(shape, g, b)
        if first and second:
            width = min(shape.links[i].capacity for i in first + second)
            if best is None or width > best[0]:
                best = (width, first + second)
    return best[1] if best else None


def host_links(shape: Shape, a: int, b: int) -> list[int] | None:
    """Links over PCIe switches and CPUs; None if there is no such way."""
    return _trace(shape, _search(shape, a, _BUS, _HOST), a, b)


def host_class(shape: Shape, a: int, b: int) -> str | None:
    """Path class of two vertices over the host: PIX, PXB, PHB, NODE or SYS."""
    key = ("class", a, b)
    if key not in shape.memo:
        shape.memo[key] = _class_of(shape, host_links(shape, a, b))
    return cast("str | None", shape.memo[key])


def _class_of(shape: Shape, links: list[int] | None) -> str | None:
    if links is None:
        return None
    between = [shape.kinds[shape.links[i].head] for i in links[:-1]]
    cpus, switches = between.count("cpu"), between.count("pcie-switch")
    if cpus > 1:
        return "SYS"
    if cpus == 1:
        return "NODE" if switches else "PHB"
    return "PIX" if switches <= 1 else "PXB"


def nearest_cpu(shape: Shape, vertex: int) -> int:
    """Place in ``shape.cpus`` of the CPU nearest to a vertex."""
    best: tuple[int, int] | None = None
    for place, c in enumerate(shape.cpus):
        links = host_links(shape, vertex, c)
        if links is not None and (best is None or len(links) < best[0]):
            best = (len(links), place)
    if best is None:
        message = f"{shape.names[vertex]} reaches no CPU, and so no host memory"
        raise _fault(message)
    return best[1]


def gpu_way(shape: Shape, a: int, b: int) -> Way:
    """How NCCL moves bytes from local rank a to local rank b.

    Notes
    -----
    NVLink where it is; PCIe peer to peer up to PXB, or as NCCL is told (``p2p_level``); else
    through host memory (SHM), on the receiver's socket, each byte crossing memory twice. AMD hosts
    with at most two GPUs: peer to peer up to SYS. A kernel that writes to a peer reaches a share of
    its PCIe link. Staged bytes hold both directions of the GPU's link: reads of host memory send
    their requests outward, behind the writes, so writes and reads together get what one direction
    carries.

    Source: facts in NVIDIA/nccl src/graph/paths.cc (p2p level); shares: ``transfers`` in
    network_timing.toml. Of a ring through host memory A100 PCIe get 12 to 13.5 GB/s (SimuMax), of
    one whose GPUs either write or read, being bridged in pairs, 24 to 26 (Vidur, Azure NC96).
    """
    key = ("way", a, b)
    found = shape.memo.get(key)
    if found is None:
        found = shape.memo[key] = _find_gpu_way(shape, shape.gpus[a], shape.gpus[b])
    return cast("Way", found)


def _reach(path: str) -> int:
    """How far a path class goes; to NCCL a node's root complex is one, whatever hangs below it."""
    return CLASSES.index("PHB" if path == "NODE" else path)


def _find_gpu_way(shape: Shape, a: int, b: int) -> Way:
    if a == b:
        return Way("LOC", "p2p", ())
    links = nvlink_links(shape, a, b)
    if links is not None:
        return Way("NVL", "p2p", tuple((i, 1.0) for i in links))
    links = _bridged_links(shape, a, b)
    if links is not None:
        return Way("NVB", "p2p", tuple((i, 1.0) for i in links))
    links, path = host_links(shape, a, b), host_class(shape, a, b)
    if links is None or path is None:
        message = f"no way from {shape.names[a]} to {shape.names[b]} inside their node"
        raise _fault(message)
    usual = "SYS" if shape.vendor == "amd" and len(shape.gpus) <= 2 else "PXB"
    if shape.p2p and _reach(path) <= _reach(shape.level or usual):
        cost = transfer_cost("p2p")
        ends = (links[0], links[-1])
        return Way(path, "p2p", tuple((i, cost if i in ends else 1.0) for i in links))
    passes = float(constants()["host"]["staging_passes"])
    return Way(path, "shm", _staged(shape, a, b, nearest_cpu(shape, b), passes))


def nccl_rate(shape: Shape, a: int, b: int) -> float:
    """What NCCL counts for the way between two local ranks without NVLink. [B/s]

    Notes
    -----
    The slowest link; 5/6 of PCIe through an Intel root complex.

    Source: NVIDIA/nccl src/graph/topo.h (INTEL_P2P_OVERHEAD), paths.cc.
    """
    u, v = shape.gpus[a], shape.gpus[b]
    links = [shape.links[i] for i in host_links(shape, u, v) or ()]
    through_cpu = host_class(shape, u, v) not in NEAR_PCIE
    overhead = 1.0
    if through_cpu and shape.vendor == "intel":
        overhead = constants()["host"]["intel_root_complex_overhead"]
    return min(e.nccl / (overhead if e.kind == PCIE else 1.0) for e in links)


def _staged(
    shape: Shape, a: int, b: int, place: int, passes: float
) -> tuple[tuple[int, float], ...]:
    """Loads of a transfer that stops in the memory of the CPU at ``place``, crossed so often."""
    cpu = shape.cpus[place]
    up, down = host_links(shape, a, cpu), host_links(shape, cpu, b)
    if up is None or down is None:
        message = f"no way from {shape.names[a]} to {shape.names[b]} through host memory"
        raise _fault(message)
    loads: dict[int, float] = {}
    for i in up + down:
        loads[i] = loads.get(i, 0.0) + 1.0
    own = [i for end, i in ((a, up[0]), (b, down[-1])) if shape.kinds[end] == "gpu"]
    for i in own:
        link = shape.links[i]
        if link.kind == PCIE:
            loads[i] = transfer_cost("staged")
            for back in _outgoing(shape)[link.head]:
                if shape.links[back].head == link.tail and shape.links[back].kind == PCIE:
                    loads[back] = loads[i]
    loads[shape.memory_of(place)] = passes
    return tuple(loads.items())


def nic_way(shape: Shape, local: int, nic: int, outward: bool, proxies: Iterable[int] = ()) -> Way:
    """How bytes move between a GPU and a NIC of its node.

    Parameters
    ----------
    shape : Shape
        The node.
    local : int
        Local rank.
    nic : int
        Place in ``shape.nics``.
    outward : bool
        GPU to NIC, else NIC to GPU.
    proxies : iterable of int
        Local ranks that may pass bytes on to a NIC they are next to (PXN).

    Returns
    -------
    Way
        GPUDirect up to PXB; else over NVLink to a proxy beside the NIC; else through host memory.
    """
    proxies = tuple(proxies)
    key = ("nic", local, nic, outward, proxies)
    found = shape.memo.get(key)
    if found is None:
        found = shape.memo[key] = _find_nic_way(shape, local, nic, outward, proxies)
    return cast("Way", found)


def _oriented(shape: Shape, a: int, b: int, outward: bool) -> list[int]:
    links = host_links(shape, a, b) if outward else host_links(shape, b, a)
    if links is None:
        message = f"no way from {shape.names[a]} to {shape.names[b]} over PCIe"
        raise _fault(message)
    return links


def _find_nic_way(
    shape: Shape, local: int, nic: int, outward: bool, proxies: tuple[int, ...]
) -> Way:
    g, n = shape.gpus[local], shape.nics[nic]
    if g == n:  # a GPU joined to the network itself, as simple explicit graphs have it
        return Way("PIX", "p2p", ())
    path = host_class(shape, g, n) or "SYS"
    direct = nic not in shape.staged
    if direct and path in NEAR_PCIE:
        return Way(path, "p2p", tuple((i, 1.0) for i in _oriented(shape, g, n, outward)))
    if direct and outward:
        for p in proxies:
            peer = shape.gpus[p]
            if p == local or host_class(shape, peer, n) not in NEAR_PCIE:
                continue
            over = nvlink_links(shape, g, peer)
            if over:
                links = over + _oriented(shape, peer, n, True)
                return Way("PXN", "pxn", tuple((i, 1.0) for i in links))
    _oriented(shape, g, n, outward)
    ends = (g, n) if outward else (n, g)
    return Way(path, "shm", _staged(shape, *ends, nearest_cpu(shape, n), shape.nic_passes))


def nics_of(shape: Shape, local: int) -> tuple[int, ...]:
    """NICs that a GPU uses: the nearest ones, shared out among the GPUs equally near.

    Notes
    -----
    Two GPUs and two NICs under a switch: one NIC each. Four NICs and one GPU: all four. Fewer NICs
    than GPUs: NICs are shared. As NCCL's ncclTopoGetLocalNet spreads channels.
    """
    table = shape.memo.get("nics")
    if table is None:
        table = shape.memo["nics"] = _assign_nics(shape)
    return cast("list[tuple[int, ...]]", table)[local]


def _assign_nics(shape: Shape) -> list[tuple[int, ...]]:
    nearest: list[tuple[int, ...]] = []
    for g in shape.gpus:
        ranked = []
        for j, n in enumerate(shape.nics):
            path = "PIX" if g == n else host_class(shape, g, n)
            if path is not None:
                ranked.append((_reach(path), j))
        best = min((r for r, _ in ranked), default=0)
        nearest.append(tuple(j for r, j in ranked if r == best))
    table: list[tuple[int, ...]] = []
    for k, candidates in enumerate(nearest):
        if not candidates:
            table.append(())
            continue
        sharers = [i for i, other in enumerate(nearest) if other == candidates]
        place, size = sharers.index(k), len(sharers)
        mine = candidates[place::size] or (candidates[place % len(candidates)],)
        table.append(mine)
    return table


def switched(shape: Shape, locals_: tuple[int, ...]) -> bool:
    """Whether every pair of these local ranks is joined by NVLink through NVSwitches."""
    if len(locals_) < 2:
        return bool(locals_)
    first = shape.gpus[locals_[0]]
    for local in locals_[1:]:
        links = nvlink_links(shape, first, shape.gpus[local])
        if links is None or len(links) < 2:
            return False
    return True


def printed_class(shape: Shape, a: int, b: int) -> str:
    """Path class of two local ranks as ``nvidia-smi topo -m`` prints it: X, NV4, PIX, ..., SYS."""
    if a == b:
        return "X"
    u, v = shape.gpus[a], shape.gpus[b]
    links = nvlink_links(shape, u, v)
    if links is not None:
        # a switched pair has as many links as its ports; unknown counts print as plain NV
        count = min(shape.links[i].links for i in links)
        return f"NV{count}" if count else "NV"
    return host_class(shape, u, v) or gpu_way(shape, a, b).path
