"""What would save memory, and what each costs in time: every change is walked and simulated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sim.inputs.shares import batch_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Checkpointing, Method, Workload
from sim.memory.report import MemoryReport, machine, memory
from sim.step.step import step

#: tokens of a sequence from which splitting it over GPUs is worth a try
LONG = 16384
#: a change must save this share of the peak to be named
WORTHWHILE = 0.01


@dataclass(frozen=True, slots=True)
class MemoryFix:
    """One change, or several together, and what they save.

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
        GPU-seconds a token that it adds, as a share of what they are; negative where it is faster.
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


@dataclass(frozen=True, slots=True)
class _Candidate:
    change: dict[str, Any]
    description: str
    topology: Topology
    workload: Workload
    changes_training: bool = False


def fixes(topology: Topology, workload: Workload) -> tuple[MemoryFix, ...]:
    """Changes that save memory: those that make it fit first, then cheapest in time first.

    Parameters
    ----------
    topology : Topology
        The machine.
    workload : Workload
        The job.

    Returns
    -------
    tuple of MemoryFix
        Only changes that save at least 1 % of the peak. Where the job does not fit and no single
        change mends that, the cheapest are tried together as well.
    """
    before = memory(topology, workload)
    base = _seconds(topology, workload)
    found = []
    for candidate in _candidates(topology, workload):
        after = memory(candidate.topology, candidate.workload)
        if _saved(before, after) < WORTHWHILE * before.peak_reserved_bytes:
            continue
        found.append(_fix(candidate, before, after, base))
    found.sort(key=lambda f: (f.changes_training, f.time_cost))
    if not before.fits and not any(f.fits and not f.changes_training for f in found):
        together = _together(topology, workload, found, before, base)
        if together is not None:
            found.append(together)
    found.sort(key=lambda f: (not f.fits, f.changes_training, f.time_cost, -f.saved_bytes))
    return tuple(found)


def _fix(
    candidate: _Candidate, before: MemoryReport, after: MemoryReport, base: float
) -> MemoryFix:
    cost = _seconds(candidate.topology, candidate.workload) / base - 1.0
    return MemoryFix(
        candidate.change, candidate.description, _saved(before, after),
        after.peak_reserved_bytes, after.fits, cost, candidate.changes_training,
    )  # fmt: skip


def _saved(before: MemoryReport, after: MemoryReport) -> float:
    return before.peak_reserved_bytes - after.peak_reserved_bytes


def _seconds(topology: Topology, workload: Workload) -> float:
    """GPU-seconds of a token. [s]"""
    return step(topology, workload).time_s / batch_on(workload).tokens_per_rank


def _together(
    topology: Topology, workload: Workload, single: list[MemoryFix], before: MemoryReport,
    base: float,
) -> MemoryFix | None:  # fmt: skip
    """Cheapest changes one on top of the other until the job fits."""
    change: dict[str, Any] = {}
    names = []
    at, job, peak = topology, workload, before
    for fix in single:
        if fix.changes_training:
            continue
        keys = set(fix.change)
        again = (c for c in _candidates(at, job) if set(c.change) == keys)
        candidate = next((c for c in again if c.description == fix.description), None)
        if candidate is None or keys & set(change):
            continue
        after = memory(candidate.topology, candidate.workload)
        if _saved(peak, after) <= 0.0:
            continue
        at, job, peak = candidate.topology, candidate.workload, after
        change |= candidate.change
        names.append(candidate.description)
        if after.fits and len(names) > 1:
            whole = _Candidate(change, " + ".join(names), at, job)
            return _fix(whole, before, after, base)
    return None


def _candidates(topology: Topology, workload: Workload) -> Iterator[_Candidate]:
    """Changes worth trying."""
    yield from _loss_and_units(topology, workload)
    yield from _activations(topology, workload)
    yield from _states(topology, workload)
    yield from _machine(topology, workload)
    yield from _training(topology, workload)


def _parallel(workload: Workload, **update: Any) -> Workload:
    p = workload.parallelism.model_copy(update=update)
    return workload.model_copy(update={"parallelism": p})


def _loss_and_units(topology: Topology, workload: Workload) -> Iterator[_Candidate]:
    p = workload.parallelism
    if workload.loss in ("eager", "huggingface"):
        for loss, text in (
            ("chunked", "loss in chunks"),
            ("fused-linear", "fused linear cross entropy"),
        ):
            job = workload.model_copy(update={"loss": loss})
            yield _Candidate({"loss": loss}, text, topology, job)
    if p.strategy == "fsdp2" and p.wrap == "block+root" and not workload.model.tied_embeddings:
        job = _parallel(workload, wrap="torchtitan")
        text = "embedding and head in units of their own"
        yield _Candidate({"parallelism.wrap": "torchtitan"}, text, topology, job)
    if p.strategy == "fsdp2" and not p.reshard_after_forward:
        job = _parallel(workload, reshard_after_forward=True)
        text = "reshard after forward"
        yield _Candidate({"parallelism.reshard_after_forward": True}, text, topology, job)


def _activations(topology: Topology, workload: Workload) -> Iterator[_Candidate]:
    policy = workload.activation_checkpointing
    key = "activation_checkpointing"
    if policy.kind == "none":
        job = workload.model_copy(update={key: Checkpointing(kind="selective-op")})
        text = "per-op activation checkpointing"
        yield _Candidate({key: {"selective": "op"}}, text, topology, job)
    full = Checkpointing(kind="full")
    if policy.kind != "full":
        job = workload.model_copy(update={key: full})
        yield _Candidate({key: "full"}, "full activation checkpointing", topology, job)
    elif not policy.offload and workload.parallelism.strategy in ("fsdp1", "fsdp2"):
        job = workload.model_copy(update={key: policy.model_copy(update={"offload": True})})
        setting: dict[str, Any] = {"full": {"offload": True}}
        yield _Candidate({key: setting}, "checkpointed inputs on the host", topology, job)
    p = workload.parallelism
    if p.strategy == "zero3" and workload.method.kind != "full" and policy.reentrant:
        job = _parallel(workload, deepspeed_version="0.19.2")
        text = "a DeepSpeed that frees frozen weights"
        yield _Candidate({"parallelism.deepspeed_version": "0.19.2"}, text, topology, job)
    if workload.micro_batch > 1:
        half = workload.micro_batch // 2
        update = {
            "micro_batch": half,
            "gradient_accumulation": workload.gradient_accumulation * workload.micro_batch // half,
        }
        text = f"micro-batch {half}, more steps"
        yield _Candidate(update, text, topology, workload.model_copy(update=update))
    twice = 2 * p.context_parallel
    divides = machine(topology)[1] % twice == 0 and workload.sequence_length % twice == 0
    if p.strategy == "fsdp2" and divides and workload.sequence_length >= LONG:
        job = _parallel(workload, context_parallel=twice)
        text = f"sequences over {twice} GPUs"
        yield _Candidate({"parallelism.context_parallel": twice}, text, topology, job)


def _states(topology: Topology, workload: Workload) -> Iterator[_Candidate]:
    p = workload.parallelism
    if workload.optimizer == "adamw":
        job = workload.model_copy(update={"optimizer": "adamw-8bit"})
        yield _Candidate({"optimizer": "adamw-8bit"}, "8-bit AdamW", topology, job)
    if p.strategy in ("ddp", "zero1", "zero2"):
        strategy = "zero3" if p.strategy.startswith("zero") else "fsdp2"
        job = _parallel(workload, strategy=strategy)
        text = f"shard parameters ({strategy})"
        yield _Candidate({"parallelism.strategy": strategy}, text, topology, job)
    if p.offload == "none" and p.strategy != "ddp":
        kinds = {
            "zero1": ("optimizer",), "zero2": ("optimizer",), "zero3": ("optimizer", "all"),
        }.get(p.strategy, ("all",))  # fmt: skip
        for kind in kinds:
            job = _parallel(workload, offload=kind)
            text = "optimizer on the host" if kind == "optimizer" else "all state on the host"
            yield _Candidate({"parallelism.offload": kind}, text, topology, job)


def _machine(topology: Topology, workload: Workload) -> Iterator[_Candidate]:
    node = topology.node
    joined = node is not None and node.nics is not None and node.nics.count > 0
    if joined and topology.graph is None and workload.parallelism.shard is None:
        more = topology.model_copy(update={"nodes": topology.nodes * 2})
        yield _Candidate({"nodes": topology.nodes * 2}, "twice the nodes", more, workload)


def _training(topology: Topology, workload: Workload) -> Iterator[_Candidate]:
    method, precision = workload.method, workload.precision
    if method.kind == "full":
        lora = Method(kind="lora", rank=16, targets=("q", "k", "v", "o", "gate", "up", "down"))
        job = workload.model_copy(update={"method": lora})
        change = {"method": {"lora": {"rank": 16, "targets": "all-linear"}}}
        yield _Candidate(change, "LoRA of rank 16", topology, job, True)
    if method.kind == "lora":
        four = method.model_copy(update={"kind": "qlora", "quantization": "nf4"})
        job = workload.model_copy(update={"method": four})
        change = {"method": {"qlora": {"rank": four.rank, "quantization": "nf4"}}}
        yield _Candidate(change, "QLoRA: frozen weights in 4 bits", topology, job, True)
    mixed = precision.kind in ("bf16", "fp8") and precision.master == "fp32"
    if mixed and method.kind == "full":
        pure = precision.model_copy(update={"master": "bf16"})
        job = workload.model_copy(update={"precision": pure})
        yield _Candidate({"precision.master": "bf16"}, "pure bf16 weights", topology, job, True)
