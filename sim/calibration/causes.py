"""What makes a real run slower or faster than its machine should be: causes to simulate.

A cause has a strength where it comes in degrees (a link at x GB/s, a host x times slower), from
mild to hard, and a plausibility beside the others. The plausibilities are judgement, informed by
how often the cause is what a thread about a slow run ends with; only their order of magnitude
matters beside how well a cause explains the figure (docs/calibration.md).
"""

from __future__ import annotations

from sim.calibration import effects
from sim.calibration.cause import (
    ONCE,
    Cause,
    gpus_of_a_node,
    job_with,
    miscounted,
    silent,
)
from sim.calibration.undeclared import UNDECLARED
from sim.inputs.workload import Checkpointing
from sim.quantities import percent
from sim.units import show

_GROWING = (1.0, 1.5, 2.5, 4.0, 7.0, 12.0, 20.0)
_SHRINKING = (0.95, 0.7, 0.45, 0.3, 0.18, 0.1, 0.05, 0.02, 0.01)

#: the run as declared: its probability says whether there is anything to explain
NOTHING = Cause("none", "nothing: as predicted", 4.0, effects.nothing, ONCE, silent, "")

CAUSES: tuple[Cause, ...] = (
    Cause(
        "tcp", "traffic between nodes goes over TCP sockets, not RDMA", 1.0, effects.tcp,
        (0.5e9, 2e9, 3.5e9, 6e9, 12.5e9, 25e9)[::-1],
        lambda t, w, s: f"at {show(s, 'B/s')} a node",
        'NCCL_DEBUG=INFO: "NET/Socket" instead of "NET/IB" or "NET/OFI" (EFA)',
    ),
    Cause(
        "slow-sockets", "traffic between nodes goes over TCP sockets of a slow or virtual network",
        0.3, effects.tcp, (0.5e9, 0.25e9, 0.12e9, 0.06e9),
        lambda t, w, s: f"at {show(s, 'B/s')} a node (1 Gb/s Ethernet is 0.12 GB/s)",
        "NCCL_SOCKET_IFNAME: the interface after NET/Socket; iperf3 between two nodes",
    ),
    Cause(
        "one-nic", "one NIC of the node is used instead of all", 0.5, effects.one_nic, ONCE, silent,
        "NCCL_DEBUG=INFO: the list after NET/IB; NCCL_IB_HCA",
    ),
    Cause(
        "slow-network", "the network gives less than declared", 0.6,
        effects.with_constant("network_bandwidth", lambda t: t.node_count > 1), _SHRINKING,
        effects.says_network, "ib_write_bw between two nodes; link rate and errors of every port",
    ),
    Cause(
        "no-gpudirect", "NICs reach GPU memory through the host (no GPUDirect RDMA)", 0.5,
        effects.no_gpudirect, ONCE, silent,
        'NCCL_DEBUG=INFO: channels "via NET/IB/n" without "/GDRDMA"; nvidia-peermem loaded?',
    ),
    Cause(
        "oversubscribed", "nodes share too few uplinks between leaf switches", 0.3,
        effects.oversubscribed, (1.5, 2.5, 4.0, 8.0, 16.0),
        lambda t, w, s: f"{s:.1f} : 1", "nccl-tests on nodes of one leaf, then across leaves",
    ),
    Cause(
        "full-shard", "parameters are sharded over all nodes: no replicas (HSDP not in effect)",
        0.4, job_with(effects.replicated, parallelism={"replicate": 1, "shard": None}), ONCE,
        silent, "print the device mesh; sizes of all-gathers in a trace",
    ),
    Cause(
        "no-overlap", "communication does not overlap with computation", 0.25, effects.no_overlap,
        ONCE, silent, "profiler: do NCCL kernels run beside GEMMs? prefetch and wrapping of layers",
    ),
    Cause(
        "no-nvlink", "GPUs of a node talk over PCIe: NVLink is down or unused", 0.25,
        effects.no_nvlink, ONCE, silent,
        "nvidia-smi nvlink -s; nvidia-smi topo -m; fabric manager running?",
    ),
    Cause(
        "host-path", "GPUs of a node talk through the host badly: peer-to-peer off, PCIe degraded",
        0.5, effects.with_constant("pcie_bandwidth", effects.over_pcie),
        (0.5, 0.25, 0.12, 0.06, 0.04, 0.025, 0.01),
        lambda t, w, s: f"at {percent(s, 1)} of what PCIe gives",
        "all_gather_perf of nccl-tests within a node; lspci link state; NCCL_P2P_DISABLE unset",
    ),
    Cause(
        "host-bound", "the CPU launches kernels too slowly", 0.4,
        effects.with_constant("host_launch"), _GROWING[1:],
        lambda t, w, s: f"{s:.1f} times the usual time a kernel",
        "profiler: gaps between kernels with no NCCL; CPU affinity, other processes, debug flags",
    ),
    Cause(
        # text seldom waits: one process tokenizes more a second than most nodes take
        "data", "GPUs wait for data", 0.3, effects.waits_for_data, _GROWING[1:],
        lambda t, w, s: f"the loader gives 1/{s:.1f} of what the GPUs could take",
        "run on synthetic data; raise the number of workers",
    ),
    Cause(
        "power", "GPUs run below their clock (power cap or heat)", 0.3, effects.power_cap,
        (0.9, 0.75, 0.6, 0.45, 0.3, 0.2), effects.says_power,
        "nvidia-smi -q -d PERFORMANCE,CLOCK,POWER under load",
    ),
    Cause(
        "straggler", "one GPU is slower and all wait for it", 0.3,
        effects.with_constant("slowest_gpu", lambda t: t.world_size > 1),
        (0.9, 0.6, 0.35, 0.2),
        lambda t, w, s: f"it runs at {percent(s, 0)}",
        "the same GEMM benchmark on every GPU; the rank that waits least in collectives",
        everywhere=False,
    ),
    Cause(
        "allocator", "memory is nearly full and the allocator retries", 0.6, effects.allocator,
        (0.05, 0.2, 0.8, 3.2, 12.8), effects.says_retries,
        'torch.cuda.memory_stats()["num_alloc_retries"]',
    ),
    Cause(
        "eager-attention", "attention is not fused", 0.4,
        job_with(lambda t, w: w.attention != "eager", attention="eager"), ONCE, silent,
        "kernel names in a trace: softmax and batched GEMMs instead of flash or fmha",
    ),
    Cause(
        "older-attention", "attention runs on an older kernel than declared: FlashAttention 2's",
        0.4, effects.other_attention("flash2", faster=False), ONCE, silent,
        "kernel names in a trace: flash_fwd_kernel instead of cudnn_* or flash::...sm90",
    ),
    *(
        Cause(
            f"{kernel}-attention", f"faster than declared: another attention kernel, {name}", 0.3,
            effects.other_attention(kernel), ONCE, silent,
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
        job_with(effects.pinned, parallelism={"pin_memory": False}), ONCE, silent,
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
        "fp32", "it computes in FP32: mixed precision is not in effect", 0.2,
        effects.full_precision, ONCE, silent, "dtype in the names of GEMM kernels",
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
