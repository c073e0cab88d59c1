"""What a verb was asked about, as the command line says it; light, so that verbs start quickly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sim.records import NamedTuple

if TYPE_CHECKING:
    from sim.inputs.arguments import Argument
    from sim.result.result import Result


class Asked(NamedTuple):
    """A job on a machine that a page is about, as it was asked for."""

    topology: Argument
    workload: Argument
    overrides: Iterable[str] = ()
    result: Result | None = None  # simulated where it is not known
    label: str = ""
