"""The inverse of `memory`: the largest batch or context, the fewest nodes, the cheapest mending."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sim.errors import InfeasibleError
from sim.model.flops import token_flops
from sim.model.tree import count_parameters
from sim.result.memory import MemoryReport, machine, memory
from sim.spec.topology import Topology
from sim.spec.workload import Checkpointing, Method, Workload

Quantity = Literal["micro_batch", "sequence_length", "nodes"]
#: sequence lengths are answered in whole multiples of this [tokens]
LENGTH_STEP = 256
LARGEST = {"micro_batch": 1 << 16, "sequence_length": 1 << 24, "nodes": 1 << 10}
#: share of the dense peak that a rough step time supposes, to price offload against
ROUGH_MFU = 0.4
#: [B/s] PCIe to the host per GPU that prices offload: generation 4 x16 as measured by nvbandwidth
ROUGH_PCIE = 24e9


@dataclass(frozen=True, slots=True)
class Bound:
    """Answer to an inverse question.

    Attributes
    ----------
    quantity : str
        ``micro_batch``, ``sequence_length`` or ``nodes``.
    value : int
        Largest (fewest nodes) that fits.
    report : MemoryReport
        Memory there.
    beyond : MemoryReport or None
        Memory one step further, where it no longer fits; None at the end of the search.
    """

    quantity: str
    value: int
    report: MemoryReport
    beyond: MemoryReport | None


@dataclass(frozen=True, slots=True)
class MemoryFix:
    """One change and what it saves.

    Attributes
    ----------
    change : dict
        As for ``--set``.
    description : str
        In words.
    saved_bytes : float
        Less at the peak, overheads included. [B]
    peak_reserved_bytes : float
        With it. [B]
    fits : bool
        With it.
    time_cost : float
        Rough share of a step that it adds; simulate it (``run``, ``compare``) for a real figure.
    changes_training : bool
        Another method or precision: the trained model will differ.
    """

    change: dict[str, Any]
    description: str
    saved_bytes: float
    peak_reserved_bytes: float
    fits: bool
    time_cost: float
    changes_training: bool = False


def solve(topology: Topology, workload: Workload, quantity: Quantity) -> Bound:
    """Largest micro-batch or sequence length, or fewest nodes, at which a job fits.

    Parameters
    ----------
    topology : Topology
        The machine.
    workload : Workload
        The job.
    quantity : {"micro_batch", "sequence_length", "nodes"}
        What may change.

    Returns
    -------
    Bound
        The answer, with the memory there and one step beyond.

    Raises
    ------
    InfeasibleError
        Nothing fits, with what is missing at the smallest value.
    """
    step = 1
    if quantity == "sequence_length":
        step = LENGTH_STEP * workload.parallelism.context_parallel
    if quantity == "nodes":
        return _fewest_nodes(topology, workload)

    def at(value: int) -> MemoryReport:
        return memory(topology, workload.model_copy(update={quantity: value}))

    limit = LARGEST[quantity]
    if quantity == "sequence_length" and workload.model.positions == "learned":
        limit = max(step, workload.model.max_positions)
    low = 1
    first = at(step)
    if not first.fits:
        message = (
            f"nothing fits: {quantity} {step} already needs "
            f"{first.peak_reserved_bytes / 2**30:.1f} of {first.capacity_bytes / 2**30:.1f} GiB, "
            f"mostly {first.dominating}"
        )
        raise InfeasibleError(message)
    high = low
    while high * step < limit and at(min(high * 2 * step, limit)).fits:
        high *= 2
    low, high = high, min(high * 2, limit // step) + 1
    low = min(low, limit // step)
    while high - low > 1:
        middle = (low + high) // 2
        if at(middle * step).fits:
            low = middle
        else:
            high = middle
    beyond = at((low + 1) * step) if (low + 1) * step <= limit else None
    return Bound(quantity, low * step, at(low * step), beyond)


def _fewest_nodes(topology: Topology, workload: Workload) -> Bound:
    if topology.graph is not None or topology.node is None:
        message = "an explicit graph has its own number of nodes; describe the machine by `node`"
        raise InfeasibleError(message)
    per_node = topology.node.gpus
    replicate = workload.parallelism.replicate

    def at(nodes: int) -> MemoryReport:
        return memory(topology, workload, world=nodes * per_node)

    least = max(1, -(-replicate // per_node))
    high = least
    while not at(high).fits:
        high *= 2
        if high > LARGEST["nodes"]:
            report = at(high // 2)
            message = (
                f"{high // 2} nodes are not enough: {report.dominating} shrinks no further "
                f"({report.peak_reserved_bytes / 2**30:.1f} of "
                f"{report.capacity_bytes / 2**30:.1f} GiB)"
            )
            raise InfeasibleError(message)
    low = high // 2
    while high - low > least and low >= least:
        middle = (low + high) // 2
        if middle * per_node % replicate:
            middle += 1
        if at(middle).fits:
            high = middle
        else:
            low = middle
    return Bound("nodes", high, at(high), at(high - least) if high > least else None)


def fixes(topology: Topology, workload: Workload) -> tuple[MemoryFix, ...]:
    """Changes that save memory, those that make it fit first, then cheapest first.

    Parameters
    ----------
    topology : Topology
        The machine.
    workload : Workload
        The job.

    Returns
    -------
    tuple of MemoryFix
        Only changes that save at least 1 % of the peak.
    """
    before = memory(topology, workload)
    found = []
    for change, description, machine_, job, cost in _candidates(topology, workload):
        after = memory(machine_, job)
        saved = before.peak_reserved_bytes - after.peak_reserved_bytes
        if saved < 0.01 * before.peak_reserved_bytes:
            continue
        other = cost == OTHER
        reserved, time = after.peak_reserved_bytes, 0.0 if other else cost
        found.append(MemoryFix(change, description, saved, reserved, after.fits, time, other))
    found.sort(key=lambda f: (not f.fits, f.changes_training, f.time_cost, -f.saved_bytes))
    return tuple(found)


#: in place of a time cost: the trained model will differ
OTHER = -1.0
Candidate = tuple[dict[str, Any], str, Topology, Workload, float]


def _candidates(topology: Topology, workload: Workload) -> Iterator[Candidate]:
    """Changes worth trying, each with the share of a step it roughly adds."""
    step_s = _rough_step(topology, workload)
    base = token_flops(workload.model, workload.sequence_length, workload.method)
    p = workload.parallelism

    def job(**update: Any) -> Workload:
        return workload.model_copy(update=update)

    def parallel(**update: Any) -> Workload:
        return job(parallelism=p.model_copy(update=update))

    if workload.loss == "eager":
        yield {"loss": "chunked"}, "loss in chunks", topology, job(loss="chunked"), 0.002
        linear = {"loss": "fused-linear"}
        yield linear, "fused linear cross entropy", topology, job(loss="fused-linear"), 0.004
    if p.strategy == "fsdp2" and p.wrap == "block+root" and not workload.model.tied_embeddings:
        change = {"parallelism.wrap": "torchtitan"}
        text = "embedding and head in units of their own"
        yield change, text, topology, parallel(wrap="torchtitan"), 0.005
    if workload.activation_checkpointing.kind == "none":
        for kind, text in (("selective-op", "per-op"), ("full", "full")):
            policy = Checkpointing(kind="selective-op" if kind == "selective-op" else "full")
            again = token_flops(workload.model, workload.sequence_length, workload.method, policy)
            value: Any = {"selective": "op"} if kind == "selective-op" else "full"
            yield (
                {"activation_checkpointing": value},
                f"{text} activation checkpointing",
                topology,
                job(activation_checkpointing=policy),
                again.recompute / base.model,
            )
    elif workload.activation_checkpointing.kind != "full":
        policy = Checkpointing(kind="full")
        again = token_flops(workload.model, workload.sequence_length, workload.method, policy)
        yield (
            {"activation_checkpointing": "full"},
            "full activation checkpointing",
            topology,
            job(activation_checkpointing=policy),
            again.recompute / base.model,
        )
    if workload.micro_batch > 1:
        half = workload.micro_batch // 2
        steps = workload.gradient_accumulation * 2
        update = {"micro_batch": half, "gradient_accumulation": steps}
        yield dict(update), f"micro-batch {half}, twice the steps", topology, job(**update), 0.03
    if workload.optimizer == "adamw":
        small = job(optimizer="adamw-8bit")
        yield {"optimizer": "adamw-8bit"}, "8-bit AdamW", topology, small, 0.01
    if p.strategy in ("ddp", "zero1", "zero2"):
        change = {"parallelism.strategy": "zero3" if p.strategy.startswith("zero") else "fsdp2"}
        strategy = change["parallelism.strategy"]
        yield change, f"shard parameters ({strategy})", topology, parallel(strategy=strategy), 0.1
    if not p.reshard_after_forward and p.strategy == "fsdp2":
        change_: dict[str, Any] = {"parallelism.reshard_after_forward": True}
        text = "reshard after forward"
        yield change_, text, topology, parallel(reshard_after_forward=True), 0.05
    if topology.node is not None and topology.graph is None:
        more = topology.model_copy(update={"nodes": topology.nodes * 2})
        yield {"nodes": topology.nodes * 2}, "twice the nodes", more, workload, 0.05
    world = machine(topology)[1]
    if p.offload == "none" and workload.method.kind == "full" and p.strategy != "ddp":
        total = count_parameters(workload.model, workload.method).total
        shard = total / max(1, world // p.replicate)
        for kind in ("optimizer", "all"):
            traffic = (8.0 if kind == "optimizer" else 12.0) * shard
            text = "optimizer on the host" if kind == "optimizer" else "parameters on the host too"
            cost = traffic / ROUGH_PCIE / step_s
            yield {"parallelism.offload": kind}, text, topology, parallel(offload=kind), cost
    if workload.method.kind == "full":
        method = Method(kind="lora", rank=16, targets=("q", "k", "v", "o", "gate", "up", "down"))
        yield (
            {"method": {"lora": {"rank": 16, "targets": "all-linear"}}},
            "LoRA of rank 16",
            topology,
            job(method=method),
            OTHER,
        )
    if workload.method.kind == "lora":
        four = workload.method.model_copy(update={"kind": "qlora", "quantization": "nf4"})
        yield (
            {"method": {"qlora": {"rank": four.rank, "quantization": "nf4"}}},
            "QLoRA: frozen weights in 4 bits",
            topology,
            job(method=four),
            OTHER,
        )
    mixed = workload.precision.kind in ("bf16", "fp8") and workload.precision.master == "fp32"
    if mixed and workload.method.kind == "full":
        pure = job(precision=workload.precision.model_copy(update={"master": "bf16"}))
        yield {"precision.master": "bf16"}, "pure bf16 weights", topology, pure, OTHER


def _rough_step(topology: Topology, workload: Workload) -> float:
    """Seconds of an optimizer step at a plain share of the peak; only to price offload."""
    gpu = topology.node.gpu if topology.node else None
    peak = (gpu.peak_bf16 if gpu else None) or 100e12
    work = token_flops(workload.model, workload.sequence_length, workload.method).model
    tokens = workload.sequence_length * workload.micro_batch * workload.gradient_accumulation
    return max(1e-6, work * tokens / (ROUGH_MFU * peak))
