"""`load(topology, workload, sets)`: two arguments of any kind to two checked specs.

An argument is a path, ``"-"`` (standard input), a name of the catalogue, a mapping of the same
keys as the YAML, a spec, or the files of one job as another tool has them (`sim.inputs.foreign`).
All faults of both are collected and raised together.  For sweeps, `prepare` parses once and
`Prepared.vary` validates what an override touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from sim.errors import Fault, InputError
from sim.inputs import check_written, checks, overrides
from sim.inputs.arguments import CLASSES, Argument, Given, given, kind_of, of_side
from sim.inputs.base import Spec
from sim.inputs.bind import Assumption
from sim.inputs.finding import Side
from sim.inputs.half import Half, anew, by_key, inferred
from sim.inputs.notes import Notes
from sim.inputs.reader import Reader
from sim.inputs.silent import silent_keys
from sim.inputs.topology import Topology
from sim.inputs.trainer import trainer_of
from sim.inputs.translation import is_default
from sim.inputs.tree import STDIN, Leaf, Place
from sim.inputs.workload import Workload
from sim.records import NamedTuple, dataclass


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


def faults_in(found: Given) -> list[Fault]:
    """What is wrong with a workload that was read, as loading it alone would say."""
    faults: list[Fault] = []
    half = _read_half("workload", found, {"workload": []}, faults)
    if half is not None and not faults:
        faults.extend(_faults_of(checks.check_one(half.spec), {"workload": half}))
    return faults


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
        raise InputError([Fault(STDIN, None, None, "", msg)])
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


#: what a file says of groups of GPUs without saying that one of them is a group
_OF_GROUPS = frozenset(
    f"parallelism.{key}"
    for key in ("reduce_dtype", "reshard_after_forward", "wrap", "sequence_parallel",
                "loss_parallel")
)  # fmt: skip
_OF_ONE = frozenset(("parallelism.clip_gradients",))  # says nothing of groups at all
_EITHER_WAY = _OF_GROUPS | _OF_ONE


def _open(given: Mapping[str, Place]) -> frozenset[str]:
    """Keys that are left open: nothing of them is said, or what another tool does on several GPUs.

    Files say what is done there whether or not there are several, and our own may name no strategy.
    """
    spread = {path: place for path, place in given.items() if path.startswith("parallelism.")}
    if spread and spread.keys() <= _OF_ONE:
        return frozenset({"parallelism"})
    supposed = {path for path, place in spread.items() if is_default(place)}
    written = {path for path, place in spread.items() if place.line is not None}
    left = spread and spread.keys() <= supposed | (written & _EITHER_WAY)
    return frozenset({"parallelism"} if left else ())


def _checked(topology: Half, workload: Half) -> Prepared:
    """A pair that passed its checks."""
    machine, job = cast(Topology, topology.spec), cast(Workload, workload.spec)
    whole = isinstance(workload.tree, Leaf)  # a spec says it all
    read = workload
    given = workload.given.keys() - _open(workload.given)
    finished = checks.finish_pair(machine, job, given=given, whole=whole)
    if finished is not job:
        assumed = workload.assumed
        if finished.parallelism.strategy != job.parallelism.strategy:
            strategy = Assumption("parallelism.strategy", finished.parallelism.strategy)
            assumed = assumed | {"parallelism": (strategy,)}
        elif finished.parallelism is not job.parallelism:
            knobs = anew(assumed.get("parallelism", ()), finished)
            assumed = assumed | {"parallelism": knobs}
        if finished.attention != job.attention:
            assumed = assumed | {"attention": (Assumption("attention", finished.attention),)}
        if finished.stack is not job.stack:
            assumed = assumed | {"stack": anew(assumed.get("stack", ()), finished)}
        workload = replace(workload, spec=finished, assumed=assumed)
    findings = (
        *checks.check(machine, finished),
        *check_written.findings(
            machine,
            finished,
            topology.given,
            workload.given,
            translated=whole or workload.translation is not None,
        ),
        *topology.said(machine),
        *workload.said(machine),
    )
    faults = _faults_of(findings, {"topology": topology, "workload": workload})
    if faults:
        raise InputError(faults)
    return Prepared(topology, workload, findings, read)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A parsed and checked pair that can be varied cheaply."""

    topology: Half
    workload: Half
    findings: tuple[checks.Finding, ...]
    read: Half  # the job before what follows from the machine, which a variation may change

    def loaded(self) -> Loaded:
        """The specs and their notes."""
        warnings = tuple(f.notice() for f in self.findings if not f.error)
        silent = silent_keys(cast(Workload, self.workload.spec))
        job = cast(Workload, self.workload.spec)
        followed = [] if job.trainer else [Assumption("workload.trainer", trainer_of(job).name)]
        theirs = self.workload
        if job.parallelism.strategy == "single" and _open(theirs.given):  # which has none of these
            kept = {path: at for path, at in theirs.given.items() if path not in _OF_GROUPS}
            theirs = replace(theirs, given=kept)
        notes = Notes(warnings, (self.topology, theirs), silent, tuple(followed))
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
        halves = {"topology": self.topology, "workload": self.read}
        for side, half in halves.items():
            if routed[side] and not faults:
                halves[side] = half.varied(tuple(routed[side]), faults)
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
    assumed = reader.assumed if spec is read else inferred(reader.assumed, spec)
    gone = _dropped(read, spec)
    if found.translation is not None:
        assumed = [*(Assumption(s.key, s.value) for s in found.translation.supposed), *assumed]
    kept = {k: v for k, v in by_key(assumed).items() if k not in gone}
    places = {p: v for p, v in reader.given.items() if p.partition(".")[0] not in gone}
    return Half(side, tree, spec, found.folder, kept, places, found.translation, found.told)


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
