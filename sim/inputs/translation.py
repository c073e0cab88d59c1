"""A job that other tools' files describe: what was taken from them, assumed, and left aside.

A format (`sim.interop.trainers`) reads a `Source` key by key and puts what it finds into a
`Translation`, which is a tree of our own keys. Every value keeps the place where it was written, so
that a fault names the line of the trainer's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from sim.errors import Fault
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree
from sim.records import NamedTuple, dataclass


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
    """A key of theirs that changes nothing here (or, where it `matters`, cannot be followed).

    Unless our own keys say what it leaves open: one of each of ``answers``.
    """

    place: Place
    theirs: str
    why: str
    matters: bool = False
    answers: tuple[frozenset[str], ...] = ()

    def answered(self, given: Mapping[str, Place]) -> bool:
        """Whether keys written elsewhere, by the places of all, say what this leaves open."""
        said = {key for key, place in given.items() if place.source != self.place.source}
        return bool(self.answers) and all(said & keys for keys in self.answers)


class Begun(NamedTuple):
    """A trainer that a command starts or a key belongs to: ``dpo``, and where what says so."""

    kind: str
    place: Place
    theirs: str


class Sample(NamedTuple):
    """How many rows of a batch a trainer makes of a sample, and what says so.

    `written` is the value of the key that says it, nothing of a command; `passes` are forwards
    without gradients beside them, of a frozen reference, which may be a model of its `own`, or made
    `before` training, of all samples once.
    """

    rows: int
    place: Place
    theirs: str
    written: str = ""
    passes: int = 0
    own: bool = False
    before: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One file: where it stands, its text, and its tree if it is a mapping."""

    path: Path | None
    name: str
    text: str
    tree: Tree | None

    @property
    def branch(self) -> Branch:
        """Its mapping; an empty one where it is a list, a scalar or no tree."""
        return self.tree if isinstance(self.tree, Branch) else Branch({}, Place(self.name))

    @property
    def keys(self) -> frozenset[str]:
        """Its top-level keys."""
        return frozenset(self.branch.entries)


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
    scripts : dict of str to Path
        Scripts among the files that the launch of them reads, by name.
    unread : list of Aside
        Of `aside`, keys that no reader knows.
    faults : list of Fault
        What cannot be read, and where two files contradict each other.
    loads_bf16 : str
        Why weights are loaded in bf16, and so trained in it where no strategy keeps fp32 copies.
    loads_fp32 : str
        Why they are loaded in fp32, and so what is frozen kept in it.
    marks_leaves : str
        The tool, where it has ZeRO-3 fetch each mixture as one (``set_z3_leaf_modules``).
    launched : str
        Why the loop is accelerate's, where no trainer's file says whose it is.
    unsaid : dict of str
        Keys of ours whose value stands in a file and is known only at run time: where.
    syncs_each : tuple of str and Place, optional
        The key that keeps its trainer from no_sync(), where it is set.
    begun : Begun, optional
        The trainer of TRL's that a command starts by name.
    handed : set of str
        Options of a command line that a script in Python among the files declares itself.
    undecided : Aside, optional
        A key of several of TRL's trainers, told of where no file says which it is.
    sample : Sample, optional
        Rows of a sample where the trainer's kind says them; counts of samples become those of rows
        once all files are read.
    world, nodes : tuple of int and Place, optional
        GPUs in all, and machines, where a file says so.
    """

    tree: Branch
    files: frozenset[str] = frozenset()
    titles: list[str] = field(default_factory=list)
    took: list[Took] = field(default_factory=list)
    supposed: list[Supposed] = field(default_factory=list)
    aside: list[Aside] = field(default_factory=list)
    unread: list[Aside] = field(default_factory=list)
    scripts: dict[str, Path] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    loads_bf16: str = ""
    loads_fp32: str = ""
    marks_leaves: str = ""
    launched: str = ""
    unsaid: dict[str, str] = field(default_factory=dict)
    handed: set[str] = field(default_factory=set)
    syncs_each: tuple[str, Place] | None = None
    begun: Begun | None = None
    undecided: Aside | None = None
    sample: Sample | None = None
    world: tuple[int, Place] | None = None
    nodes: tuple[int, Place] | None = None
    gpus_per_node: tuple[int, Place] | None = None

    def take(
        self, key: str, value: Any, place: Place, theirs: str, written: str | None = None
    ) -> None:  # fmt: skip
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
            Their key, and its value as written; nothing of what has none, ours where not given.
        """
        tree = value if isinstance(value, Branch | Items | Leaf) else Leaf(value, place)
        before = self.at(key)
        if before is not None and _plain(before) != _plain(tree):
            if is_default(before.place):
                pass  # what a file says wins over what another tool would suppose
            else:
                message = (
                    f"{theirs} makes {key} {_shown(tree)}, and {before.place.text} "
                    f"makes it {_shown(before)}; make them agree"
                )
                self.faults.append(place.fault(theirs, message))
                return
        self._put(key, tree)
        self.supposed = [s for s in self.supposed if s.key != key]
        shown = _shown(tree)
        self.took.append(Took(place, theirs, shown if written is None else written, key, shown))

    def suppose(self, key: str, value: Any, why: str) -> None:
        """Take a default of the tool, unless the key is there already."""
        if self.at(key) is None and not self._whole_above(key):
            if key in self.unsaid:
                why = f"{why}; {self.unsaid[key]}"
            self._put(key, Leaf(value, Place(f"{why}{_DEFAULT}")))
            self.supposed.append(Supposed(key, _shown(Leaf(value, Place(""))), why))

    def instead(self, key: str, value: Any, why: str) -> None:
        """What was taken under a key of ours cannot be followed: another value stands for it."""
        self.drop(key, why, matters=True)
        self._put(key, Leaf(value, Place(f"{why}{_DEFAULT}")))

    def drop(self, key: str, why: str, matters: bool = False) -> None:
        """Leave a key of ours out again, and aside what it was taken from."""
        above, _, last = key.rpartition(".")
        branch = self.at(above) if above else self.tree
        if isinstance(branch, Branch):
            branch.entries.pop(last, None)
            branch.keys.pop(last, None)
        self.supposed = [s for s in self.supposed if s.key != key]
        followed = [took for took in self.took if took.key == key]
        self.took = [took for took in self.took if took.key != key]
        for took in followed:
            self.skip(took.place, took.theirs, why, matters)

    def replace(self, key: str, value: Any, why: str) -> None:
        """Put another value in place of one that was taken or supposed, and say why."""
        before = self.at(key)
        tree = Leaf(value, before.place if before is not None else Place(""))
        self._put(key, tree)
        shown = f"{_shown(tree)} ({why})"
        self.took = [t._replace(ours=shown) if t.key == key else t for t in self.took]
        self.supposed = [
            Supposed(key, _shown(tree), f"{s.why}, {why}") if s.key == key else s
            for s in self.supposed
        ]

    def skip(
        self, place: Place, theirs: str, why: str, matters: bool = False,
        answers: tuple[frozenset[str], ...] = (),
    ) -> None:  # fmt: skip
        """Leave a key of theirs aside."""
        self.aside.append(Aside(place, theirs, why, matters, answers))

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


def is_default(place: Place) -> bool:
    """Whether a tool's default, not its file, put a key there."""
    return place.line is None and place.source.endswith(_DEFAULT)


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
