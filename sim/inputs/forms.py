"""Short forms of the YAML, put into the shape of their spec class.

A form takes a tree and returns a `Branch` of the class's own fields, a finished spec, or None after
recording a fault:  ``full``, ``{lora: {rank: 16}}``, ``{fp8: {recipe: rowwise}}``,
``{selective: op}``, a GPU or model by name or with a ``base``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sim.inputs.bind import Binder, Form
from sim.inputs.form_machine import gpu, offer
from sim.inputs.form_model import model
from sim.inputs.form_node import node
from sim.inputs.method import OF_FREEZE
from sim.inputs.model import IN_PROJECTIONS, LINEARS
from sim.inputs.nearest import did_you_mean
from sim.inputs.recipes import RECIPES, SPOKEN, USUAL
from sim.inputs.scalars import described
from sim.inputs.spoken import folded, value_of
from sim.inputs.tree import Branch, Items, Leaf, Tree
from sim.units import whole

_TARGET_SETS = {
    "all-linear": LINEARS,
    "attention": LINEARS[:4],
    "qv": ("q", "v"),
    "ffn": LINEARS[4:7],
}
_TARGET_NAMES = {f"{n}_proj": n for n in LINEARS[:7]} | {
    **dict.fromkeys(IN_PROJECTIONS, "in_proj"),
    "wq": "q", "wk": "k", "wv": "v", "wo": "o", "w1": "gate", "w2": "down", "w3": "up",
}  # fmt: skip


def _choice(
    reader: Binder, tree: Tree, path: str, kinds: tuple[str, ...]
) -> tuple[str, Tree | None, Branch] | None:
    """``kind``, ``{kind: detail, beside: ...}`` or ``{kind: name, ...}``.

    Returns
    -------
    tuple
        The kind's text, its detail (None for the bare name), and the entries beside it.
    """
    empty = Branch({}, tree.place)
    if isinstance(tree, Leaf):
        word = str(tree.value)
        spoken = word if word in kinds else value_of(word, kinds)
        if spoken is not None:
            return spoken, None, empty
        hint = did_you_mean(word, kinds)
        reader.fault(tree.place, path, f"{described(tree)} is not one of {', '.join(kinds)}{hint}")
        return None
    if isinstance(tree, Branch):
        chosen = [k for k in tree.entries if k in kinds]
        if len(chosen) == 1:
            return chosen[0], tree.entries[chosen[0]], tree.without(*chosen)
        if len(chosen) > 1:
            message = f"{' and '.join(chosen)} exclude one another; keep one"
            reader.fault(tree.keys.get(chosen[1], tree.place), path, message)
            return None
        kind = tree.entries.get("kind")
        if isinstance(kind, Leaf) and kind.value in kinds:
            return str(kind.value), None, tree.without("kind")
        for key in tree.entries:
            hint = did_you_mean(key, kinds)
            reader.fault(tree.keys.get(key, tree.place), f"{path}.{key}", f"unknown key{hint}")
        if not tree.entries:
            reader.fault(tree.place, path, f"is empty; write one of {', '.join(kinds)}")
        return None
    reader.fault(tree.place, path, f"{described(tree)} is not one of {', '.join(kinds)}")
    return None


def _details(
    reader: Binder, path: str, kind: str, detail: Tree | None, beside: Branch
) -> Branch | None:
    """The mapping under a kind and the entries beside it, as one."""
    out = Branch(
        {"kind": Leaf(kind, beside.place), **beside.entries}, beside.place, dict(beside.keys)
    )
    null = isinstance(detail, Leaf) and detail.value in (None, "", "~", "null", True, "true")
    if detail is None or null:
        return out
    if not isinstance(detail, Branch):
        reader.fault(detail.place, f"{path}.{kind}", f"{described(detail)} is no mapping")
        return None
    for key in [key for key in detail.entries if key in beside.entries]:
        said, under = (of.keys.get(key, of.entries[key].place) for of in (beside, detail))
        if said.source != beside.place.source:  # set beside a file, as `method.rank` is
            detail = detail.without(key)
        elif under.source == beside.place.source:
            reader.fault(said, f"{path}.{key}", f"stands under {kind} too; keep one")
            return None
    return Branch({**out.entries, **detail.entries}, detail.place, {**out.keys, **detail.keys})


#: keys of a method that are of whatever is frozen
_OF_FROZEN = frozenset(("kind", "frozen_dtype", "input_require_grads"))


def method(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """``full | {lora: {rank: 16, targets: all-linear}} | {qlora: {...}} | {freeze: {last: 2}}``."""
    chosen = _choice(reader, tree, path, ("full", "freeze", "lora", "qlora"))
    table = None if chosen is None else _details(reader, path, *chosen)
    if chosen is None or table is None:
        return None
    kind, place = chosen[0], tree.place
    if kind == "full":
        others = [key for key in table.entries if key not in ("kind", "frozen_dtype")]
        return _without_meaning(reader, table, path, kind, others)
    others = [key for key in table.entries if (key in OF_FREEZE) != (kind == "freeze")]
    others = [key for key in others if key not in _OF_FROZEN]
    if kind == "freeze" or others:
        return _without_meaning(reader, table, path, kind, others)
    if "rank" not in table.entries:
        table = table.with_entry("rank", Leaf(16, place))
    if "quantization" not in table.entries and kind == "qlora":
        table = table.with_entry("quantization", Leaf("nf4", place))
    targets = table.entries.get("targets", Leaf("all-linear", place))
    names = _targets(reader, targets, f"{path}.{kind}.targets")
    if names is None:
        return None
    return table.with_entry(
        "targets", Items([Leaf(n, targets.place) for n in names], targets.place)
    )


def _targets(reader: Binder, tree: Tree, path: str) -> tuple[str, ...] | None:
    """Names of linear layers, in our order."""
    if isinstance(tree, Branch):
        reader.fault(tree.place, path, f"{described(tree)} is no list of layers")
        return None
    if isinstance(tree, Leaf) and tree.value in _TARGET_SETS:
        return _TARGET_SETS[tree.value]
    leaves = tree.items if isinstance(tree, Items) else [tree]
    found = set()
    for leaf in leaves:
        name = str(leaf.value) if isinstance(leaf, Leaf) else ""
        name = _TARGET_NAMES.get(name, name)
        if name not in LINEARS:
            known = (*_TARGET_SETS, *LINEARS)
            reader.fault(
                leaf.place, path, f"{described(leaf)} is no layer{did_you_mean(name, known)}"
            )
            return None
        found.add(name)
    if not found:
        reader.fault(tree.place, path, 'names no layer; write for example "all-linear"')
        return None
    return tuple(n for n in LINEARS if n in found)


#: keys of a precision that has recipes
_OF_RECIPES = ("recipe", "all_gather", "bf16_first", "bf16_last")


def precision(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """``bf16 | fp32 | tf32 | nvfp4 | {fp8: {recipe: ..., all_gather: ...}} | {bf16: {...}}``."""
    if isinstance(tree, Leaf) and folded(str(tree.value)) == "tf32":
        at = tree.place
        return Branch({"kind": Leaf("fp32", at), "tf32": Leaf(True, at)}, at)
    if isinstance(tree, Leaf) and folded(str(tree.value)) in SPOKEN:
        recipe, at = SPOKEN[folded(str(tree.value))], tree.place
        tree = Branch({"kind": Leaf(RECIPES[recipe].dtype, at), "recipe": Leaf(recipe, at)}, at)
    chosen = _choice(reader, tree, path, ("bf16", "fp16", "fp32", *USUAL))
    table = None if chosen is None else _details(reader, path, *chosen)
    if chosen is None or table is None:
        return None
    if chosen[0] not in USUAL:
        return _without_meaning(reader, table, path, chosen[0], _OF_RECIPES)
    if "recipe" not in table.entries:
        table = table.with_entry("recipe", Leaf(USUAL[chosen[0]], tree.place))
    if chosen[0] == "fp4":
        return _without_meaning(reader, table, path, chosen[0], ("all_gather",))
    return table


def _without_meaning(
    reader: Binder, table: Branch, path: str, kind: str, keys: Iterable[str]
) -> Branch:
    """The table; keys of other kinds are faults."""
    for key in keys:
        if key in table.entries:
            place = table.keys.get(key, table.place)
            reader.fault(place, f"{path}.{key}", f"has no meaning for {kind}")
    return table


def checkpointing(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """``none | full | {selective: op | every n-th block | fraction of blocks}``."""
    kinds = ("none", "full", "selective")
    if isinstance(tree, Branch) and isinstance(tree.entries.get("kind"), Leaf):
        kind_leaf = tree.entries["kind"]
        if isinstance(kind_leaf, Leaf) and str(kind_leaf.value).startswith("selective-"):
            return tree  # the class's own keys
    chosen = _choice(reader, tree, path, kinds)
    if chosen is None:
        return None
    kind, detail, beside = chosen
    if kind != "selective":
        return _details(reader, path, *chosen)
    word = str(detail.value) if isinstance(detail, Leaf) else "op" if detail is None else ""
    place = detail.place if detail is not None else tree.place
    if word in ("op", "true"):
        entries: dict[str, Tree] = {"kind": Leaf("selective-op", place)}
    elif every := whole(word):
        entries = {"kind": Leaf("selective-blocks", place), "every": Leaf(every, place)}
    elif _fraction(word) is not None:
        entries = {"kind": Leaf("selective-blocks", place), "fraction": Leaf(word, place)}
    else:
        read = described(detail) if detail is not None else word
        message = f'{read} is not "op", a whole number n (every n-th block) or a fraction of blocks'
        reader.fault(place, f"{path}.selective", message)
        return None
    return Branch({**entries, **beside.entries}, tree.place, beside.keys)


def _fraction(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if 0.0 < value < 1.0 else None


def _off(keys: dict[str, Any], what: str) -> Form:
    """A form that takes ``none`` for "there is no such thing", or a mapping."""

    def form(reader: Binder, tree: Tree, path: str) -> Branch | None:
        if isinstance(tree, Leaf) and tree.value in ("none", "never", False, "false"):
            return Branch({k: Leaf(v, tree.place) for k, v in keys.items()}, tree.place)
        if isinstance(tree, Branch):
            return tree
        reader.fault(tree.place, path, f'{described(tree)} is not "none" or a mapping of {what}')
        return None

    return form


def parallelism(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """A mapping, or the bare name of a strategy."""
    if isinstance(tree, Leaf):
        return Branch({"strategy": tree}, tree.place)
    if isinstance(tree, Branch):
        return tree
    reader.fault(tree.place, path, "is a list; write a mapping of strategy and its knobs")
    return None


def sample_lengths(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """A list of lengths, ``{histogram: {512: 0.3, ...}}``, or a mean, a maximum and a shape."""
    if isinstance(tree, Items):
        return Branch({"lengths": tree}, tree.place)
    if not isinstance(tree, Branch):
        message = f"{described(tree)} is no list of lengths, no histogram and no mean and maximum"
        reader.fault(tree.place, path, message)
        return None
    bars = tree.entries.get("histogram")
    if bars is None:
        return tree
    if not isinstance(bars, Branch) or len(tree.entries) > 1:
        message = "is no mapping of lengths to weights, alone: {histogram: {512: 0.3, 2048: 0.7}}"
        reader.fault(bars.place, f"{path}.histogram", message)
        return None
    places = [bars.keys.get(key, bars.place) for key in bars.entries]
    keys: list[Tree] = [Leaf(key, at) for key, at in zip(bars.entries, places, strict=True)]
    weights = list(bars.entries.values())
    entries: dict[str, Tree] = {
        "lengths": Items(keys, bars.place), "weights": Items(weights, bars.place)
    }  # fmt: skip
    return Branch(entries, tree.place)


_NO_NVLINK = {"generation": 1, "links_per_gpu": 0, "fabric": "none"}
FORMS: dict[str, Form] = {
    "SampleLengths": sample_lengths,
    "Gpu": gpu,
    "Node": node,
    "Model": model,
    "Method": method,
    "Precision": precision,
    "Checkpointing": checkpointing,
    "CheckpointSave": _off({"interval": None}, "interval, mode"),
    "Reliability": _off({"failures": False}, "gpu_mtbf, node_mtbf, ..."),
    "Evaluation": _off({"every": 0}, "every, tokens"),
    "Parallelism": parallelism,
    "NvLink": _off(_NO_NVLINK, "generation, links_per_gpu, fabric"),
    "Offer": offer,
}
