"""What stands behind an argument: a file, a catalogue name, a mapping or a spec, as a tree.

Also which side it is of, so that two arguments in the other order are read as they were meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError
from sim.files import File, is_file, is_folder, is_there
from sim.inputs import catalogue, foreign
from sim.inputs.base import Spec
from sim.inputs.counted import machine
from sim.inputs.fields import plan_of
from sim.inputs.finding import Side
from sim.inputs.mistaken import instead, shape_instead
from sim.inputs.nearest import did_you_mean
from sim.inputs.topology import Topology
from sim.inputs.translation import Translation
from sim.inputs.tree import STDIN, Branch, Leaf, Place, Tree, from_python, read_file, read_stdin
from sim.inputs.workload import Workload
from sim.records import NamedTuple

Argument = File | Mapping[str, Any] | Spec | tuple[File, ...]
CLASSES: dict[str, type[Topology] | type[Workload]] = {"topology": Topology, "workload": Workload}
_FOLDERS = {"topology": "topologies", "workload": "workloads"}


class Given(NamedTuple):
    """An argument, read: its tree, where its relative paths start, whose job it was before."""

    tree: Tree
    folder: Path | None = None
    translation: Translation | None = None
    name: str = ""  # to call it by where it has none of its own
    told: str = ""  # of what it was taken as


def given(side: Side, argument: Argument, faults: list[Fault]) -> Given:
    """Read an argument of a side.

    Parameters
    ----------
    side : {"topology", "workload"}
        What it is to be.
    argument : path, ``"-"``, catalogue name, mapping, spec, or tuple of paths
        Several files are those of one job, as other tools write it.
    faults : list of Fault
        Takes faults that leave a tree to go on with.

    Raises
    ------
    InputError
        What cannot be read at all.
    """
    source = f"<{side}>"
    if isinstance(argument, Spec):
        if not isinstance(argument, CLASSES[side]):
            raise InputError.single(source, f"is a {type(argument).__name__}, not a {side}")
        return Given(Leaf(argument, Place(source)))
    if isinstance(argument, Mapping):
        return _named(Given(from_python(argument, source), name=side))
    files = argument if isinstance(argument, tuple) else (argument,)
    for file in files:
        if not isinstance(file, (str, PathLike)):
            kind = type(argument).__name__
            raise InputError.single(source, f"{kind} is no path, name, mapping or spec")
    return _named(_files(side, files, faults))


def _named(found: Given) -> Given:
    """An argument with a name: its file's, where it has none of its own."""
    tree = found.tree
    if isinstance(tree, Branch) and "name" not in tree.entries:
        entry = Leaf(found.name, tree.place)
        tree = Branch({"name": entry, **tree.entries}, tree.place, tree.keys)
    return found._replace(tree=tree)


def _files(side: Side, files: Sequence[File], faults: list[Fault]) -> Given:
    if len(files) == 1 and (counted := counted_machine(files[0])) is not None:
        return counted
    sources = []
    for file in files:
        if file == "-":
            sources.append(foreign.source_of(read_stdin(), STDIN, None, faults))
        else:
            path = path_of(side, file)
            sources.append(foreign.source_of(read_file(path), str(path), path, faults))
    first = sources[0]
    folder = first.path.parent if first.path is not None else None
    name = first.path.stem if first.path is not None else side
    if len(sources) == 1 and (first.tree is not None and foreign.format_of(first) is None):
        if told := shape_instead(str(files[0]), first.keys):
            raise InputError.single(str(files[0]), told)
        return Given(first.tree, folder, None, name)
    job = foreign.translate(sources)
    faults.extend(job.faults)
    return Given(job.tree, folder, job, name)


def counted_machine(name: File) -> Given | None:
    """The machine that a number of GPUs means; None where a file or a name of ours is given."""
    if not isinstance(name, str) or is_there(Path(name)):
        return None
    if any(catalogue.find(kind, name) is not None for kind in _FOLDERS.values()):
        return None
    found = machine(name)
    return found and Given(found[0], None, None, name, f'"{name}" is {found[1]}')


def kind_of(found: Given) -> Side | None:
    """Which side an argument is of by its keys; None where they do not say."""
    if found.translation is not None:
        return "workload"
    if not isinstance(found.tree, Branch):
        return None
    keys = found.tree.entries.keys()
    hits = {side: len(keys & plan_of(cls).keys()) for side, cls in CLASSES.items()}
    if hits["topology"] == hits["workload"]:
        return None
    return "topology" if hits["topology"] > hits["workload"] else "workload"


def split_inputs(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Topologies and workloads of a mixed list of names and paths, trainers' files among them.

    Raises
    ------
    InputError
        A file that is of no side, since it cannot be read.
    """
    machines: list[str] = []
    jobs: list[str] = []
    for name in names:
        try:
            side = kind_of(given("topology", name, []))
        except InputError:
            if is_there(Path(name)):
                raise
            side = None  # the loader says what is wrong with the name
        (jobs if side == "workload" else machines).append(name)
    return machines, jobs


def of_side(side: Side, found: Given) -> Given:
    """An argument that can be of a side.

    Raises
    ------
    InputError
        Its keys are those of the other side.
    """
    if kind_of(found) not in (side, None):
        other = "workload" if side == "topology" else "topology"
        assert isinstance(found.tree, Branch)
        own = plan_of(CLASSES[side]).keys() - plan_of(CLASSES[other]).keys()
        if not found.tree.entries.keys() & own:
            message = f"is a {other}, not a {side}"
            raise InputError([found.tree.place.fault("", message)])
    return found


def path_of(side: Side, argument: File) -> Path:
    """The file that an argument names: an existing path first, then the catalogue."""
    path = Path(argument)
    text = str(argument)
    if not text.strip():
        raise InputError([Fault(f"<{side}>", None, None, "", "the name is empty")])
    if is_file(path):
        return path
    kind = _FOLDERS[side]
    other = _FOLDERS["workload" if side == "topology" else "topology"]
    shipped = catalogue.find(kind, text) or catalogue.find(other, text)
    if shipped is not None:
        return shipped
    if told := instead(side, text):
        raise InputError.single(text, told)
    if re.fullmatch(r"[A-Za-z_][\w.\[\]]*=.*", text):
        raise InputError.single(text, f"is no file; a key is set by --set {text}")
    looks_like_path = "/" in text or "\\" in text or path.suffix in (".yaml", ".yml", ".json")
    if looks_like_path or is_folder(path) or is_there(path):
        return path  # reading it says what is wrong
    names = catalogue.names(kind)
    hint = did_you_mean(text, names)
    if not hint.startswith("; did"):
        hint = f"; shipped are {', '.join(names)}" if names else ""
    raise InputError.single(text, f"no such file, and no {side} of that name{hint}")
