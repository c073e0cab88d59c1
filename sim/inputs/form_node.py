"""What a node leaves out and its GPU decides: the links of the board that the GPU is sold on."""

from __future__ import annotations

from typing import Any

from sim.inputs.bind import Assumption, Binder
from sim.inputs.gpu import GPUS_A_NODE, Gpu
from sim.inputs.scalars import described
from sim.inputs.tree import Branch, Leaf, Tree, from_python
from sim.units import whole

#: boards whose GPUs have a link to each other one, without a switch
#: Source: OCP, OAM Universal Base Board; AMD Instinct MI300X platform, seven links a GPU
_OAM = "oam"
#: GPUs of a board that NVLink joins each to each without a switch (HGX A100 and H100 of four)
_MESH_UP_TO = 4
#: the first generation of NVLink whose eight GPUs sit on NVSwitches as a rule (HGX A100); before,
#: they do (DGX-2) or are a hybrid cube mesh (DGX-1), and a file must say so
_SWITCHED_FROM = 3
#: keys that a node's GPU lends where they are left out, though their class requires them or, of
#: ``nvlink``, has another default
LENT = {
    "Node": ("pcie", "nvlink"),
    "Pcie": ("generation",),
    "NvLink": ("generation", "links_per_gpu"),
}


def node(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """A mapping; ``pcie`` and, of SXM or OAM, ``nvlink`` that it leaves out are its GPU's own.

    Keys of either that are left out are the GPU's too.  ``nvlink: none`` says that there is none.
    """
    if not isinstance(tree, Branch):
        reader.fault(tree.place, path, f"{described(tree)} is no mapping of gpu, gpus, nvlink, ...")
        return None
    said = tree.entries.get("gpu")
    if said is None:
        return _settled(tree)
    before = len(reader.faults)
    gpu = reader.read(Gpu, said, f"{path}.gpu")
    if gpu is None:
        del reader.faults[before:]  # told where the field itself is read
        return _settled(tree)
    given = Branch({**tree.entries, "gpu": Leaf(gpu, said.place)}, tree.place, tree.keys)
    given = _lent(reader, given, path, "pcie", _pcie(gpu), gpu)
    given = _without_nvlink(reader, given, path, gpu)
    nvlink = _nvlink(gpu, _count(tree), "nvlink" in tree.entries)
    return _lent(reader, given, path, "nvlink", nvlink, gpu)


def _without_nvlink(reader: Binder, tree: Branch, path: str, gpu: Gpu) -> Branch:
    """The node of a GPU without NVLink: links of which no generation is said are told as a fault.

    One that is said is told by the checks, with what a GPU of one's own would have to say.
    """
    said = tree.entries.get("nvlink")
    if gpu.nvlink_generation is not None or not isinstance(said, Branch):
        return tree
    fabric = said.entries.get("fabric")
    none = isinstance(fabric, Leaf) and fabric.value == "none"
    if not none:
        if "generation" in said.entries:
            return tree
        hint = "leave nvlink out, or name another GPU"
        if not gpu.base:
            hint = "add nvlink_generation and nvlink_links to node.gpu, or leave nvlink out"
        reader.fault(said.place, f"{path}.nvlink", f"{gpu.name} has no NVLink; {hint}")
    return tree.with_entry("nvlink", Leaf("none", said.place))


def _settled(tree: Branch) -> Branch:
    """A faulty node of which ``pcie`` is not said to be missing as well."""
    some = Branch({"generation": Leaf("4", tree.place)}, tree.place)
    return tree if "pcie" in tree.entries else tree.with_entry("pcie", some)


def _count(tree: Branch) -> int:
    """GPUs of the node; what is no number is told where the field is read."""
    said = tree.entries.get("gpus")
    text = str(said.value) if isinstance(said, Leaf) else str(GPUS_A_NODE)
    found = whole(text)
    return GPUS_A_NODE if found is None else found


def _pcie(gpu: Gpu) -> dict[str, Any]:
    return {"generation": gpu.pcie_generation, "lanes": gpu.pcie_lanes}


def _nvlink(gpu: Gpu, gpus: int, written: bool) -> dict[str, Any]:
    """What the GPU says of NVLink, and of its board where the node has no word of it."""
    if not written or gpu.nvlink_generation is None:
        return board_links(gpu, gpus)
    links = {"generation": gpu.nvlink_generation, "links_per_gpu": gpu.nvlink_links}
    return {**links, "fabric": "pairs"} if gpu.form_factor == "pcie" else links  # bridges


def board_links(gpu: Gpu, gpus: int) -> dict[str, Any]:
    """NVLink of the board that so many of a GPU are sold on, as keys of it; none where unknown."""
    if gpu.nvlink_generation is None:
        return {}
    links = {"generation": gpu.nvlink_generation, "links_per_gpu": gpu.nvlink_links}
    if gpu.form_factor not in ("sxm", _OAM) or gpus < 2:
        return {}  # bridges of cards are bought apart; a superchip's links are its rack's
    if gpu.form_factor == _OAM:
        return {**links, "fabric": "mesh"} if gpus <= gpu.nvlink_links + 1 else {}
    switched = gpus > _MESH_UP_TO
    if switched and gpu.nvlink_generation < _SWITCHED_FROM:
        return {}
    fabric = "nvswitch" if switched else "mesh"
    return {**links, "fabric": fabric, "sharp": switched and gpu.multicast}


def _lent(
    reader: Binder, tree: Branch, path: str, key: str, theirs: dict[str, Any], gpu: Gpu
) -> Branch:
    """The node with a table's missing keys from its GPU; a table that is no mapping is left."""
    said = tree.entries.get(key)
    if said is not None and not isinstance(said, Branch):
        return tree
    own = {} if said is None else said.entries
    lacking = {k: v for k, v in theirs.items() if k not in own}
    if not lacking:
        return tree
    lent = from_python(lacking, f"catalogue:gpus/{gpu.base or gpu.name}.toml")
    assert isinstance(lent, Branch)
    if not reader.quiet:
        reader.assumed += [Assumption(f"{path}.{key}.{k}", v) for k, v in lacking.items()]
    place, keys = (lent.place, {}) if said is None else (said.place, said.keys)
    return tree.with_entry(key, Branch({**lent.entries, **own}, place, keys))
