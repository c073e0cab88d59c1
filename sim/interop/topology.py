"""Import of a machine from files its owner has: which reader, and how the YAML is written.

Readers (`nvidia_smi.py`, `nccl_xml.py`) return an `ImportedNode`; here it becomes shorthand where
shorthand means the very same machine (path classes of all pairs agree), else an explicit graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sim import units
from sim.documents import SCHEMAS, Document
from sim.errors import InputError
from sim.fabric import paths
from sim.fabric.explicit import parts_of
from sim.fabric.links import joined, one_nvlink, pcie_rates, socket_rate
from sim.fabric.shape import Shape, shape_of
from sim.inputs import catalogue
from sim.inputs.gpu import Gpu
from sim.inputs.spoken import gpu_named
from sim.inputs.topology import (
    Cpu,
    Edge,
    Graph,
    Nics,
    Node,
    NvLink,
    Pcie,
    Topology,
    Vertex,
)
from sim.inputs.written import text
from sim.interop import nccl_xml, nvidia_smi
from sim.interop.evidence import read_bytes
from sim.interop.host import ImportedNode
from sim.interop.which_gpu import which_gpu

MAX_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class ImportedTopology(Document):
    """Topology YAML and what had to be assumed."""

    schema: ClassVar[str] = SCHEMAS["topology-import"]

    yaml: str
    assumed: tuple[str, ...]


def import_topology(
    path: Path,
    gpu: str | None = None,
    nic_rate: str | None = None,
    name: str | None = None,
    all_nics: bool = False,
    matrix: bool = False,
) -> ImportedTopology:
    """Read a topology file of another tool, as `sim.topo_import`: its first character says which.

    Raises
    ------
    InputError
        If the file is none of these, says too little, or contradicts itself.
    """
    source = str(path)
    spec = None if gpu is None else _known(gpu)
    rate = None
    if nic_rate is not None:
        try:
            rate = units.parse(nic_rate, "B/s")
        except units.UnitError as error:
            option = "--nic"
            raise InputError.single(option, str(error)) from error
    data = read_bytes(path, MAX_BYTES)
    xml = data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and not matrix
    reader = nccl_xml if xml else nvidia_smi
    assumed = ""
    if spec is None:
        spec, assumed = which_gpu(data, source, lambda of: reader.read(data, source, of))
    host = reader.read(data, source, spec)
    host.assumed[:0] = [assumed] * bool(assumed)
    _choose_nics(host, rate, all_nics)
    return write(host, spec, (name or path.stem).strip() or "imported")


def _known(name: str) -> Gpu:
    found = catalogue.gpu(gpu_named(name, catalogue.gpu_names()) or name)
    if found is None:
        names = ", ".join(catalogue.gpu_names())
        option = "--gpu"
        raise InputError.single(option, f"no GPU {name!r} in the catalogue; there are {names}")
    return found


def _choose_nics(host: ImportedNode, rate: float | None, all_nics: bool) -> None:
    gpu_hosts = set(host.gpus)
    near = [n for n in host.nics if n.host.startswith("pcie") and n.host in gpu_hosts]
    if near and len(near) < len(host.nics) and not all_nics:
        left = len(host.nics) - len(near)
        host.assumed.append(
            f"{left} of {len(host.nics)} NICs left out: no GPU is beside them, so storage or "
            "management (--all-nics keeps them)"
        )
        host.nics = near
    # NICs are often numbered in another order than the GPUs they sit beside
    first = {place: i for i, place in reversed(list(enumerate(host.gpus)))}
    host.nics.sort(key=lambda n: first.get(n.host, len(host.gpus)))
    for nic in host.nics:
        nic.rate = rate if rate is not None else nic.rate
    unknown = sum(n.rate is None for n in host.nics)
    if unknown:
        host.assumed.append(f"NICs left out, their rate isn't said (--nic gives it): {unknown}")
        host.nics = [n for n in host.nics if n.rate is not None]


def write(host: ImportedNode, gpu: Gpu, name: str) -> ImportedTopology:
    """Write a host as shorthand where that says the same, else as a graph."""
    if host.generation is None:
        host.generation = gpu.pcie_generation
        host.assumed.append(f"PCIe generation {host.generation}, the GPU's")
    elif host.generation < gpu.pcie_generation:
        host.assumed.append(
            f"PCIe generation {host.generation}, as the file says; the GPU can do "
            f"{gpu.pcie_generation}"
        )
    host.generation = min(host.generation, gpu.pcie_generation)
    if gpu.form_factor == "superchip":  # a Grace beside each
        host.vendor = host.vendor or "arm"
    interconnect = _interconnect(host)
    graph = _graph(host, gpu, interconnect)
    explicit = Topology(name=name, gpu=gpu, graph=graph)
    node = _shorthand(host, gpu, interconnect)
    if node is not None and _same(shape_of(node), parts_of(explicit, graph).shapes[0]):
        host.assumed.append("storage, memory and the network between nodes: the defaults")
        return ImportedTopology(_shorthand_yaml(name, node), tuple(host.assumed))
    return ImportedTopology(_graph_yaml(name, gpu, graph), tuple(host.assumed))


def _interconnect(host: ImportedNode) -> float:
    rate = socket_rate(host.vendor or "intel", host.generation or 4, host.model)
    if not host.vendor and host.sockets > 1:
        host.assumed.append(f"an Intel host, {units.show(rate, 'B/s')} between sockets")
    return rate


def _graph(host: ImportedNode, gpu: Gpu, interconnect: float) -> Graph:
    pcie = pcie_rates(host.generation or gpu.pcie_generation, host.lanes).capacity
    vendor = host.vendor or None
    vertices = [
        *(Vertex(id=f"gpu{i}", kind="gpu") for i in range(len(host.gpus))),
        *(
            Vertex.model_validate({"id": f"cpu{i}", "kind": "cpu", "vendor": vendor})
            for i in range(host.sockets)
        ),
        *(Vertex(id=f"pcie{i}", kind="pcie-switch") for i in range(len(host.switches))),
        *(
            Vertex(id=f"nic{i}", kind="nic", rail=i, gpudirect=n.gpudirect)
            for i, n in enumerate(host.nics)
        ),
    ]
    hangs = [
        *((f"pcie{i}", place) for i, place in enumerate(host.switches)),
        *((f"gpu{i}", place) for i, place in enumerate(host.gpus)),
        *((f"nic{i}", n.host) for i, n in enumerate(host.nics)),
    ]
    edges = [Edge(source=a, target=b, kind="pcie", bandwidth=pcie) for a, b in hangs]
    edges += [
        Edge(source=f"cpu{i}", target=f"cpu{j}", kind="cpu", bandwidth=interconnect)
        for i in range(host.sockets)
        for j in range(i + 1, host.sockets)
    ]
    if host.nvlinks or host.nvswitch_links:
        ends = [end for pair in host.nvlinks for end in pair]
        fabric = joined(ends, bool(host.nvswitch_links))
        one = one_nvlink(gpu, gpu.nvlink_generation or 3, fabric)
        if host.nvswitch_links:
            vertices.append(Vertex(id="nvswitch", kind="nvswitch"))
            wide = host.nvswitch_links * one
            edges += [
                Edge(source=f"gpu{i}", target="nvswitch", kind="nvlink", bandwidth=wide)
                for i in range(len(host.gpus))
            ]
        edges += [
            Edge(source=f"gpu{i}", target=f"gpu{j}", kind="nvlink", bandwidth=count * one)
            for (i, j), count in sorted(host.nvlinks.items())
        ]
    return Graph(vertices=tuple(vertices), edges=tuple(edges))


def _shorthand(host: ImportedNode, gpu: Gpu, interconnect: float) -> Node | None:
    """The shorthand that might say the same; None where none can."""
    sayable, nvlink = _nvlink(host, gpu)
    rates = {n.rate for n in host.nics}
    if not sayable or len(rates) > 1 or len({n.gpudirect for n in host.nics}) > 1:
        return None
    on_cpu = [g.startswith("cpu") for g in host.gpus]
    if any(on_cpu) and not all(on_cpu):
        return None
    per_switch = 0 if all(on_cpu) else -(-len(host.gpus) // len(set(host.gpus)))
    beside = [n.host for n in host.nics if n.host in set(host.gpus) and not all(on_cpu)]
    per_nic = max((beside.count(s) for s in set(beside)), default=0)
    nics = None
    if host.nics:
        rate, direct = host.nics[0].rate or 0.0, host.nics[0].gpudirect
        nics = Nics(count=len(host.nics), rate=rate, gpudirect=direct)
    pcie = {
        "generation": host.generation,
        "lanes": host.lanes,
        "gpus_per_switch": per_switch,
        "nics_per_switch": per_nic,
    }
    cpu = {"sockets": host.sockets, "interconnect": interconnect, "vendor": host.vendor or "intel"}
    return Node(
        gpu=gpu,
        gpus=len(host.gpus),
        nvlink=nvlink,
        pcie=Pcie.model_validate(pcie),
        cpu=Cpu.model_validate(cpu),
        nics=nics,
    )


def _nvlink(host: ImportedNode, gpu: Gpu) -> tuple[bool, NvLink | None]:
    """Whether shorthand can say the NVLinks, and how."""
    generation, n = gpu.nvlink_generation, len(host.gpus)
    if host.nvswitch_links and generation is not None:
        links = host.nvswitch_links
        return True, NvLink(generation=generation, links_per_gpu=links, fabric="nvswitch")
    if not host.nvlinks:
        return True, None
    counts = set(host.nvlinks.values())
    if generation is None or len(counts) > 1:
        return False, None
    count = counts.pop()
    if n % 2 == 0 and sorted(host.nvlinks) == [(i, i + 1) for i in range(0, n, 2)]:
        return True, NvLink(generation=generation, links_per_gpu=count, fabric="pairs")
    if len(host.nvlinks) == n * (n - 1) // 2:
        each = count * (n - 1)
        return True, NvLink(generation=generation, links_per_gpu=each, fabric="mesh")
    return False, None


def _same(a: Shape, b: Shape) -> bool:
    """Whether two nodes have equal path classes between all GPUs and NICs."""

    def table(shape: Shape) -> list[list[str]]:
        nics = [v for v, kind in enumerate(shape.kinds) if kind == "nic"]
        rows = []
        for i, g in enumerate(shape.gpus):
            row = [paths.printed_class(shape, i, j) for j in range(len(shape.gpus))]
            row += [paths.host_class(shape, g, h) or "" for h in (*shape.gpus, *nics)]
            # a switch with one GPU under it is a root port by another name
            rows.append(["PHB" if c == "NODE" else c for c in row])
        return rows

    def switches(shape: Shape) -> int:
        used = [
            v
            for v, kind in enumerate(shape.kinds)
            if kind == "pcie-switch" and sum(e.head == v for e in shape.links) > 2
        ]
        return len(used)

    return table(a) == table(b) and switches(a) == switches(b)


def _shorthand_yaml(name: str, node: Node) -> str:
    lines = [
        f"name: {text(name)}",
        "nodes: 1",
        "node:",
        f"  gpu: {text(node.gpu.name)}",
        f"  gpus: {node.gpus}",
    ]
    if node.nvlink is not None:
        v = node.nvlink
        lines.append(
            f"  nvlink: {{generation: {v.generation}, links_per_gpu: {v.links_per_gpu}, "
            f"fabric: {v.fabric}}}"
        )
    p, c = node.pcie, node.cpu
    lines.append(
        f"  pcie: {{generation: {p.generation}, lanes: {p.lanes}, "
        f"gpus_per_switch: {p.gpus_per_switch}, nics_per_switch: {p.nics_per_switch}}}"
    )
    lines.append(
        f"  cpu: {{sockets: {c.sockets}, "
        f"interconnect: {units.write(c.interconnect or 0.0, 'B/s')}, vendor: {c.vendor}}}"
    )
    if node.nics is not None:
        direct = "" if node.nics.gpudirect else ", gpudirect: false"
        rate = units.write(node.nics.rate, "B/s")
        lines.append(f"  nics: {{count: {node.nics.count}, rate: {rate}{direct}}}")
    return "\n".join(lines) + "\n"


def _graph_yaml(name: str, gpu: Gpu, graph: Graph) -> str:
    lines = [f"name: {text(name)}", f"gpu: {text(gpu.name)}", "graph:", "  vertices:"]
    for v in graph.vertices:
        more = "" if v.rail is None else f", rail: {v.rail}"
        more += f", vendor: {v.vendor}" if v.vendor else ""
        more += "" if v.gpudirect else ", gpudirect: false"
        lines.append(f"    - {{id: {v.id}, kind: {v.kind}{more}}}")
    lines.append("  edges:")
    for e in graph.edges:
        rate = units.write(e.bandwidth, "B/s")
        lines.append(
            f"    - {{source: {e.source}, target: {e.target}, kind: {e.kind}, bandwidth: {rate}}}"
        )
    return "\n".join(lines) + "\n"
