"""Study files: found, read and checked, all faults of a file at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sim.data import DATA
from sim.documents import SCHEMAS, Listing, Section
from sim.errors import Fault, InputError
from sim.files import is_there
from sim.inputs.nearest import did_you_mean
from sim.inputs.reader import Reader
from sim.inputs.tree import read_file
from sim.inputs.yaml import from_yaml
from sim.published.lookup import known_ids, speed
from sim.study.question.spec import BreakEven, Study, StudyCase, StudyLine

PLACE = re.compile(r"\{([^{}.]+)(?:\.(\w+))?\}")  # a figure in an answer
#: what may follow the dot, of a line and of a break-even
OF_LINE, OF_BREAK_EVEN = ("band", "holds", "published"), ("band", "below", "above")


@dataclass(frozen=True, slots=True)
class Shipped(Section):
    """A study that ships with the package."""

    name: str
    title: str


@dataclass(frozen=True, slots=True)
class Studies(Listing):
    """The studies that ship with the package."""

    schema: ClassVar[str] = SCHEMAS["studies"]

    studies: tuple[Shipped, ...]

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a study."""
        return [entry.content() for entry in self.studies]


def list_studies() -> Studies:
    """The shipped studies, by name."""
    return Studies(tuple(Shipped(n, read_study(p).title) for n, p in shipped().items()))


def shipped() -> dict[str, Path]:
    """Studies that ship with the package, by name."""
    return {p.stem: p for p in sorted((DATA / "studies").glob("*.yaml"))}


def find_study(name: str) -> Path:
    """The file of a study: a path, or a shipped name.

    Raises
    ------
    InputError
        If there is neither.
    """
    path = Path(name)
    if is_there(path):
        return path
    known = shipped()
    if name in known:
        return known[name]
    hint = did_you_mean(name, known) or f"; shipped are {', '.join(known)}"
    raise InputError.single(name, f"no such file, and no study of that name{hint}")


def read_study(path: Path) -> Study:
    """A study from YAML; all faults of the file at once."""
    faults: list[Fault] = []
    tree = from_yaml(read_file(path), str(path), faults)
    reader = Reader(folder=path.parent, faults=faults, quiet=True)
    study = reader.read(Study, tree, "")
    if faults or study is None:
        raise InputError(faults)
    found = [Fault(str(path), None, None, where, text) for where, text in _faults(study)]
    if found:
        raise InputError(found)
    return study


def _faults(study: Study) -> Iterator[tuple[str, str]]:
    """Where something is wrong, and what."""
    cases = study.all_cases()
    names = [case.name for case in cases]
    for case in cases:
        yield from _case_faults(case)
    yield from _twice("cases", names)
    keys: list[str] = []
    for claim in study.claims:
        users: list[StudyLine | BreakEven] = [*claim.lines, *claim.break_even]
        for user in users:
            where = f"claims.{claim.id}.{user.label}"
            keys += [user.key] if user.key else []
            yield from _unknown(where, "case", filter(None, (user.case, user.against)), names)
        for line in claim.lines:
            where = f"claims.{claim.id}.{line.label}"
            for text in line.published:
                yield from _unmeasured(where, text)
        grids = [grid.name for grid in study.grids]
        yield from _unknown(f"claims.{claim.id}.grids", "grid", claim.grids, grids)
    yield from _twice("keys", keys)
    yield from _said_faults(study, keys)


def _case_faults(case: StudyCase) -> Iterator[tuple[str, str]]:
    where = f"cases.{case.name}"
    if case.measured and (case.topology or case.workload):
        yield where, "measured names machine and job already"
    elif case.measured:
        yield from _unmeasured(where, case.measured)
    elif not (case.topology and case.workload):
        yield where, "needs topology and workload"


def _unmeasured(where: str, text: str) -> Iterator[tuple[str, str]]:
    for name in text.split(" / "):
        if name not in known_ids():
            yield from _unknown(where, "published row", [name], sorted(known_ids()))
        elif speed(name) is None:
            yield where, f'the published row "{name}" has no speed'


def _said_faults(study: Study, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Keys, claims, grids and pictures that are named and not there."""
    prices = {b.key for claim in study.claims for b in claim.break_even}
    texts = [(f"claims.{claim.id}.reading", claim.reading) for claim in study.claims]
    texts += [(f"answers.{answer.persona}", answer.says) for answer in study.answers]
    texts += [(f"voices.{voice.source}", voice.reading) for voice in study.voices]
    for where, text in texts:
        for key, part in PLACE.findall(text):
            yield from _unknown(where, "key", [key], keys)
            allowed = OF_BREAK_EVEN if key in prices else OF_LINE
            if part and key in keys and part not in allowed:
                yield where, f'"{key}.{part}": after the dot stands {", ".join(allowed)}'
    for voice in study.voices:
        yield from _unknown(f"voices.{voice.source}", "key", filter(None, [voice.line]), keys)
    for picture in study.pictures:
        where = f"pictures.{picture.name}"
        yield from _unknown(where, "key", picture.lines, keys)
        ids = [claim.id for claim in study.claims]
        yield from _unknown(where, "claim", filter(None, [picture.break_even]), ids)
        if picture.break_even and len(study.machines) != 2:
            yield "machines", f"{len(study.machines)} of them; {where} is of two"
        grids = [grid.name for grid in study.grids]
        yield from _unknown(where, "grid", filter(None, [picture.grid]), grids)
    names = [picture.name for picture in study.pictures]
    for answer in study.answers:
        yield from _unknown(
            f"answers.{answer.persona}", "picture", filter(None, [answer.picture]), names
        )


def _unknown(
    where: str, what: str, names: Iterable[str], known: Sequence[str]
) -> Iterator[tuple[str, str]]:
    for name in names:
        if name not in known:
            yield where, f'no {what} "{name}"{did_you_mean(name, known)}'


def _twice(where: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield where, f'"{name}" is there twice'
