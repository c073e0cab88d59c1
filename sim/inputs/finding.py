"""What a cross-check finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from sim.errors import Fault
from sim.inputs.notes import Message
from sim.records import NamedTuple

Side = Literal["topology", "workload"]


class Finding(NamedTuple):
    """An error or a warning about a key of one side."""

    error: bool
    code: str
    side: Side
    path: str
    message: str
    hint: str = ""

    @property
    def text(self) -> str:
        """The message with its remedy."""
        return f"{self.message}; {self.hint}" if self.hint else self.message

    @property
    def told(self) -> str:
        """The message with its remedy, and the code that `explain` takes."""
        return f"{self.text} [{self.code}]"

    def at(self, source: str) -> Fault:
        """The finding as a fault of a file whose lines are not known."""
        return Fault(source, None, None, self.path, self.told)

    def notice(self) -> Message:
        """The finding as a warning of the result."""
        return Message(self.code, f"{self.side}.{self.path}", self.message, self.hint)


Findings = Iterator[Finding]


def fault(code: str, side: Side, path: str, message: str, hint: str = "") -> Finding:
    """An error."""
    return Finding(True, code, side, path, message, hint)


def warning(code: str, side: Side, path: str, message: str, hint: str = "") -> Finding:
    """A warning."""
    return Finding(False, code, side, path, message, hint)
