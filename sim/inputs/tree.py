"""YAML text (`sim.inputs.yaml`) and Python mappings as one kind of tree, with line and column.

Scalars stay text: what a scalar means is decided by the field it is read into, so the traps of
YAML (1e9 as text, on/off/yes/no as booleans, 010 as octal, 1:30 as sexagesimal, 2.10 as 2.1) have
nothing to bite on.
"""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError
from sim.files import hidden
from sim.records import NamedTuple, dataclass

STDIN = "<stdin>"  # as faults name it
MAX_BYTES = 4_000_000  # an explicit graph of 10,000 edges is about 1 MB
MAX_DEPTH = 24
DEEPER = f"nested deeper than {MAX_DEPTH} levels"
MAX_VALUES = 400_000  # after aliases are expanded
#: what pipes and standard input said: they say it once, and verbs ask again where they need it
_HEARD: dict[Any, bytes] = {}


class Place(NamedTuple):
    """Where something was written; lines and columns count from 1."""

    source: str
    line: int | None = None
    column: int | None = None

    @property
    def text(self) -> str:
        """``file:line:column``, as far as they are known."""
        return ":".join(str(part) for part in self if part is not None)

    def fault(self, path: str, message: str) -> Fault:
        """A fault at this place."""
        return Fault(self.source, self.line, self.column, path, message)


@dataclass(slots=True)
class Leaf:
    """A scalar: its text (`quoted` or plain), or a Python value out of a mapping."""

    value: Any
    place: Place
    quoted: bool = False


class Si(float):
    """A number out of a spec: in SI units, where a number that is written states its unit."""


@dataclass(slots=True)
class Items:
    """A list."""

    items: list[Tree]
    place: Place


@dataclass(slots=True)
class Branch:
    """A mapping; `keys` has the place of each key."""

    entries: dict[str, Tree]
    place: Place
    keys: dict[str, Place] = field(default_factory=dict)

    def with_entry(self, key: str, tree: Tree) -> Branch:
        """A copy with one entry set."""
        return Branch({**self.entries, key: tree}, self.place, {**self.keys, key: tree.place})

    def without(self, *names: str) -> Branch:
        """A copy that lacks some entries."""
        entries = {k: v for k, v in self.entries.items() if k not in names}
        return Branch(entries, self.place, self.keys)


Tree = Leaf | Items | Branch


def plain_of(tree: Tree) -> Any:
    """The mappings, lists and values of a tree, without their places."""
    if isinstance(tree, Branch):
        return {key: plain_of(value) for key, value in tree.entries.items()}
    if isinstance(tree, Items):
        return [plain_of(item) for item in tree.items]
    return tree.value


#: what opens or closes a level of JSON, and texts, in which nothing does
_LEVEL = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.S)


def too_deep(text: str, source: str) -> InputError:
    """The fault of a JSON text of more levels than Python follows, where it passes `MAX_DEPTH`."""
    depth = at = 0
    for part in _LEVEL.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(part[0], 0)
        at = part.start()
        if depth > MAX_DEPTH:
            break
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return InputError([Fault(source, line, column, "", DEEPER)])


def from_python(value: Any, source: str, path: str = "", depth: int = 0) -> Tree:
    """A tree of a Python mapping, list or scalar; specs stay whole."""
    place = Place(source)
    if depth > MAX_DEPTH:
        raise InputError([place.fault(path, DEEPER)])
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError([place.fault(path, f"the key {key!r} is not a text")])
        entries = {
            k: from_python(v, source, f"{path}.{k}" if path else k, depth + 1)
            for k, v in value.items()
        }
        return Branch(entries, place)
    if isinstance(value, (list, tuple)):
        return Items(
            [from_python(v, source, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)], place
        )
    return Leaf(value, place)


def read_file(path: Path) -> str:
    """Text of a file that a person names; every way in which it can be no text is a fault."""
    source = str(path)
    try:
        if hidden(path):
            raise FileNotFoundError
        if path.is_dir():
            raise InputError.single(source, "is a folder; name a file in it")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError.single(source, _too_large(size))
        return decode(read_once(path, MAX_BYTES + 1), source)
    except FileNotFoundError:
        raise InputError.single(source, "no such file") from None
    except OSError as error:
        raise InputError.single(source, f"cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the name
        raise InputError.single(repr(source), "is no file name") from None


def read_once(path: Path, most: int) -> bytes:
    """So many bytes of a file, device or pipe at most; a pipe is heard once, and then known.

    Raises
    ------
    OSError
        It cannot be read.
    """
    state = path.stat()
    pipe = (state.st_dev, state.st_ino) if stat.S_ISFIFO(state.st_mode) else None
    if pipe in _HEARD:
        return _HEARD[pipe]
    with path.open("rb") as stream:  # a device or pipe has no size
        data = stream.read(most)
    if pipe is not None:
        _HEARD[pipe] = data
    return data


def read_stdin() -> str:
    """Text on standard input."""
    if sys.stdin not in _HEARD:
        _HEARD[sys.stdin] = stdin_bytes(MAX_BYTES)
    return decode(_HEARD[sys.stdin], STDIN)


def stdin_bytes(limit: int) -> bytes:
    """What stands on standard input, cut off one byte after a limit."""
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:  # a text put in its place
        return sys.stdin.read(limit + 1).encode()
    data: bytes = stream.read(limit + 1)
    return data


def decode(data: bytes, source: str) -> str:
    """Bytes as text, or a fault that says what they are instead."""
    if len(data) > MAX_BYTES:
        raise InputError.single(source, _too_large(len(data)))
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError.single(source, "is UTF-16; save it as UTF-8")
    if b"\x00" in data:
        raise InputError.single(source, "is a binary file, not YAML")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        message = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise InputError([Fault(source, line, column, "", message)]) from None


def _too_large(size: int) -> str:
    return f"is larger than {MAX_BYTES / 1e6:.0f} MB ({size} bytes or more); this is no such file"
