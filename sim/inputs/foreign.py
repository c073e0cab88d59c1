"""Jobs written for other tools: recognised, and read as the workload that they describe.

What a file is, its keys say, never its name. Formats are known by name (`FORMATS` of
`sim.inputs.registry`); each says whether a file is its own and reads it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from sim.errors import Fault, InputError
from sim.files import is_file
from sim.inputs.conclusion import conclude
from sim.inputs.fields import plan_of
from sim.inputs.mistaken import unread
from sim.inputs.notebooks import is_notebook
from sim.inputs.python_calls import PARSED, calls_of, declared, from_calls
from sim.inputs.registry import FORMATS
from sim.inputs.topology import Topology
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import (
    DEEPER,
    MAX_DEPTH,
    Branch,
    Items,
    Leaf,
    Place,
    Tree,
    from_python,
    too_deep,
)
from sim.inputs.workload import Workload
from sim.inputs.yaml import from_yaml

#: commands that start a training
LAUNCHES = (
    r"\b(?:torchrun|accelerate +launch|deepspeed +(?:--|\S+\.py\b)"
    r"|python3? +-m +(?:torch\.distributed|(?:verl|recipe)\.\w+|trl\.scripts\.\w+)"
    r"|swift +(?:sft|pt|rlhf)|trl +(?:sft|dpo|grpo|kto|rloo|reward)"
    r"|axolotl +train|llamafactory-cli +train)\b"
)
#: a script in Python that is given options, as on one GPU
PLAIN = r"^[ \t]*(?:\w+=\S+ +)*python3? +(?:-u +)?[\w./-]+\.py\b(?=(?:[ \t]+\S+)*?[ \t\\\n]+--\w)"
_SCRIPT = re.compile(rf"^(?:#!.*sh\b|#SBATCH\b)|{LAUNCHES}|{PLAIN}", re.M)
#: calls that Python alone has, by which it is known without a name (through a pipe)
_PYTHON = re.compile(
    r"\w(?:TrainingArguments|Config)\(|\bTrainingArguments\(|\.backward\(|\bfully_shard\("
    r"|\bAccelerator\(|\bdeepspeed\.initialize\("
)
#: options by which a launch's reader knows a trainer's arguments
OF_TRAINERS = frozenset({"per_device_train_batch_size", "model_name_or_path"})
#: a dotted key of TOML of more parts than there may be levels
_DEEP_KEY = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{MAX_DEPTH + 1}}}"""
)
_HEADER = re.compile(r"\s*\[+([^\]]+)\]+")
_ASSIGNED = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*=")


class Format(Protocol):
    """A kind of file of another tool."""

    @property
    def name(self) -> str:
        """As `import` lists it."""

    @property
    def title(self) -> str:
        """As sentences call it: "an axolotl file"."""

    @property
    def options(self) -> Callable[[Source], Mapping[str, Mapping[str, str]]] | None:
        """Of a launch: the options that it gives to scripts, by the script's name."""

    def recognises(self, source: Source) -> bool:
        """Whether a file is of this kind."""

    def read(self, source: Source, job: Translation) -> None:
        """Put what a file says into a job."""


def source_of(text: str, name: str, path: Path | None, faults: list[Fault]) -> Source:
    """A file's text as a source: YAML, JSON, TOML, Python or a launch script.

    Raises
    ------
    InputError
        Broken syntax.
    """
    if name.endswith(".toml"):
        return Source(path, name, text, _from_toml(text, name))
    if _SCRIPT.search(text) and not _mapping(text):
        # a script in Python may say at its top how it is started
        return Source(path, name, text, _as_python(text, name) if name.endswith(".py") else None)
    if name.endswith(".py") or is_notebook(text, name):
        return Source(path, name, text, _from_python(text, name))
    if _PYTHON.search(text) and (calls := _as_python(text, name)):
        return Source(path, name, text, calls)
    if text.lstrip().startswith("{") and "\t" in text:  # JSON that no YAML parser takes
        return Source(path, name, text, _from_json(text, name))
    return Source(path, name, text, from_yaml(text, name, faults))


def _from_python(text: str, name: str) -> Tree:
    calls = from_calls(text, name)
    if not format_of_keys(Source(None, name, text, calls)):
        message = (
            "is Python, which is not run here, and none of its calls has a trainer's arguments "
            "(TrainingArguments, SFTConfig) or makes a loop (Accelerator, FSDP, fully_shard, a "
            "model and its backward); name the script that starts it, or the file it reads"
        )
        raise InputError.single(name, unread((), text) or message)
    return calls


def _as_python(text: str, name: str) -> Tree | None:
    """A text as Python with a trainer's arguments; None where it is not, whatever it is else."""
    try:
        return _from_python(text, name)
    except InputError:
        return None


def _mapping(text: str) -> bool:
    """Whether a text with a launch command in it is a mapping all the same (Kubernetes)."""
    return bool(re.search(r"^(apiVersion|kind)\s*:", text, re.M))


def _from_json(text: str, name: str) -> Tree:
    try:
        return from_python(json.loads(text), name)
    except json.JSONDecodeError as error:
        raise InputError(
            [Fault(name, error.lineno, error.colno, "", f"not JSON: {error.msg}")]
        ) from None
    except ValueError as error:  # a number of more digits than Python reads
        raise InputError.single(name, f"not JSON: {error}") from None
    except RecursionError:
        raise too_deep(text, name) from None


def _from_toml(text: str, name: str) -> Tree:
    if deep := _DEEP_KEY.search(text):  # Python's reader takes memory by the square of its parts
        place = Place(name, text.count("\n", 0, deep.start()) + 1)
        raise InputError([place.fault("", DEEPER)])
    try:
        values = tomllib.loads(text)
    except ValueError as error:  # numbers of more digits than Python reads, too
        raise InputError.single(name, f"not TOML: {error}") from None
    except RecursionError:
        raise too_deep(text, name) from None
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[1].strip() + "."
            lines.setdefault(table[:-1], number)
        elif key := _ASSIGNED.match(line):
            lines.setdefault(table + key[1], number)
    return _placed(from_python(values, name), lines, name, "")


def _placed(tree: Tree, lines: dict[str, int], name: str, path: str) -> Tree:
    """A tree of TOML with the lines of its keys."""
    place = Place(name, lines.get(path))
    if isinstance(tree, Branch):
        entries = {
            k: _placed(v, lines, name, f"{path}.{k}" if path else k)
            for k, v in tree.entries.items()
        }
        return Branch(entries, place, {k: v.place for k, v in entries.items()})
    if isinstance(tree, Items):
        return Items([_placed(v, lines, name, path) for v in tree.items], place)
    return Leaf(tree.value, place, tree.quoted)


def is_ours(source: Source) -> bool:
    """Whether every top-level key is one of a workload or a topology."""
    own = {*plan_of(Workload), *plan_of(Topology)}
    return isinstance(source.tree, Leaf | Items) or (source.tree is not None and source.keys <= own)


def _below(source: Source, key: str) -> set[str]:
    """Keys of a mapping in a file, with its own before them; none where it is a name."""
    inner = source.branch.entries.get(key)
    return {f"{key}.{name}" for name in inner.entries} if isinstance(inner, Branch) else set()


def format_of(source: Source) -> Format | None:
    """The format that a file is of, or None where it is none of another tool's.

    Raises
    ------
    InputError
        The file of a tool that is known and not read.
    """
    if told := unread(source.keys | _below(source, "trainer"), source.text):
        raise InputError.single(source.name, told)
    return format_of_keys(source)


def format_of_keys(source: Source) -> Format | None:
    """As `format_of`, of a file or of a script's options, whose names tell of no tool's file."""
    if is_ours(source):
        return None
    return next((FORMATS[name] for name in FORMATS if FORMATS[name].recognises(source)), None)


def translate(sources: Sequence[Source]) -> Translation:
    """One job out of several files of other tools.

    Raises
    ------
    InputError
        A file that no format recognises or reads.
    """
    name = sources[0].name
    sources, beside_launch = _apart(sources)
    files = frozenset(source.name.rpartition("/")[2] for source in sources)
    job = Translation(Branch({}, Place(name)), files, scripts=beside_launch)
    formats = []
    for source in sources:
        found = format_of(source)
        if found is None and len(sources) > 1 and is_ours(source):
            message = "is a job of its own; only a trainer's files make one job together: name one"
            raise InputError.single(source.name, message)
        if found is None:
            raise InputError.single(source.name, f"is the file of no tool known here ({_known()})")
        formats.append(found)
    sources = _handed(formats, sources, job)
    order = list(FORMATS)
    # what launches a job says least of it, and what it says is what others leave open
    for format_, source in sorted(
        zip(formats, sources, strict=True), key=lambda pair: order.index(pair[0].name)
    ):
        job.titles.append(format_.title)
        format_.read(source, job)
    conclude(job, sources[0].path)
    return job


def _apart(sources: Sequence[Source]) -> tuple[Sequence[Source], dict[str, Path]]:
    """Files without scripts whose trainer's arguments a launch among them gives, and these by name.

    The launch reads them as it reads what stands beside it.
    """
    given: dict[str, Mapping[str, str]] = {}
    for source in sources if len(sources) > 1 else ():
        found = None if source.name.endswith(".py") else format_of(source)
        if found is not None and found.options is not None:
            given |= found.options(source)
    left, apart = [], {}
    for source in sources:
        name = source.name.rpartition("/")[2]
        parsed = any(PARSED in call.entries for _, call in calls_of(source.branch))
        if parsed and source.path is not None and OF_TRAINERS & set(given.get(name, ())):
            apart[name] = source.path
        else:
            left.append(source)
    return left, apart


def _handed(formats: Sequence[Format], sources: Sequence[Source], job: Translation) -> list[Source]:
    """Files, the scripts in Python among them with the options that launches give them."""
    given: dict[str, Mapping[str, str]] = {}
    for format_, source in zip(formats, sources, strict=True):
        if format_.options is not None:
            given |= format_.options(source)
    return [as_started(source, given, job) for source in sources]


def as_started(source: Source, given: Mapping[str, Mapping[str, str]], job: Translation) -> Source:
    """A script in Python as a command line starts it; any other file as it is.

    Parameters
    ----------
    source : Source
        The file.
    given : mapping of str to mapping
        Options by the script's name, folders left out.
    job : Translation
        Takes which options the script declares.
    """
    options = given.get(source.name.rpartition("/")[2])
    if not options or not source.name.endswith(".py"):
        return source
    own = declared(source.text, source.name)
    job.handed.update(name for name in options if name.replace("-", "_") in own)
    tree = from_calls(source.text, source.name, options)
    return Source(source.path, source.name, source.text, tree)


def _known() -> str:
    return ", ".join(FORMATS)


def beside(source: Source, name: str) -> Path | None:
    """A file that another one names: from its folder, or from where we stand."""
    if source.path is None or not name:
        return None
    for folder in (source.path.parent, *list(source.path.parents)[1:4], Path()):
        path = folder / name
        if is_file(path):
            return path
    return None
