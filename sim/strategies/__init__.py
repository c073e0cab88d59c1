"""Strategies: a workload, a module tree and a mesh become the plan of one training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.errors import InputError
from sim.inputs.base import fields_but
from sim.inputs.pipeline import shape_of
from sim.inputs.reference import REFERENCE
from sim.inputs.strategy import not_modelled, strategy_of
from sim.inputs.trainer import reduces_each, trainer_of
from sim.pipeline.schedules import SCHEDULES
from sim.shelf import Shelf
from sim.strategies.alike import Patterns
from sim.strategies.plan import Plan
from sim.strategies.recorder import Quiet, Recorder

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sim.blocks.modules import ModelTree
    from sim.inputs.workload import Workload
    from sim.mesh import Mesh
    from sim.strategies.allocations import Allocations

__all__ = [
    "Plan", "allocations_of", "build_plan", "build_plans", "micro_steps_apart", "plan_of",
    "plans_of",
]  # fmt: skip

_SOURCE = "workload"
_NO_MATTER = frozenset((
    "name", "sequence_length", "micro_batch", "global_batch", "tokens", "steps", "samples",
    "epochs", "optimizer", "optimizer_rank", "optimizer_implementation", "optimizer_paged",
    "attention", "attention_padding", "compile", "cuda_graphs", "fused_kernels", "loss", "data",
    "checkpoint", "evaluation", "deadline", "sources", *REFERENCE,
))  # fmt: skip

# of the stack: libraries below torch, and what ranks spend on each collective
_STACK_NO_MATTER = frozenset((
    "cuda", "nccl", "nccl_path", "distributed_debug", "message_time", "omp_num_threads",
))  # fmt: skip
#: strategies see what these make of the mesh
_IN_MESH = frozenset(("replicate", "shard"))
_ALL_STEPS_ALIKE = _NO_MATTER | {"gradient_accumulation"}


def _matters(workload: Workload, but: frozenset[str]) -> tuple[object, ...]:
    """What plans depend on of a job beside its mesh, but for some fields."""
    stack = fields_but(workload.stack, _STACK_NO_MATTER)
    knobs = fields_but(workload.parallelism, _IN_MESH)
    return (*stack, *knobs, *fields_but(workload, but | {"stack", "parallelism"}))


def plans_of(workload: Workload, tree: ModelTree, mesh: Mesh) -> tuple[Plan, ...]:
    """One step's plans, one for each pipeline rank (see `plan_of`)."""
    if mesh.pp == 1:
        return (plan_of(workload, tree, mesh),)
    key = (
        "pipeline", mesh, workload.micro_batch, workload.sequence_length, workload.loss,
        *_matters(workload, _NO_MATTER),
    )  # fmt: skip
    return _pipelines.get(key, lambda: build_plans(workload, tree, mesh))


def build_plans(workload: Workload, tree: ModelTree, mesh: Mesh) -> tuple[Plan, ...]:
    """Record what each pipeline rank issues in a step."""
    strategy = strategy_of(workload)
    return tuple(
        strategy.build_stage(workload, tree, mesh, rank, recorder=Recorder)
        for rank in range(mesh.pp)
    )


def plan_of(workload: Workload, tree: ModelTree, mesh: Mesh) -> Plan:
    """One step's plan as `build_plan` makes it, shared by jobs that differ only in costs.

    Parameters
    ----------
    workload, tree, mesh
        As for `build_plan`; `tree` is of the workload's model and method.
    """
    # what ranks that share a block exchange are activations
    shape = max(mesh.cp, mesh.tp, mesh.ep) > 1 or workload.activation_checkpointing.offload
    # an optimizer on the host is an op of the plan, of so many bytes
    update = workload.parallelism.offload != "none" and workload.optimizer
    key = (
        mesh, update, shape and (workload.micro_batch, workload.sequence_length, workload.loss),
        trainer_of(workload).name,  # one that is not written follows from the loss too
        tree.missing, *_matters(workload, _NO_MATTER),
    )  # fmt: skip
    return _plans.get(key, lambda: _alike(key[1:4], workload, tree, mesh, _NO_MATTER, Recorder))


def _alike(
    more: Hashable, workload: Workload, tree: ModelTree, mesh: Mesh, but: frozenset[str],
    recorder: type[Recorder],
) -> Plan:  # fmt: skip
    """A plan as `build_plan` makes it, of a trace of those alike where its strategy allows."""

    def record(workload: Workload, tree: ModelTree, mesh: Mesh) -> Plan:
        return build_plan(workload, tree, mesh, recorder=recorder)

    strategy = strategy_of(workload)
    if not strategy.traceable:
        return record(workload, tree, mesh)
    sizes = not strategy.ordered_by_sizes
    parts = (
        _matters(workload, but | {"model"}) if sizes else (tree.missing, *_matters(workload, but))
    )
    key = recorder, more, *parts
    alone = 1 if recorder is Recorder else 4  # one that writes down no ops takes little
    return _patterns.plan(key, record, workload, tree, mesh, alone, sizes)


# of a step of 8 layers 250 fit, of one of 80 layers 50; an entry takes about 0.3 kB
_plans = Shelf[Plan](64_000, lambda plan: len(plan.issued))
_patterns = Patterns()
_pipelines = Shelf["tuple[Plan, ...]"](
    1_000_000, lambda plans: sum(len(plan.issued) for plan in plans)
)
_allocations = Shelf["Allocations"](32_000, lambda log: len(log.log) + log.unwritten)


def allocations_of(workload: Workload, tree: ModelTree, mesh: Mesh, rank: int = 0) -> Allocations:
    """What a step allocates and frees, for jobs that differ only in costs; its ops are not kept."""
    micro_steps = micro_steps_apart(workload)
    who = trainer_of(workload).name
    key = (mesh, rank, micro_steps, who, *_matters(workload, _ALL_STEPS_ALIKE))

    def record() -> Allocations:
        job = workload.model_copy(update={"gradient_accumulation": micro_steps})
        if mesh.pp > 1:
            strategy = strategy_of(workload)
            plan: Plan = strategy.build_stage(job, tree, mesh, rank, recorder=Quiet)
            return plan.memory
        return _alike(key[2:4], job, tree, mesh, _ALL_STEPS_ALIKE, Quiet).memory

    return _allocations.get(key, record)


def micro_steps_apart(workload: Workload) -> int:
    """Micro-steps that stand for all of a step in memory.

    In the second the gradients of the first are there. If only the last one reduces, one in between
    may hold more: it never frees gradients, the last one does as it goes.
    """
    stages = workload.parallelism.pipeline_parallel
    if stages > 1:
        return _micro_batches_apart(workload)
    return min(workload.gradient_accumulation, 2 if reduces_each(workload) else 3)


def _micro_batches_apart(workload: Workload) -> int:
    """Those of a pipeline; all where it fills for as long as there are any.

    Others are full after twice as many as ranks, tables after twice as many rounds, and stay so.
    """
    schedule, shape = SCHEDULES[workload.parallelism.pipeline_schedule], shape_of(workload)
    cycle = schedule.cycle(shape)
    few = 4 * max(shape.ranks, cycle) if schedule.table else 2 * shape.ranks
    return shape.micro - max(0, shape.micro - few) // cycle * cycle if cycle else shape.micro


def build_plan(
    workload: Workload, tree: ModelTree, mesh: Mesh, steps: int = 1, cold: bool = False,
    recorder: type[Recorder] = Recorder,
) -> Plan:  # fmt: skip
    """Record what one rank issues in a training step of the workload's strategy.

    Parameters
    ----------
    workload : Workload
        The job; ``workload.parallelism.strategy`` chooses the schedule.
    tree : ModelTree
        Every parameter of the model under its training method.
    steps : int
        Optimizer steps to record one after the other, from the first of a run if more than one. [1]
    cold : bool
        Record the first step of a run where it differs from later ones (fsdp1, zero3).
    recorder : type
        `Quiet` to record allocations alone.

    Returns
    -------
    Plan
        Operations in issue order.

    Raises
    ------
    InputError
        If the knobs contradict each other or the mesh.
    """
    strategy = strategy_of(workload)
    for size, axis in ((mesh.cp, "context"), (mesh.tp, "tensor")):
        if size == 1:
            continue
        if lacks := not_modelled(strategy, f"{axis} parallelism is", f"{axis}_parallel"):
            raise InputError.single(_SOURCE, lacks.message, f"parallelism.{axis}_parallel")
    plan: Plan = strategy.build(workload, tree, mesh, steps=steps, cold=cold, recorder=recorder)
    return plan
