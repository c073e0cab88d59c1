"""What a written configuration says when it is read again: nothing may change in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sim.errors import Fault, InputError
from sim.inputs.base import Spec
from sim.inputs.check_optimizer import PROJECTED
from sim.inputs.checks import check, finish
from sim.inputs.dtypes import reduce_dtype
from sim.inputs.foreign import format_of, source_of, translate
from sim.inputs.method import OF_FREEZE
from sim.inputs.modelling import experts, modelling_name
from sim.inputs.reader import Reader
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.trainer import reduces_each
from sim.inputs.translation import Translation
from sim.inputs.tree import Branch, Leaf, Place
from sim.inputs.versions import SOFTWARE
from sim.inputs.workload import Workload
from sim.interop.trainers.linears import adapted
from sim.records import NamedTuple

#: what decides how the job is spread: a tool that cannot say it cannot run the plan
_AXES = (
    "strategy", "replicate", "context_parallel", "tensor_parallel", "pipeline_parallel",
    "expert_parallel", "offload", "sharding_strategy",
)  # fmt: skip
_ALSO = (
    "micro_batch", "gradient_accumulation", "sequence_length", "method.kind", "method.rank",
    "method.targets", "precision.kind", "precision.recipe", "precision.master", "precision.tf32",
    "optimizer", "optimizer_paged", "activation_checkpointing.kind", "experts", "data.packing",
)  # fmt: skip
#: keys that are no trainer's to say: names, how long a job is and how its rows are counted, its
#: data set, the software that runs it and whose loop that is, what is saved and evaluated
_APART = frozenset((
    "name", "model", "sources", "global_batch", "tokens", "steps", "samples", "epochs", "deadline",
    "data.mean_length", "data.sequence_lengths", "data.bytes_per_token",
    "data.preprocess_tokens_per_s_per_worker", "routing", "stack", "trainer", "checkpoint",
    "evaluation", "phases",
))  # fmt: skip
#: keys that may be left open, and what a job then runs
_RESOLVED: dict[str, Callable[[Workload], object]] = {
    "parallelism.gradient_sync": lambda w: "every" if reduces_each(w) else "last",
    "parallelism.reduce_dtype": reduce_dtype,
    "parallelism.sequence_parallel": lambda w: (
        w.parallelism.tensor_parallel > 1 and w.parallelism.sequence_parallel
    ),
    "modelling": modelling_name,
    "experts": experts,
    "method.targets": adapted,
}


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
    read, job = _as_run(texts, workload)
    said = {t.key for t in job.took} | {s.key for s in job.supposed}
    known = {key for a in job.aside for keys in a.answers for key in keys}  # said, not followed
    wrong = [*_differing(read, workload, [*(f"parallelism.{a}" for a in _AXES), "reference"])]
    if workload.reference != "none":
        wrong += _differing(read, workload, ["reference_passes"])
    if workload.optimizer in PROJECTED:
        wrong += _differing(read, workload, ["optimizer_rank"])
    if workload.method.kind == "freeze":
        paths = [f"method.{key}" for key in ("kind", *OF_FREEZE)]
        wrong += _differing(read, workload, paths)
    if any(workload.precision.bf16_ends):
        wrong += _differing(read, workload, ["precision.bf16_first", "precision.bf16_last"])
    also = _differing(read, workload, _ALSO)
    wrong += [d for d in also if d.path in said - known and d not in wrong]
    unsaid = [p for p in _paths(workload) if p not in known]
    return wrong, [d for d in _differing(read, workload, unsaid) if d not in wrong]


def unsound(topology: Topology, texts: Mapping[str, str], workload: Workload) -> list[str]:
    """Why a machine would not take the job that written files describe."""
    read, _ = _as_run(texts, workload)
    return [finding.told for finding in check(topology, finish(read)) if finding.error]


def _as_run(texts: Mapping[str, str], workload: Workload) -> tuple[Workload, Translation]:
    """`read_back` on the plan's software; one process wraps nothing without FSDP and DeepSpeed."""
    read, job = read_back(texts, workload)
    if strategy_of(workload).spreads_as and read.parallelism.strategy == "ddp":
        own = read.parallelism.model_copy(update={"strategy": workload.parallelism.strategy})
        read = read.model_copy(update={"parallelism": own})
    versions = {software: getattr(workload.stack, software) for software in SOFTWARE}
    return read.model_copy(update={"stack": read.stack.model_copy(update=versions)}), job


def _paths(spec: Spec, before: str = "") -> Iterator[str]:
    """Knobs of a plan, its defaults among them: a tool's may be others; what is open is no plan."""
    for key in type(spec).model_fields:
        path, value = f"{before}{key}", getattr(spec, key)
        if path in _APART:
            continue
        if isinstance(value, Spec):
            yield from _paths(value, f"{path}.")
        elif value is not None or path in _RESOLVED:
            yield path


def _differing(read: Workload, planned: Workload, paths: Iterable[str]) -> list[Lost]:
    rows = (Lost(path, _at(planned, path), _at(read, path)) for path in paths)
    return [row for row in rows if row.planned != row.read]


def _at(workload: Workload, path: str) -> Any:
    if path in _RESOLVED:
        return _RESOLVED[path](workload)
    found: Any = workload
    for key in path.split("."):
        found = None if found is None else getattr(found, key)
    return found
