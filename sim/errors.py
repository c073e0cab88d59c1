"""The exceptions a caller of scaling-sim may see.

ScalingSimError
 ├── InputError        what the user wrote is wrong: a list of faults, each with its place (exit 2)
 ├── InfeasibleError   the question has no answer (exit 3)
 └── EngineError       a broken invariant inside a run (exit 1)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

# what moves the cursor, colours, rings, turns the direction of writing or is not seen at all; line
# feed and tab stay, and the joiners within emoji and words
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


#: faults that a message spells out; `InputError.faults` has all
TOLD = 40


def visible(text: str) -> str:
    r"""Text with control characters spelled out, so that no file's words command a terminal.

    >>> visible("a\x1b[31mb")
    'a\\u001b[31mb'
    """
    return _CONTROL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


#: characters that a fault repeats of what was written
_REPEATED = 200
#: a word so long is no word, nor a path; a line so long is what somebody wrote, not what we say
_WORD, _LINE = re.compile(r"\S{500,}"), re.compile(r".{2500,}")


def cut(text: str) -> str:
    """What was written, no more of it than shows which it was."""
    return text if len(text) <= _REPEATED else f"{text[:_REPEATED]}..."


def brief(message: str) -> str:
    """A message that may repeat what was written: long words are cut, and then long lines."""
    if len(message) < 500:
        return message
    return _LINE.sub(lambda m: cut(m[0]), _WORD.sub(lambda m: cut(m[0]), message))


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing wrong with an input: where, what was read, what would be right."""

    source: str
    line: int | None
    column: int | None
    path: str
    message: str

    @property
    def unknown_key(self) -> bool:
        """Whether it is that no file has a key of this name, whatever its value."""
        return self.message.startswith("unknown key")

    def __str__(self) -> str:
        place = self.source
        if self.line is not None:
            place += f":{self.line}"
            if self.column is not None:
                place += f":{self.column}"
        about = f"{cut(self.path)}: " if self.path else ""
        return visible(brief(f"{place}  {about}{self.message}"))


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
        told = [str(f) for f in self.faults[:TOLD]]
        more = len(self.faults) - len(told)
        super().__init__("\n".join([*told, *([f"and {more} more faults"] if more else [])]))

    @classmethod
    def single(cls, source: str, message: str, path: str = "") -> Self:
        """An error of one fault without a place in a file."""
        return cls([Fault(source, None, None, path, message)])


class InfeasibleError(ScalingSimError):
    """A question without an answer, such as a size search in which nothing fits."""

    exit_code = 3


class EngineError(ScalingSimError):
    """A broken invariant inside an engine; names the op and the time."""
