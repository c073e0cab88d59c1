"""Plans for one machine: nodes, micro-batch, strategy, checkpointing, offload at a fixed batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sim.errors import InputError
from sim.inputs import checks
from sim.inputs.loader import Prepared
from sim.inputs.shares import batch_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Checkpointing, Parallelism, Workload
from sim.study.axes import Changes, Grid
from sim.study.machines import Machine

NODES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
MICRO_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One plan: a machine of a size and a job laid out for it.

    Attributes
    ----------
    machine : Machine
        What is rented.
    topology, workload : specs
        Ready to simulate.
    extra : tuple
        What else was varied, ``(key, value)``.
    """

    machine: Machine
    topology: Topology
    workload: Workload
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.topology.world_size


@dataclass(frozen=True, slots=True)
class Space:
    """What may be chosen.

    Attributes
    ----------
    global_batch : int
        Sequences a step, the same for every plan.
    most_gpus : int
        GPUs in all.
    strategies, checkpointing, offload : tuple of str
        Of `STRATEGIES`, `CHECKPOINTING`, `OFFLOAD`.
    extra : Grid
        Further axes over any key (precision, NIC rate, ...).
    """

    global_batch: int
    most_gpus: int
    strategies: tuple[str, ...]
    checkpointing: tuple[str, ...]
    offload: tuple[str, ...]
    extra: Grid


_POLICIES = {
    "none": Checkpointing(kind="none"),
    "selective-op": Checkpointing(kind="selective-op"),
    "full": Checkpointing(kind="full"),
}
CHECKPOINTING = tuple(_POLICIES)
OFFLOAD = ("none", "optimizer", "all")
STRATEGIES = ("fsdp2", "fsdp2-keep", "hsdp", "hsdp-keep", "ddp", "zero2", "zero3", "fsdp1")
_FAMILY = {
    "fsdp2": ("fsdp2", "fsdp2-keep", "hsdp", "hsdp-keep", "ddp"),
    "fsdp1": ("fsdp1", "ddp"),
    "zero1": ("zero2", "zero3"),
    "zero2": ("zero2", "zero3"),
    "zero3": ("zero2", "zero3"),
    "ddp": ("fsdp2", "fsdp2-keep", "hsdp", "hsdp-keep", "ddp"),
}


def family(workload: Workload) -> tuple[str, ...]:
    """Strategies of the library that a workload names."""
    return _FAMILY[workload.parallelism.strategy]


Variant = tuple[Topology, Workload, Changes]


def variants(base: Prepared, extra: Grid) -> Iterator[Variant]:
    """Machine and job with each combination of the further axes that makes sense on the machine."""
    for changes in extra.points():
        try:
            loaded = (base.vary(changes) if changes else base).loaded()
        except InputError as error:
            if any("unknown key" in fault.message for fault in error.faults):
                raise
            continue  # FP8 on an A100 is no variant of it
        yield loaded.topology, loaded.workload, changes


def plans(machine: Machine, pairs: Iterable[Variant], space: Space) -> Iterator[Candidate]:
    """Every plan of a machine; those whose numbers do not divide are no plans."""
    assert machine.topology.node is not None
    per_node = machine.topology.node.gpus
    for one, workload, changes in pairs:
        extra = tuple((k, str(v)) for k, v in changes.items())
        # the checks of a plan depend on these alone, not on the batch that divides
        sound: dict[Any, bool] = {}
        for nodes in NODES:
            world = nodes * per_node
            if nodes > machine.most_nodes or world > space.most_gpus:
                break
            topology = one.model_copy(update={"nodes": nodes})
            for strategy, saving, offload in itertools.product(
                space.strategies, space.checkpointing, space.offload
            ):
                laid_out = _parallelism(workload.parallelism, strategy, offload, nodes, world)
                if laid_out is None:
                    continue
                kept = workload.activation_checkpointing
                policy = kept if kept.kind == saving else _POLICIES[saving]
                batch = batch_on(workload.model_copy(update={"parallelism": laid_out}), world)
                for micro_batch in MICRO_BATCHES:
                    sized = replace(batch, micro_batch=micro_batch)
                    steps, rest = sized.accumulated(space.global_batch)
                    if rest or not steps:
                        continue
                    update = {
                        "micro_batch": micro_batch,
                        "gradient_accumulation": steps,
                        "global_batch": space.global_batch,
                        "parallelism": laid_out,
                        "activation_checkpointing": policy,
                    }
                    job = workload.model_copy(update=update)
                    key = (nodes, strategy, saving, offload)
                    if key not in sound:
                        sound[key] = not any(f.error for f in checks.check(topology, job))
                    if sound[key]:
                        yield Candidate(machine, topology, job, extra)


def _parallelism(
    base: Parallelism, strategy: str, offload: str, nodes: int, world: int
) -> Parallelism | None:
    """Knobs of a strategy; None where it makes no sense or is another one by another name."""
    kind, _, keep = strategy.partition("-")
    update: dict[str, Any] = {"offload": offload, "replicate": 1, "shard": None}
    if kind == "hsdp":
        if nodes == 1:
            return None
        update |= {"strategy": "fsdp2", "replicate": nodes}
    else:
        update |= {"strategy": kind}
    if keep:
        if offload != "none":
            return None
        update["reshard_after_forward"] = False
    if kind == "ddp" and offload != "none":
        return None
    if kind in ("fsdp1", "fsdp2", "hsdp") and offload == "optimizer":
        return None  # CPUOffloadPolicy takes parameters and states together
    if world == 1 and strategy not in ("fsdp2", "zero3", "fsdp1"):
        return None
    family_base = base if update["strategy"] == base.strategy else Parallelism()
    if kind == "ddp":
        update["context_parallel"] = 1
    return family_base.model_copy(update=update)
