"""Kubernetes' PyTorchJob, TrainJob and MPIJob as (a part of) a job: GPUs and the command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch, Items, Leaf, Tree
from sim.interop.trainers import launch
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import WHY_NO_MATTER, Keys
from sim.units import whole

_KINDS = ("PyTorchJob", "MPIJob", "TrainJob", "Job", "JobSet", "RayJob", "Pod")
_GPU = "nvidia.com/gpu"


def recognises(source: Source) -> bool:
    """A kind of Kubernetes' that runs containers."""
    keys = source.keys
    return {"apiVersion", "kind"} <= keys


def read(source: Source, job: Translation) -> None:
    """Read replicas, GPUs of a pod, and the arguments of its command."""
    keys = Keys.of(source, job)
    branch = keys.branch
    if keys.text("kind") not in _KINDS:
        keys.fault(f"{keys.text('kind')} is no job; {', '.join(_KINDS)} are", "kind")
        return
    nodes = 0
    for replicas in _under(branch, ("replicas", "numNodes", "numWorkers")):
        said = str(replicas.value) if isinstance(replicas, Leaf) else ""
        count = whole(said)
        if said and count is None:
            job.skip(replicas.place, "replicas", f"{said[:60]} is no count: not followed", True)
        nodes += count or 0
    found: dict[str, Leaf] = {}
    for gpus in _under(branch, (_GPU,)):
        if isinstance(gpus, Leaf) and whole(str(gpus.value)) is not None:
            found["gpus"] = Leaf(str(gpus.value), gpus.place)
    if nodes:
        found["nodes"] = Leaf(str(nodes), branch.place)
    words: list[str] = []
    for command in _under(branch, ("command", "args")):
        if isinstance(command, Items):
            words += [str(x.value) for x in command.items if isinstance(x, Leaf)]
    for entry in _under(branch, ("entrypoint",)):  # a RayJob's
        words += [str(entry.value)] if isinstance(entry, Leaf) else []
    plain = (" ".join(shlex.split(w)) if "\n" in w or " " in w else w for w in words)
    launch.arguments(" ".join(plain), source, job, found, {})
    keys.leave(WHY_NO_MATTER, branch.entries)


def _under(tree: Tree, names: tuple[str, ...], depth: int = 0) -> Iterator[Tree]:
    """Everything that stands under one of some keys, at any depth."""
    if depth > 24:
        return
    if isinstance(tree, Branch):
        for key, inner in tree.entries.items():
            if key in names:
                yield inner
            else:
                yield from _under(inner, names, depth + 1)
    elif isinstance(tree, Items):
        for inner in tree.items:
            yield from _under(inner, names, depth + 1)


FORMATS.register(TrainerFormat("kubernetes", "a Kubernetes job", recognises, read))
