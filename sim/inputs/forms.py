"""Short forms of the YAML, put into the shape of their spec class.

A form takes a tree and returns a `Branch` of the class's own fields, a finished spec, or None after
recording a fault:  ``full``, ``{lora: {rank: 16}}``, ``{fp8: {recipe: rowwise}}``,
``{selective: op}``, a GPU or model by name or with a ``base``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.errors import InputError
from sim.inputs import catalogue
from sim.inputs.architecture import measured_gpu
from sim.inputs.base import Spec
from sim.inputs.bind import Assumption, Binder, Form
from sim.inputs.nearest import did_you_mean
from sim.inputs.scalars import described
from sim.inputs.spoken import gpu_named, gpus_like, value_of
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
_TARGET_SETS = {
    "all-linear": LINEARS,
    "attention": LINEARS[:4],
    "qv": ("q", "v"),
    "ffn": LINEARS[4:],
}
_TARGET_NAMES = {f"{n}_proj": n for n in LINEARS} | {
    "wq": "q", "wk": "k", "wv": "v", "wo": "o", "w1": "gate", "w2": "down", "w3": "up",
}  # fmt: skip


def gpu(reader: Binder, tree: Tree, path: str) -> Branch | Spec | None:
    """``h100-sxm-80gb``, or a mapping, with or without ``base``."""
    if isinstance(tree, Leaf):
        return _catalogue_gpu(reader, tree, path)
    if not isinstance(tree, Branch):
        reader.fault(tree.place, path, "is no GPU: write a catalogue name or a mapping")
        return None
    base = tree.entries.get("base")
    if base is None:
        return _own_gpu(reader, tree, path)
    if not isinstance(base, Leaf) or _catalogue_gpu(reader, base, f"{path}.base") is None:
        if not isinstance(base, Leaf):
            reader.fault(base.place, f"{path}.base", "is no catalogue name")
        return None
    name = str(base.value)
    entry = catalogue.gpu_table(gpu_named(name, catalogue.gpu_names()) or name)
    return Branch({**entry.entries, **tree.without("base").entries}, tree.place, tree.keys)


#: what decides how fast a GPU is and what fits on it: nothing to be supposed of an unknown one
_DECIDES = ("architecture", "memory", "memory_bandwidth", "sms", "power_limit")
_PEAKS = ("peak_bf16", "peak_fp16")


def _own_gpu(reader: Binder, tree: Branch, path: str) -> Branch | None:
    """A GPU written out: over the catalogue's of its name, or with all that decides the answer."""
    name = tree.entries.get("name")
    spoken = str(name.value) if isinstance(name, Leaf) else ""
    known = gpu_named(spoken, catalogue.gpu_names()) if spoken else None
    if known is not None:
        entry = catalogue.gpu_table(known)
        left_out = [k for k in entry.entries if k not in tree.entries and k != "base"]
        if left_out:
            reader.assumed.append(Assumption(f"{path}.base", known))
        return Branch({**entry.entries, **tree.entries}, tree.place, tree.keys)
    missing = [key for key in _DECIDES if key not in tree.entries]
    missing += [" or ".join(_PEAKS)] * (not any(key in tree.entries for key in _PEAKS))
    if missing:
        hint = did_you_mean(spoken.lower(), catalogue.gpu_names()) if spoken else ""
        hint = hint if hint.startswith("; did") else ""
        message = f"is not of the catalogue, and does not say {', '.join(missing)}{hint}"
        reader.fault(tree.place, path, f"{message}; write these, or a base of the catalogue")
        return None
    return _lent(reader, tree, path)


#: what the measured GPU of an architecture lends to one that leaves it out
_LENT = ("boost_clock", "l2_cache", "peak_fp32", "idle_power", "compute_capability")
#: what a GPU has not unless it says so
_LACKS = {
    "peak_bf16": "null", "peak_fp16": "null", "peak_tf32": "null", "peak_fp8": "null",
    "peak_int8": "null", "nvlink_generation": "null", "nvlink_links": "0", "multicast": "false",
}  # fmt: skip


def _lent(reader: Binder, tree: Branch, path: str) -> Branch:
    """A GPU of one's own with what it leaves out: another's by name, or nothing."""
    written = tree.entries["architecture"]
    lender = measured_gpu(str(written.value) if isinstance(written, Leaf) else "")
    theirs = catalogue.gpu_table(lender).entries
    lent = {key: theirs[key] for key in _LENT if key not in tree.entries}
    board = "sxm" if "nvlink_generation" in tree.entries else "pcie"
    said = {"form_factor": board, "borrowed": f"{', '.join(lent)} of {lender}" if lent else ""}
    absent = {k: Leaf(v, tree.place) for k, v in {**_LACKS, **said}.items()}
    return Branch({**absent, **lent, **tree.entries}, tree.place, tree.keys)


def _catalogue_gpu(reader: Binder, leaf: Leaf, path: str) -> Spec | None:
    name = leaf.value
    found = catalogue.gpu(name) if isinstance(name, str) else None
    if found is None:
        names = catalogue.gpu_names()
        spoken = gpu_named(name, names) if isinstance(name, str) else None
        if spoken is not None:
            reader.assumed.append(Assumption(path, spoken))
            return catalogue.gpu(spoken)
        alike = " or ".join(f'"{n}"' for n in gpus_like(str(name), names))
        hint = did_you_mean(str(name).lower(), names) or (
            f"; did you mean {alike}?" if alike else f"; known are {', '.join(names)}"
        )
        reader.fault(leaf.place, path, f"{described(leaf)} is no GPU of the catalogue{hint}")
    return found


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
        entries = {k: Leaf(v, base.place) for k, v in plain.items()}
    own = tree.without("base").entries
    if base is None and "name" not in own:
        entries["name"] = Leaf("inline model", tree.place)
    derived = {"kv_heads": "heads"}  # what a plain transformer has where the key is left out
    merged = {**entries, **own}
    for key, like in derived.items():
        if key not in merged and like in merged:
            merged[key] = merged[like]
    if "head_dim" not in merged:
        whole = [_whole(merged.get(k)) for k in ("hidden_size", "heads")]
        if whole[0] and whole[1] and whole[0] % whole[1] == 0:
            merged["head_dim"] = Leaf(whole[0] // whole[1], tree.place)
    return Branch(merged, tree.place, tree.keys)


def _whole(tree: Tree | None) -> int:
    text = str(tree.value) if isinstance(tree, Leaf) else ""
    return int(text) if text.isdigit() and len(text) < 10 else 0


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
    return Branch({**out.entries, **detail.entries}, detail.place, {**out.keys, **detail.keys})


def method(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """``full | {lora: {rank: 16, targets: all-linear}} | {qlora: {...}}``."""
    chosen = _choice(reader, tree, path, ("full", "lora", "qlora"))
    if chosen is None:
        return None
    kind, detail, beside = chosen
    table = _details(reader, path, kind, detail, beside)
    if table is None:
        return None
    place = tree.place
    if kind == "full":
        for key in table.entries:
            if key not in ("kind", "frozen_dtype"):
                reader.fault(table.keys.get(key, place), f"{path}.{key}", "has no meaning for full")
        return table
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


def precision(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """``bf16 | fp16 | fp32 | {fp8: {recipe: ..., all_gather: ...}} | {bf16: {master: bf16}}``."""
    chosen = _choice(reader, tree, path, ("bf16", "fp16", "fp32", "fp8"))
    if chosen is None:
        return None
    kind, detail, beside = chosen
    table = _details(reader, path, kind, detail, beside)
    if table is None:
        return None
    if kind == "fp8":
        if "recipe" not in table.entries:  # what torchao does unless told otherwise
            table = table.with_entry("recipe", Leaf("tensorwise", tree.place))
        return table
    for key in ("recipe", "all_gather"):
        if key in table.entries:
            reader.fault(
                table.keys.get(key, tree.place), f"{path}.{key}", f"has no meaning for {kind}"
            )
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
        return _details(reader, path, kind, detail, beside)
    word = str(detail.value) if isinstance(detail, Leaf) else "op" if detail is None else ""
    place = detail.place if detail is not None else tree.place
    if word in ("op", "true"):
        entries: dict[str, Tree] = {"kind": Leaf("selective-op", place)}
    elif word.isdigit() and int(word) >= 1:
        entries = {"kind": Leaf("selective-blocks", place), "every": Leaf(int(word), place)}
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


def checkpoint(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """``none``, or a mapping."""
    if isinstance(tree, Leaf) and tree.value in ("none", "never", False, "false"):
        return Branch({"interval": Leaf(None, tree.place)}, tree.place)
    if isinstance(tree, Branch):
        return tree
    reader.fault(
        tree.place, path, f'{described(tree)} is not "none" or a mapping of interval, mode'
    )
    return None


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


def offer(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """A mapping; what it leaves out comes from the offer that ``instance`` names."""
    if not isinstance(tree, Branch):
        hint = "is no mapping of provider, instance, ..., or of price_per_gpu_hour, provider, ..."
        reader.fault(tree.place, path, f"{described(tree)} {hint}")
        return None
    provider, instance, region = (
        str(leaf.value) if isinstance(leaf := tree.entries.get(key), Leaf) and leaf.value else ""
        for key in ("provider", "instance", "region")
    )
    if not instance:
        return tree
    from sim.inputs import offers

    found = offers.find_offers(offers.offers(), provider, instance, region)
    place = tree.entries["instance"].place
    if len(found) == 1:
        keys = offers.offer_keys(found[0]).items()
        known = {k: Leaf(v, Place("catalogue:prices/offers.csv")) for k, v in keys}
        return Branch({**known, **tree.entries}, tree.place, tree.keys)
    where = f"{path}.instance"
    if found:
        names = ", ".join(f"{row.provider} {row.region}".strip() for row in found)
        reader.fault(place, where, f'"{instance}" is offered by {names}; say which')
    elif "price_per_gpu_hour" not in tree.entries:
        by = " ".join(w for w in (f"of {provider}" if provider else "", region) if w)
        hint = did_you_mean(instance, offers.instances(provider))
        hint = hint if hint.startswith("; did") else "; see scaling-sim prices list"
        message = f'"{instance}" is no offer {by}'.rstrip() + hint
        reader.fault(place, where, f"{message}, or write its price_per_gpu_hour")
    return tree


def nvlink(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """``none``, or a mapping."""
    if isinstance(tree, Leaf) and tree.value in ("none", False, "false"):
        entries: dict[str, Tree] = {
            "generation": Leaf(1, tree.place),
            "links_per_gpu": Leaf(0, tree.place),
            "fabric": Leaf("none", tree.place),
        }
        return Branch(entries, tree.place)
    if isinstance(tree, Branch):
        return tree
    reader.fault(tree.place, path, f'{described(tree)} is not "none" or a mapping')
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


FORMS: dict[str, Form] = {
    "SampleLengths": sample_lengths,
    "Gpu": gpu,
    "Model": model,
    "Method": method,
    "Precision": precision,
    "Checkpointing": checkpointing,
    "CheckpointSave": checkpoint,
    "Reliability": _off({"failures": False}, "gpu_mtbf, node_mtbf, ..."),
    "Evaluation": _off({"every": 0}, "every, tokens"),
    "Parallelism": parallelism,
    "NvLink": nvlink,
    "Offer": offer,
}
