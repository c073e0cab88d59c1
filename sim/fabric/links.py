"""Link rates by generation: by the data sheet, as reached, and as NCCL counts them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

from sim.data import table
from sim.inputs.gpu import Gpu
from sim.inputs.topology import Nics, Node, NvLink
from sim.records import NamedTuple


class Rates(NamedTuple):
    """Of a link, per direction. [B/s]"""

    raw: float  # data sheet
    capacity: float  # what bytes reach on it
    nccl: float  # what NCCL counts: it decides what NCCL chooses, never how long that takes


def constants() -> dict[str, Any]:
    """The table of link constants."""
    return table("constants/links")


def transfer_cost(mechanism: str) -> float:
    """Bytes of PCIe that a byte of NCCL's kernels takes: ``p2p``, or ``staged`` in host memory."""
    return 1.0 / float(table("constants/network_timing")["transfers"][mechanism])


def nvlink_rates(nvlink: NvLink, gpu: Gpu) -> Rates:
    """Rates of one NVLink.

    Parameters
    ----------
    nvlink : NvLink
        Of the node. An own ``link_rate`` counts as raw.
    gpu : Gpu
        Its raw rate is taken where the generations agree.

    Returns
    -------
    Rates
        NCCL counts raw x (its rate / data-sheet rate) of the generation, about 0.8. Links reach
        that, but for bridges between cards where ``links.toml`` says otherwise.
    """
    row = constants()["nvlink"][str(nvlink.generation)]
    raw = nvlink.link_rate
    if raw is None:
        raw = gpu.nvlink_link_rate if gpu.nvlink_generation == nvlink.generation else row["raw"]
    counted = raw * row["effective"] / row["raw"]
    bridged = nvlink.fabric in ("pairs", "mesh") and gpu.form_factor == "pcie"
    kept = constants()["bridge"].get(str(nvlink.generation), 1.0) if bridged else 1.0
    return Rates(raw, counted * kept, counted)


Joined = Literal["pairs", "mesh", "nvswitch"]


def one_nvlink(gpu: Gpu, generation: int, fabric: Joined) -> float:
    """What one NVLink of a GPU gives where its links join GPUs so (`joined`). [B/s]"""
    nvlink = NvLink(generation=generation, links_per_gpu=1, fabric=fabric)
    return nvlink_rates(nvlink, gpu).capacity


def joined(ends: Sequence[Hashable], switched: bool) -> Joined:
    """How NVLinks with these ends join GPUs.

    By switches if there are any, in ``pairs`` where no GPU is the end of two links, else in a mesh.
    """
    if switched or not ends:
        return "nvswitch"
    return "pairs" if len(ends) == len(set(ends)) else "mesh"


def pcie_rates(generation: int, lanes: int) -> Rates:
    """Rates of a PCIe link."""
    row = constants()["pcie"][str(generation)]
    return Rates(lanes * row["raw"], lanes * row["copy"], lanes * row["nccl"])


def nic_rates(node: Node, nics: Nics) -> Rates:
    """Rates of a NIC of a node: the line's, over TCP no more than the node's cores copy.

    Parameters
    ----------
    node : Node
        Without ``nics.socket_threads`` each rank has one thread, for what it sends and receives,
        and the NICs share the ranks.
    nics : Nics
        Its NICs.

    Returns
    -------
    Rates
        NCCL counts the line.
    """
    if nics.kind != "tcp":
        return Rates(nics.rate, nics.rate, nics.rate)
    ways = 2 * nics.count
    threads = float(nics.socket_threads or min(1.0, node.gpus / ways))
    copied = min(threads, node.cpu.cores / ways) * socket_core_rate()
    return Rates(nics.rate, min(nics.rate, copied), nics.rate)


def nic_passes(nics: Nics | None) -> float:
    """How often a byte between a GPU and a NIC crosses the host memory it is staged in."""
    sockets = nics is not None and nics.kind == "tcp"
    table = constants()
    return float(table["tcp"]["passes"] if sockets else table["host"]["staging_passes"])


def staging_range(node: Node) -> tuple[float, float]:
    """Between which shares of our rate nodes like this pass bytes through host memory, 80 %."""
    known = constants()["host"]["staging_range"]
    if not node.virtual and node.gpu.p2p:
        return 1.0, 1.0
    low, high = known["virtual" if node.virtual else "board"]
    return float(low), float(high)


def socket_core_rate() -> float:
    """What one core moves over TCP. [B/s]"""
    return float(constants()["tcp"]["core"])


def socket_rates(node: Node) -> Rates:
    """Rates of the link between two sockets: as written, or of the CPUs of its PCIe generation."""
    cpu, generation = node.cpu, node.pcie.generation
    rate = cpu.interconnect
    if rate is None:
        rate = socket_rate(cpu.vendor, generation)
    return Rates(rate, rate, nccl_socket_rate(cpu.vendor, generation))


def socket_rate(vendor: str, generation: int, model: int | None = None) -> float:
    """All links between two sockets, by vendor and PCIe generation, or an Intel model. [B/s]"""
    table = constants()
    rate, links = table["sockets"][vendor][_host_generation(generation)]
    if vendor == "intel" and str(model) in table["intel_models"]:
        rate, links = table["intel_models"][str(model)]
    return float(rate * links)


def nccl_socket_rate(vendor: str, generation: int) -> float:
    """What NCCL counts for the link between sockets. [B/s]"""
    return float(constants()["nccl_sockets"][vendor or "intel"][_host_generation(generation)])


def _host_generation(generation: int) -> str:
    return str(min(max(generation, 3), 6))
