"""Checks of a topology alone."""

from __future__ import annotations

from sim import units
from sim.data import table
from sim.inputs import catalogue, check_offer, check_reliability
from sim.inputs.architecture import facts_of
from sim.inputs.finding import Findings, fault, warning
from sim.inputs.gpu import Gpu
from sim.inputs.topology import Graph, Node, NodeGroup, Topology
from sim.quantities import percent

MAX_GPUS = 262_144  # more than any one job has had; a larger one takes minutes to simulate
UNCHANGED = 0.03  # what SMs times clock may differ by before a peak does
SUPERCHIP_NVSWITCH = 72  # NVL72


def findings(topology: Topology) -> Findings:
    """Every finding about a topology."""
    yield from _shape(topology)
    if topology.graph is not None:
        yield from _graph(topology.graph, topology)
        yield from _absurd(topology, "")
    elif topology.node is not None:
        yield from node_findings(topology.node)
        yield from _no_nics(topology.node, topology.nodes)
        yield from _network(topology)
        yield from _absurd(topology, "")
    elif topology.node_groups:
        yield from _groups(topology)
        yield from _network(topology)
    if topology.offer is not None:
        yield from check_offer.findings(topology.offer)
    yield from check_reliability.findings(topology)
    if topology.world_size > MAX_GPUS:
        message = f"{topology.world_size} GPUs in all; {MAX_GPUS} is the most"
        path = f"node_groups[{len(topology.groups) - 1}].nodes" if topology.node_groups else "nodes"
        yield fault("absurd", "topology", path, message)


def _groups(t: Topology) -> Findings:
    kinds = {group.node.nics.kind for group in t.node_groups if group.node.nics is not None}
    for i, group in enumerate(t.node_groups):
        path = f"node_groups[{i}]"
        # one node of it needs NICs too, where there are others
        for found in (*node_findings(group.node), *_no_nics(group.node, t.node_count)):
            yield found._replace(path=f"{path}.{found.path}")
        yield from _absurd(group, f"{path}.")
        if group.node.nics is not None and len(kinds) > 1:
            message = f"{group.node.nics.kind}, and another group has another kind"
            hint = "NICs of two kinds do not talk to one another; write kind: tcp for both"
            yield fault("mixed-nics", "topology", f"{path}.node.nics.kind", message, hint)
    yield from _absurd(t, "")


def node_findings(node: Node) -> Findings:
    """Every finding about a node by itself."""
    yield from _architecture(node.gpu, "node.gpu")
    yield from _peaks(node.gpu, "node.gpu")
    yield from _nvlink(node)
    yield from _nvswitch_size(node)
    yield from _pcie(node)
    yield from _cores(node)
    yield from _nics(node)


def _known(kind: str) -> dict[int, dict[str, float]]:
    """Generations of ``nvlink`` or ``pcie`` that have constants."""
    return {int(g): row for g, row in table("constants/links")[kind].items()}


def _shape(t: Topology) -> Findings:
    given = [
        name
        for name, there in (
            ("node", t.node is not None),
            ("node_groups", bool(t.node_groups)),
            ("graph", t.graph is not None),
        )
        if there
    ]
    if not given:
        message = "has neither node, node_groups nor graph"
        yield fault("no-machine", "topology", "", message, "describe one of them")
    if t.graph is not None and t.graph.written_from and len(given) == 2:
        return  # written from the other, and edited
    if len(given) > 1:
        message = f"{' and '.join(given)} exclude one another"
        yield fault("two-machines", "topology", given[-1], message, "keep one")
    if given and given[0] != "node" and t.nodes != 1:
        what, hint = {
            "graph": ("a graph", "give each vertex its node"),
            "node_groups": ("node_groups", "give each group its nodes"),
        }[given[0]]
        message = f"nodes has no meaning beside {what}"
        yield fault("graph-nodes", "topology", "nodes", message, hint)


def _architecture(gpu: Gpu, path: str) -> Findings:
    """A GPU of which nothing is known runs as another does."""
    if not facts_of(gpu).known:
        rows = table("architectures")
        message = f"nothing is known of {gpu.architecture}; {rows['stand_in']}'s kernels stand in"
        hint = f"known are {', '.join(rows['architecture'])}"
        yield warning("architecture", "topology", f"{path}.architecture", message, hint)


def _peaks(gpu: Gpu, path: str) -> Findings:
    """SMs and clock that another number of FLOPs follows from than is written or left there."""
    base = catalogue.gpu(gpu.base) if gpu.base else None
    if base is None or gpu.peak_half != base.peak_half:
        return
    share = gpu.sms * gpu.boost_clock / (base.sms * base.boost_clock)
    if abs(share - 1.0) > UNCHANGED:
        name = "peak_bf16" if gpu.peak_bf16 else "peak_fp16"
        then = units.show(share * gpu.peak_half, "FLOP/s")
        message = (
            f"is that of {base.name}, and SMs and clock are {percent(share, 0)} of its: "
            f"in proportion {then}"
        )
        hint = f"write {name}: {then}, and what else the data sheet says"
        yield warning("peaks", "topology", f"{path}.{name}", message, hint)


def _nvlink(node: Node) -> Findings:
    link, gpu, path = node.nvlink, node.gpu, "node.nvlink"
    if link is None and gpu.form_factor != "pcie" and gpu.nvlink_links and node.gpus > 1:
        message = f"{node.gpus} {gpu.name} have no NVLink here, and all goes over PCIe"
        fabric = "mesh" if gpu.form_factor == "oam" else "nvswitch"
        hint = f"write nvlink: {{fabric: {fabric}}}, or a graph of its links; nvlink: none if so"
        yield warning("nvlink-unsaid", "topology", path, message, hint)
    if link is None or link.fabric == "none":
        return
    if link.links_per_gpu == 0:
        message = "0 is not at least 1"
        yield fault("no-links", "topology", f"{path}.links_per_gpu", message, "write fabric: none")
        return
    if gpu.nvlink_generation is None:
        message, hint = f"{gpu.name} has no NVLink", "leave nvlink out, or name another GPU"
        if not gpu.base:  # one's own: nothing of it is supposed
            keys = f"nvlink_generation: {link.generation}, nvlink_links: {link.links_per_gpu}"
            hint = f"add {keys} to node.gpu, or leave nvlink out"
        yield fault("no-nvlink", "topology", path, message, hint)
        return
    if link.links_per_gpu > gpu.nvlink_links:
        message = f"{link.links_per_gpu} links a GPU, but {gpu.name} has {gpu.nvlink_links}"
        hint = f"write at most {gpu.nvlink_links}"
        yield fault("nvlink-links", "topology", f"{path}.links_per_gpu", message, hint)
    if link.generation > gpu.nvlink_generation:
        message = f"generation {link.generation}, but {gpu.name} has NVLink {gpu.nvlink_generation}"
        hint = f"write {gpu.nvlink_generation}, or link_rate for a what-if"
        yield fault("nvlink-generation", "topology", f"{path}.generation", message, hint)
    elif link.generation not in _known("nvlink"):
        message = f"there are no figures of NVLink {link.generation}"
        hint = f"write {min(_known('nvlink'))} to {max(_known('nvlink'))}, and link_rate"
        yield fault("nvlink-generation", "topology", f"{path}.generation", message, hint)
    if link.sharp and not (gpu.multicast and link.fabric == "nvswitch"):
        message = f"{gpu.name} cannot reduce in the switch over {link.fabric}"
        hint = "sharp needs an NVSwitch of the third generation (H100 SXM or newer)"
        yield fault("no-sharp", "topology", f"{path}.sharp", message, hint)
    if link.fabric == "nvswitch" and gpu.form_factor == "pcie":
        message = f"{gpu.name} is a PCIe card; those are joined by bridges"
        yield fault("pcie-nvswitch", "topology", f"{path}.fabric", message, "write pairs or none")
    if link.fabric == "pairs" and node.gpus % 2:
        message = f"{node.gpus} GPUs make no pairs"
        yield fault("odd-pairs", "topology", "node.gpus", message, "write an even number")
    if link.fabric == "mesh" and gpu.form_factor == "pcie" and node.gpus not in (2, gpu.bridge):
        most = " or ".join(str(n) for n in sorted({2, gpu.bridge}))
        message = f"a bridge joins {most} {gpu.name}, not {node.gpus}"
        hint = "write pairs or none, or bridge in node.gpu if these cards have a wider one"
        yield fault("bridge-cards", "topology", f"{path}.fabric", message, hint)
    elif link.fabric == "mesh" and node.gpus - 1 > link.links_per_gpu:
        message = f"{link.links_per_gpu} links a GPU reach no {node.gpus - 1} others directly"
        yield fault("mesh-links", "topology", f"{path}.fabric", message, "write nvswitch or pairs")


def _nvswitch_size(node: Node) -> Findings:
    link, gpu = node.nvlink, node.gpu
    if link is None or link.fabric != "nvswitch":
        return
    largest = facts_of(gpu).largest_nvswitch
    if gpu.form_factor == "superchip":
        largest = SUPERCHIP_NVSWITCH
    if node.gpus > largest:
        message = (
            f"no machine joins {node.gpus} {gpu.name} by one NVSwitch fabric; {largest} is the most"
        )
        hint = "taken as a what-if; for real machines write more nodes, or fabric: none"
        yield warning("nvswitch-size", "topology", "node.gpus", message, hint)


def _pcie(node: Node) -> Findings:
    pcie, gpu = node.pcie, node.gpu
    known = _known("pcie")
    if pcie.generation not in known:
        message = f"there are no figures of PCIe {pcie.generation}"
        hint = f"write {min(known)} to {max(known)}"
        yield fault("pcie-generation", "topology", "node.pcie.generation", message, hint)
    if pcie.lanes not in (1, 2, 4, 8, 16):
        message = f"{pcie.lanes} lanes make no link"
        yield fault("pcie-lanes", "topology", "node.pcie.lanes", message, "write 1, 2, 4, 8 or 16")
    if pcie.generation > gpu.pcie_generation:
        message = f"{gpu.name} has PCIe {gpu.pcie_generation}; its link runs at that"
        yield warning("pcie-slower-gpu", "topology", "node.pcie.generation", message)
    per_switch = pcie.gpus_per_switch
    if per_switch > node.gpus or (per_switch and node.gpus % per_switch):
        message = f"{node.gpus} GPUs do not fill switches of {per_switch}"
        hint = "the last switch has fewer; write a divisor of gpus if that is not meant"
        yield warning("pcie-switches", "topology", "node.pcie.gpus_per_switch", message, hint)


def _no_nics(node: Node, nodes: int) -> Findings:
    if node.nics is None and nodes > 1:
        message = f"{nodes} nodes, but the node has no nics"
        hint = "add nics: {count: 1, rate: 100 Gb/s}, or write nodes: 1"
        yield fault("no-nics", "topology", "nodes", message, hint)


def _nics(node: Node) -> Findings:
    nics = node.nics
    if nics is None:
        return
    if nics.efa is not None and nics.kind != "efa":
        message = f"a generation of EFA, but the NICs are {nics.kind}"
        yield fault("not-efa", "topology", "node.nics.efa", message, "write kind: efa")
    if nics.socket_threads is not None and nics.kind != "tcp":
        message = f"threads that feed sockets, but the NICs are {nics.kind}"
        yield fault("not-tcp", "topology", "node.nics.socket_threads", message, "write kind: tcp")
    slot = 16 * _known("pcie").get(node.pcie.generation, {"raw": 0.0})["raw"]
    if slot and nics.rate > slot * 1.05:
        rate, most = units.show(nics.rate, "B/s"), units.show(slot, "B/s")
        message = f"{rate} a NIC is more than PCIe {node.pcie.generation} x16 carries ({most})"
        hint = "the slot is the limit; a NIC of two ports in two slots counts as two"
        yield warning("nic-slot", "topology", "node.nics.rate", message, hint)


def _network(t: Topology) -> Findings:
    if t.network.oversubscription < 1.0:
        message = f"{t.network.oversubscription:g} is less than 1"
        hint = "1 is non-blocking, 4 is four-to-one oversubscribed"
        yield fault("oversubscription", "topology", "network.oversubscription", message, hint)
    if t.network.kind == "single-switch":
        for key, plain in (("placement", "packed"), ("routing", "adaptive"), ("tenants", 0.0)):
            if getattr(t.network, key) != plain:
                message = "a single switch has no uplinks that jobs share"
                hint = "write network.kind: fat-tree or rail-optimized"
                yield fault("no-uplinks", "topology", f"network.{key}", message, hint)
    if t.network.kind == "single-switch" and t.network.oversubscription > 1.0:
        message = "a single switch has no uplinks to oversubscribe"
        hint = "write network.kind: fat-tree"
        yield fault("oversubscription", "topology", "network.oversubscription", message, hint)


def _cores(node: Node) -> Findings:
    given = node.cpu.cores_per_rank
    if given is not None and given * node.gpus > node.cpu.cores:
        message = f"{node.gpus} ranks of {given} cores on {node.cpu.cores} cores"
        hint = f"write at most {node.cpu.cores // node.gpus}, or more cores"
        yield fault("cores", "topology", "node.cpu.cores_per_rank", message, hint)


def _graph(graph: Graph, t: Topology) -> Findings:
    names = [v.id for v in graph.vertices]
    known = set(names)
    for index, name in enumerate(names):
        if name in names[:index] and len(names) != len(known):
            yield fault(
                "vertex-twice",
                "topology",
                f"graph.vertices[{index}].id",
                f'"{name}" is there twice',
            )
    gpus = [i for i, v in enumerate(graph.vertices) if v.kind == "gpu"]
    kinds = {v.gpu: i for i, v in reversed(list(enumerate(graph.vertices))) if v.gpu is not None}
    for gpu, i in kinds.items():
        yield from _architecture(gpu, f"graph.vertices[{i}].gpu")
        yield from _peaks(gpu, f"graph.vertices[{i}].gpu")
    if not gpus:
        yield fault("no-gpus", "topology", "graph.vertices", "no vertex is a GPU", "add kind: gpu")
    for index in gpus:
        if graph.vertices[index].gpu is None:
            path = f"graph.vertices[{index}].gpu"
            yield fault(
                "no-gpu", "topology", path, "is missing", "name it here, or in the topology's gpu"
            )
    unknown = False
    for index, edge in enumerate(graph.edges):
        for end in ("source", "target"):
            name = getattr(edge, end)
            if name not in known:
                unknown = True
                message = f'"{name}" is no vertex'
                yield fault("unknown-vertex", "topology", f"graph.edges[{index}].{end}", message)
        if edge.source == edge.target:
            yield fault(
                "self-loop", "topology", f"graph.edges[{index}]", "joins a vertex to itself"
            )
    if not unknown and gpus:
        yield from _connected(graph, gpus)


def _connected(graph: Graph, gpus: list[int]) -> Findings:
    """Every GPU is reached from the first one, and reaches it."""
    forward: dict[str, set[str]] = {v.id: set() for v in graph.vertices}
    backward: dict[str, set[str]] = {v.id: set() for v in graph.vertices}
    for edge in graph.edges:
        ways = [(edge.source, edge.target)]
        if not edge.directed:
            ways.append((edge.target, edge.source))
        for a, b in ways:
            forward[a].add(b)
            backward[b].add(a)
    first = graph.vertices[gpus[0]].id
    for links in (forward, backward):
        seen, todo = {first}, [first]
        while todo:
            new = links[todo.pop()] - seen
            seen |= new
            todo.extend(new)
        cut = [graph.vertices[i].id for i in gpus if graph.vertices[i].id not in seen]
        if cut:
            shown = ", ".join(cut[:4]) + (", ..." if len(cut) > 4 else "")
            message = f"is disconnected: no way between {first} and {shown}"
            yield fault("disconnected", "topology", "graph", message, "add the missing edges")
            return


# path, largest sensible value, unit: beyond it a slip of the pen is likelier than a machine
_LIMITS = (
    ("node.gpus", 1024, None), ("nodes", 200_000, None), ("node.gpu.memory", 10e12, "B"),
    ("node.gpu.memory_bandwidth", 1e15, "B/s"), ("node.nics.rate", 10e12, "B/s"),
    ("node.nics.count", 1024, None), ("node.cpu.interconnect", 10e12, "B/s"),
    ("node.cpu.sockets", 64, None), ("node.storage.read", 100e12, "B/s"),
    ("node.storage.write", 100e12, "B/s"), ("network.switch_latency", 1.0, "s"),
    ("network.oversubscription", 1000, None), ("offer.price_per_gpu_hour", 10_000, "USD"),
    ("node.gpu.power_limit", 100_000, "W"), ("node.cpu.speed", 20, None),
)  # fmt: skip
_SMALLEST = (("node.gpu.memory", 1e9, "B"), ("node.gpu.memory_bandwidth", 1e9, "B/s"),
             ("node.nics.rate", 1e6, "B/s"), ("node.cpu.speed", 0.01, None))  # fmt: skip


def _absurd(t: Topology | NodeGroup, above: str) -> Findings:
    for limits, larger in ((_LIMITS, True), (_SMALLEST, False)):
        for path, limit, dimension in limits:
            value: object = t
            for key in path.split("."):
                value = getattr(value, key, None)
            if not isinstance(value, (int, float)) or (
                value <= limit if larger else value >= limit
            ):
                continue
            shown, bound = f"{value:g}", f"{limit:g}"
            if dimension is not None:
                shown, bound = units.show(value, dimension), units.show(limit, dimension)  # type: ignore[arg-type]
            word = "more" if larger else "less"
            message = f"{shown} is {word} than any machine has ({bound})"
            hint = "check the number and its unit"
            yield fault("absurd", "topology", above + path, message, hint)
