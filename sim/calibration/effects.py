"""What causes of a slow or fast run change, and how they say how strong they are."""

from __future__ import annotations

import math
from collections.abc import Callable

from sim.blocks.modules import OpRole
from sim.blocks.unroll import PHASES, unroll
from sim.calibration.cause import (
    Changed,
    Effect,
    calibrated,
)
from sim.cost.kernel_cost import cost_model
from sim.fabric.links import socket_core_rate
from sim.inputs.checks import check
from sim.inputs.rows import run_on
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Network, Nics, Node, Topology
from sim.inputs.workload import Precision, Workload
from sim.memory.report import memory
from sim.quantities import percent
from sim.step.pressure import retries, retry_s
from sim.units import show

#: of the capacity, reserved and in flight, from where the allocator may retry: fragmentation of
#: real runs reaches a fifth beside what the model's share of it gives
CROWDED = 0.8


def _with_node(topology: Topology, **fields: object) -> Topology:
    assert topology.node is not None
    node = topology.node.model_copy(update=fields)
    return topology.model_copy(update={"node": node})


def _nics(topology: Topology) -> tuple[Node, Nics] | None:
    """Node and NICs where traffic crosses between nodes."""
    node = topology.node
    if node is None or node.nics is None or topology.nodes < 2:
        return None
    return node, node.nics


def tcp(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """Strength: what the sockets of a node carry. [B/s]"""
    found = _nics(topology)
    if found is None or found[1].kind in ("tcp", "tcpx"):
        return None
    rate = min(strength, found[1].rate * found[1].count)
    threads = math.ceil(rate / socket_core_rate())  # of what carries so much
    nics = Nics.model_construct(
        count=1, rate=rate, kind="tcp", gpudirect=False, socket_threads=threads
    )
    return Changed(_with_node(topology, nics=nics), workload)


def one_nic(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """One NIC of a node, where it has several."""
    found = _nics(topology)
    if found is None or found[1].count < 2:
        return None
    return Changed(_with_node(topology, nics=found[1].model_copy(update={"count": 1})), workload)


def with_constant(constant: str, when: Callable[[Topology], bool] = lambda _: True) -> Effect:
    """A machine of which a constant of calibrations is the strength, where that may be."""
    return lambda topology, workload, strength: (
        Changed(calibrated(topology, **{constant: strength}), workload) if when(topology) else None
    )


def says_network(topology: Topology, _: Workload, strength: float) -> str:
    """The rate of a NIC, or the share of what links between nodes are declared to give."""
    found = _nics(topology)
    if found is None:
        return f"links between nodes at {percent(strength, 0)} of what is declared"
    rate = found[1].rate
    return f"each NIC at {show(strength * rate, 'B/s')} of {show(rate, 'B/s')}"


def no_gpudirect(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """NICs that read and write host memory alone."""
    found = _nics(topology)
    if found is None or not found[1].gpudirect or found[1].kind == "tcp":
        return None
    nics = found[1].model_copy(update={"gpudirect": False})
    return Changed(_with_node(topology, nics=nics), workload)


def oversubscribed(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """Strength: how many times more the nodes can send than their uplinks carry."""
    if topology.node is None or topology.nodes < 3:
        return None
    network: Network = topology.network.model_copy(
        update={"kind": "fat-tree", "oversubscription": strength, "nodes_per_leaf": 1}
    )
    return Changed(topology.model_copy(update={"network": network}), workload)


def no_overlap(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """All communication exposed."""
    if topology.world_size < 2:
        return None
    return Changed(
        topology, workload, lambda b: b.time_s + b.communication_s - b.exposed_s, "exposed"
    )


def replicated(topology: Topology, workload: Workload) -> bool:
    """Whether parameters are held by several groups of ranks, each of which shards them."""
    return workload.parallelism.replicate > 1 and strategy_of(workload).gathers_blocks


def no_nvlink(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """GPUs of a node without NVLink."""
    node = topology.node
    if node is None or node.nvlink is None or node.gpus < 2:
        return None
    return Changed(_with_node(topology, nvlink=None), workload)


def over_pcie(topology: Topology) -> bool:
    """Whether some GPUs of a node talk over PCIe, as declared."""
    node = topology.node
    if node is None or node.gpus < 2:
        return False
    return not (node.nvlink and node.nvlink.fabric in ("nvswitch", "mesh"))


def power_cap(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """Strength: share of the GPU's power limit."""
    if topology.node is None:
        return None
    gpu = topology.node.gpu
    capped = gpu.model_copy(update={"power_limit": strength * gpu.power_limit})
    return Changed(_with_node(topology, gpu=capped), workload)


def says_power(topology: Topology, _: Workload, strength: float) -> str:
    """The limit as if which it is, in watts."""
    limit = topology.first_gpu.power_limit
    return f"as if capped at {strength * limit:.0f} of {limit:.0f} W"


def allocator(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """An allocator that frees its cache and tries again, where memory is nearly full."""
    found = memory(topology, workload).verdict
    if found.missing_bytes < (CROWDED - 1.0) * found.capacity_bytes:
        return None
    more = _retries(workload, strength) * retry_s(workload, topology)
    return Changed(topology, workload, lambda b: b.time_s + more)


def _retries(workload: Workload, strength: float) -> float:
    """Strength: allocations that fail in a layer and micro-step, beside those that are predicted.

    A layer makes some ten large ones, forward and backward, and as many where it recomputes.
    """
    return strength * workload.model.layers * workload.gradient_accumulation


def says_retries(topology: Topology, workload: Workload, strength: float) -> str:
    """How many retries a step."""
    said = f"about {_retries(workload, strength):,.0f} retries a step"
    known = retries(workload, memory(topology, workload).verdict)
    return f"{said} beside the {known:,.0f} that are predicted" if known >= 1.0 else said


def waits_for_data(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """Strength: seconds the loader takes for a token of one GPU, relative to the step's own."""
    return Changed(topology, workload, lambda b: b.time_s * max(1.0, strength), "wait")


def other_attention(kernel: str, faster: bool = True) -> Effect:
    """A run on another kernel than declared, where that one is the faster, or the slower."""

    def change(topology: Topology, workload: Workload, strength: float) -> Changed | None:
        job = workload.model_copy(update={"attention": kernel})
        if any(finding.error for finding in check(topology, job)):
            return None
        gained = _attention_s(topology, workload) - _attention_s(topology, job)
        return Changed(topology, job) if (gained if faster else -gained) > 0.0 else None

    return change


def _attention_s(topology: Topology, workload: Workload) -> float:
    """Seconds of attention in a layer, forward and backward."""
    run, model = run_on(topology, workload), cost_model(topology.slowest_gpu)
    templates = unroll(run)
    kinds = dict.fromkeys(templates.layer_kinds)
    kernels = [k for kind in kinds for p in PHASES for k in templates.of(kind, p)]
    return sum(model.cost(k).time_s for k in kernels if k.role is OpRole.ATTENTION)


def pinned(topology: Topology, workload: Workload) -> bool:
    """Whether what is offloaded is declared to be in pinned memory."""
    p = workload.parallelism
    return p.offload != "none" and p.pin_memory and "pin_memory" in strategy_of(workload).knobs


def full_precision(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """FP32 in place of mixed precision, with TF32 where the job has that on."""
    if workload.precision.kind == "fp32":
        return None
    tf32 = workload.precision.tf32  # what is left of the declared precision
    fp32 = Precision.model_construct(kind="fp32", master="fp32", tf32=tf32)
    changed = workload.model_copy(update={"precision": fp32})
    if workload.attention != "eager":  # no fused kernel but PyTorch's own has FP32
        changed = changed.model_copy(update={"attention": "sdpa"})
    return Changed(topology, changed)


def nothing(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """The job as declared."""
    return Changed(topology, workload)
