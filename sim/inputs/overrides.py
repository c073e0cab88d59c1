"""``--set a.b=c``: parsed, sent to the file that has the key, and put into its tree.

Values are read as YAML, so ``method={lora: {rank: 8}}`` works; their type comes from the schema.
Override a key below a name extends it: ``node.gpu.power_limit=500 W`` keeps the GPU as ``base``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sim.errors import Fault, InputError, cut
from sim.inputs.base import Spec
from sim.inputs.fields import plan_of
from sim.inputs.nearest import did_you_mean
from sim.inputs.topology import Topology
from sim.inputs.tree import Branch, Items, Leaf, Place, Si, Tree, from_python
from sim.inputs.workload import Workload
from sim.inputs.yaml import from_yaml
from sim.records import NamedTuple
from sim.units import whole

_SIDES: dict[str, type[Spec]] = {"topology": Topology, "workload": Workload}
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_PLAIN = re.compile(r"[\w][\w .%/$+-]*\Z")

# a name that can be extended, and the choices of which one excludes the others
_BASED = ("gpu", "model")
_CHOICES = {
    "method": ("full", "lora", "qlora"),
    "precision": ("bf16", "fp16", "fp32", "fp8", "fp4"),
    "activation_checkpointing": ("none", "full", "selective"),
}
JOB_LENGTH = ("tokens", "steps", "samples")
_BATCH = {"global_batch": "gradient_accumulation", "gradient_accumulation": "global_batch"}


class Override(NamedTuple):
    """One override: the file it belongs to ("" where only its key says), its path and its value."""

    side: str
    path: tuple[str, ...]
    value: Tree
    text: str


def setting(key: str, value: Any) -> Override:
    """A setting from a dotted key and a Python value (texts are read as in the YAML)."""
    source = f"--set {key}"
    if isinstance(value, str):
        return _parse(f"{key}={value}")
    return Override("", _steps(key, source), from_python(value, source), key)


def parse_all(texts: Iterable[str], faults: list[Fault]) -> list[Override]:
    """Settings of ``key=value`` texts; what cannot be read becomes a fault."""
    out = []
    for text in [texts] if isinstance(texts, str) else texts:
        try:
            out.append(_parse(text))
        except InputError as error:
            faults.extend(error.faults)
    return out


@lru_cache(maxsize=4096)
def _parse(text: str) -> Override:
    source = f"--set {cut(text)}"
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError.single(source, 'write key=value, such as "nodes=4"')
    steps = _steps(key, source)
    stripped = value.strip()
    if _PLAIN.match(stripped):
        tree: Tree = Leaf(stripped, Place(source))
    elif not stripped:
        raise InputError.single(source, "has no value; write null to leave a key out", key)
    else:
        tree = _unplaced(from_yaml(stripped, source), source)
    return Override("", steps, tree, key)


def _steps(key: str, source: str) -> tuple[str, ...]:
    """``a.b[2].c`` or ``a.b.2.c`` as ("a", "b", "2", "c")."""
    out, end = [], 0
    for match in _STEP.finditer(key):
        if key[end : match.start()] not in ("", "."):
            break
        out.append(match[1] or match[2])
        end = match.end()
    if end != len(key) or not out:
        raise InputError.single(source, "the key is not of the form a.b.c or a.b[2]", key)
    return tuple(out)


def _unplaced(tree: Tree, source: str) -> Tree:
    """A tree whose places name the override and no line."""
    place = Place(source)
    if isinstance(tree, Branch):
        return Branch({k: _unplaced(v, source) for k, v in tree.entries.items()}, place)
    if isinstance(tree, Items):
        return Items([_unplaced(v, source) for v in tree.items], place)
    return Leaf(tree.value, place, tree.quoted)


def route(settings: Iterable[Override], faults: list[Fault]) -> dict[str, list[Override]]:
    """Settings by the side whose schema has their first key."""
    routed: dict[str, list[Override]] = {"topology": [], "workload": []}
    for item in settings:
        source = item.value.place.source
        first = item.path[0]
        if first in _SIDES and len(item.path) > 1:
            routed[first].append(item._replace(side=first, path=item.path[1:]))
            continue
        owners = (item.side,) if item.side else _owners(first)
        if len(owners) == 1:
            routed[owners[0]].append(item)
        elif owners:
            both = f"topology.{item.text} or workload.{item.text}"
            faults.append(Fault(source, None, None, item.text, f"both files have it; write {both}"))
        else:
            faults.append(Fault(source, None, None, item.text, "unknown key" + _elsewhere(item)))
    return routed


@lru_cache(maxsize=1024)
def _owners(first: str) -> tuple[str, ...]:
    """Sides whose schema has a key."""
    return tuple(side for side, cls in _SIDES.items() if first in plan_of(cls))


def key_named(word: str) -> str:
    """The dotted key of a name, at the top of a file or one below it; "" where none has it."""
    if _owners(word):
        return word
    below = (
        f"{name}.{inner}"
        for cls in _SIDES.values()
        for name, plan in plan_of(cls).items()
        for way in plan.alternatives
        if way.kind == "spec"
        for inner in plan_of(way.detail)
        if inner == word
    )
    return next(below, "")


def _elsewhere(item: Override) -> str:
    """A hint at where a key of this name is."""
    if found := key_named(item.path[0]):
        tail = "".join(f".{s}" for s in item.path[1:])
        return f'; did you mean "{found}{tail}"?'
    return did_you_mean(item.path[0], [k for c in _SIDES.values() for k in plan_of(c)])


def apply(tree: Tree, settings: Iterable[Override], cls: type[Spec]) -> Tree:
    """The tree with settings put in.

    Raises
    ------
    InputError
        If a path leads through something that has no keys.
    """
    settings = list(settings)
    said = {item.path[0] for item in settings}
    for item in settings:
        if isinstance(tree, Leaf) and isinstance(tree.value, cls):
            whole = written(tree.value, cls.model_fields)
            tree = from_python(whole, tree.place.source)
        elif isinstance(tree, Leaf):  # no file of ours, as whoever reads it says
            return tree
        other = _BATCH.get(item.path[0])
        if other and other not in said and isinstance(tree, Branch):
            tree = tree.without(other)  # it follows, or else contradicts what is wanted
        if item.path[0] in JOB_LENGTH and len(item.path) == 1 and isinstance(tree, Branch):
            # the file's; two that are set together are refused as two in a file are
            tree = tree.without(*(k for k in JOB_LENGTH if k not in said))
        tree = _put(tree, item.path, item, "")
    return tree


def _put(tree: Tree | None, path: tuple[str, ...], item: Override, name: str) -> Tree:
    """A copy of the tree with the value at `path`; `name` is the key the tree stands under."""
    if not path:
        return item.value
    step, place = path[0], item.value.place
    if isinstance(tree, Items):
        index = whole(step)
        if index is None or index >= len(tree.items):
            message = f'"{step}" is no index of a list of {len(tree.items)}'
            raise InputError([place.fault(item.text, message)])
        items = list(tree.items)
        items[index] = _put(items[index], path[1:], item, name)
        return Items(items, tree.place)
    if isinstance(tree, Leaf):
        tree = _opened(tree, name, place)
    table = tree if isinstance(tree, Branch) else Branch({}, place)
    choices = _CHOICES.get(name, ())
    if step in choices:
        table = table.without(*(k for k in (*choices, "kind") if k != step))
    return table.with_entry(step, _put(table.entries.get(step), path[1:], item, step))


def written(spec: Spec, names: Iterable[str]) -> dict[str, Any]:
    """A spec's fields, its inner specs left whole: a tree keeps them as they are.

    An empty text is left out: in a tree it would be a key without a value.
    """
    found = {name: getattr(spec, name) for name in names}
    return {
        name: Si(value) if isinstance(value, float) else value
        for name, value in found.items()
        if value != ""
    }


def _opened(leaf: Leaf, name: str, place: Place) -> Branch:
    """A scalar made a mapping that a key can be put into."""
    if isinstance(leaf.value, Spec):
        whole = written(leaf.value, leaf.value.model_fields_set)
        tree = from_python(whole, leaf.place.source)
        assert isinstance(tree, Branch)
        return tree
    if name in _BASED and isinstance(leaf.value, str):
        return Branch({"base": leaf}, leaf.place)
    if name == "parallelism" and isinstance(leaf.value, str):
        return Branch({"strategy": leaf}, leaf.place)
    return Branch({}, place)
