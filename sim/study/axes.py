"""A grid: axes over any key of both files, crossed or zipped, and conditions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError
from sim.files import is_there
from sim.inputs.base import Spec
from sim.inputs.nearest import did_you_mean
from sim.inputs.reader import Reader
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree, plain_of, read_file
from sim.inputs.yaml import from_yaml
from sim.records import dataclass

#: a grid of more configurations is refused: it is a slip of the keyboard more often than a wish
LARGEST = 5_000_000
SIDES = ("topology", "workload")
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(\d{1,18}))?\Z")
_LONGEST_RANGE = 100_000

Changes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Axis:
    """Keys that move together: `points[i]` has the i-th value of each."""

    keys: tuple[str, ...]
    points: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """What to sweep over.

    Attributes
    ----------
    name : str
        Names the store.
    topology, workload : str
        Bases; "" where the command line gives them, or where an axis does.
    axes : tuple of Axis
        Crossed; the first moves slowest.
    fixed : dict
        Set in every configuration.
    where : tuple of str
        Conditions over inputs: others are not computed.
    require : tuple of str
        Conditions over results: others are marked and left out of the Pareto front.
    pareto : tuple of str
        Measures to trade against each other.
    """

    name: str
    topology: Any = ""
    workload: Any = ""
    axes: tuple[Axis, ...] = ()
    fixed: Changes = field(default_factory=dict)
    where: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    pareto: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Configurations before conditions."""
        total = 1
        for axis in self.axes:
            total *= len(axis.points)
        return total

    @property
    def keys(self) -> tuple[str, ...]:
        """Varied keys, in the order of the axes."""
        return tuple(k for axis in self.axes for k in axis.keys)

    @property
    def store(self) -> Path:
        """File of its results where none is named: beside us, whatever the name says."""
        plain = re.sub(r"[^\w.-]+", "-", self.name)[:100].strip(".-")
        return Path(f"{plain or 'sweep'}.sweep.sqlite")

    def at(self, place: int) -> tuple[Any, ...]:
        """Values of `keys` where every axis is at the same of its points."""
        return tuple(itertools.chain.from_iterable(axis.points[place] for axis in self.axes))

    def points(self) -> Iterator[Changes]:
        """Changes of every configuration, fixed ones included; the first axis moves slowest."""
        for combination in itertools.product(*(axis.points for axis in self.axes)):
            yield self._changes(combination)

    def point(self, place: int) -> Changes:
        """The same of the one at a place of `points`."""
        found = []
        for axis in reversed(self.axes):
            place, at = divmod(place, len(axis.points))
            found.append(axis.points[at])
        return self._changes(reversed(found))

    def _changes(self, combination: Iterable[tuple[Any, ...]]) -> Changes:
        values = itertools.chain.from_iterable(combination)
        return {**self.fixed, **dict(zip(self.keys, values, strict=True))}


class _Plain(Spec):
    """The keys of a sweep file that are no free mappings."""

    name: str = ""
    where: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    pareto: tuple[str, ...] = ()


_FREE = ("topology", "workload", "axes", "zip", "set")


def read_grid(path: Path) -> Grid:
    """Read a sweep file.

    Raises
    ------
    InputError
        Every fault, with file, line and column.
    """
    faults: list[Fault] = []
    tree = from_yaml(read_file(path), str(path), faults)
    if not isinstance(tree, Branch):
        raise InputError(
            [*faults, tree.place.fault("", "is no mapping; write axes: {nodes: [1, 2]}")]
        )
    reader = Reader(folder=path.parent)
    rest = tree.without(*_FREE)
    for key in rest.entries:
        if key not in _Plain.model_fields:
            hint = did_you_mean(key, [*_FREE, *_Plain.model_fields])
            faults.append(rest.keys.get(key, rest.place).fault(key, f"unknown key{hint}"))
    known = rest.without(*(k for k in rest.entries if k not in _Plain.model_fields))
    plain = reader.read(_Plain, known, "")
    faults.extend(reader.faults)
    axes: list[Axis] = []
    for side in SIDES:
        entry = tree.entries.get(side)
        if isinstance(entry, Items):
            axes.append(Axis((side,), tuple((v,) for v in _values(entry, side, faults))))
    axes.extend(_crossed(tree.entries.get("axes"), faults))
    axes.extend(_zipped(tree.entries.get("zip"), faults))
    fixed = _table(tree.entries.get("set"), "set", faults)
    _repeated([k for a in axes for k in a.keys], tree.place, faults)
    if faults or plain is None:
        raise InputError(faults)
    grid = Grid(
        plain.name or path.stem,
        _base(tree.entries.get("topology"), path.parent),
        _base(tree.entries.get("workload"), path.parent),
        tuple(axes),
        {k: plain_of(v) for k, v in fixed.entries.items()} if fixed else {},
        plain.where, plain.require, plain.pareto,
    )  # fmt: skip
    return checked(grid, str(path))


def checked(grid: Grid, source: str) -> Grid:
    """The grid, unless it is too large or empty."""
    if len(grid) > LARGEST:
        message = f"{len(grid):,} configurations; at most {LARGEST:,} are swept at once"
        raise InputError.single(source, message, "axes")
    return grid


def from_options(texts: Iterable[str], zipped: bool) -> tuple[Axis, ...]:
    """Axes of ``--vary key=a,b,c`` options; zipped, they are one axis."""
    found: list[Axis] = []
    faults: list[Fault] = []
    for text in texts:
        source = f"--vary {text}"
        key, equals, listed = text.partition("=")
        values = [v.strip() for v in split_commas(listed)]
        if not equals or not key.strip() or not all(values):
            message = "write key=value,value, such as nodes=1,2,4 or nodes=1..8"
            faults.append(Fault(source, None, None, "", message))
            continue
        points: list[Any] = []
        for value in values:
            points.extend(_expanded(value, Place(source), key, faults))
        found.append(Axis((key.strip(),), tuple((p,) for p in points)))
    _repeated([k for a in found for k in a.keys], Place("--vary"), faults)
    if not faults and zipped and len(found) < 2:
        message = f"moves axes together, and there is {'one' if found else 'none'}; vary two keys"
        faults.append(Fault("--zip", None, None, "", message))
    if not faults and zipped:
        lengths = {a.keys[0]: len(a.points) for a in found}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{k} has {n}" for k, n in lengths.items())
            faults.append(Fault("--zip", None, None, "", f"axes of unequal length: {listed}"))
        else:
            points = [sum(parts, ()) for parts in zip(*(a.points for a in found), strict=True)]
            found = [Axis(tuple(k for a in found for k in a.keys), tuple(points))]
    if faults:
        raise InputError(faults)
    return tuple(found)


def split_commas(text: str) -> list[str]:
    """Split at commas outside brackets and quotes."""
    parts, depth, quote, begin = [], 0, "", 0
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth <= 0:
            parts.append(text[begin:i])
            begin = i + 1
    parts.append(text[begin:])
    return parts


# --- parts of the file ---------------------------------------------------------------------------


def _base(tree: Tree | None, folder: Path) -> Any:
    """A base as the loader takes it: a path beside the sweep file, a name, or a mapping."""
    if tree is None or isinstance(tree, Items):
        return ""
    value = plain_of(tree)
    if isinstance(value, str) and is_there(folder / value):
        return str(folder / value)
    return value


def _table(tree: Tree | None, key: str, faults: list[Fault]) -> Branch | None:
    if tree is None:
        return None
    if not isinstance(tree, Branch):
        faults.append(tree.place.fault(key, "is no mapping of keys to values"))
        return None
    return tree


def _crossed(tree: Tree | None, faults: list[Fault]) -> Iterator[Axis]:
    table = _table(tree, "axes", faults)
    for key, values in (table.entries if table else {}).items():
        yield Axis((key,), tuple((v,) for v in _values(values, f"axes.{key}", faults)))


def _zipped(tree: Tree | None, faults: list[Fault]) -> Iterator[Axis]:
    if tree is None:
        return
    groups = tree.items if isinstance(tree, Items) else [tree]
    for i, group in enumerate(groups):
        table = _table(group, f"zip[{i}]", faults)
        if table is None or not table.entries:
            continue
        columns = {k: _values(v, f"zip[{i}].{k}", faults) for k, v in table.entries.items()}
        lengths = {k: len(v) for k, v in columns.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{k} has {n}" for k, n in lengths.items())
            faults.append(table.place.fault(f"zip[{i}]", f"axes of unequal length: {listed}"))
            continue
        yield Axis(tuple(columns), tuple(zip(*columns.values(), strict=True)))


def _values(tree: Tree, path: str, faults: list[Fault]) -> list[Any]:
    """The values of an axis: a list, or a range ``1..8`` or ``1..64..4``."""
    if isinstance(tree, Leaf):
        return _expanded(str(tree.value), tree.place, path, faults)
    if isinstance(tree, Items) and tree.items:
        found: list[Any] = []
        for item in tree.items:
            if isinstance(item, Leaf) and not item.quoted:
                found.extend(_expanded(str(item.value), item.place, path, faults))
            else:
                found.append(plain_of(item))
        return found
    faults.append(
        tree.place.fault(path, "is no list of values, such as [1, 2, 4], nor a range 1..8")
    )
    return []


def _expanded(text: str, place: Place, path: str, faults: list[Fault]) -> list[str]:
    match = _RANGE.match(text)
    if match is None:
        return [text]
    low, high, step = int(match[1]), int(match[2]), int(match[3] or 1)
    if step < 1 or high < low or (high - low) // step >= _LONGEST_RANGE:
        faults.append(place.fault(path, f"{text} is no range; write low..high or low..high..step"))
        return []
    return [str(v) for v in range(low, high + 1, step)]


def _repeated(keys: list[str], place: Place, faults: list[Fault]) -> None:
    for key in dict.fromkeys(k for k in keys if keys.count(k) > 1):
        faults.append(place.fault(key, "is varied twice"))


def number(value: Any) -> Any:
    """A value of an axis as conditions see it: a number or a boolean where it reads as one."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def names_of(specs: Mapping[str, Spec]) -> set[str]:
    """Dotted names of all scalar keys of some specs."""
    found: set[str] = set()
    for spec in specs.values():
        _walk(spec, "", found)
    return found


def _walk(spec: Spec, prefix: str, found: set[str]) -> None:
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, Spec):
            _walk(value, f"{prefix}{name}.", found)
            found.add(prefix + name)
        else:
            found.add(prefix + name)
