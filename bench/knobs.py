"""Better machines, newer software, better terms: what may make no job slower, rarer or dearer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.inputs.gpu import Gpu
from sim.inputs.modelling import experts
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.hazards import reliability

Knob = Callable[[Topology], Topology | None]  # None: the machine has it, or has no such part


def _node(topology: Topology, part: str, **changes: Any) -> Topology | None:
    """A copy whose node has a part changed."""
    node = topology.node
    old = getattr(node, part)
    if node is None or old is None:
        return None
    changed = node.model_copy(update={part: old.model_copy(update=changes)})
    return topology.model_copy(update={"node": changed})


def _peaks(topology: Topology) -> Topology | None:
    return _node(topology, "gpu", **_times(topology.first_gpu, 2.0))


def _nvlink(topology: Topology) -> Topology | None:
    if topology.node is None or topology.node.nvlink is None:
        return None
    rate = topology.node.nvlink.link_rate or topology.first_gpu.nvlink_link_rate
    return _node(topology, "nvlink", link_rate=2 * rate)


def _network(topology: Topology, **changes: Any) -> Topology:
    return topology.model_copy(update={"network": topology.network.model_copy(update=changes)})


def _lanes(topology: Topology) -> Topology | None:
    """Where there are fewer than the GPUs have."""
    if topology.node is None or topology.node.pcie.lanes >= topology.first_gpu.pcie_lanes:
        return None
    return _node(topology, "pcie", lanes=2 * topology.node.pcie.lanes)


def _wider(topology: Topology) -> Topology | None:
    """As many GPUs, NICs, cores and disks in half the nodes."""
    node = topology.node
    if node is None or topology.nodes % 2 or node.gpus > 4 or node.nics is None:
        return None
    if node.nvlink is None or node.nvlink.fabric != "nvswitch":
        return None  # other paths between sockets are no better machine
    if node.pcie.gpus_per_switch > node.gpus:
        return None  # a GPU that had a switch and its NICs to itself would share them
    nics = node.nics.model_copy(update={"count": 2 * node.nics.count})
    disk, cpu = node.storage, node.cpu
    storage = disk.model_copy(update={"read": 2 * disk.read, "write": 2 * disk.write})
    more = {"cores": 2 * cpu.cores, "memory_bandwidth": 2 * cpu.memory_bandwidth}
    hosts = {"cpu": cpu.model_copy(update=more), "storage": storage}
    wide = node.model_copy(update={"gpus": 2 * node.gpus, "nics": nics} | hosts)
    return topology.model_copy(update={"node": wide, "nodes": topology.nodes // 2})


def _nics(topology: Topology) -> Topology | None:
    """On a leaf with as many nodes as before: a fat tree's has ports for so many NICs."""
    node, network = topology.node, topology.network
    if node is None or node.nics is None:
        return None
    if network.kind == "fat-tree" and network.nodes_per_leaf is None:
        return None
    if network.kind == "rail-optimized" and network.oversubscription > 1.0:
        return None  # a ring that changes rails goes over spines
    return _node(topology, "nics", count=2 * node.nics.count)


def _times(gpu: Gpu, factor: float) -> dict[str, float]:
    """Its peaks, so many times as high."""
    names = [n for n in type(gpu).model_fields if n.startswith("peak_")]
    return {n: factor * v for n in names if (v := getattr(gpu, n))}


def _clock(topology: Topology) -> Topology | None:
    gpu = topology.first_gpu
    return _node(topology, "gpu", boost_clock=1.25 * gpu.boost_clock, **_times(gpu, 1.25))


def _stack(workload: Workload, **changes: Any) -> Workload:
    """The same modules in newer software: it may pack experts, whose weights QLoRA leaves as is."""
    own = {"experts": experts(workload)} if workload.model.experts else {}
    stack = workload.stack.model_copy(update=changes)
    return workload.model_copy(update=own | {"stack": stack})


KNOBS: dict[str, Knob] = {
    "twice the NIC rate": lambda t: t.node and t.node.nics and _node(
        t, "nics", rate=2 * t.node.nics.rate),
    "twice the NVLink rate": _nvlink,
    "twice the peaks": _peaks,
    "twice the HBM bandwidth": lambda t: _node(
        t, "gpu", memory_bandwidth=2 * t.first_gpu.memory_bandwidth),
    "twice the HBM": lambda t: _node(t, "gpu", memory=2 * t.first_gpu.memory),
    "half the switch latency": lambda t: _network(
        t, switch_latency=0.5 * t.network.switch_latency),
    "no oversubscription": lambda t: _network(t, oversubscription=1.0),
    "twice the speed of a core": lambda t: t.node and _node(
        t, "cpu", speed=2 * t.node.cpu.speed),
    "twice the cores": lambda t: t.node and _node(t, "cpu", cores=2 * t.node.cpu.cores),
    "twice the PCIe lanes": _lanes,
    "twice the disk": lambda t: t.node and _node(
        t, "storage", read=2 * t.node.storage.read, write=2 * t.node.storage.write),
    "twice the host memory bandwidth": lambda t: t.node and _node(
        t, "cpu", memory_bandwidth=2 * t.node.cpu.memory_bandwidth),
    "the next PCIe": lambda t: t.node and _node(t, "pcie", generation=t.node.pcie.generation + 1),
    "twice the socket link": lambda t: _node(t, "cpu", interconnect=80e9),
    "half the nodes, twice as wide": _wider,
    "twice the NICs": _nics,
    "InfiniBand": lambda t: t.node and t.node.nics and _node(t, "nics", kind="infiniband"),
    "RDMA to the GPU": lambda t: t.node and t.node.nics and _node(t, "nics", gpudirect=True),
    "a single switch": lambda t: _network(t, kind="single-switch", oversubscription=1.0),
    "adaptive routing": lambda t: _network(t, routing="adaptive"),
    "nodes side by side": lambda t: _network(t, placement="packed"),
    "no tenants": lambda t: _network(t, tenants=0.0),
    "a clock a quarter higher": _clock,
    "twice the power": lambda t: _node(t, "gpu", power_limit=2 * t.first_gpu.power_limit),
    "twice the SMs": lambda t: _node(
        t, "gpu", sms=2 * t.first_gpu.sms, **_times(t.first_gpu, 2.0)),
    "twice the L2": lambda t: _node(t, "gpu", l2_cache=2 * t.first_gpu.l2_cache),
    "twice the host memory": lambda t: t.node and _node(
        t, "cpu", memory=2 * t.node.cpu.memory),
}  # fmt: skip

#: software that is no slower for the same job
NEWER: dict[str, Callable[[Workload], Workload | None]] = {
    "NCCL 2.27": lambda w: _stack(w, nccl="2.27"),
    "torch 2.11": lambda w: _stack(w, torch="2.11"),
    "CUDA 12.8": lambda w: _stack(w, cuda="12.8"),
    "expandable segments": lambda w: _stack(w, expandable_segments=True),
}


def _offer(topology: Topology, **changes: Any) -> Topology | None:
    offer = topology.offer
    return offer and topology.model_copy(update={"offer": offer.model_copy(update=changes)})


def _reliability(topology: Topology, **changes: Any) -> Topology:
    found = topology.reliability.model_copy(update=changes)
    return topology.model_copy(update={"reliability": found})


def _times_of(topology: Topology, factor: float, *names: str) -> Topology:
    """Times between failures and the like, given or not, so many times as long."""
    known, given = reliability(), topology.reliability
    changes = {n: factor * (getattr(given, n) or known[f"{n}_s"]) for n in names}
    return _reliability(topology, **changes)


def _spot(topology: Topology) -> bool:
    """Whether nodes are reclaimed: no spares, and each is waited for."""
    return bool(topology.offer and topology.offer.capacity == "spot")


#: better terms and better luck: a job takes no longer by them, and costs no more but for spares
TERMS: dict[str, Knob] = {
    "half the price": lambda t: t.offer and _offer(
        t, price_per_gpu_hour=t.offer.price_per_gpu_hour / 2),
    "no egress": lambda t: _offer(t, egress_per_gb=0.0),
    "half as dear electricity": lambda t: t.offer and _offer(
        t, energy_per_kwh=t.offer.energy_per_kwh / 2),
    "a discount": lambda t: _offer(t, commitment_discount=0.3),
    "no failures": lambda t: _reliability(t, failures=False),
    "GPUs fail half as often": lambda t: _times_of(t, 2.0, "gpu_mtbf"),
    "nodes fail half as often": lambda t: _times_of(t, 2.0, "node_mtbf"),
    "failures are seen at once": lambda t: _reliability(t, detect=0.0),
    "half the restart": lambda t: _times_of(t, 0.5, "restart"),
    "half the repair": lambda t: _times_of(t, 0.5, "repair"),
    "a warm restart": lambda t: _reliability(t, warm_restart=_given_restart(t) / 2),
    "a spare more": lambda t: None if t.reliability.spare_nodes is None else _reliability(
        t, spare_nodes=t.reliability.spare_nodes + 1),
    "any node replaced at once": lambda t: None if _spot(t) else _reliability(
        t, spare_nodes=None, least_nodes=None),
    "nodes reclaimed half as often": lambda t: t.offer and _offer(
        t, preemption_mtbf=2 * (t.offer.preemption_mtbf or reliability()["preemption_mtbf_s"])),
    "spot capacity at once": lambda t: _offer(t, preemption_wait=0.0),
    "a warning of 10 minutes": lambda t: _offer(t, preemption_notice=600.0),
    "twice the disk": KNOBS["twice the disk"],
    "twice the NIC rate": KNOBS["twice the NIC rate"],
}  # fmt: skip

#: a loader that keeps up better
LOADERS: dict[str, Callable[[Workload], Workload]] = {
    "twice the workers": lambda w: _data(w, workers=max(1, 2 * w.data.workers)),
    "workers twice as quick": lambda w: _data(
        w, preprocess_tokens_per_s_per_worker=2 * w.data.preprocess_tokens_per_s_per_worker),
    "half the bytes a token": lambda w: _data(w, bytes_per_token=w.data.bytes_per_token / 2),
    "twice the prefetch": lambda w: _data(w, prefetch=2 * w.data.prefetch),
}  # fmt: skip


def _given_restart(topology: Topology) -> float:
    given = topology.reliability
    return given.warm_restart or given.restart or reliability()["restart_s"]


def _data(workload: Workload, **changes: Any) -> Workload:
    return workload.model_copy(update={"data": workload.data.model_copy(update=changes)})


# --- less to do ----------------------------------------------------------------------------------


def _half(workload: Workload, name: str) -> Workload | None:
    value = getattr(workload, name)
    return workload.model_copy(update={name: value // 2}) if value % 2 == 0 else None


def _layers(workload: Workload) -> Workload | None:
    layers = workload.model.layers
    cut = workload.parallelism.pipeline_parallel > 1 or layers % 2
    half = {"model": workload.model.model_copy(update={"layers": layers // 2})}
    return None if cut else workload.model_copy(update=half)


def _rank(workload: Workload) -> Workload | None:
    method = workload.method
    if not method.rank or method.rank % 2:
        return None
    return workload.model_copy(
        update={"method": method.model_copy(update={"rank": method.rank // 2})}
    )


#: less of the same work takes no longer and needs no more
LESS: dict[str, Callable[[Workload], Workload | None]] = {
    "half the sequence": lambda w: _half(w, "sequence_length"),
    "half the micro-batch": lambda w: _half(w, "micro_batch"),
    "half the accumulation": lambda w: _half(w, "gradient_accumulation"),
    "half the blocks": _layers,
    "half the rank": _rank,
}
