"""Checks of the axes of a mesh: what a model, a batch and a machine can be cut into."""

from __future__ import annotations

from collections.abc import Iterator

from sim.inputs.finding import Finding, fault, warning
from sim.inputs.registry import STRATEGIES
from sim.inputs.strategy import strategy_named, strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload

Findings = Iterator[Finding]


def workload_findings(workload: Workload) -> Findings:
    """What is wrong with the axes of a workload, on any machine."""
    yield from _context(workload)
    yield from _tensor(workload)


def pair_findings(topology: Topology, workload: Workload) -> Findings:
    """What is wrong with them on a machine."""
    p = workload.parallelism
    if p.tensor_parallel > topology.gpus_per_node:
        message = (
            f"{p.tensor_parallel} GPUs share every matrix, but a node has "
            f"{topology.gpus_per_node}: their exchanges cross the network in every layer"
        )
        hint = f"write {topology.gpus_per_node} or fewer"
        yield warning("tensor-network", "workload", "parallelism.tensor_parallel", message, hint)


def _context(w: Workload) -> Findings:
    p, m = w.parallelism, w.model
    if p.context_parallel == 1 or p.context_parallel_kind != "ulysses":
        return
    if m.heads % p.context_parallel == 0 and m.kv_heads % p.context_parallel:
        message = f"{m.kv_heads} key-value heads are repeated for {p.context_parallel} ranks"
        hint = "fewer ranks, or ring, send less"
        yield warning("ulysses", "workload", "parallelism.context_parallel", message, hint)


def _tensor(w: Workload) -> Findings:
    p, m = w.parallelism, w.model
    t, path = p.tensor_parallel, "parallelism.tensor_parallel"
    if t == 1:
        return
    if not strategy_of(w).tensor_parallel:
        able = ", ".join(n for n in STRATEGIES if strategy_named(n).tensor_parallel)
        message = f"tensor parallelism is modelled with {able}, not with {p.strategy}"
        yield fault("tensor-strategy", "workload", path, message, f"write strategy: {able}")
        return
    for heads, what in ((m.heads, "heads"), (m.kv_heads, "key-value heads")):
        if heads % t:
            able = ", ".join(
                str(n) for n in range(1, heads + 1) if m.heads % n == m.kv_heads % n == 0
            )
            message = f"{heads} {what} of {m.name} cannot be divided among {t} GPUs"
            yield fault("indivisible", "workload", path, message, f"write one of {able}")
            return
    if m.kv_lora_rank:
        message = f"latent attention ({m.name}) is not modelled with tensor parallelism"
        yield fault("tensor-latent", "workload", path, message, "write 1")
    if w.method.kind != "full":
        message = f"tensor parallelism is modelled for full training, not for {w.method.kind}"
        yield fault("tensor-method", "workload", path, message, "write 1")
    if p.wrap == "linear":
        message = "tensor parallelism needs units of whole blocks"
        hint = "write block+root or torchtitan"
        yield fault("tensor-wrap", "workload", "parallelism.wrap", message, hint)
    local = w.sequence_length // p.context_parallel
    if p.sequence_parallel and local % t:
        message = f"{local} tokens of a sequence cannot be divided among {t} GPUs"
        hint = "write a multiple, or parallelism.sequence_parallel: false"
        yield fault("indivisible", "workload", "sequence_length", message, hint)
