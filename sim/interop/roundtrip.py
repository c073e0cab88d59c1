"""What a written configuration says when it is read again: nothing may change in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sim.errors import Fault, InputError
from sim.inputs.base import Spec
from sim.inputs.foreign import format_of, source_of, translate
from sim.inputs.modelling import reduce_dtype
from sim.inputs.reader import Reader
from sim.inputs.strategy import strategy_of
from sim.inputs.trainer import reduces_each
from sim.inputs.translation import Translation
from sim.inputs.tree import Branch, Leaf, Place
from sim.inputs.workload import Workload
from sim.records import NamedTuple

#: what decides how the job is spread: a tool that cannot say it cannot run the plan
_AXES = (
    "strategy", "replicate", "context_parallel", "tensor_parallel", "pipeline_parallel",
    "expert_parallel", "offload", "sharding_strategy",
)  # fmt: skip
_ALSO = (
    "micro_batch", "gradient_accumulation", "sequence_length", "method.kind", "method.rank",
    "method.targets", "precision.kind", "precision.master", "precision.tf32",
    "optimizer", "optimizer_paged", "activation_checkpointing.kind",
)  # fmt: skip


class Lost(NamedTuple):
    """A key of a plan that a configuration does not say, or says otherwise."""

    path: str
    planned: Any
    read: Any


def read_back(texts: Mapping[str, str], workload: Workload) -> tuple[Workload, Translation]:
    """The job that written files describe; what none of them says is the plan's.

    Parameters
    ----------
    texts : mapping of file name to text
        The files of one tool, and those beside it.
    workload : Workload
        The plan.

    Raises
    ------
    InputError
        They cannot be read, or contradict each other.
    """
    faults: list[Fault] = []
    sources = [source_of(text, name, None, faults) for name, text in texts.items()]
    job = translate([s for s in sources if format_of(s) is not None])
    place = Place("plan")
    open_: dict[str, Any] = {}
    for name in ("model", "sequence_length", "micro_batch", "gradient_accumulation"):
        if job.at(name) is None:
            open_[name] = Leaf(getattr(workload, name), place)
    tree = Branch({"name": Leaf(workload.name, place), **job.tree.entries, **open_}, place)
    reader = Reader()
    read = reader.read(Workload, tree, "")
    faults += [*job.faults, *reader.faults]
    if read is None or faults:
        raise InputError(faults)
    return read, job


def lost(texts: Mapping[str, str], workload: Workload) -> tuple[list[Lost], list[Lost]]:
    """Keys that decide the plan and are said otherwise, and keys that are merely not said."""
    read, job = read_back(texts, workload)
    if strategy_of(workload).spreads_as and read.parallelism.strategy == "ddp":
        read = _alone(read, workload)
    said = {t.key for t in job.took} | {s.key for s in job.supposed}
    wrong = [*_differing(read, workload, [f"parallelism.{a}" for a in _AXES])]
    wrong += [d for d in _differing(read, workload, _ALSO) if d.path in said]
    anyway = {  # said, or what the trainer does anyway
        "parallelism.gradient_sync": reduces_each(read) == reduces_each(workload),
        "parallelism.reduce_dtype": reduce_dtype(read) == reduce_dtype(workload),
    }
    paths = [p for p in _paths(workload) if not anyway.get(p)]
    return wrong, [d for d in _differing(read, workload, paths) if d not in wrong]


def _alone(read: Workload, workload: Workload) -> Workload:
    """What files without FSDP and DeepSpeed say of one process: no trainer wraps its model."""
    own = read.parallelism.model_copy(update={"strategy": workload.parallelism.strategy})
    return read.model_copy(update={"parallelism": own})


def _paths(workload: Workload) -> list[str]:
    """Knobs of a plan that differ from their defaults."""
    found = []
    for name in ("parallelism", "method", "precision", "activation_checkpointing"):
        spec: Spec = getattr(workload, name)
        fields = type(spec).model_fields
        found += [f"{name}.{k}" for k, f in fields.items() if getattr(spec, k) != f.default]
    for key in (
        "optimizer", "optimizer_paged", "optimizer_in_backward", "attention", "compile", "loss",
        "fused_kernels",
    ):  # fmt: skip
        if getattr(workload, key) != Workload.model_fields[key].default:
            found.append(key)
    return found


def _differing(read: Workload, planned: Workload, paths: Iterable[str]) -> list[Lost]:
    rows = (Lost(path, _at(planned, path), _at(read, path)) for path in paths)
    return [row for row in rows if row.planned != row.read]


def _at(spec: Any, path: str) -> Any:
    for key in path.split("."):
        spec = getattr(spec, key)
    return spec
