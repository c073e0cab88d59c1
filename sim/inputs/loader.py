"""`load(topology, workload, sets)`: two arguments of any kind to two checked specs.

An argument is a path, ``"-"`` (standard input), a name of the catalogue, a mapping of the same
keys as the YAML, a spec, or the files of one job as another tool has them (`sim.inputs.foreign`).
All faults of both are collected and raised together.  For sweeps, `prepare` parses once and
`Prepared.vary` validates what an override touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from sim.errors import Fault, InputError
from sim.inputs import check_workload, checks, overrides
from sim.inputs.arguments import CLASSES, Argument, Given, given, kind_of, of_side
from sim.inputs.base import Spec
from sim.inputs.bind import Assumption
from sim.inputs.check_translation import check_translation
from sim.inputs.finding import Side
from sim.inputs.notes import Notes
from sim.inputs.reader import Reader
from sim.inputs.topology import Topology
from sim.inputs.trainer import trainer_of
from sim.inputs.translation import Translation
from sim.inputs.tree import Branch, Leaf, Place, Tree, from_python
from sim.inputs.workload import Workload
from sim.records import dataclass


class Loaded(NamedTuple):
    """A checked topology and workload, and what is to be said about them."""

    topology: Topology
    workload: Workload
    notes: Notes


def load(topology: Argument, workload: Argument, sets: Iterable[str] = ()) -> Loaded:
    """Read and check a topology and a workload.

    Parameters
    ----------
    topology, workload : str, path, mapping or spec
        A path, ``"-"`` for standard input, a name of the catalogue, a mapping of the YAML's keys,
        or a `Topology` / `Workload`.
    sets : iterable of str
        Overrides, each ``key.path=value``, applied in order.

    Returns
    -------
    Loaded
        ``(topology, workload, notes)``.

    Raises
    ------
    InputError
        With every fault found in both.
    """
    return prepare(topology, workload, sets).loaded()


def load_topology(argument: Argument, sets: Iterable[str] = ()) -> Topology:
    """Read and check a topology alone."""
    return cast(Topology, _load_one("topology", argument, sets))


def given_keys(argument: Argument, sets: Iterable[str] = ()) -> frozenset[str]:
    """Dotted paths that a topology and its settings say themselves; the rest are defaults."""
    faults: list[Fault] = []
    settings = [s._replace(side="topology") for s in overrides.parse_all(sets, faults)]
    half = _read_one("topology", argument, overrides.route(settings, faults), faults)
    if faults or half is None:
        raise InputError(faults)
    return frozenset(half.given)


def load_workload(argument: Argument, sets: Iterable[str] = ()) -> Workload:
    """Read and check a workload alone."""
    return cast(Workload, _load_one("workload", argument, sets))


def prepare(topology: Argument, workload: Argument, sets: Iterable[str] = ()) -> Prepared:
    """Parse and check a topology and a workload once, for many variations."""
    if topology == "-" and workload == "-":
        msg = "only one of topology and workload can be -"
        raise InputError([Fault("<stdin>", None, None, "", msg)])
    faults: list[Fault] = []
    sides: dict[Side, Half] = {}
    settings = overrides.parse_all(sets, faults)
    routed = overrides.route(settings, faults)
    both: dict[Side, Argument] = {"topology": topology, "workload": workload}
    read = {side: _given(side, argument, faults) for side, argument in both.items()}
    for side, found in _in_order(read).items():
        half = None if found is None else _read_half(side, found, routed, faults)
        if half is not None:
            sides[side] = half
    if len(sides) == 2 and not faults:
        return _checked(sides["topology"], sides["workload"])
    for side, half in sides.items():  # what can be said of one side is said beside the faults
        faults.extend(_faults_of(checks.check_one(half.spec), {side: half}))
    raise InputError(faults)


def _given(side: Side, argument: Argument, faults: list[Fault]) -> Given | None:
    """An argument, read; None after recording why not."""
    try:
        return given(side, argument, faults)
    except InputError as error:
        faults.extend(error.faults)
        return None


def _in_order(read: dict[Side, Given | None]) -> dict[Side, Given | None]:
    """Both arguments under the side they are of, if they came in the other order."""
    first, second = read["topology"], read["workload"]
    if first is None or second is None:
        return read
    if kind_of(first) == "workload" and kind_of(second) == "topology":
        return {"topology": second, "workload": first}
    return read


def _checked(topology: Half, workload: Half) -> Prepared:
    """A pair that passed its checks."""
    machine, job = cast(Topology, topology.spec), cast(Workload, workload.spec)
    whole = isinstance(workload.tree, Leaf)  # a spec says it all
    finished = checks.finish_pair(machine, job, given=workload.given, whole=whole)
    if finished is not job:
        assumed = workload.assumed
        if finished.parallelism is not job.parallelism:
            strategy = Assumption("parallelism.strategy", finished.parallelism.strategy)
            assumed = assumed | {"parallelism": (strategy,)}
        if finished.attention != job.attention:
            assumed = assumed | {"attention": (Assumption("attention", finished.attention),)}
        workload = replace(workload, spec=finished, assumed=assumed)
    findings = (*checks.check(machine, finished), *workload.said(machine))
    faults = _faults_of(findings, {"topology": topology, "workload": workload})
    if faults:
        raise InputError(faults)
    return Prepared(topology, workload, findings)


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

    def said(self, machine: Topology) -> tuple[checks.Finding, ...]:
        """What another tool's files give rise to say on a machine."""
        return () if self.translation is None else check_translation(self.translation, machine)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A parsed and checked pair that can be varied cheaply."""

    topology: Half
    workload: Half
    findings: tuple[checks.Finding, ...]

    def loaded(self) -> Loaded:
        """The specs and their notes."""
        warnings = tuple(f.notice() for f in self.findings if not f.error)
        silent = check_workload.silent_keys(cast(Workload, self.workload.spec))
        job = cast(Workload, self.workload.spec)
        followed = [] if job.trainer else [Assumption("workload.trainer", trainer_of(job).name)]
        notes = Notes(warnings, (self.topology, self.workload), silent, tuple(followed))
        return Loaded(cast(Topology, self.topology.spec), job, notes)

    def vary(self, changes: Mapping[str, Any] | Iterable[str]) -> Prepared:
        """The pair with keys changed; only what a change touches is read again.

        Parameters
        ----------
        changes : mapping of dotted key to value, or iterable of ``key=value``
            Values are texts as in the YAML, or Python values as in a mapping.

        Raises
        ------
        InputError
            If a change or the changed pair is faulty.
        """
        faults: list[Fault] = []
        if isinstance(changes, Mapping):
            settings = [overrides.setting(k, v) for k, v in changes.items()]
        else:
            settings = overrides.parse_all(changes, faults)
        routed = overrides.route(settings, faults)
        halves = {"topology": self.topology, "workload": self.workload}
        for side, half in halves.items():
            if routed[side] and not faults:
                halves[side] = _varied(half, tuple(routed[side]), faults)
        if faults:
            raise InputError(faults)
        return _checked(halves["topology"], halves["workload"])


# --- one side ------------------------------------------------------------------------------------


def _load_one(side: Side, argument: Argument, sets: Iterable[str]) -> Spec:
    faults: list[Fault] = []
    settings = [s._replace(side=side) for s in overrides.parse_all(sets, faults)]
    half = _read_one(side, argument, overrides.route(settings, faults), faults)
    if half is not None and not faults:
        findings = checks.check_one(half.spec)
        faults.extend(_faults_of(findings, {side: half}))
    if faults or half is None:
        raise InputError(faults)
    return half.spec


def _read_one(
    side: Side,
    argument: Argument,
    routed: Mapping[str, list[overrides.Override]],
    faults: list[Fault],
) -> Half | None:
    """Read one argument whole, its overrides applied."""
    found = _given(side, argument, faults)
    return None if found is None else _read_half(side, found, routed, faults)


def _read_half(
    side: Side,
    found: Given,
    routed: Mapping[str, list[overrides.Override]],
    faults: list[Fault],
) -> Half | None:
    """Bind an argument's tree, its overrides applied."""
    try:
        tree = overrides.apply(of_side(side, found).tree, routed[side], CLASSES[side])
    except InputError as error:
        faults.extend(error.faults)
        return None
    reader = Reader(folder=found.folder)
    read = reader.read(CLASSES[side], tree, "")
    faults.extend(_completed(reader.faults, found))
    if read is None:
        return None
    spec = checks.finish(read)
    assumed = reader.assumed if spec is read else _inferred(reader.assumed, spec)
    gone = _dropped(read, spec)
    if found.translation is not None:
        assumed = [*(Assumption(s.key, s.value) for s in found.translation.supposed), *assumed]
    kept = {k: v for k, v in _by_key(assumed).items() if k not in gone}
    places = {p: v for p, v in reader.given.items() if p.partition(".")[0] not in gone}
    return Half(side, tree, spec, found.folder, kept, places, found.translation)


def _completed(faults: list[Fault], found: Given) -> list[Fault]:
    """Faults of a translated job; one about a key that is missing says how to add it."""
    if found.translation is None:
        return faults
    titles = " and ".join(found.translation.titles)
    add = f"in {titles}; add --set {{0}}=..., or name the file that says it too"
    return [
        replace(f, message=f"{f.message} {add.format(f.path)}") if f.message == "is missing" else f
        for f in faults
    ]


def _dropped(read: Spec, spec: Spec) -> set[str]:
    """Keys that were read and do not count: an explicit graph that nobody has edited."""
    return {k for k in ("graph",) if getattr(read, k, None) and getattr(spec, k, None) is None}


def _inferred(assumed: list[Assumption], spec: Spec) -> list[Assumption]:
    """Assumptions, with what was inferred for a key left out in place of nothing."""
    return [a if a.value is not None else a._replace(value=_at(spec, a.path)) for a in assumed]


def _at(spec: Spec, path: str) -> Any:
    """The value at a dotted path; None where a list stands in the way."""
    value: Any = spec
    for key in path.split("."):
        value = getattr(value, key, None)
    return value


def _by_key(assumed: Iterable[Assumption]) -> dict[str, tuple[Assumption, ...]]:
    out: dict[str, tuple[Assumption, ...]] = {}
    for item in assumed:
        key = item.path.partition(".")[0]
        out[key] = (*out.get(key, ()), item)
    return out


_machines: dict[tuple[object, ...], tuple[Half, Half]] = {}
_MACHINES = 256  # that are kept


def _varied(half: Half, settings: tuple[overrides.Override, ...], faults: list[Fault]) -> Half:
    """`_reread`; of machines the last ones are kept, since a sweep has few of them."""
    key: tuple[object, ...] = (id(half),)
    for path, value in ((s.path, s.value) for s in settings):
        if half.side != "topology" or not isinstance(value, Leaf):
            return _reread(half, settings, faults)
        key = (*key, path, type(value.value), value.value, value.quoted, value.place)
    known = _machines.pop(key, None)
    found = _reread(half, settings, faults) if known is None else known[1]
    if not faults:
        _machines[key] = half, found  # held, so that its id stays its own; the last used is last
        if len(_machines) > _MACHINES:
            del _machines[next(iter(_machines))]
    return found


def _reread(half: Half, settings: Sequence[overrides.Override], faults: list[Fault]) -> Half:
    """Read the top-level keys that the settings touch; keep the rest."""
    cls = CLASSES[half.side]
    tree = half.tree
    if isinstance(tree, Leaf):  # a spec was given: there is no tree to change
        tree = from_python(
            overrides.written(half.spec, type(half.spec).model_fields), f"<{half.side}>"
        )
    try:
        tree = overrides.apply(tree, settings, cls)
    except InputError as error:
        faults.extend(error.faults)
        return half
    assert isinstance(tree, Branch)
    before = half.tree.entries if isinstance(half.tree, Branch) else {}
    touched = dict.fromkeys(s.path[0] for s in settings)
    touched |= dict.fromkeys(str(k) for k in before if k not in tree.entries)
    values: dict[str, Any] = {}
    assumed, places = _untouched(half, frozenset(touched))
    read: list[Assumption] = []
    for key in touched:
        own = tuple((s.path, id(s.value)) for s in settings if s.path[0] == key)
        known = (id(half), key, key in tree.entries, *own)
        found = _reads.get(known)
        if found is None:
            reader = Reader(folder=half.folder)
            value = reader.partial(cls, tree, [key])
            faults.extend(reader.faults)
            if reader.faults:
                continue
            if len(_reads) >= _READS:
                _reads.clear()
            # held, so that the ids stay theirs
            found = _reads[known] = value, reader.assumed, reader.given, (half, tuple(settings))
        values |= found[0]
        read += found[1]
        places = places | found[2]
    if faults:
        return half
    changed = half.spec.model_copy(update=values)
    spec = checks.finish(changed)
    read = read if spec is changed else _inferred(read, spec)
    return Half(
        half.side, tree, spec, half.folder, assumed | _by_key(read), places, half.translation
    )


#: what was read of a key with some settings in it, and from what
_Read = tuple[dict[str, Any], list[Assumption], dict[str, Place], object]
_reads: dict[tuple[object, ...], _Read] = {}
_READS = 1024  # that are kept
_Said = tuple[dict[str, tuple[Assumption, ...]], dict[str, Place]]
_rests: dict[tuple[int, frozenset[str]], tuple[_Said, Half]] = {}


def _untouched(half: Half, touched: frozenset[str]) -> _Said:
    """What is assumed and where things are written, but for some top-level keys."""
    known = _rests.get((id(half), touched))
    if known is None:
        assumed = {k: v for k, v in half.assumed.items() if k not in touched}
        places = {p: v for p, v in half.given.items() if p.partition(".")[0] not in touched}
        if len(_rests) >= _MACHINES:
            _rests.clear()
        known = _rests[id(half), touched] = (assumed, places), half
    return known[0]


def _faults_of(findings: Iterable[checks.Finding], halves: Mapping[str, Half]) -> list[Fault]:
    """Findings that are errors, at the place of the key they are about."""
    out = []
    for finding in findings:
        half = halves.get(finding.side)
        if not finding.error or half is None:
            continue
        out.append(_place_of(half, finding.path).fault(finding.path, finding.told))
    return out


def _place_of(half: Half, path: str) -> Place:
    """Where a path was written, or the nearest thing above it."""
    while path:
        if path in half.given:
            return half.given[path]
        path = path.rpartition(".")[0]
    return half.tree.place
