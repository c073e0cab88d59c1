"""Short forms of a model: a name, a Hugging Face config, keys over a base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.errors import InputError
from sim.inputs.base import Spec
from sim.inputs.bind import Binder
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree
from sim.units import whole


def model(reader: Binder, tree: Tree, path: str) -> Branch | Spec | None:
    """A catalogue name, the path of a Hugging Face config, or a mapping."""
    from sim.inputs import models

    try:
        if isinstance(tree, Leaf):
            if not isinstance(tree.value, str):
                reader.fault(
                    tree.place, path, f"{tree.value!r} is no model: write a name or a path"
                )
                return None
            return models.resolve_model(
                tree.value, source=tree.place.source, relative_to=reader.folder
            )
        if isinstance(tree, Branch):
            if "model_type" in tree.entries or "architectures" in tree.entries:
                return models.resolve_model(to_python(tree), source=tree.place.source)
            return _inline_model(reader, tree, path)
    except InputError as error:
        for fault in error.faults:  # the place is better known here
            detail = fault.message
            if fault.source not in (tree.place.source, "model"):
                detail = f"{fault.source}: {detail}"
            inner = fault.path if fault.path.startswith(path) else f"{path}.{fault.path}"
            reader.fault(tree.place, inner.rstrip("."), detail)
        return None
    reader.fault(tree.place, path, "is no model: write a name, a path or a mapping")
    return None


def _inline_model(reader: Binder, tree: Branch, path: str) -> Branch | Spec | None:
    """Shape keys written out, over a catalogue entry if there is a ``base``."""
    base = tree.entries.get("base")
    entries: dict[str, Tree] = {}
    if base is not None:
        if not isinstance(base, Leaf):
            reader.fault(base.place, f"{path}.base", "is no model: write a name or a path")
            return None
        found = model(reader, base, f"{path}.base")
        if not isinstance(found, Spec):
            return None
        plain = found.model_dump(exclude_defaults=True)
        entries = {k: _tree(v, base.place) for k, v in plain.items()}
    own = tree.without("base").entries
    if base is None and "name" not in own:
        entries["name"] = Leaf("inline model", tree.place)
    derived = {"kv_heads": "heads"}  # what a plain transformer has where the key is left out
    merged = {**entries, **own}
    for key, like in derived.items():
        if key not in merged and like in merged:
            merged[key] = merged[like]
    if "head_dim" not in merged:
        sizes = [_whole(merged.get(k)) for k in ("hidden_size", "heads")]
        if sizes[0] and sizes[1] and sizes[0] % sizes[1] == 0:
            merged["head_dim"] = Leaf(sizes[0] // sizes[1], tree.place)
    return Branch(merged, tree.place, tree.keys)


def _tree(value: Any, place: Place) -> Tree:
    """A value of a spec as a file would have it."""
    if isinstance(value, tuple | list):
        return Items([Leaf(one, place) for one in value], place)
    return Leaf(value, place)


def _whole(tree: Tree | None) -> int:
    text = str(tree.value) if isinstance(tree, Leaf) else ""
    return whole(text) or 0


def to_python(tree: Tree) -> Any:
    """A tree as JSON would load it: for Hugging Face keys, whose types are not ours to know."""
    if isinstance(tree, Branch):
        return {k: to_python(v) for k, v in tree.entries.items()}
    if isinstance(tree, Items):
        return [to_python(v) for v in tree.items]
    value = tree.value
    if not isinstance(value, str) or tree.quoted:
        return value
    plain: Mapping[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}
    if value in plain:
        return plain[value]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
