"""Events of a profiler's trace, read one after the other: no more of the file is held than one.

What stands beside the events and nobody needs is passed in pieces.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import TYPE_CHECKING, Any

from sim.errors import InputError
from sim.interop.evidence import TOO_EARLY, chunks, ends_too_early

if TYPE_CHECKING:
    from sim.step.variation import Progress

MAX_BYTES = 512 * 1024 * 1024  # decompressed
EVENTS = "traceEvents"
#: what is read of what stands beside the events
HEAD = ("deviceProperties", "distributedInfo", "microSteps", "pace")
NO_EVENTS = f'is no profiler trace: it has no list "{EVENTS}"'
_LONGEST = 16_000_000  # characters of an event, or of a value that is needed beside them
_PASSED = 1_000_000  # characters: what nobody needs is passed at once, or if longer, in parts
_CUT = 16  # characters: an error so near the end of what is held may be that more is to come
_EXPONENT = 2  # characters: "1e+" is read as 1, and may be a longer number
_LONGER = object()
#: as `json` says it
_NO_KEY, _EXPECTED = "Expecting property name enclosed in double quotes", "Expecting {!r}"
_MORE, _UNTERMINATED, _CONTROL = "Extra data", "Unterminated string", "Invalid control character"
_DEEP = "nested too deeply"
_ESCAPE = "Invalid \\escape"
_SOLID = re.compile(r"[^ \t\n\r]")
#: characters of a text, not too many at once: the pattern keeps a place for each part
_INSIDE = re.compile(r'(?:[^"\\\x00-\x1f]+|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})){0,1000}')
_ESCAPED = 6  # characters of the longest escape
_NEXT = re.compile(r"[ \t\n\r]*,[ \t\n\r]*(?=[^ \t\n\r])")  # the value after it has begun


def read_trace(
    path: str | PathLike[str], progress: Progress | None = None
) -> tuple[dict[str, Any], Iterator[Any]]:
    """What stands beside the events of a trace, and the events.

    Parameters
    ----------
    path : path
        ``.json`` or ``.json.gz``.
    progress : callable, optional
        As for `sim.interop.evidence.chunks`.

    Returns
    -------
    head : dict
        Of the keys `HEAD`; whole once the last event was taken.
    events : iterator
        As the file has them, which is read as they are taken.

    Raises
    ------
    InputError
        As events are taken: it is no such trace, broken or too large.
    """
    head: dict[str, Any] = {}
    source = str(path)
    return head, _events(_Pieces(chunks(path, MAX_BYTES, progress), source), head, source)


def _events(text: _Pieces, head: dict[str, Any], source: str) -> Iterator[Any]:
    begins = text.peek()
    if not begins:
        raise InputError.single(source, "is empty")
    if begins == "[":
        yield from text.items(text.value)
    elif begins == "{":
        found = False
        for key in text.members():
            if key == EVENTS:
                if found or text.peek() != "[":
                    message = f'has two lists "{EVENTS}"' if found else NO_EVENTS
                    raise InputError.single(source, message)
                found = True
                yield from text.items(text.value)
            elif key in HEAD:
                head[key] = text.value()
            else:
                text.skip()
        if not found:
            raise InputError.single(source, NO_EVENTS)
    else:
        text.skip()
        raise InputError.single(source, NO_EVENTS)
    if text.peek():
        raise text.fault(_MORE)


class _Pieces:
    """JSON that arrives in pieces, and a place in it."""

    def __init__(self, pieces: Iterable[bytes], source: str) -> None:
        self._pieces = iter(pieces)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._scan = json.JSONDecoder().raw_decode
        self._source = source
        self._held, self._at, self._ended = "", 0, False
        self._line, self._column = 1, 1  # of the first character that is held

    def peek(self) -> str:
        """The character that comes after white space, which is passed; empty at the end."""
        while True:
            found = _SOLID.search(self._held, self._at)
            if found:
                self._at = found.start()
                return found[0]
            self._at = len(self._held)
            if not self._more():
                return ""

    def value(self) -> Any:
        """The value that begins here."""
        found = self._unless_longer(_LONGEST)
        if found is _LONGER:
            message = f"a value of more than {_LONGEST / 1e6:g} million characters"
            raise InputError.single(self._source, f"{self._place(self._at)}: {message}")
        return found

    def skip(self) -> None:
        """Pass the value that begins here, whatever its length."""
        try:
            if self._unless_longer(_PASSED) is not _LONGER:
                return
            begins = self.peek()
            if begins == "[":
                for _ in self.items(self.skip):
                    pass
            elif begins == "{":
                for _ in self.members():
                    self.skip()
            elif begins == '"':
                self._skip_text()
            else:
                self.value()
        except RecursionError:
            raise self.fault(_DEEP) from None

    def _skip_text(self) -> None:
        """Pass a text without holding it whole."""
        self._at += 1
        while True:
            inside = _INSIDE.match(self._held, self._at)
            if inside and inside.end() > self._at:
                self._at = inside.end()
            elif self._held.startswith('"', self._at):
                self._at += 1
                return
            elif len(self._held) - self._at >= _ESCAPED or not self._more():
                begins = self._held[self._at : self._at + 1]
                raise self.fault({"": _UNTERMINATED, "\\": _ESCAPE}.get(begins, _CONTROL))

    def _unless_longer(self, most: int) -> Any:
        """The value that begins here, which is passed; `_LONGER`, and it is not, if it is that."""
        while True:
            try:
                found, end = self._scan(self._held, self._at)
            except json.JSONDecodeError as error:
                at, wrong = error.pos, error.msg
            except RecursionError:
                raise self.fault(_DEEP) from None
            except ValueError as error:
                raise self.fault(str(error)) from None
            else:
                if end - self._at > most:
                    return _LONGER
                if end + _EXPONENT < len(self._held) or self._ended:
                    self._at = end
                    return found
                at, wrong = end, ""
            cut = at > len(self._held) - _CUT or wrong.startswith(_UNTERMINATED)
            if cut and wrong and len(self._held) - self._at > most:
                return _LONGER
            beyond = at - self._at
            if not (cut and self._more()) and wrong:
                raise self.fault(wrong, self._at + beyond)

    def items(self, take: Callable[[], Any]) -> Iterator[Any]:
        """What is taken of each value of the list that begins here: `value` or `skip`."""
        self._take("[")
        if self.peek() == "]":
            self._take("]")
            return
        while True:
            yield take()
            following = _NEXT.match(self._held, self._at)
            if following:
                self._at = following.end()
            elif self._goes_on("]"):
                self.peek()
            else:
                return

    def members(self) -> Iterator[str]:
        """Keys of the object that begins here; the value of each is taken before the next."""
        self._take("{")
        if self.peek() == "}":
            self._take("}")
            return
        while True:
            if self.peek() != '"':
                raise self.fault(_NO_KEY)
            key: str = self.value()
            self._take(":")
            self.peek()
            yield key
            if not self._goes_on("}"):
                return

    def _goes_on(self, end: str) -> bool:
        """Whether a comma follows, which is passed, or the end."""
        if self.peek() == end:
            self._take(end)
            return False
        self._take(",")
        return True

    def _take(self, what: str) -> None:
        if self.peek() != what:
            raise self.fault(_EXPECTED.format(what))
        self._at += 1

    def _more(self) -> bool:
        """Hold as much again as is not read yet, at least a piece; whether there was more."""
        parts, wanted = [self._held[self._at :]], len(self._held) - self._at
        self._advance(self._at)
        for piece in self._pieces:
            parts.append(self._decoder.decode(piece))
            wanted -= len(parts[-1])
            if wanted < 0:
                break
        else:
            self._ended = True
            parts.append(self._decoder.decode(b"", final=True))
        self._held, self._at = "".join(parts), 0
        return len(self._held) > len(parts[0])

    def _advance(self, to: int) -> None:
        """Count the lines of what is let go."""
        lines = self._held.count("\n", 0, to)
        self._line += lines
        self._column = to - self._held.rfind("\n", 0, to) if lines else self._column + to

    def fault(self, message: str, at: int | None = None) -> InputError:
        """A fault at a character that is held, here if none is named."""
        beyond = 0 if at is None else at - self._at
        # whether the file ends here is known once nothing but white space follows
        while ends_too_early(message, self._at + beyond, self._held) and not self._ended:
            self._more()
        at = self._at + beyond
        if self._held[at : at + 1] == "\0":
            return InputError.single(self._source, "is a binary file or a device, not JSON")
        hint = TOO_EARLY if ends_too_early(message, at, self._held) else ""
        return InputError.single(self._source, f"is not JSON: {self._place(at)}: {message}{hint}")

    def _place(self, at: int) -> str:
        self._advance(at)
        return f"line {self._line}, column {self._column}"
