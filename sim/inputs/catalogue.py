"""What ships with the package, by name: GPUs, topologies, workloads.

`topologies/` and `workloads/` stand at the root of the project and are copied into the wheel as
`sim/data/topologies` and `sim/data/workloads`; an editable install has only the first.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import cast

from sim.errors import InputError
from sim.files import is_file
from sim.inputs.bind import Binder
from sim.inputs.gpu import Gpu
from sim.inputs.spoken import folded
from sim.inputs.tree import Branch, from_python

DATA = Path(__file__).parents[1] / "data"
CHECKOUT = Path(__file__).parents[2]
_SUFFIXES = (".yaml", ".yml")


@cache
def gpu_names() -> tuple[str, ...]:
    """Names of the GPUs in the catalogue."""
    return tuple(sorted(p.stem for p in (DATA / "gpus").glob("*.toml")))


@cache
def gpu_table(name: str) -> Branch:
    """The entry of a GPU as a tree of its own keys.

    Raises
    ------
    KeyError
        If there is none.
    """
    if name not in gpu_names():
        raise KeyError(name)
    path = DATA / "gpus" / f"{name}.toml"
    keys = tomllib.loads(path.read_text(encoding="utf-8"))
    keys = {"name": name, "base": name, **keys}
    return cast(Branch, from_python(keys, f"catalogue:gpus/{name}.toml"))


@cache
def gpu(name: str) -> Gpu | None:
    """A GPU of the catalogue, or None."""
    if name not in gpu_names():
        return None
    reader = Binder(quiet=True)  # entries hold the keys of the class, no short forms
    found = reader.read_table(Gpu, gpu_table(name), "")
    if reader.faults:
        raise InputError(reader.faults)
    return found


def sold_as(board: Gpu) -> Gpu:
    """The catalogue's entry that a GPU is one of, as sold; a GPU of the user's own is its own."""
    return gpu(board.base) or board


def folders(kind: str) -> tuple[Path, ...]:
    """Where entries of a kind ("topologies", "workloads") are, first wins."""
    candidates = [DATA / kind]
    if (CHECKOUT / "pyproject.toml").is_file():  # else this is somebody's site-packages
        candidates.append(CHECKOUT / kind)
    return tuple(f for f in candidates if f.is_dir())


def names(kind: str) -> tuple[str, ...]:
    """Names of the shipped topologies or workloads."""
    return tuple(
        sorted(
            {p.stem for folder in folders(kind) for p in folder.iterdir() if p.suffix in _SUFFIXES}
        )
    )


def find(kind: str, name: str) -> Path | None:
    """The file of a shipped topology or workload, or None; "DGX H100" is dgx-h100."""
    if not name or any(c in name for c in "/\\\0"):
        return None
    for folder in folders(kind):
        for suffix in _SUFFIXES:
            path = folder / f"{name}{suffix}"
            if is_file(path):
                return path
    spoken = next((n for n in names(kind) if folded(n) == folded(name)), None)
    return find(kind, spoken) if spoken not in (None, name) else None
