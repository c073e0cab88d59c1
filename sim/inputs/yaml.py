"""YAML text as a tree that remembers line and column.

Plain texts are read by `sim.inputs.plain_yaml`, all others as a parser's events, without recursion,
so depth is harmless.
"""

from __future__ import annotations

from typing import Any

from sim.errors import Fault, InputError
from sim.inputs.plain_yaml import read_plain
from sim.inputs.tree import DEEPER, MAX_DEPTH, MAX_VALUES, Branch, Items, Leaf, Place, Tree

_MOST_FAULTS = 100  # of one text; more than are told, and whoever mends them reads it again
#: that the parser reads, at 20 us each: an explicit graph of 25,000 edges in JSON
_MOST_EVENTS = 250_000


def from_yaml(text: str, source: str, faults: list[Fault] | None = None) -> Tree:
    """The tree of one YAML document.

    Parameters
    ----------
    source : str
        What to call it in faults.
    faults : list, optional
        Takes the faults that leave a tree to go on with: duplicate keys, tags, merge keys, aliases
        of nothing.  Without it these are raised too.

    Raises
    ------
    InputError
        Broken syntax, nothing in it, too deep, too many values, too much beyond plain YAML.
    """
    plain = read_plain(text, source)
    if plain is not None:
        return plain
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
        self.events = 0

    def place(self, event: Any) -> Place:
        mark = event.start_mark
        return Place(self.source, mark.line + 1, mark.column + 1)

    def path(self) -> str:
        parts = [str(p) for p in self.pending if p is not None]
        return ".".join(parts)

    def fault(self, place: Place, message: str, path: str = "") -> None:
        self.faults.append(place.fault(path, message))
        if len(self.faults) == _MOST_FAULTS:
            message = f"has {_MOST_FAULTS} faults up to line {place.line}; it is not read further"
            raise InputError([*self.faults, Fault(self.source, None, None, "", message)])

    def take(self, event: Any) -> None:
        """Take the next event."""
        self.events += 1
        if self.events > _MOST_EVENTS:
            message = (
                f"this is value, key or bracket {_MOST_EVENTS:,}, and so many are read of plain"
                " YAML alone: every entry on a line of its own, without anchors, tags, escapes,"
                " a key written twice or a value over several lines"
            )
            raise InputError([*self.faults, self.place(event).fault("", message)])
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
            self.fault(place, DEEPER)
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
