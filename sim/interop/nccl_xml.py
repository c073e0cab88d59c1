"""NCCL topology XML: what NCCL_TOPO_DUMP_FILE writes and clouds ship as NCCL_TOPO_FILE.

Seed files of vendors name devices by PCI class alone; NCCL finds NVLinks and NICs' speeds on the
machine itself, so here they are assumed from the GPU, and said to be. Read with expat directly: a
DTD or an entity ends the reading before anything is expanded.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from sim.errors import Fault, InputError
from sim.fabric.links import constants
from sim.inputs.form_node import board_links
from sim.inputs.gpu import Gpu
from sim.interop.host import ImportedNode, Nic
from sim.units import BITS_PER_BYTE, whole

_MAX_ELEMENTS = 20_000
_MAX_DEPTH = 32
_MAX_DEVICES = 64  # of a kind, in one node
_MAX_LINKS = 1000
_GENERATION = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}  # GT/s per lane
_GPU_CLASSES = ("0x030200", "0x030000")
_NIC_CLASSES = ("0x020700", "0x020000")
_SWITCH_CLASSES = ("0x060400", "0x060000")
_NVSWITCH_CLASS = "0x068000"
# interfaces of containers and bridges that a dump lists beside real NICs
_VIRTUAL = re.compile(r"(cali|docker|br-|tunl|veth|virbr|flannel|cni|lo$|kube|nodelocal|vxlan)")
_VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}


@dataclass
class _Element:
    tag: str
    attributes: dict[str, str]
    line: int
    children: list[_Element] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[_Element]:
        """Children of a tag."""
        return (c for c in self.children if c.tag == tag)


def parse(data: bytes, source: str) -> _Element:
    """Parse XML without DTD, entities or excess."""
    parser = expat.ParserCreate()
    roots: list[_Element] = []
    stack: list[_Element] = []
    count = 0

    def refuse(message: str) -> InputError:
        return InputError([Fault(source, parser.CurrentLineNumber, None, "", message)])

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > _MAX_ELEMENTS or len(stack) >= _MAX_DEPTH:
            message = f"more than {_MAX_ELEMENTS} elements or {_MAX_DEPTH} levels"
            raise refuse(message)
        element = _Element(tag, attributes, parser.CurrentLineNumber)
        (stack[-1].children if stack else roots).append(element)
        stack.append(element)

    def end(tag: str) -> None:
        stack.pop()

    def doctype(*_: object) -> None:
        message = "a DOCTYPE; a topology needs none, and entities are refused"
        raise refuse(message)

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = doctype
    parser.EntityDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        fault = Fault(source, error.lineno, error.offset + 1, "", f"not XML: {error}")
        raise InputError([fault]) from error
    except (LookupError, ValueError) as error:
        raise InputError.single(source, f"not XML that can be read: {error}") from error
    return roots[0]


def read(data: bytes, source: str, gpu: Gpu) -> ImportedNode:
    """Read a topology XML.

    `gpu` is of its GPUs, for what a seed file leaves to NCCL; `source` is named in faults.

    Returns
    -------
    ImportedNode
        The node; every NUMA node counts as a socket, as it does to NCCL.
    """
    root = parse(data, source)
    if root.tag == "graphs":
        message = "NCCL's channel graphs (NCCL_GRAPH_FILE); the topology is in NCCL_TOPO_DUMP_FILE"
        raise InputError([Fault(source, root.line, None, "graphs", message)])
    if root.tag != "system":
        message = f"<{root.tag}> is no NCCL topology, which starts with <system>"
        raise InputError([Fault(source, root.line, None, root.tag, message)])
    reader = _NodeReader(source, gpu)
    cpus = list(root.all("cpu"))
    for cpu in sorted(cpus, key=_numa):
        reader.cpu(cpu)
    return reader.finish(root)


def _numa(cpu: _Element) -> int:
    text = cpu.attributes.get("numaid", "0")
    return int(text) if re.fullmatch(r"-?\d{1,6}", text) else 0


class _NodeReader:
    """Walks the tree and fills a `ImportedNode`."""

    def __init__(self, source: str, gpu: Gpu) -> None:
        self.source, self.gpu = source, gpu
        self.host = ImportedNode(sockets=0)
        self.faults: list[Fault] = []
        self.unclassed = 0
        self.virtual = 0
        # a GPU: order (rank, dev, appearance), host, element, bus id
        self.gpus: list[tuple[tuple[int, int, int], str, _Element]] = []
        self.generations: set[int] = set()
        self.lanes: set[int] = set()
        self.nets: set[str] = set()

    def fault(self, element: _Element, message: str) -> None:
        self.faults.append(Fault(self.source, element.line, None, element.tag, message))

    def cpu(self, cpu: _Element) -> None:
        place = f"cpu{self.host.sockets}"
        self.host.sockets += 1
        arch = cpu.attributes.get("arch", "")
        vendor = _VENDORS.get(cpu.attributes.get("vendor", ""), "arm" if "arm" in arch else "")
        self.host.vendor = self.host.vendor or vendor
        if (model := whole(cpu.attributes.get("modelid", ""))) is not None:
            self.host.model = model
        for pci in cpu.all("pci"):
            self.pci(pci, place)
        self.interfaces(cpu, place, None)

    def pci(self, pci: _Element, place: str) -> None:
        kind = pci.attributes.get("class", "").lower()
        if kind in _SWITCH_CLASSES or (not kind and any(pci.all("pci"))):
            switch = f"pcie{len(self.host.switches)}"
            self.host.switches.append(place)
            self.speed(pci)
            for child in pci.all("pci"):
                self.pci(child, switch)
        elif kind in _GPU_CLASSES or any(pci.all("gpu")):
            self.add_gpu(pci, place)
        elif kind in _NIC_CLASSES or any(pci.all("nic")):
            self.interfaces(pci, place, pci)
        elif not kind:
            self.unclassed += 1

    def add_gpu(self, pci: _Element, place: str) -> None:
        vendor = pci.attributes.get("vendor", "0x10de").lower()
        if vendor != "0x10de":
            return  # another maker's display adapter
        self.speed(pci)
        element = next(pci.all("gpu"), None)
        order = (1 << 20, 1 << 20, len(self.gpus))
        if element is not None:
            rank, dev = (self.number(element, key) for key in ("rank", "dev"))
            order = (rank, dev, len(self.gpus))
        self.gpus.append((order, place, pci))

    def number(self, element: _Element, key: str) -> int:
        text = element.attributes.get(key, "")
        if re.fullmatch(r"-?\d{1,9}", text):
            return int(text)
        if text:
            self.fault(element, f"{key}={text!r} is not a count")
        return 1 << 20

    def speed(self, pci: _Element) -> None:
        match = re.match(r"\s*(\d+(?:\.\d+)?)\s*GT/s", pci.attributes.get("link_speed", ""))
        if match and float(match.group(1)) in _GENERATION:
            self.generations.add(_GENERATION[float(match.group(1))])
        width = whole(pci.attributes.get("link_width", "")) or 0
        if 0 < width <= 16:
            self.lanes.add(width)

    def interfaces(self, parent: _Element, place: str, pci: _Element | None) -> None:
        nets = [net for nic in parent.all("nic") for net in nic.all("net")]
        if pci is not None and not nets:
            # a seed file: the card is there, NCCL asks the driver for its ports
            self.host.nics.append(Nic(place))
            return
        real = []
        for net in nets:
            name = net.attributes.get("name", "")
            if _VIRTUAL.match(name):
                self.virtual += 1
            elif name not in self.nets:
                self.nets.add(name)
                real.append(net)
        for net in real:
            speed = self.number(net, "speed")
            rate = speed * 1e6 / BITS_PER_BYTE if 0 < speed < 1 << 20 else None  # Mb/s
            direct = net.attributes.get("gdr", "1") != "0"
            self.host.nics.append(Nic(place, rate, direct))

    def finish(self, root: _Element) -> ImportedNode:
        host = self.host
        if not self.gpus and not self.faults:
            why = "names no GPU"
            if self.unclassed:
                why += f": {self.unclassed} devices have no class, which NCCL would ask the machine"
            self.fault(root, why)
        counts = {
            "GPUs": len(self.gpus),
            "NICs": len(host.nics),
            "switches": len(host.switches),
            "CPUs": host.sockets,
        }
        for kind, count in counts.items():
            if count > _MAX_DEVICES:
                self.fault(root, f"{count} {kind}; a node has at most {_MAX_DEVICES}")
        if self.faults:
            raise InputError(self.faults)
        self.gpus.sort(key=lambda g: g[0])
        host.gpus = [place for _, place, _ in self.gpus]
        host.generation = min(self.generations) if self.generations else None
        host.lanes = min(self.lanes) if self.lanes else 16
        if self.virtual:
            host.assumed.append(f"{self.virtual} virtual interfaces (containers, bridges) left out")
        if host.sockets > 2:
            host.assumed.append(f"{host.sockets} NUMA nodes taken for sockets, as NCCL does")
        self.nvlinks()
        return host

    def nvlinks(self) -> None:
        host, n = self.host, len(self.gpus)
        bus = {pci.attributes.get("busid", ""): i for i, (_, _, pci) in enumerate(self.gpus)}
        found: dict[tuple[int, int], int] = {}
        switched: dict[int, int] = {}
        unknown: dict[int, int] = {}
        said = False
        for i, (_, _, pci) in enumerate(self.gpus):
            said = said or any(pci.all("gpu"))
            for link in (x for g in pci.all("gpu") for x in g.all("nvlink")):
                count = self.number(link, "count")
                if not 1 <= count <= _MAX_LINKS:
                    self.fault(link, f"{link.attributes.get('count')!r} NVLinks")
                target = link.attributes.get("target", "")
                other = bus.get(target)
                if link.attributes.get("tclass") == _NVSWITCH_CLASS:
                    switched[i] = switched.get(i, 0) + count
                elif other is not None and other != i:
                    found[min(i, other), max(i, other)] = count
                else:
                    unknown[i] = unknown.get(i, 0) + count
        if self.faults:
            raise InputError(self.faults)
        if switched:
            host.nvswitch_links = min(switched.values())
        elif unknown and not found:
            # hypervisors hide the peer behind the GPU's own address
            host.assumed.append("NVLinked pairs 0-1, 2-3, ...: the file hides their peers")
            found = {(i, i + 1): unknown[i] for i in range(0, n - 1, 2) if i in unknown}
        host.nvlinks = found
        if not said:
            self.assume_nvlinks()

    def assume_nvlinks(self) -> None:
        """A seed file: the links that machines of this GPU have."""
        host, gpu, n = self.host, self.gpu, len(self.gpus)
        host.seed = True
        fabric = board_links(gpu, n).get("fabric", "none")
        second = gpu.nvlink_generation == 2 and gpu.form_factor == "sxm"  # no board says which
        if second and n == 8:
            host.nvlinks = {(a, b): c for a, b, c in constants()["hybrid_cube_mesh"]["links"]}
            host.assumed.append("NVLinks as in a DGX-1 (hybrid cube mesh): the file names none")
        elif fabric == "nvswitch" or (second and n > 8):
            host.nvswitch_links = gpu.nvlink_links
            host.assumed.append(
                f"{gpu.nvlink_links} NVLinks a GPU through NVSwitch: the file is a seed, names none"
            )
        elif fabric == "mesh":
            each = gpu.nvlink_links // (n - 1)
            host.nvlinks = dict.fromkeys(itertools.combinations(range(n), 2), each)
            host.assumed.append(
                f"{each} NVLinks between each two GPUs: the file is a seed, names none"
            )
        else:
            host.assumed.append("no NVLink: the file is a seed and names none")
