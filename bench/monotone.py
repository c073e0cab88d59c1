"""A better machine is never slower, and twice the work is twice the work: random jobs x knobs.

python -m bench.monotone            # 1,000 jobs, a report of what is broken
python -m bench.monotone 100 7      # so many, from another seed
python -m bench.monotone 100 7 cut  # of jobs cut along other axes, or offloaded to disks

A step that the better machine makes more than 0.1 % longer is excused where the result says why:
NCCL chose another algorithm or protocol for some collective (`step.algorithms`), or, to within
0.1 % of the step, kernels or collectives lose so much more to what now runs beside them
(`step.overlap_slowdown`, `step.transfer_slowdown`).
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sim.errors import InputError
from sim.inputs.loader import Loaded, load
from sim.inputs.topology import Topology
from sim.result.sections import throughput_section
from sim.step.step import StepReport, step

TOLERANCE = 1e-3
Knob = Callable[[Topology], Topology | None]


@dataclass(frozen=True)
class Fault:
    """A law that a job breaks."""

    law: str
    job: str
    sides: tuple[dict[str, Any], dict[str, Any]]
    amount: float  # by how much, relative

    def __str__(self) -> str:
        return f"{self.law}: {100 * self.amount:+.2f} %  {self.job}\n    {self.sides}"


# --- jobs ----------------------------------------------------------------------------------------

MACHINES = (
    ("h100-sxm-80gb", 4, 18, "nvswitch", 5), ("a100-sxm-80gb", 3, 12, "nvswitch", 4),
    ("h200-sxm-141gb", 4, 18, "nvswitch", 5), ("b200-sxm-180gb", 5, 18, "nvswitch", 5),
    ("a100-pcie-80gb", 0, 0, "", 4), ("l40s-pcie-48gb", 0, 0, "", 4),
    ("h100-pcie-80gb", 4, 12, "pairs", 5), ("a100-sxm-40gb", 3, 12, "mesh", 4),
)  # fmt: skip
MODELS = ("llama-3.2-1b", "llama-3-8b", "mistral-7b", "gpt2-xl", "qwen2.5-14b", "mixtral-8x7b")
KNOBS_OF = {
    "fsdp2": {"reshard_after_forward": (True, False), "wrap": (None, "torchtitan")},
    "fsdp1": {"limit_all_gathers": (True, False)},
    "ddp": {"gradient_as_bucket_view": (True, False)},
    "zero1": {"overlap_comm": (True, False)},
    "zero2": {"overlap_comm": (True, False)},
    "zero3": {"overlap_comm": (True, False)},
}


def job(draw: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """A topology and a workload, as files would say them."""
    gpu, generation, links, fabric, pcie = draw.choice(MACHINES)
    gpus = draw.choice((2,) if fabric == "pairs" else (4,) if fabric == "mesh" else (1, 2, 4, 8))
    node: dict[str, Any] = {
        "gpu": gpu, "gpus": gpus,
        "pcie": {
            "generation": pcie, "gpus_per_switch": draw.choice((1, 2)),
            "nics_per_switch": draw.choice((1, 2)),
        },
        "cpu": {"sockets": draw.choice((1, 2)), "vendor": draw.choice(("intel", "amd"))},
        "nics": {
            "count": draw.choice((1, 2, 4, 8)), "rate": draw.choice(("100 Gb/s", "200 Gb/s")),
            "kind": draw.choice(("infiniband", "roce")),
        },
    }  # fmt: skip
    if generation:
        node["nvlink"] = {"generation": generation, "links_per_gpu": links, "fabric": fabric}
    kind = draw.choice(("rail-optimized", "fat-tree", "single-switch"))
    network = {"kind": kind}
    if kind != "single-switch":
        network["oversubscription"] = draw.choice((1.0, 2.0, 4.0))
    topology = {
        "name": "random", "nodes": draw.choice((1, 1, 2, 3, 4, 8)), "node": node, "network": network
    }  # fmt: skip
    strategy = draw.choice(tuple(KNOBS_OF))
    parallelism = {"strategy": strategy}
    for key, values in KNOBS_OF[strategy].items():
        value = draw.choice(values)
        if value is not None:
            parallelism[key] = value
    workload = {
        "name": "random", "model": draw.choice(MODELS), "parallelism": parallelism, "steps": 100,
        "sequence_length": draw.choice((512, 2048, 4096)), "micro_batch": draw.choice((1, 2, 4)),
        "gradient_accumulation": draw.choice((1, 2, 4)),
        "method": draw.choice(("full", {"lora": {"rank": 16, "targets": "all-linear"}})),
        "activation_checkpointing": draw.choice(("none", "full")),
        "compile": draw.choice((True, False)),
        "attention": draw.choice(("sdpa", "flash2", "eager")),
    }  # fmt: skip
    return topology, workload


#: ways to cut a model that `job` leaves alone, and to offload it; the last of a mixture
CUTS: tuple[dict[str, Any], ...] = (
    {"strategy": "fsdp2", "tensor_parallel": 2},
    {"strategy": "fsdp2", "tensor_parallel": 4, "tensor_parallel_style": "dtensor-async"},
    {"strategy": "fsdp2", "context_parallel": 2},
    {"strategy": "fsdp2", "context_parallel": 4, "context_parallel_kind": "ulysses"},
    {"strategy": "fsdp2", "pipeline_parallel": 2},
    {"strategy": "fsdp2", "pipeline_parallel": 2, "pipeline_schedule": "interleaved-1f1b"},
    {"strategy": "megatron", "tensor_parallel": 2, "pipeline_parallel": 2},
    {"strategy": "megatron", "tensor_parallel": 4},
    {"strategy": "zero3", "offload": "all"},
    {"strategy": "zero3", "offload": "all", "offload_device": "nvme"},
    {"strategy": "fsdp2", "offload": "all"},
    {"strategy": "fsdp2", "expert_parallel": 2},
)


def cut(draw: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job of `job`, cut or offloaded, of another rank, on other hosts."""
    topology, workload = job(draw)
    node = topology["node"]
    node["pcie"]["lanes"] = draw.choice((8, 16))
    node["cpu"] |= {"cores": draw.choice((16, 48, 96)), "speed": draw.choice((0.5, 1.0))}
    node["storage"] = {"read": "2 GB/s", "write": "1 GB/s"}
    parallelism = dict(draw.choice(CUTS))
    workload |= {"parallelism": parallelism, "gradient_accumulation": draw.choice((4, 8))}
    if parallelism.get("expert_parallel"):
        workload["model"] = "mixtral-8x7b"
    split = {"tensor_parallel", "pipeline_parallel", "expert_parallel"} & parallelism.keys()
    lora = {"lora": {"rank": draw.choice((4, 64, 256)), "targets": "all-linear"}}
    workload["method"] = "full" if split else draw.choice(("full", lora))
    return topology, workload


def jobs(
    count: int,
    seed: int = 0,
    drawn: Callable[[random.Random], tuple[dict[str, Any], dict[str, Any]]] = job,
) -> Iterator[Loaded]:
    """So many jobs that pass the checks."""
    draw = random.Random(seed)
    while count:
        try:
            found = load(*drawn(draw))
        except InputError:
            continue
        count -= 1
        yield found


# --- knobs ---------------------------------------------------------------------------------------


def _node(topology: Topology, part: str, **changes: Any) -> Topology | None:
    """A copy whose node has a part changed."""
    node = topology.node
    old = getattr(node, part)
    if node is None or old is None:
        return None
    changed = node.model_copy(update={part: old.model_copy(update=changes)})
    return topology.model_copy(update={"node": changed})


def _peaks(topology: Topology) -> Topology | None:
    gpu = topology.first_gpu
    names = [n for n in type(gpu).model_fields if n.startswith("peak_")]
    return _node(topology, "gpu", **{n: 2 * v for n in names if (v := getattr(gpu, n))})


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
}  # fmt: skip


# --- laws ----------------------------------------------------------------------------------------


def broken(found: Loaded, knobs: dict[str, Knob] | None = None) -> Iterator[Fault]:
    """Laws that a job breaks on its machine and on better ones."""
    topology, workload = found.topology, found.workload
    node = topology.node
    words = f"{topology.nodes}x{node.gpus if node else '?'} {topology.first_gpu.name} "
    words += f"{workload.name} {workload.parallelism.strategy} {found.workload.model.name}"
    base = step(topology, workload)
    yield from _of_one(words, found, base)
    for name, change in (KNOBS if knobs is None else knobs).items():
        better = change(topology)
        if not better or better == topology:
            continue
        other = step(better, workload)
        slower = other.time_s / base.time_s - 1
        before, after = _beside(base), _beside(other)
        beside = max(after[key] - before.get(key, 0.0) for key in after)
        unsaid = slower - max(0.0, beside) / base.time_s  # by more than what the result says
        if unsaid > TOLERANCE and base.algorithms == other.algorithms:
            sides = (base.breakdown.parts, other.breakdown.parts)
            yield Fault(name, words, sides, slower)
        if base.memory.fits and not other.memory.fits:
            yield Fault(f"{name}: no longer fits", words, ({}, {}), 0.0)
    twice = 2 * workload.gradient_accumulation
    double = workload.model_copy(update={"gradient_accumulation": twice})
    once, again = (throughput_section(topology, w, 1.0) for w in (workload, double))
    if again.model_flops_per_step != 2 * once.model_flops_per_step:
        yield Fault("twice the tokens", words, ({}, {}), 0.0)


def _beside(report: StepReport) -> dict[str, float]:
    """What kernels, collectives and copies each lose to what runs beside them. [s]"""
    lost = defaultdict(float, kernels=report.breakdown.slowdown_s)
    for key, seconds in report.breakdown.transfers.items():
        lost[key.partition(" beside ")[0]] += seconds
    return lost


def _of_one(words: str, found: Loaded, base: StepReport) -> Iterator[Fault]:
    measured = base.breakdown
    parts = {**measured.parts, **measured.exposed, **base.memory.by_category}
    for name, value in parts.items():
        if value < 0:
            yield Fault(f"negative {name}", words, ({}, {}), value)
    rates = throughput_section(found.topology, found.workload, base.time_s)
    if not 0 < rates.mfu_causal <= rates.hfu <= 1:
        yield Fault("causal MFU <= HFU <= 1", words, ({}, {}), rates.hfu)
    if measured.exposed_s > measured.communication_s * (1 + 1e-9):
        yield Fault("exposed <= communication", words, ({}, {}), measured.exposed_s)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    drawn = cut if "cut" in sys.argv[3:] else job
    began, total = time.process_time(), Counter[str]()
    worst: dict[str, Fault] = {}
    for found in jobs(count, seed, drawn):
        for fault in broken(found):
            total[fault.law] += 1
            if fault.law not in worst or fault.amount > worst[fault.law].amount:
                worst[fault.law] = fault
    for law, times in total.most_common():
        print(f"{times} of {count}: worst {worst[law]}")
    print(f"{count} jobs x {len(KNOBS)} knobs, {sum(total.values())} laws broken", end=", ")
    print(f"{time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
