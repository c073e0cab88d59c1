"""One side of a pair as it was read, and read again where keys of it change.

A sweep changes the same keys of the same half over and over. What that gave is kept with the half
it was changed from, and goes when that goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError
from sim.inputs import checks, overrides
from sim.inputs.arguments import CLASSES
from sim.inputs.base import Spec
from sim.inputs.bind import Assumption
from sim.inputs.check_translation import check_translation
from sim.inputs.finding import Side, warning
from sim.inputs.reader import Reader
from sim.inputs.topology import Topology
from sim.inputs.translation import Translation
from sim.inputs.tree import Branch, Leaf, Place, Tree, from_python
from sim.records import dataclass

_HALVES, _READS, _RESTS = 512, 1024, 256  # that a half keeps

#: what is assumed, by top-level key, and where things are written
_Said = tuple[dict[str, tuple[Assumption, ...]], dict[str, Place]]
#: values, what is assumed (by top-level key, too), where things are written; the settings, so that
#: their ids stay theirs
_Read = tuple[
    dict[str, Any], list[Assumption], dict[str, tuple[Assumption, ...]], dict[str, Place], object
]


class Rereads:
    """What changes of a half gave; not handed to other processes."""

    def __init__(self) -> None:
        #: with the settings, so that their ids stay theirs; the last used is last
        self.halves: dict[tuple[object, ...], tuple[Half, object]] = {}
        self.reads: dict[tuple[object, ...], _Read] = {}
        self.rests: dict[frozenset[str], _Said] = {}

    def __reduce__(self) -> tuple[type[Rereads], tuple[()]]:
        return Rereads, ()


@dataclass(frozen=True, slots=True)
class Half:
    """One side: its tree, its spec, and what the reading recorded."""

    side: Side
    tree: Tree
    spec: Spec
    folder: Path | None
    assumed: dict[str, tuple[Assumption, ...]] = field(default_factory=dict)  # by top-level key
    given: dict[str, Place] = field(default_factory=dict)
    translation: Translation | None = None  # of another tool's files
    told: str = ""  # of what a name was taken as
    _rereads: Rereads = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rereads", Rereads())

    def said(self, machine: Topology) -> tuple[checks.Finding, ...]:
        """What a name or another tool's files give rise to say on a machine."""
        job = self.translation
        found = () if job is None else check_translation(job, machine, self.given)
        return (warning("counted", self.side, "", self.told), *found) if self.told else found

    def varied(self, settings: tuple[overrides.Override, ...], faults: list[Fault]) -> Half:
        """The half with keys changed; itself where there are faults, which are added.

        Rereads halves are kept, since a grid has fewer of either side than points.
        """
        key = tuple([(s.path, *_said_by(s.value)) for s in settings])
        halves = self._rereads.halves
        known = halves.pop(key, None)
        found = self._reread(settings, faults) if known is None else known[0]
        if not faults:
            halves[key] = found, settings
            if len(halves) > _HALVES:
                del halves[next(iter(halves))]
        return found

    def _reread(self, settings: Sequence[overrides.Override], faults: list[Fault]) -> Half:
        """Read the top-level keys that the settings touch; keep the rest."""
        cls = CLASSES[self.side]
        tree = self.tree
        if isinstance(tree, Leaf):  # a spec was given: there is no tree to change
            tree = from_python(
                overrides.written(self.spec, type(self.spec).model_fields), f"<{self.side}>"
            )
        try:
            tree = overrides.apply(tree, settings, cls)
        except InputError as error:
            faults.extend(error.faults)
            return self
        assert isinstance(tree, Branch)
        before = self.tree.entries if isinstance(self.tree, Branch) else {}
        touched = dict.fromkeys(s.path[0] for s in settings)
        touched |= dict.fromkeys(str(k) for k in before if k not in tree.entries)
        values: dict[str, Any] = {}
        assumed, places = self._untouched(frozenset(touched))
        read: list[Assumption] = []
        by_name: dict[str, tuple[Assumption, ...]] = {}
        reads = self._rereads.reads
        for key in touched:
            own = tuple((s.path, id(s.value)) for s in settings if s.path[0] == key)
            known = (key, key in tree.entries, *own)
            found = reads.get(known)
            if found is None:
                reader = Reader(folder=self.folder)
                value = reader.partial(cls, tree, [key])
                faults.extend(reader.faults)
                if reader.faults:
                    continue
                if len(reads) >= _READS:
                    reads.clear()
                found = reads[known] = (
                    value, reader.assumed, by_key(reader.assumed), reader.given, tuple(settings),
                )  # fmt: skip
            values |= found[0]
            read += found[1]
            by_name |= found[2]
            places = places | found[3]
        if faults:
            return self
        changed = self.spec.model_copy(update=values)
        spec = checks.finish(changed)
        said = assumed | (by_name if spec is changed else by_key(inferred(read, spec)))
        return Half(self.side, tree, spec, self.folder, said, places, self.translation, self.told)

    def _untouched(self, touched: frozenset[str]) -> _Said:
        """What is assumed and where things are written, but for some top-level keys."""
        rests = self._rereads.rests
        known = rests.get(touched)
        if known is None:
            assumed = {k: v for k, v in self.assumed.items() if k not in touched}
            places = {p: v for p, v in self.given.items() if p.partition(".")[0] not in touched}
            if len(rests) >= _RESTS:
                rests.clear()
            known = rests[touched] = assumed, places
        return known


def _said_by(value: Tree) -> tuple[object, ...]:
    """What tells a value from others: by what it says where that is one word, else by itself."""
    if isinstance(value, Leaf):
        return type(value.value), value.value, value.quoted, value.place
    return (id(value),)


def inferred(assumed: list[Assumption], spec: Spec) -> list[Assumption]:
    """Assumptions, with what was inferred for a key left out in place of nothing."""
    return [a if a.value is not None else a._replace(value=_at(spec, a.path)) for a in assumed]


def anew(assumed: Iterable[Assumption], spec: Spec) -> tuple[Assumption, ...]:
    """Assumptions with what a spec has for them, which may follow from another file."""
    return tuple(a._replace(value=_at(spec, a.path)) for a in assumed)


def _at(spec: Spec, path: str) -> Any:
    """The value at a dotted path; None where a list stands in the way."""
    value: Any = spec
    for key in path.split("."):
        value = getattr(value, key, None)
    return value


def by_key(assumed: Iterable[Assumption]) -> dict[str, tuple[Assumption, ...]]:
    """Assumptions by the top-level key that they are about."""
    found: dict[str, list[Assumption]] = {}
    for item in assumed:
        found.setdefault(item.path.partition(".")[0], []).append(item)
    return {key: tuple(items) for key, items in found.items()}
