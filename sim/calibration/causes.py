"""What makes a real run slower or faster than its machine should be: causes to simulate.

A cause has a strength where it comes in degrees (a link at x GB/s, a host x times slower), from
mild to hard, and a plausibility beside the others. The plausibilities are judgement, informed by
how often the cause is what a thread about a slow run ends with; only their order of magnitude
matters beside how well a cause explains the figure (docs/calibration.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from sim.blocks.modules import OpRole
from sim.blocks.unroll import PHASES, unroll
from sim.calibration.cause import (
    ONCE,
    Cause,
    Changed,
    Effect,
    calibrated,
    gpus_of_a_node,
    job_with,
    miscounted,
    silent,
)
from sim.calibration.undeclared import UNDECLARED
from sim.cost.kernel_cost import cost_model
from sim.fabric.links import socket_core_rate
from sim.inputs.checks import check
from sim.inputs.rows import run_on
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Network, Nics, Node, Topology
from sim.inputs.workload import Checkpointing, Precision, Workload
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


# --- network -------------------------------------------------------------------------------------


def _tcp(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    found = _nics(topology)
    if found is None or found[1].kind in ("tcp", "tcpx"):
        return None
    rate = min(strength, found[1].rate * found[1].count)
    threads = math.ceil(rate / socket_core_rate())  # of what carries so much
    nics = Nics.model_construct(
        count=1, rate=rate, kind="tcp", gpudirect=False, socket_threads=threads
    )
    return Changed(_with_node(topology, nics=nics), workload)


def _one_nic(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    found = _nics(topology)
    if found is None or found[1].count < 2:
        return None
    return Changed(_with_node(topology, nics=found[1].model_copy(update={"count": 1})), workload)


def _at(constant: str, when: Callable[[Topology], bool] = lambda _: True) -> Effect:
    """A machine of which a constant of calibrations is the strength, where that may be."""
    return lambda topology, workload, strength: (
        Changed(calibrated(topology, **{constant: strength}), workload) if when(topology) else None
    )


def _says_network(topology: Topology, _: Workload, strength: float) -> str:
    found = _nics(topology)
    if found is None:
        return f"links between nodes at {percent(strength, 0)} of what is declared"
    rate = found[1].rate
    return f"each NIC at {show(strength * rate, 'B/s')} of {show(rate, 'B/s')}"


def _no_gpudirect(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    found = _nics(topology)
    if found is None or not found[1].gpudirect or found[1].kind == "tcp":
        return None
    nics = found[1].model_copy(update={"gpudirect": False})
    return Changed(_with_node(topology, nics=nics), workload)


def _oversubscribed(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    if topology.node is None or topology.nodes < 3:
        return None
    network: Network = topology.network.model_copy(
        update={"kind": "fat-tree", "oversubscription": strength, "nodes_per_leaf": 1}
    )
    return Changed(topology.model_copy(update={"network": network}), workload)


def _no_overlap(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    if topology.world_size < 2:
        return None
    return Changed(
        topology, workload, lambda b: b.time_s + b.communication_s - b.exposed_s, "exposed"
    )


def _replicated(topology: Topology, workload: Workload) -> bool:
    return workload.parallelism.replicate > 1 and strategy_of(workload).gathers_blocks


# --- node ----------------------------------------------------------------------------------------


def _no_nvlink(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    node = topology.node
    if node is None or node.nvlink is None or node.gpus < 2:
        return None
    return Changed(_with_node(topology, nvlink=None), workload)


def _over_pcie(topology: Topology) -> bool:
    node = topology.node
    if node is None or node.gpus < 2:
        return False
    return not (node.nvlink and node.nvlink.fabric in ("nvswitch", "mesh"))


def _power_cap(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    if topology.node is None:
        return None
    gpu = topology.node.gpu
    capped = gpu.model_copy(update={"power_limit": strength * gpu.power_limit})
    return Changed(_with_node(topology, gpu=capped), workload)


def _says_power(topology: Topology, _: Workload, strength: float) -> str:
    limit = topology.first_gpu.power_limit
    return f"as if capped at {strength * limit:.0f} of {limit:.0f} W"


def _allocator(topology: Topology, workload: Workload, strength: float) -> Changed | None:
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


def _says_retries(topology: Topology, workload: Workload, strength: float) -> str:
    said = f"about {_retries(workload, strength):,.0f} retries a step"
    known = retries(workload, memory(topology, workload).verdict)
    return f"{said} beside the {known:,.0f} that are predicted" if known >= 1.0 else said


# --- job -----------------------------------------------------------------------------------------


def _data(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """Strength: seconds the loader takes for a token of one GPU, relative to the step's own."""
    return Changed(topology, workload, lambda b: b.time_s * max(1.0, strength), "wait")


def _other_attention(kernel: str, faster: bool = True) -> Effect:
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


def _pinned(topology: Topology, workload: Workload) -> bool:
    p = workload.parallelism
    return p.offload != "none" and p.pin_memory and "pin_memory" in strategy_of(workload).knobs


def _full_precision(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    if workload.precision.kind == "fp32":
        return None
    tf32 = workload.precision.tf32  # what is left of the declared precision
    fp32 = Precision.model_construct(kind="fp32", master="fp32", tf32=tf32)
    changed = workload.model_copy(update={"precision": fp32})
    if workload.attention != "eager":  # no fused kernel but PyTorch's own has FP32
        changed = changed.model_copy(update={"attention": "sdpa"})
    return Changed(topology, changed)


def _nothing(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    return Changed(topology, workload)


_GROWING = (1.0, 1.5, 2.5, 4.0, 7.0, 12.0, 20.0)
_SHRINKING = (0.95, 0.7, 0.45, 0.3, 0.18, 0.1, 0.05, 0.02, 0.01)

#: the run as declared: its probability says whether there is anything to explain
NOTHING = Cause("none", "nothing: as predicted", 4.0, _nothing, ONCE, silent, "")

CAUSES: tuple[Cause, ...] = (
    Cause(
        "tcp", "traffic between nodes goes over TCP sockets, not RDMA", 1.0, _tcp,
        (0.5e9, 2e9, 3.5e9, 6e9, 12.5e9, 25e9)[::-1],
        lambda t, w, s: f"at {show(s, 'B/s')} a node",
        'NCCL_DEBUG=INFO: "NET/Socket" instead of "NET/IB" or "NET/OFI" (EFA)',
    ),
    Cause(
        "slow-sockets", "traffic between nodes goes over TCP sockets of a slow or virtual network",
        0.3, _tcp, (0.5e9, 0.25e9, 0.12e9, 0.06e9),
        lambda t, w, s: f"at {show(s, 'B/s')} a node (1 Gb/s Ethernet is 0.12 GB/s)",
        "NCCL_SOCKET_IFNAME: the interface after NET/Socket; iperf3 between two nodes",
    ),
    Cause(
        "one-nic", "one NIC of the node is used instead of all", 0.5, _one_nic, ONCE, silent,
        "NCCL_DEBUG=INFO: the list after NET/IB; NCCL_IB_HCA",
    ),
    Cause(
        "slow-network", "the network gives less than declared", 0.6,
        _at("network_bandwidth", lambda t: t.node_count > 1), _SHRINKING,
        _says_network, "ib_write_bw between two nodes; link rate and errors of every port",
    ),
    Cause(
        "no-gpudirect", "NICs reach GPU memory through the host (no GPUDirect RDMA)", 0.5,
        _no_gpudirect, ONCE, silent,
        'NCCL_DEBUG=INFO: channels "via NET/IB/n" without "/GDRDMA"; nvidia-peermem loaded?',
    ),
    Cause(
        "oversubscribed", "nodes share too few uplinks between leaf switches", 0.3,
        _oversubscribed, (1.5, 2.5, 4.0, 8.0, 16.0),
        lambda t, w, s: f"{s:.1f} : 1", "nccl-tests on nodes of one leaf, then across leaves",
    ),
    Cause(
        "full-shard", "parameters are sharded over all nodes: no replicas (HSDP not in effect)",
        0.4, job_with(_replicated, parallelism={"replicate": 1, "shard": None}), ONCE, silent,
        "print the device mesh; sizes of all-gathers in a trace",
    ),
    Cause(
        "no-overlap", "communication does not overlap with computation", 0.25, _no_overlap, ONCE,
        silent, "profiler: do NCCL kernels run beside GEMMs? prefetch and wrapping of layers",
    ),
    Cause(
        "no-nvlink", "GPUs of a node talk over PCIe: NVLink is down or unused", 0.25, _no_nvlink,
        ONCE, silent, "nvidia-smi nvlink -s; nvidia-smi topo -m; fabric manager running?",
    ),
    Cause(
        "host-path", "GPUs of a node talk through the host badly: peer-to-peer off, PCIe degraded",
        0.5, _at("pcie_bandwidth", _over_pcie), (0.5, 0.25, 0.12, 0.06, 0.04, 0.025, 0.01),
        lambda t, w, s: f"at {percent(s, 1)} of what PCIe gives",
        "all_gather_perf of nccl-tests within a node; lspci link state; NCCL_P2P_DISABLE unset",
    ),
    Cause(
        "host-bound", "the CPU launches kernels too slowly", 0.4,
        _at("host_launch"), _GROWING[1:],
        lambda t, w, s: f"{s:.1f} times the usual time a kernel",
        "profiler: gaps between kernels with no NCCL; CPU affinity, other processes, debug flags",
    ),
    Cause(
        # text seldom waits: one process tokenizes more a second than most nodes take
        "data", "GPUs wait for data", 0.3, _data, _GROWING[1:],
        lambda t, w, s: f"the loader gives 1/{s:.1f} of what the GPUs could take",
        "run on synthetic data; raise the number of workers",
    ),
    Cause(
        "power", "GPUs run below their clock (power cap or heat)", 0.3, _power_cap,
        (0.9, 0.75, 0.6, 0.45, 0.3, 0.2), _says_power,
        "nvidia-smi -q -d PERFORMANCE,CLOCK,POWER under load",
    ),
    Cause(
        "straggler", "one GPU is slower and all wait for it", 0.3,
        _at("slowest_gpu", lambda t: t.world_size > 1),
        (0.9, 0.6, 0.35, 0.2),
        lambda t, w, s: f"it runs at {percent(s, 0)}",
        "the same GEMM benchmark on every GPU; the rank that waits least in collectives",
        everywhere=False,
    ),
    Cause(
        "allocator", "memory is nearly full and the allocator retries", 0.8, _allocator,
        (0.05, 0.2, 0.8, 3.2, 12.8), _says_retries,
        'torch.cuda.memory_stats()["num_alloc_retries"]',
    ),
    Cause(
        "eager-attention", "attention is not fused", 0.4,
        job_with(lambda t, w: w.attention != "eager", attention="eager"), ONCE, silent,
        "kernel names in a trace: softmax and batched GEMMs instead of flash or fmha",
    ),
    Cause(
        "older-attention", "attention runs on an older kernel than declared: FlashAttention 2's",
        0.4, _other_attention("flash2", faster=False), ONCE, silent,
        "kernel names in a trace: flash_fwd_kernel instead of cudnn_* or flash::...sm90",
    ),
    *(
        Cause(
            f"{kernel}-attention", f"faster than declared: another attention kernel, {name}", 0.3,
            _other_attention(kernel), ONCE, silent,
            f"kernel names in a trace: {names}; the backend that SDPA chose", faster=True,
        )
        for kernel, name, names in (
            ("cudnn", "cuDNN's", "cudnn_generated_fort_native_sdpa"),
            ("flash3", "FlashAttention 3", "flash::...sm90"),
            ("flash2", "FlashAttention 2", "flash_fwd_kernel"),
        )
    ),
    Cause(
        "no-recompute", "faster than declared: activation checkpointing is off", 0.2,
        job_with(lambda t, w: w.activation_checkpointing.kind != "none",
                 activation_checkpointing=Checkpointing.model_construct()), ONCE, silent,
        "peak memory; no forward kernels inside backward",
        faster=True,
    ),
    Cause(
        "compiled", "faster than declared: torch.compile is in effect", 0.2,
        job_with(lambda t, w: not w.compile, compile=True), ONCE, silent,
        "kernel names: triton_*", faster=True,
    ),
    Cause(
        "pageable", "offloaded weights and gradients are not in pinned memory", 0.5,
        job_with(_pinned, parallelism={"pin_memory": False}), ONCE, silent,
        "profiler: Memcpy HtoD (Pageable -> Device); gaps beside cudaMemcpyAsync",
    ),
    Cause(
        "recompute", "activation checkpointing is on", 0.3,
        job_with(lambda t, w: w.activation_checkpointing.kind != "full",
                 activation_checkpointing=Checkpointing.model_construct(kind="full")),
        ONCE, silent,
        "peak memory; forward kernels inside backward",
    ),
    Cause(
        "not-compiled", "torch.compile is not in effect", 0.3,
        job_with(lambda t, w: w.compile, compile=False), ONCE, silent,
        "kernel names: triton_* missing; TORCH_LOGS=graph_breaks,recompiles",
    ),
    Cause(
        "fp32", "it computes in FP32: mixed precision is not in effect", 0.1, _full_precision,
        ONCE, silent, "dtype in the names of GEMM kernels",
    ),
    Cause(
        "per-node", "the figure is divided once more by the GPUs of a node", 0.1,
        miscounted(lambda t, w, s: gpus_of_a_node(t)), ONCE, silent,
        "tokens/s = tokens of the global batch / step time / all GPUs",
    ),
    Cause(
        "padding", "only real tokens are counted, and much is padding", 0.1,
        miscounted(lambda t, w, s: s), (1.1, 1.5, 2.5, 4.0, 8.0),
        lambda t, w, s: f"{percent(1 / s, 0)} of the tokens are real",
        "mean length of a sequence over the padded length; packing",
    ),
    *UNDECLARED,
)  # fmt: skip
