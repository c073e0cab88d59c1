"""Strategies: a workload, a module tree and a mesh become the plan of one training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.errors import InputError
from sim.inputs.workload import fields_but
from sim.strategies.plan import Plan

if TYPE_CHECKING:
    from sim.blocks.modules import ModelTree
    from sim.inputs.workload import Workload
    from sim.mesh import Mesh

__all__ = ["Plan", "build_plan", "plan_of"]

_SOURCE = "workload"
_plans: dict[tuple[object, ...], Plan] = {}
MAX_PLANS = 32
_NO_MATTER = frozenset((
    "name", "sequence_length", "micro_batch", "global_batch", "tokens", "steps", "samples",
    "epochs", "optimizer", "optimizer_implementation", "attention", "compile", "cuda_graphs",
    "fused_kernels", "loss", "data", "checkpoint", "evaluation", "sources",
))  # fmt: skip


def plan_of(workload: Workload, tree: ModelTree, mesh: Mesh) -> Plan:
    """One step's plan as `build_plan` makes it, shared by jobs that differ only in costs.

    Parameters
    ----------
    workload, tree, mesh
        As for `build_plan`; `tree` is of the workload's model and method.
    """
    # what context parallelism exchanges are activations
    shape = mesh.cp > 1 or workload.activation_checkpointing.offload
    key = (
        mesh, shape and (workload.micro_batch, workload.sequence_length),
        *fields_but(workload, _NO_MATTER),
    )  # fmt: skip
    found = _plans.pop(key, None) or build_plan(workload, tree, mesh)
    if len(_plans) >= MAX_PLANS:
        del _plans[next(iter(_plans))]
    _plans[key] = found  # the last used stands last
    return found


def build_plan(
    workload: Workload, tree: ModelTree, mesh: Mesh, steps: int = 1, cold: bool = False
) -> Plan:
    """Record what one rank issues in a training step of the workload's strategy.

    Parameters
    ----------
    workload : Workload
        The job; ``workload.parallelism.strategy`` chooses the schedule.
    tree : ModelTree
        Every parameter of the model under its training method.
    mesh : Mesh
        How the ranks are grouped.
    steps : int
        Optimizer steps to record one after the other, from the first of a run if more than one. [1]
    cold : bool
        Record the first step of a run where it differs from later ones (fsdp1, zero3).

    Returns
    -------
    Plan
        Operations in issue order.

    Raises
    ------
    InputError
        If the knobs contradict each other or the mesh.
    """
    strategy = workload.parallelism.strategy
    if mesh.cp > 1 and strategy != "fsdp2":
        message = f"context parallelism is modelled with fsdp2, not with {strategy}"
        raise InputError.single(_SOURCE, message, "parallelism.context_parallel")
    if strategy == "fsdp2":
        from sim.strategies import fsdp2

        return fsdp2.build(workload, tree, mesh, steps)
    if strategy == "fsdp1":
        from sim.strategies import fsdp1

        return fsdp1.build(workload, tree, mesh, steps, cold)
    if strategy == "ddp":
        from sim.strategies import ddp

        return ddp.build(workload, tree, mesh, steps)
    if strategy == "zero3":
        from sim.strategies import zero3

        return zero3.build(workload, tree, mesh, steps)
    from sim.strategies import zero12

    return zero12.build(workload, tree, mesh, steps)
