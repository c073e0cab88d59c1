"""One change worth trying, and how one is made of a job."""

from __future__ import annotations

from typing import Any, Literal

from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.records import dataclass

Aim = Literal["faster", "smaller", "both"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change, and the job with it.

    Attributes
    ----------
    settings : dict
        As for ``--set``.
    text : str
        In words; with `settings`' keys it names the change.
    topology, workload : specs
        With it.
    aim : str
        ``faster`` in time, ``smaller`` in memory, or ``both``.
    shortens : str
        The part of a step that it is after: ``loss`` or ``waits`` (exposed communication and what
        kernels lose beside it); "" where it is the whole.
    changes_training : bool
        Another method or precision: the trained model will differ.
    """

    settings: dict[str, Any]
    text: str
    topology: Topology
    workload: Workload
    aim: Aim
    shortens: str = ""
    changes_training: bool = False

    @property
    def name(self) -> tuple[Any, ...]:
        """What it is, whatever job it is made to."""
        return (*self.settings, self.text)


class Maker:
    """Makes changes of a job: keys of the workload, of its parallelism."""

    def __init__(self, topology: Topology, workload: Workload) -> None:
        self.topology, self.workload = topology, workload

    def job(self, aim: Aim, text: str, shortens: str = "", **update: Any) -> Change:
        """Keys of the workload, each set to a value that a file could have."""
        job = self.workload.model_copy(update=update)
        return Change(update, text, self.topology, job, aim, shortens)

    def parallel(self, aim: Aim, text: str, shortens: str = "", **update: Any) -> Change:
        """Keys of its `parallelism`, likewise."""
        p = self.workload.parallelism.model_copy(update=update)
        job = self.workload.model_copy(update={"parallelism": p})
        settings = {f"parallelism.{key}": value for key, value in update.items()}
        return Change(settings, text, self.topology, job, aim, shortens)

    def spelt(
        self,
        aim: Aim,
        settings: dict[str, Any],
        text: str,
        *,
        shortens: str = "",
        trains: bool = False,
        **update: Any,
    ) -> Change:
        """A change whose specs are written otherwise than its settings."""
        job = self.workload.model_copy(update=update)
        return Change(settings, text, self.topology, job, aim, shortens, changes_training=trains)
