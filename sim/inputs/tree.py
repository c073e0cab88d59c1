"""YAML text and Python mappings as one kind of tree that remembers line and column.

Scalars stay text: what a scalar means is decided by the field it is read into, so the traps of
YAML (1e9 as text, on/off/yes/no as booleans, 010 as octal, 1:30 as sexagesimal, 2.10 as 2.1) have
nothing to bite on.  The text is read as parser events, without recursion, so depth is harmless.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, NamedTuple

from sim.errors import Fault, InputError
from sim.files import hidden
from sim.records import dataclass

MAX_BYTES = 4_000_000  # an explicit graph of 10,000 edges is about 1 MB
MAX_DEPTH = 24
MAX_VALUES = 400_000  # after aliases are expanded


class Place(NamedTuple):
    """Where something was written; lines and columns count from 1."""

    source: str
    line: int | None = None
    column: int | None = None

    def fault(self, path: str, message: str) -> Fault:
        """A fault at this place."""
        return Fault(self.source, self.line, self.column, path, message)


@dataclass(slots=True)
class Leaf:
    """A scalar: its text (`quoted` or plain), or a Python value out of a mapping."""

    value: Any
    place: Place
    quoted: bool = False


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


def from_python(value: Any, source: str, path: str = "", depth: int = 0) -> Tree:
    """A tree of a Python mapping, list or scalar; specs stay whole."""
    place = Place(source)
    if depth > MAX_DEPTH:
        raise InputError([place.fault(path, f"nested deeper than {MAX_DEPTH} levels")])
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
            raise InputError.single(source, "is a folder; name the YAML file in it")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError.single(source, _too_large(size))
        with path.open("rb") as stream:  # a device or pipe has no size: read one byte too many
            return decode(stream.read(MAX_BYTES + 1), source)
    except FileNotFoundError:
        raise InputError.single(source, "no such file") from None
    except OSError as error:
        raise InputError.single(source, f"cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the name
        raise InputError.single(repr(source), "is no file name") from None


def read_stdin() -> str:
    """Text on standard input."""
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        return sys.stdin.read(MAX_BYTES + 1)
    return decode(stream.read(MAX_BYTES + 1), "<stdin>")


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


def from_yaml(text: str, source: str, faults: list[Fault] | None = None) -> Tree:
    """The tree of one YAML document.

    Parameters
    ----------
    text : str
        The document.
    source : str
        What to call it in faults.
    faults : list, optional
        Takes the faults that leave a tree to go on with: duplicate keys, tags, merge keys, aliases
        of nothing.  Without it these are raised too.

    Raises
    ------
    InputError
        Broken syntax, nothing in it, too deep, too many values.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    builder = _Builder(source)
    fatal = False
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        problem = " ".join(str(p) for p in (error.context, error.problem) if p)
        builder.faults.append(Fault(source, line, column, "", f"not YAML: {problem}"))
        fatal = True
    except YAMLError as error:
        first = str(error).splitlines()[0]
        builder.faults.append(Fault(source, None, None, "", f"not YAML: {first}"))
        fatal = True
    except (ValueError, OverflowError, RecursionError) as error:
        builder.faults.append(Fault(source, None, None, "", f"not YAML: {error}"))
        fatal = True
    if builder.faults and (fatal or faults is None):
        raise InputError(builder.faults)
    if builder.root is None or (
        isinstance(builder.root, Leaf) and builder.root.value in ("", "~", "null")
    ):
        raise InputError([*builder.faults, Fault(source, None, None, "", "is empty")])
    if faults is not None:
        faults.extend(builder.faults)
    return builder.root


class _Builder:
    """Puts a stream of parser events together, with a stack of its own."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.faults: list[Fault] = []
        self.root: Tree | None = None
        self.stack: list[Branch | Items] = []
        self.pending: list[str | None] = []  # per open table: the key whose value comes next
        self.anchors: dict[str, Tree] = {}
        self.sizes: dict[str, int] = {}
        self.counts: list[int] = []  # values below each open collection
        # anchors of open collections; set when these close, so that none can hold itself
        self.open_anchors: list[tuple[int, str]] = []
        self.documents = 0

    def place(self, event: Any) -> Place:
        mark = event.start_mark
        return Place(self.source, mark.line + 1, mark.column + 1)

    def path(self) -> str:
        parts = [str(p) for p in self.pending if p is not None]
        return ".".join(parts)

    def fault(self, place: Place, message: str, path: str = "") -> None:
        self.faults.append(place.fault(path, message))

    def take(self, event: Any) -> None:
        """Take the next event."""
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            self.documents += 1
            if self.documents == 2:
                self.fault(self.place(event), "a second document; one file has one document")
        elif self.documents > 1 or kind in (
            "StreamStartEvent",
            "StreamEndEvent",
            "DocumentEndEvent",
        ):
            return
        elif kind == "ScalarEvent":
            self.scalar(event)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self.open(event, kind == "MappingStartEvent")
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self.close()
        elif kind == "AliasEvent":
            self.alias(event)

    def check_tag(self, event: Any, place: Place) -> None:
        tag = getattr(event, "tag", None) or getattr(event, "ctag", None)
        if tag and str(tag) not in ("!", "None"):
            self.fault(place, f"the tag {tag} is not read here; remove it", self.path())

    def scalar(self, event: Any) -> None:
        place = self.place(event)
        self.check_tag(event, place)
        leaf = Leaf(event.value, place, quoted=not (event.style is None or event.style == ""))
        if self.stack and isinstance(self.stack[-1], Branch) and self.pending[-1] is None:
            self.key(leaf)
        else:
            self.put(leaf, event.anchor, 1)

    def key(self, leaf: Leaf) -> None:
        table, name = self.stack[-1], str(leaf.value)
        assert isinstance(table, Branch)
        self.pending[-1] = name
        if name == "<<" and not leaf.quoted:
            self.fault(leaf.place, "merge keys (<<) are not read; write the keys out", self.path())
        if name in table.keys:
            first = table.keys[name]
            self.fault(leaf.place, f"written twice; first in line {first.line}", self.path())
        table.keys.setdefault(name, leaf.place)

    def open(self, event: Any, mapping: bool) -> None:
        place = self.place(event)
        self.check_tag(event, place)
        if self.stack and isinstance(self.stack[-1], Branch) and self.pending[-1] is None:
            self.pending[-1] = "?"
            self.fault(place, "a key must be a text, not a list or mapping")
        if len(self.stack) >= MAX_DEPTH:
            self.fault(place, f"nested deeper than {MAX_DEPTH} levels")
            raise InputError(self.faults)
        new: Branch | Items = Branch({}, place) if mapping else Items([], place)
        if event.anchor:
            self.anchors.pop(event.anchor, None)
            self.sizes[event.anchor] = 0
        self.stack.append(new)
        self.pending.append(None)
        self.counts.append(1)
        if event.anchor:
            self.open_anchors.append((len(self.stack), event.anchor))

    def close(self) -> None:
        depth = len(self.stack)
        tree = self.stack.pop()
        self.pending.pop()
        size = self.counts.pop()
        anchor = None
        if self.open_anchors and self.open_anchors[-1][0] == depth:
            anchor = self.open_anchors.pop()[1]
        self.put(tree, anchor, size)

    def alias(self, event: Any) -> None:
        place = self.place(event)
        known = self.anchors.get(event.anchor)
        if self.stack and isinstance(self.stack[-1], Branch) and self.pending[-1] is None:
            self.pending[-1] = "?"
            self.fault(place, "an alias can be no key")
        elif known is None:
            self.fault(
                place, f"the alias *{event.anchor} stands for nothing before it", self.path()
            )
            self.put(Leaf(None, place), None, 1)
        else:
            self.put(known, None, self.sizes[event.anchor])

    def put(self, tree: Tree, anchor: str | None, size: int) -> None:
        """A finished value goes to the collection it stands in."""
        if anchor:
            self.anchors[anchor] = tree
            self.sizes[anchor] = size
        if not self.stack:
            self.root = tree
            return
        self.counts[-1] += size
        if self.counts[-1] > MAX_VALUES:
            self.fault(self.stack[-1].place, f"aliases expand to more than {MAX_VALUES} values")
            raise InputError(self.faults)
        parent = self.stack[-1]
        if isinstance(parent, Branch):
            name = self.pending[-1]
            assert name is not None
            parent.entries.setdefault(name, tree)
            self.pending[-1] = None
        else:
            parent.items.append(tree)
