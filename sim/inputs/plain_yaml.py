"""The plain part of YAML, which nearly all files keep to, read in a hundredth of a parser's time.

Block mappings and lists, indented by spaces; values on one line: plain, in quotes without escapes,
or in brackets. What is not sure to be that, wrong files too, is left to the parser: every text that
is read here has the very tree that it would give (`tests/unit/test_plain_yaml.py`).
"""

from __future__ import annotations

import re

from sim.errors import InputError
from sim.inputs.tree import MAX_VALUES, Branch, Items, Leaf, Place, Tree
from sim.records import NamedTuple

_MOST_DEPTH = 12  # far from where the parser's own limit would tell
# listed by what is in it: of a class by what is not `re` goes through all 65,536, 5 ms
_NOT_PLAIN = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff\U00010000-\U0010ffff]"
)
_KEY = r"[A-Za-z_][\w./-]{0,100}"
_ENTRY = re.compile(rf"({_KEY}):(?: +|$)", re.ASCII)
# the first character is no indicator of YAML's
_BLOCK_SCALAR = re.compile(r"(?:[A-Za-z0-9_./+~(<=$^\\;]|-(?=[^ \n]))[^\n]*")
_FLOW_SCALAR = re.compile(r"(?:[A-Za-z0-9_./+~(]|-(?=[\w.]))[^,\[\]{}:#\"'\n]*")
_FLOW_KEY = re.compile(rf"({_KEY}): +", re.ASCII)
_QUOTED = re.compile(r"\"([^\"\\\n]*)\"|'([^'\n]*)'")
_REST = re.compile(r" *(?: #.*)?$")


class _Line(NamedTuple):
    number: int
    indent: int
    text: str  # whole


class _NotPlain(Exception):
    """Something that the parser has to see."""


def read_plain(text: str, source: str) -> Tree | None:
    """The tree of a text that keeps to the plain part of YAML.

    Parameters
    ----------
    source : str
        What to call it in faults.

    Returns
    -------
    Tree or None
        None for any other text.

    Raises
    ------
    InputError
        More than `MAX_VALUES` values.
    """
    if _NOT_PLAIN.search(text):
        return None
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.lstrip(" ")
        if bare and not bare.startswith("#"):
            lines.append(_Line(number, len(line) - len(bare), line))
    if not lines:
        return None
    try:
        reader, first = _PlainReader(lines, source), lines[0]
        if first.text[first.indent] in "[{":  # as values of settings are written
            root = reader.value(first, first.indent, -1, 0)
        else:
            root = reader.block(first.indent, 0)
    except _NotPlain:
        return None
    return root if reader.at == len(lines) else None


class _PlainReader:
    def __init__(self, lines: list[_Line], source: str) -> None:
        self.lines, self.source = lines, source
        self.at = 0
        self.values = 0  # so far

    def place(self, line: _Line, at: int) -> Place:
        """Where the next value begins, counted."""
        place = Place(self.source, line.number, at + 1)
        self.values += 1
        if self.values > MAX_VALUES:
            raise InputError([place.fault("", f"more than {MAX_VALUES:,} values in one file")])
        return place

    def next_indent(self) -> int:
        return self.lines[self.at].indent if self.at < len(self.lines) else -1

    def block(self, indent: int, depth: int) -> Tree:
        """The mapping or list whose first line is next."""
        if depth > _MOST_DEPTH:
            raise _NotPlain
        line = self.lines[self.at]
        if line.text.startswith("- ", indent):
            return self.items(indent, depth)
        return self.mapping(indent, depth)

    def mapping(self, indent: int, depth: int) -> Branch:
        first = self.lines[self.at]
        found = Branch({}, Place(self.source, first.number, indent + 1))
        while self.next_indent() == indent:
            line = self.lines[self.at]
            entry = _ENTRY.match(line.text, indent)
            if entry is None or entry[1] in found.keys:
                raise _NotPlain
            found.keys[entry[1]] = Place(self.source, line.number, indent + 1)
            found.entries[entry[1]] = self.value(line, entry.end(), indent, depth)
        if self.next_indent() > indent:
            raise _NotPlain
        return found

    def items(self, indent: int, depth: int) -> Items:
        first = self.lines[self.at]
        found = Items([], Place(self.source, first.number, indent + 1))
        while self.next_indent() == indent:
            line = self.lines[self.at]
            if not line.text.startswith("- ", indent):
                break
            inner = _past_gap(line.text, indent + 1)
            if _ENTRY.match(line.text, inner):  # a mapping that begins behind the dash
                self.lines[self.at] = line._replace(indent=inner)
                found.items.append(self.mapping(inner, depth + 1))
            elif line.text.startswith("- ", inner):
                raise _NotPlain
            else:
                found.items.append(self.value(line, inner, indent, depth))
        if self.next_indent() > indent:
            raise _NotPlain
        return found

    def value(self, line: _Line, at: int, indent: int, depth: int) -> Tree:
        """What stands behind a key or dash, or below it; goes on to the line after it."""
        text = line.text
        self.at += 1
        if at >= len(text) or text.startswith("#", at):
            return self.below(line, indent, depth)
        if self.next_indent() > indent:
            raise _NotPlain  # more of this value, or nothing that may stand here
        place = self.place(line, at)
        quoted = _QUOTED.match(text, at)
        if quoted:
            tree: Tree = Leaf(quoted[1] if quoted[2] is None else quoted[2], place, True)
            at = quoted.end()
        elif text[at] in "[{":
            tree, at = self.flow(line, at, depth + 1)
        else:
            scalar = _BLOCK_SCALAR.match(text, at)
            if scalar is None:
                raise _NotPlain
            plain = scalar[0].partition(" #")[0].rstrip(" ")
            if ": " in plain or plain.endswith(":"):
                raise _NotPlain
            tree, at = Leaf(plain, place), at + len(plain)
        if not _REST.match(text, at):
            raise _NotPlain
        return tree

    def below(self, line: _Line, indent: int, depth: int) -> Tree:
        """The block below a key."""
        if not _ENTRY.match(line.text, indent):
            raise _NotPlain  # a dash with nothing behind it
        following = self.next_indent()
        if following > indent:
            return self.block(following, depth + 1)
        if following == indent and self.lines[self.at].text.startswith("- ", indent):
            return self.items(indent, depth + 1)
        raise _NotPlain  # nothing: where that is, the parser says

    def flow(self, line: _Line, at: int, depth: int) -> tuple[Tree, int]:
        """What stands in brackets, and where the text goes on."""
        text, place = line.text, Place(self.source, line.number, at + 1)
        mapping = text[at] == "{"
        close = "}" if mapping else "]"
        found: Branch | Items = Branch({}, place) if mapping else Items([], place)
        if depth > _MOST_DEPTH:
            raise _NotPlain
        at = _past_gap(text, at + 1)
        if text.startswith(close, at):
            return found, at + 1
        while True:
            if isinstance(found, Branch):
                entry = _FLOW_KEY.match(text, at)
                if entry is None or entry[1] in found.keys:
                    raise _NotPlain
                found.keys[entry[1]] = Place(self.source, line.number, at + 1)
                tree, at = self.inner(line, entry.end(), depth)
                found.entries[entry[1]] = tree
            else:
                tree, at = self.inner(line, at, depth)
                found.items.append(tree)
            at = _past_gap(text, at)
            if text.startswith(close, at):
                return found, at + 1
            if not text.startswith(", ", at):
                raise _NotPlain
            at = _past_gap(text, at + 1)

    def inner(self, line: _Line, at: int, depth: int) -> tuple[Tree, int]:
        """A value in brackets."""
        text, place = line.text, self.place(line, at)
        if text.startswith(("[", "{"), at):
            return self.flow(line, at, depth + 1)
        quoted = _QUOTED.match(text, at)
        if quoted:
            return Leaf(quoted[1] if quoted[2] is None else quoted[2], place, True), quoted.end()
        scalar = _FLOW_SCALAR.match(text, at)
        if scalar is None:
            raise _NotPlain
        plain = scalar[0].rstrip(" ")
        return Leaf(plain, place), at + len(plain)


def _past_gap(text: str, at: int) -> int:
    while text.startswith(" ", at):
        at += 1
    return at
