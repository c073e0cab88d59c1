"""Jobs of other tools as our YAML: what was taken, assumed and left aside, key by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.documents import SCHEMAS, Document
from sim.errors import Fault, InputError
from sim.files import File
from sim.inputs.arguments import given
from sim.inputs.fields import plan_of
from sim.inputs.loader import faults_in
from sim.inputs.translation import Translation, is_default
from sim.inputs.tree import Branch, Tree, plain_of
from sim.inputs.workload import Parallelism, Workload
from sim.interop.yaml_text import dump

_KINDS = ("method", "precision", "activation_checkpointing")
_DETAILED = ("lora", "qlora", "full", "fp8", "fp4", "bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True)
class ImportedJob(Document):
    """A job put together from the files of other tools.

    Attributes
    ----------
    name : str
        Of the job: its first file's.
    titles : tuple of str
        What the files are.
    took, assumed, aside : tuples of mappings
        Keys that became ours, ours that no file says, theirs that count for nothing here
        (``matters`` where that changes the run).
    missing : tuple of str
        Keys that a workload needs and no file says.
    gpus, nodes : int, optional
        That the files start the job on.
    yaml : str
        The workload file.
    """

    schema = SCHEMAS["import"]
    name: str
    titles: tuple[str, ...]
    took: tuple[Mapping[str, Any], ...]
    assumed: tuple[Mapping[str, Any], ...]
    aside: tuple[Mapping[str, Any], ...]
    missing: tuple[str, ...]
    gpus: int | None
    nodes: int | None
    yaml: str

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a key."""
        rows = [{"what": "took", **row} for row in self.took]
        rows += [{"what": "assumed", **row} for row in self.assumed]
        return [*rows, *({"what": "ignored", **row} for row in self.aside)]


def import_job(files: Sequence[File]) -> ImportedJob:
    """Read the files of one job.

    They may stand in any order: a trainer's file, a launcher's, an adapter's.

    Raises
    ------
    InputError
        A file that is no tool's known here, values that cannot be read or that no job may have,
        two that contradict each other.
    """
    faults: list[Fault] = []
    found = given("workload", tuple(files), faults)
    job = found.translation
    if faults:
        raise InputError(faults)
    if job is None:
        keys = found.tree.entries if isinstance(found.tree, Branch) else {}
        ours = keys.keys() & plan_of(Workload).keys()
        message = (
            "is a file of scaling-sim's own: run it as it is" if ours
            else "is no file of a trainer or launcher known here; `list formats` has all"
        )  # fmt: skip
        raise InputError.single(str(files[0]), message)
    # what is missing is said below, and a model may be one that has yet to be described
    wrong = [
        fault for fault in faults_in(found)
        if fault.path.partition(".")[0] != "model" and "is missing" not in fault.message
    ]  # fmt: skip
    if wrong:
        raise InputError(wrong)
    needed = [k for k, plan in plan_of(Workload).items() if plan.required and k != "name"]
    return ImportedJob(
        name=found.name,
        titles=tuple(job.titles),
        took=tuple(
            {"place": t.place.text, "theirs": t.theirs, "value": t.value, "key": t.key,
             "ours": t.ours}
            for t in job.took
        ),
        assumed=tuple({"key": s.key, "ours": s.value, "why": s.why} for s in job.supposed),
        aside=tuple(
            {"place": a.place.text, "theirs": a.theirs, "why": a.why, "matters": a.matters}
            for a in job.aside
        ),
        missing=tuple(k for k in needed if job.at(k) is None),
        gpus=None if job.world is None else job.world[0],
        nodes=None if job.nodes is None else job.nodes[0],
        yaml=_yaml(found.name, found.tree, job),
    )  # fmt: skip


def _yaml(name: str, tree: Tree, job: Translation) -> str:
    assert isinstance(tree, Branch)
    values = {k: plain_of(v) for k, v in tree.entries.items()}
    for key in _KINDS:
        if isinstance(values.get(key), dict):
            values[key] = _short(values[key])
    if isinstance(shared := tree.entries.get("parallelism"), Branch):
        values["parallelism"] = _shared(values["parallelism"], shared)
    ordered = {k: values[k] for k in plan_of(Workload) if k in values and values[k] != {}}
    read = " and ".join(job.titles)
    return dump(ordered, f"{name}, read by scaling-sim from {read}")


def _shared(values: dict[str, Any], tree: Branch) -> dict[str, Any]:
    """How GPUs share a job, less a strategy that is ours as well and that no file names.

    Written down it would hold on one GPU too, where a job that names none is a plain loop.
    """
    named = tree.entries.get("strategy")
    ours = Parallelism.model_fields["strategy"].default
    left = named is not None and is_default(named.place) and values["strategy"] == ours
    return {k: v for k, v in values.items() if not (left and k == "strategy")}


def _short(table: dict[str, Any]) -> Any:
    """``{kind: lora, rank: 8}`` as people write it: ``{lora: {rank: 8}}``."""
    kind = table.get("kind")
    rest = {k: v for k, v in table.items() if k != "kind"}
    if kind is not None and not rest:
        return kind if kind != "selective-op" else {"selective": "op"}
    return {kind: rest} if kind in _DETAILED else table
