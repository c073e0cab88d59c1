"""A job that other tools' files describe: what was taken from them, assumed, and left aside.

A format (`sim.interop.trainers`) reads a `Source` key by key and puts what it finds into a
`Translation`, which is a tree of our own keys. Every value keeps the place where it was written, so
that a fault names the line of the trainer's file.
"""

from __future__ import annotations

import re
from dataclasses import field
from pathlib import Path
from typing import Any, NamedTuple

from sim.errors import Fault
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree
from sim.records import dataclass

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0", "none"})
_NOTHING = frozenset({"", "~", "null"})
AUTO = "auto"


class Took(NamedTuple):
    """A key of theirs that became one of ours."""

    place: Place
    theirs: str
    value: str
    key: str
    ours: str


class Supposed(NamedTuple):
    """A key of ours that no file says, what it took, and why."""

    key: str
    value: str
    why: str


class Aside(NamedTuple):
    """A key of theirs that changes nothing here (or, where it `matters`, cannot be followed)."""

    place: Place
    theirs: str
    why: str
    matters: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One file: where it stands, its text, and its tree if it is a mapping."""

    path: Path | None
    name: str
    text: str
    tree: Tree | None

    @property
    def keys(self) -> frozenset[str]:
        """Its top-level keys."""
        return frozenset(self.tree.entries) if isinstance(self.tree, Branch) else frozenset()


@dataclass(slots=True)
class Translation:
    """A job put together from one or several files of other tools.

    Attributes
    ----------
    files : frozenset of str
        Names of the files, folders left out: what one of them names is not looked for again.
    titles : list of str
        What the files are: "an axolotl file".
    tree : Branch
        Our keys.
    took, supposed, aside : lists
        What became of each key.
    faults : list of Fault
        What cannot be read, and where two files contradict each other.
    loads_bf16 : str
        Why weights are loaded in bf16, and so trained in it where no strategy keeps fp32 copies.
    world, nodes : tuple of int and Place, optional
        GPUs in all, and machines, where a file says so.
    """

    tree: Branch
    files: frozenset[str] = frozenset()
    titles: list[str] = field(default_factory=list)
    took: list[Took] = field(default_factory=list)
    supposed: list[Supposed] = field(default_factory=list)
    aside: list[Aside] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    loads_bf16: str = ""
    world: tuple[int, Place] | None = None
    nodes: tuple[int, Place] | None = None
    gpus_per_node: tuple[int, Place] | None = None

    def take(self, key: str, value: Any, place: Place, theirs: str, written: str = "") -> None:
        """Put a value under a key of ours; a second file that says otherwise is a fault.

        Parameters
        ----------
        key : str
            Dotted: ``parallelism.offload``.
        value : Tree or scalar
            As our YAML would have it.
        place : Place
            Where it was written.
        theirs, written : str
            Their key, and its value as written.
        """
        tree = value if isinstance(value, Branch | Items | Leaf) else Leaf(value, place)
        before = self.at(key)
        if before is not None and _plain(before) != _plain(tree):
            if before.place.line is None and before.place.source.endswith(_DEFAULT):
                pass  # what a file says wins over what another tool would suppose
            else:
                message = (
                    f"{theirs} makes {key} {_shown(tree)}, and {_where(before.place)} "
                    f"makes it {_shown(before)}; make them agree"
                )
                self.faults.append(place.fault(theirs, message))
                return
        self._put(key, tree)
        self.supposed = [s for s in self.supposed if s.key != key]
        self.took.append(Took(place, theirs, written or _shown(tree), key, _shown(tree)))

    def suppose(self, key: str, value: Any, why: str) -> None:
        """Take a default of the tool, unless the key is there already."""
        if self.at(key) is None and not self._whole_above(key):
            self._put(key, Leaf(value, Place(f"{why}{_DEFAULT}")))
            self.supposed.append(Supposed(key, _shown(Leaf(value, Place(""))), why))

    def skip(self, place: Place, theirs: str, why: str, matters: bool = False) -> None:
        """Leave a key of theirs aside."""
        self.aside.append(Aside(place, theirs, why, matters))

    def at(self, key: str) -> Tree | None:
        """What stands under a key of ours."""
        tree: Tree | None = self.tree
        for part in key.split("."):
            tree = tree.entries.get(part) if isinstance(tree, Branch) else None
        return tree

    def has_file(self, name: str) -> bool:
        """Whether a file that another names is one of the job's, and so read by itself."""
        return name.rpartition("/")[2] in self.files

    def text_at(self, key: str) -> str:
        """The scalar under a key of ours as text; "" where there is none."""
        found = self.at(key)
        return str(found.value) if isinstance(found, Leaf) else ""

    def _whole_above(self, key: str) -> bool:
        above = key.rpartition(".")[0]
        return bool(above) and isinstance(self.at(above), Leaf)

    def _put(self, key: str, tree: Tree) -> None:
        *above, last = key.split(".")
        branch = self.tree
        for part in above:
            inner = branch.entries.get(part)
            if not isinstance(inner, Branch):
                inner = Branch({}, tree.place)
                branch.entries[part] = inner
            branch = inner
        branch.entries[last] = tree
        branch.keys[last] = tree.place


_DEFAULT = " (default)"


def _where(place: Place) -> str:
    return ":".join(str(p) for p in place if p is not None)


def _plain(tree: Tree) -> Any:
    if isinstance(tree, Branch):
        return {k: _plain(v) for k, v in tree.entries.items()}
    if isinstance(tree, Items):
        return [_plain(v) for v in tree.items]
    return str(tree.value).lower()


def _shown(tree: Tree) -> str:
    if isinstance(tree, Branch):
        return "{" + ", ".join(f"{k}: {_shown(v)}" for k, v in tree.entries.items()) + "}"
    if isinstance(tree, Items):
        return "[" + ", ".join(_shown(v) for v in tree.items) + "]"
    return str(tree.value).lower() if isinstance(tree.value, bool | None) else str(tree.value)


class Keys:
    """A mapping of another tool, read key by key; what nobody asked for is left over.

    Parameters
    ----------
    job : Translation
        Where faults and values go.
    branch : Branch
        The mapping.
    prefix : str
        What to call its keys by: ``fsdp_config.``.
    """

    def __init__(self, job: Translation, branch: Branch, prefix: str = "") -> None:
        self.job, self.branch, self.prefix = job, branch, prefix
        self.seen: set[str] = set()

    def tree(self, *names: str) -> Tree | None:
        """What stands under the first of some names; an empty value is none."""
        found = None
        for name in names:
            if name in self.branch.entries:
                self.seen.add(name)
                inner = self.branch.entries[name]
                empty = isinstance(inner, Leaf) and (
                    inner.value is None
                    or (not inner.quoted and str(inner.value).lower() in _NOTHING)
                )
                if found is None and not empty:
                    found = inner
        return found

    def has(self, *names: str) -> bool:
        """Whether one of some names is there and not empty."""
        return self.tree(*names) is not None

    def named(self, *names: str) -> str:
        """Which of some names is there, as faults call it."""
        return self.prefix + next((n for n in names if n in self.branch.entries), names[0])

    def place(self, *names: str) -> Place:
        """Where a key is written."""
        for name in names:
            if name in self.branch.entries:
                return self.branch.keys.get(name, self.branch.entries[name].place)
        return self.branch.place

    def text(self, *names: str) -> str:
        """A text; "" where there is none."""
        found = self.tree(*names)
        if found is None:
            return ""
        if not isinstance(found, Leaf):
            self.fault("is no text", *names)
            return ""
        return str(found.value).lower() if isinstance(found.value, bool) else str(found.value)

    def flag(self, *names: str) -> bool | None:
        """True, false, or None where it is left out or automatic."""
        word = self.text(*names).lower()
        if not word or word == AUTO:
            return None
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        self.fault(f'"{word}" is not true or false', *names)
        return None

    def is_on(self, *names: str) -> bool:
        """Whether a key that may be a flag or the name of a way is set."""
        return self.text(*names).lower() not in ("", *_FALSE)

    def number(self, *names: str) -> float | None:
        """A number; None where it is left out, automatic or known only at run time."""
        word = self.text(*names).strip()
        if not word or word.lower() == AUTO:
            return None
        if "$" in word or "{" in word:
            why = f"{word} is known only at run time"
            self.job.skip(self.place(*names), self.named(*names), why, True)
            return None
        try:
            value = float(word.replace("_", ""))
        except ValueError:
            self.fault(f'"{word}" is no number', *names)
            return None
        if value - value != 0:
            self.fault(f"{word} is not finite", *names)
            return None
        return value

    def count(self, *names: str) -> int | None:
        """A whole number, as `number`."""
        value = self.number(*names)
        if value is None:
            return None
        if not value.is_integer():
            self.fault(f"{value:g} is not a whole number", *names)
            return None
        return int(value)

    def words(self, *names: str) -> list[str]:
        """A list of texts, or one text as a list of one."""
        found = self.tree(*names)
        if isinstance(found, Items):
            return [str(x.value) for x in found.items if isinstance(x, Leaf)]
        return [str(found.value)] if isinstance(found, Leaf) else []

    def inner(self, *names: str) -> Keys:
        """A mapping below; an empty one where there is none."""
        found = self.tree(*names)
        if isinstance(found, Branch):
            return Keys(self.job, found, f"{self.named(*names)}.")
        return Keys(self.job, Branch({}, self.branch.place), f"{self.named(*names)}.")

    def put(self, key: str, value: Any, *names: str) -> None:
        """Take a value made of the key of some names."""
        written = self.text(*names) if isinstance(self.tree(*names), Leaf) else ""
        found = next((self.branch.entries[n] for n in names if n in self.branch.entries), None)
        place = found.place if found is not None else self.branch.place
        self.job.take(key, value, place, self.named(*names), written)

    def put_count(self, key: str, *names: str) -> None:
        """Take a whole number as it is."""
        value = self.count(*names)
        if value is not None:
            self.put(key, value, *names)

    def put_flag(self, key: str, *names: str) -> None:
        """Take true or false as it is."""
        value = self.flag(*names)
        if value is not None:
            self.put(key, value, *names)

    def fault(self, message: str, *names: str) -> None:
        """Record a fault at a key."""
        self.job.faults.append(self.place(*names).fault(self.named(*names), message))

    def matters(self, why: str, *names: str) -> None:
        """Say that a key changes the run and is not followed."""
        self.seen.update(names)
        self.job.skip(self.place(*names), self.named(*names), why, True)

    def leave(self, why: str, *names: str) -> None:
        """Leave some keys aside, those that are there."""
        for name in names:
            if name in self.branch.entries:
                if self.has(name) and not self._taken(name):
                    self.job.skip(self.place(name), self.prefix + name, why)
                self.seen.add(name)

    def _taken(self, name: str) -> bool:
        """Whether a key, or one below it, became one of ours or was said to matter."""
        theirs, source = self.prefix + name, self.branch.place.source
        known = [(t.place, t.theirs) for t in self.job.took]
        known += [(a.place, a.theirs) for a in self.job.aside if a.matters]
        return any(
            place.source == source and f"{key}.".startswith(f"{theirs}.") for place, key in known
        )

    def leave_matching(self, why: str, pattern: str) -> None:
        """Leave aside every key not read so far that a pattern matches."""
        found = re.compile(pattern)
        self.leave(why, *(n for n in self.branch.entries
                          if n not in self.seen and found.fullmatch(n)))  # fmt: skip

    def rest(self, title: str) -> None:
        """Leave aside what nobody asked for; a key of a known tool is a hint, not a fault."""
        self.leave(f"no key that this reader of {title} files follows",
                   *(n for n in self.branch.entries if n not in self.seen))  # fmt: skip
