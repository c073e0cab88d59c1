"""Training runs that a user timed: a YAML list of topology, workload, changes and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from sim.calibration.figures import KEYS, is_figure, read_figures, read_value
from sim.errors import Fault, InputError
from sim.files import is_there
from sim.inputs.loader import load
from sim.inputs.topology import Topology
from sim.inputs.tree import Branch, Items, Leaf, Tree, plain_of, read_file
from sim.inputs.workload import Workload
from sim.inputs.yaml import from_yaml
from sim.quantities import counted
from sim.step.variation import Progress, silent

_RUN_KEYS = ("topology", "workload", "set", *KEYS, "name")


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """A training run that was timed."""

    name: str
    topology: Topology
    workload: Workload
    step_time_s: float


class NoListError(InputError):
    """A file that is no list of runs at all, be it YAML or not."""


def read_runs(
    path: str | PathLike[str], topology: str = "", workload: str = "", sets: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[LoggedRun]:  # fmt: skip
    """Runs of a YAML list.

    Parameters
    ----------
    path : path
        ``- {topology, workload, set: [...], tokens_per_s_per_gpu: 1000}``, or another of
        `sim.calibration.figures.KEYS`; or the figure itself, of the topology and workload given.
    topology, workload : str
        Of runs that name none.
    sets : sequence of str
        Overrides of all runs, before their own.
    progress : callable, optional
        Called with runs read and all there are.

    Raises
    ------
    NoListError
        It is something else.
    InputError
        With every fault of the list.
    """
    source = str(path)
    if is_figure(source) and not is_there(Path(path)):
        return [timed_run(source, topology, workload, sets)]
    text = read_file(Path(path))
    try:
        tree = from_yaml(text, source)
    except InputError as error:
        raise NoListError(error.faults) from None
    if isinstance(tree, Branch) and set(tree.entries) == {"runs"}:
        tree = tree.entries["runs"]
    if not isinstance(tree, Items) or not tree.items:
        message = "is no list of runs: - {topology, workload, tokens_per_s_per_gpu}"
        raise NoListError.single(source, message)
    faults: list[Fault] = []
    runs = []
    told = progress or silent
    for i, item in enumerate(tree.items):
        told(i, len(tree.items))
        try:
            runs.append(_run(item, i, Path(path).parent, (topology, workload), sets))
        except InputError as error:
            faults.extend(error.faults)
    if faults:
        raise InputError(faults)
    return runs


def timed_run(
    text: str, topology: str, workload: str, sets: Sequence[str], source: str = ""
) -> LoggedRun:
    """A job with one figure of it, as `sim.calibration.figures.read_figures` takes it.

    Parameters
    ----------
    text : str
        The figure, such as ``step_time_s=12.5``.
    source : str
        The log that says it; of the command line where there is none.

    Raises
    ------
    InputError
        There is no job, or no such figure.
    """
    if not workload:
        message = "is of one job: name its WORKLOAD after the topology"
        raise InputError.single(source or f"--measured {text}", message)
    (figure,) = read_figures(topology, workload, sets, text, option=source or "--measured")
    return LoggedRun(source or text, figure.topology, figure.workload, figure.step_time_s)


def _run(
    tree: Tree, index: int, folder: Path, default: tuple[str, str], sets: Sequence[str]
) -> LoggedRun:
    where = f"[{index}]"
    if not isinstance(tree, Branch):
        raise InputError([tree.place.fault(where, "is no mapping of topology, workload, ...")])
    faults = [
        tree.keys.get(key, tree.place).fault(
            f"{where}.{key}", f"unknown key; known are {', '.join(_RUN_KEYS)}"
        )
        for key in tree.entries
        if key not in _RUN_KEYS
    ]
    arguments = []
    for side, fallback in zip(("topology", "workload"), default, strict=True):
        entry = tree.entries.get(side)
        if entry is None and not fallback:
            faults.append(tree.place.fault(f"{where}.{side}", "is missing"))
        arguments.append(_argument(entry, folder) if entry is not None else fallback)
    own = tree.entries.get("set")
    texts = [*sets, *([] if own is None else _texts(own, f"{where}.set", faults))]
    given = [key for key in KEYS if key in tree.entries]
    if len(given) != 1:
        message = f"one of {', '.join(KEYS)} is needed"
        faults.append(tree.place.fault(where, message))
    if faults:
        raise InputError(faults)
    figure = _figure(tree.entries[given[0]], f"{where}.{given[0]}", given[0])
    loaded = load(arguments[0], arguments[1], texts)
    seconds = KEYS[given[0]](figure, loaded.topology, loaded.workload)
    named = tree.entries.get("name")
    name = str(named.value) if isinstance(named, Leaf) else ""
    gpus = counted(loaded.topology.world_size, "GPU")
    name = name or f"run {index + 1}: {loaded.workload.name} on {gpus}"
    return LoggedRun(name, loaded.topology, loaded.workload, seconds)


def _argument(tree: Tree, folder: Path) -> Any:
    """A path beside the list, a name, or a mapping."""
    if isinstance(tree, Leaf):
        beside = folder / str(tree.value)
        return str(beside) if is_there(beside) else str(tree.value)
    return plain_of(tree)


def _texts(tree: Tree, path: str, faults: list[Fault]) -> list[str]:
    items = tree.items if isinstance(tree, Items) else [tree]
    out = []
    for item in items:
        if isinstance(item, Leaf) and "=" in str(item.value):
            out.append(str(item.value))
        else:
            faults.append(item.place.fault(path, "is no list of key=value"))
    return out


def _figure(tree: Tree, path: str, key: str) -> float:
    text = str(tree.value) if isinstance(tree, Leaf) else "a list or mapping"
    return read_value(key, text, lambda message: tree.place.fault(path, message))


def distinct(runs: Sequence[LoggedRun], taken: Sequence[str]) -> list[LoggedRun]:
    """Runs under names of their own: what is left out together is found by name."""
    seen = set(taken)
    numbers: dict[str, int] = {}  # the next of each name: among many alike none is tried twice
    out = []
    for run in runs:
        name = run.name
        while name in seen:
            i = numbers.get(run.name, 2)
            name, numbers[run.name] = f"{run.name} ({i})", i + 1
        seen.add(name)
        out.append(replace(run, name=name))
    return out
