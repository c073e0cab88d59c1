"""Cross-checks: what no single key can tell, each with its remedy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TypeVar

from sim.inputs import check_pair, check_topology, check_workload
from sim.inputs.base import Spec
from sim.inputs.finding import Finding
from sim.inputs.gpu import Gpu
from sim.inputs.method import Method
from sim.inputs.model import LINEARS
from sim.inputs.modelling import FLASH_SINCE, modelling_of
from sim.inputs.recipes import RECIPES
from sim.inputs.shares import batch_of
from sim.inputs.topology import Topology
from sim.inputs.versions import SOFTWARE, deepspeed_of, older, oldest_for, versions
from sim.inputs.workload import Parallelism, Workload

__all__ = ["Finding", "check", "check_one", "finish", "finish_pair"]

S = TypeVar("S", bound=Spec)


def finish(spec: S) -> S:
    """Fill in what follows from other keys of the same file."""
    if isinstance(spec, Topology) and spec.node is not None and spec.node.nics is not None:
        nics = spec.node.nics
        if nics.kind == "efa" and nics.efa is None:
            nics = nics.model_copy(update={"efa": nics.efa_generation})
            return spec.model_copy(update={"node": spec.node.model_copy(update={"nics": nics})})
    if isinstance(spec, Topology) and spec.graph is not None and spec.graph.unedited():
        return finish(spec.model_copy(update={"graph": None, "gpu": None}))
    gpu = None
    if isinstance(spec, Topology) and spec.graph is not None:
        gpu = spec.gpu or (spec.node.gpu if spec.node is not None else None)
    if isinstance(spec, Topology) and spec.graph is not None and gpu is not None:
        vertices = tuple(
            v.model_copy(update={"gpu": gpu}) if v.kind == "gpu" and v.gpu is None else v
            for v in spec.graph.vertices
        )
        graph = spec.graph.model_copy(update={"vertices": vertices})
        return spec.model_copy(update={"graph": graph})
    if isinstance(spec, Workload) and (lacks := _lacking(spec)):
        targets = tuple(t for t in spec.method.targets if t not in lacks)
        return spec.model_copy(
            update={"method": spec.method.model_copy(update={"targets": targets})}
        )
    if isinstance(spec, Workload) and spec.method.kind == "freeze":
        return spec.model_copy(update={"method": _flowing(spec)})
    return spec


def _flowing(spec: Workload) -> Method:
    """A gradient reaches the embedding where a reentrant checkpoint would pass none else."""
    if spec.method.input_require_grads is not None:
        return spec.method
    policy = spec.activation_checkpointing
    asks = policy.kind != "none" and policy.reentrant
    return spec.method.model_copy(update={"input_require_grads": asks})


def _lacking(spec: Workload) -> set[str]:
    """Targets of a method that the model has no linear layer for."""
    lacks = {"gate"} if spec.model.ffn == "gelu" else set()  # two matrices, not three
    return set(spec.method.targets) & (lacks | (set(LINEARS) - set(spec.model.linears)))


#: what a job is where its file names no parallelism and the machine has one GPU
ONE_GPU = Parallelism.model_construct(strategy="single")  # validators take 40 ms to build


def finish_pair(
    topology: Topology, workload: Workload, *, given: Collection[str], whole: bool
) -> Workload:
    """Derive what depends on both files, or on several keys.

    On one GPU nothing is sharded unless the file says so, and DDP is the plain
    loop. The gradient accumulation follows from a
    global batch, where only that is written; FlashAttention has no FP32 and no GPUs before Ampere,
    PyTorch's kernels have; which fused one runs the modelling code says. Software that is left
    out is as new as the GPUs and a recipe of FP8 or FP4 need, DeepSpeed as a PyTorch that is
    written.

    Parameters
    ----------
    topology, workload : specs
        The pair.
    given : collection of str
        Keys of the workload that are written.
    whole : bool
        Whether it is a spec, which says everything.
    """
    if not whole:
        workload = _of_its_time(_as_new_as(tuple(topology.gpu_counts), workload, given), given)
    open_ = "parallelism" not in given and not whole
    if topology.world_size == 1 and (open_ or _exchanges_alone(workload.parallelism)):
        clips = workload.parallelism.clip_gradients
        one = ONE_GPU if clips else ONE_GPU.model_copy(update={"clip_gradients": False})
        workload = workload.model_copy(update={"parallelism": one})
    if workload.global_batch is None or "gradient_accumulation" in given:
        return workload
    steps, rest = batch_of(topology, workload).accumulated(workload.global_batch)
    if rest or not steps:
        return workload  # `check` says so
    return workload.model_copy(update={"gradient_accumulation": steps})


def _exchanges_alone(knobs: Parallelism) -> bool:
    """Whether a strategy keeps all on each GPU and only exchanges gradients: on one it is none."""
    return knobs.strategy == "ddp" and knobs.offload == "none"


def _as_new_as(gpus: Sequence[Gpu], workload: Workload, given: Collection[str]) -> Workload:
    """A job whose kernels and software, where nobody wrote them, are what some GPUs can run."""
    early = any(gpu.compute_capability < FLASH_SINCE for gpu in gpus)
    if "attention" not in given:
        plain = early or workload.precision.kind == "fp32"
        kernel = "sdpa" if plain else modelling_of(workload).attention
        if kernel != workload.attention:
            workload = workload.model_copy(update={"attention": kernel})
    newer: dict[str, str] = {}
    recipe = RECIPES.get(workload.precision.recipe)
    asked = [versions()["feature"][recipe.feature]] if recipe else []
    for minima in (*map(oldest_for, gpus), *asked):
        for software in SOFTWARE:
            have = newer.get(software) or getattr(workload.stack, software)
            need = minima.get(software)
            if need is not None and f"stack.{software}" not in given and older(have, need):
                newer[software] = need
    if not newer:
        return workload
    return workload.model_copy(update={"stack": workload.stack.model_copy(update=newer)})


def _of_its_time(workload: Workload, given: Collection[str]) -> Workload:
    """A job whose DeepSpeed, where only PyTorch's release is written, is one that ran beside it."""
    knobs = workload.parallelism
    if not knobs.strategy.startswith("zero") or "parallelism.deepspeed_version" in given:
        return workload
    release = deepspeed_of(workload.stack.torch) if "stack.torch" in given else None
    if release is None:
        return workload
    knobs = knobs.model_copy(update={"deepspeed_version": release})
    return workload.model_copy(update={"parallelism": knobs})


def check(topology: Topology, workload: Workload) -> tuple[Finding, ...]:
    """Every finding about a pair; the pair's own only where both halves are sound."""
    alone = (*_of_machine(topology), *_of_job(workload))
    if any(f.error for f in alone):
        return alone
    return (*alone, *check_pair.findings(topology, workload))


def goes(topology: Topology, workload: Workload) -> bool:
    """Whether a machine takes a job that is sound by itself."""
    if any(f.error for f in _of_machine(topology)):
        return False
    return not any(f.error for f in check_pair.findings(topology, workload))


@lru_cache(maxsize=256)
def _of_machine(topology: Topology) -> tuple[Finding, ...]:
    return tuple(check_topology.findings(topology))


@lru_cache(maxsize=512)
def _of_job(workload: Workload) -> tuple[Finding, ...]:
    return tuple(check_workload.findings(workload))


def check_one(spec: Spec) -> tuple[Finding, ...]:
    """Every finding about one side alone."""
    if isinstance(spec, Topology):
        return _of_machine(spec)
    if isinstance(spec, Workload):
        return _of_job(spec)
    return ()
