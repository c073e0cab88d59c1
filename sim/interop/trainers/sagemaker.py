"""Estimators of SageMaker: a script's arguments, and the machines that it is started on."""

from __future__ import annotations

from collections.abc import Iterator

from sim.inputs.python_calls import calls_of
from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch
from sim.interop.trainers import huggingface, script_calls
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import Keys

_MARKS = frozenset({"hyperparameters", "instance_type"})


def recognises(source: Source) -> bool:
    """A call with a script's arguments and a kind of machine."""
    return any(True for _ in _estimators(source))


def read(source: Source, job: Translation) -> None:
    """Read the arguments as those of the script."""
    call = next(_estimators(source))
    outer = Keys(job, call)
    nodes = outer.count("instance_count")
    if nodes:
        job.nodes = (nodes, outer.place("instance_count"))
    given = outer.tree("hyperparameters")
    branch = given if isinstance(given, Branch) else Branch({}, call.place)
    keys = Keys(job, branch)
    script_calls.tell_unknown(keys)
    huggingface.arguments(Source(source.path, source.name, "", branch), keys)
    keys.rest("SageMaker's")
    why = f"{outer.text('instance_type')}: the machine is named beside the job (`list topologies`)"
    job.skip(outer.place("instance_type"), "instance_type", why)


def _estimators(source: Source) -> Iterator[Branch]:
    return (call for _, call in calls_of(source.branch) if call.entries.keys() >= _MARKS)


FORMATS.register(TrainerFormat("sagemaker", "an estimator of SageMaker", recognises, read))
