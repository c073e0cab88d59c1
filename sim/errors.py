"""The exceptions a caller of scaling-sim may see.

ScalingSimError
 ├── InputError        what the user wrote is wrong: a list of faults, each with its place (exit 2)
 ├── InfeasibleError   the question has no answer (exit 3)
 └── EngineError       a broken invariant inside a run (exit 1)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing wrong with an input: where, what was read, what would be right."""

    source: str
    line: int | None
    column: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = self.source
        if self.line is not None:
            place += f":{self.line}"
            if self.column is not None:
                place += f":{self.column}"
        return f"{place}  {self.path}: {self.message}" if self.path else f"{place}  {self.message}"


class ScalingSimError(Exception):
    """Base of every error that scaling-sim raises on purpose."""

    exit_code = 1


class InputError(ScalingSimError):
    """Bad input: every fault found, in file order.

    Parameters
    ----------
    faults : iterable of Fault
        At least one.
    """

    exit_code = 2

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(faults, key=lambda f: (f.source, f.line or 0, f.column or 0)))
        super().__init__("\n".join(str(f) for f in self.faults))

    @classmethod
    def single(cls, source: str, message: str, path: str = "") -> InputError:
        """An error of one fault without a place in a file."""
        return cls([Fault(source, None, None, path, message)])


class InfeasibleError(ScalingSimError):
    """A question without an answer, such as a size search in which nothing fits."""

    exit_code = 3


class EngineError(ScalingSimError):
    """A broken invariant inside an engine; names the op and the time."""
