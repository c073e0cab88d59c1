"""What NCCL sees of a group of ranks on a fabric: its nodes, links, NICs and GPUs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from sim.cost.nccl.communicator import Communicator, Nccl, constants, generation_of, parse_version
from sim.errors import InputError
from sim.fabric.alike import LikeNodes, nodes_of
from sim.fabric.fabric import Fabric
from sim.fabric.held import goes_with_machines
from sim.inputs.gpu import Gpu
from sim.records import NamedTuple

SOURCE = "collective"
_NVLINK_PATHS = ("NVL", "NVB")


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
        raise InputError.single(SOURCE, str(error), "stack.nccl") from None
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


goes_with_machines(communicator.cache_clear)


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
            # a channel goes no faster than the slowest link of its way, source: search.cc
            beside = next(rank for rank in local if used[0] in fabric.nics(rank))
            rate = min(rate * bundle, fabric.nccl_nic_rate(beside, used[0]))
            nics //= bundle
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
