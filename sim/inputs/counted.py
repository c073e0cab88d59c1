"""GPUs by their number, as people name a machine: "8x A100 40GB" is one that ships, or a plain one.

The machine is the shipped one with as many of the GPU in a node, a vendor's own before a cloud's;
else a part of the smallest with more, or several of the largest; else a node of which the GPU
alone is said.
"""

from __future__ import annotations

import re
from pathlib import Path

from sim.inputs import catalogue
from sim.inputs.gpu import GPUS_A_NODE
from sim.inputs.spoken import folded, gpu_named
from sim.inputs.tree import Branch, Leaf, Place, Tree, from_python, read_file
from sim.inputs.yaml import from_yaml
from sim.records import NamedTuple

#: "A100 x 8"; "8x A100", "8 A100", "2x8 H100". The x of "RTX 4090" counts nothing
_COUNTS = (
    re.compile(r"\s*(?<![a-z])[x*]\s*(?P<gpus>[1-9]\d{0,4})\s*$", re.IGNORECASE),
    re.compile(
        r"^\s*(?:(?P<nodes>[1-9]\d{0,4})\s*(?:[x*]|nodes?\s+(?:of|x|with))\s*)?"
        r"(?P<gpus>[1-9]\d{0,4})(?:\s*[x*]\s*|\s+(?=[a-z]))",
        re.IGNORECASE,
    ),
)
_WORD = re.compile(r"\s+gpus?\s*$", re.IGNORECASE)  # "4x A100 80GB GPUs"
_SEVERAL = re.compile(r"(?<=\d)s\b", re.IGNORECASE)  # "8 H100s"; an L40S is no L40
_PAIRS = re.compile(r"fabric: pairs\b")
_GPUS = re.compile(r"^ +gpus: (\d+)\s*$", re.M)
_PROVIDER = re.compile(r"^offer: {provider: (\w+)", re.M)
_PLAIN = "its host, its slots and its network as they are by default; `init` writes one to edit"


class Counted(NamedTuple):
    """So many of a GPU of the catalogue in so many nodes; 0 where the number is not said."""

    gpu: str
    gpus: int = 0
    nodes: int = 1


def counted(name: str) -> Counted | None:
    """What a name says of GPUs; None where it names none of the catalogue."""
    name = _WORD.sub("", name)
    return _counted(name) or _counted(_SEVERAL.sub("", name))


def _counted(name: str) -> Counted | None:
    names = catalogue.gpu_names()
    if (whole := gpu_named(name, names)) is not None:
        return Counted(whole)
    for pattern in _COUNTS:
        found = pattern.search(name)
        gpu = gpu_named(pattern.sub("", name), names) if found else None
        if found and gpu is not None:
            return Counted(gpu, int(found["gpus"]), int(found.groupdict().get("nodes") or 1))
    return None


def begun(name: str) -> tuple[str, ...]:
    """GPUs of the catalogue that a name only begins, as `a100` does, or "8x A100"."""
    bare = folded(next((p.sub("", name) for p in _COUNTS if p.search(name)), name))
    found = tuple(gpu for gpu in catalogue.gpu_names() if folded(gpu).startswith(bare))
    return found if len(bare) > 2 else ()


def machines_with(gpu: str) -> dict[str, int]:
    """Shipped machines with a GPU and how many a node has, a vendor's own first; 0: they differ."""
    ours = rf"^\s*(?:- )?gpu: {re.escape(gpu)}\s*$"
    texts = {name: _text(name) for name in catalogue.names("topologies")}
    having = [name for name, text in texts.items() if re.search(ours, text, re.M)]
    found = {name: _GPUS.findall(texts[name]) for name in having}
    sizes = {name: int(found[name][0]) if len(found[name]) == 1 else 0 for name in having}
    whose = {name: _PROVIDER.findall(texts[name]) for name in having}
    having.sort(key=lambda name: (not sizes[name], any(map(name.startswith, whose[name]))))
    return {name: sizes[name] for name in having}


def machine(name: str) -> tuple[Tree, str] | None:
    """The machine that a number of GPUs means, and what is to be said of it.

    Parameters
    ----------
    name : str
        ``8x A100 40GB``, ``2x8 H100``.

    Returns
    -------
    tuple of Tree and str, or None
        None where no number of a GPU is named, or no machine can have as many.
    """
    said = counted(name)
    if said is None or not said.gpus:
        return None
    sizes = machines_with(said.gpu)
    alike = [machine for machine, size in sizes.items() if size == said.gpus]
    if alike:
        others = f"; {', '.join(alike[1:])} have as many" if alike[1:] else ""
        return _shipped(alike[0], said), f"taken as {alike[0]}{others}"
    larger = {
        machine: size
        for machine, size in sizes.items()
        if size > said.gpus and not (said.gpus % 2 and _PAIRS.search(_text(machine)))
    }
    if larger:
        part = min(larger, key=larger.__getitem__)
        which = f"{said.nodes} nodes of {part}, each" if said.nodes > 1 else part
        return _shipped(part, said), f"taken as {which} with {said.gpus} of its {larger[part]} GPUs"
    most = max(sizes, key=sizes.__getitem__, default="")
    each = sizes.get(most, 0)
    if each >= GPUS_A_NODE and said.gpus % each == 0 and said.nodes == 1:
        several = said._replace(gpus=each, nodes=said.gpus // each)
        return _shipped(most, several), f"taken as {several.nodes} nodes of {most}"
    if said.gpus > GPUS_A_NODE or said.nodes > 1:
        return None
    plain = {"name": name, "nodes": 1, "node": {"gpu": said.gpu, "gpus": said.gpus}}
    return from_python(plain, name), f"taken as a plain node: {_PLAIN}"


def _path(machine: str) -> Path:
    found = catalogue.find("topologies", machine)
    assert found is not None
    return found


def _text(machine: str) -> str:
    return _path(machine).read_text(encoding="utf-8")


def _shipped(machine: str, said: Counted) -> Tree:
    """A shipped machine with as many GPUs a node and nodes as are said."""
    path = _path(machine)
    tree = from_yaml(read_file(path), str(path), [])
    assert isinstance(tree, Branch)
    node = tree.entries["node"]
    assert isinstance(node, Branch)
    place = Place(str(path))
    node = Branch({**node.entries, "gpus": Leaf(said.gpus, place)}, node.place, node.keys)
    more: dict[str, Tree] = {"nodes": Leaf(said.nodes, place), "node": node}
    return Branch({**tree.entries, **more}, tree.place, tree.keys)
