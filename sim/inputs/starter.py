"""A machine and a job to begin from: shipped files with the schemas that editors complete by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.documents import SCHEMAS, Document
from sim.errors import InputError
from sim.inputs import catalogue
from sim.inputs.nearest import did_you_mean
from sim.inputs.schema import file_schema

_SOURCE = "init"
_SIDES = {"topology": "topologies", "workload": "workloads"}


@dataclass(frozen=True, slots=True)
class Starter(Document):
    """Files to edit.

    Attributes
    ----------
    machine, job : str
        The shipped ones that they are copies of.
    texts : mapping of str to str
        By file name.
    """

    schema = SCHEMAS["init"]
    machine: str
    job: str
    texts: Mapping[str, str]

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a file."""
        return [{"file": name, "lines": text.count("\n")} for name, text in self.texts.items()]


def starter(machine: str, job: str) -> Starter:
    """The files of a shipped machine and job, each with its schema.

    Raises
    ------
    InputError
        A name that is not shipped.
    """
    texts = {}
    for (side, kind), name in zip(_SIDES.items(), (machine, job), strict=True):
        path = catalogue.find(kind, name)
        if path is None:
            names = catalogue.names(kind)
            hint = did_you_mean(name, names)
            hint = hint if hint.startswith("; did") else f"; shipped are {', '.join(names)}"
            raise InputError.single(_SOURCE, f'no {side} is called "{name}"{hint}')
        text = path.read_text(encoding="utf-8")
        texts[f"{side}.yaml"] = text.replace("$schema=../schemas/", "$schema=", 1)
        texts[f"{side}.schema.json"] = file_schema(side).to_json() + "\n"
    return Starter(machine, job, texts)
