"""Short forms of a machine: a GPU by name or written out; an offer by its instance."""

from __future__ import annotations

import re

from sim import units
from sim.inputs import catalogue
from sim.inputs.architecture import measured_gpu
from sim.inputs.base import Spec
from sim.inputs.bind import Assumption, Binder
from sim.inputs.nearest import did_you_mean, meant
from sim.inputs.scalars import described
from sim.inputs.spoken import gpu_named, gpus_like, no_gpu
from sim.inputs.tree import Branch, Leaf, Place, Tree


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
    of = gpu_named(name, catalogue.gpu_names()) or name
    entry = catalogue.gpu_table(of)
    left = _left_to(of, entry, tree)
    return Branch({**entry.entries, **left, **tree.without("base").entries}, tree.place, tree.keys)


_NUMBER = re.compile(r"\d{1,3}(\.\d{1,3})?$")
#: what decides how fast a GPU is and what fits on it: nothing to be supposed of an unknown one
_DECIDES = ("architecture", "memory", "memory_bandwidth", "sms", "power_limit")
_PEAKS = ("peak_bf16", "peak_fp16")


def _left_to(base: str, entry: Branch, tree: Branch) -> dict[str, Tree]:
    """What a GPU of another name leaves to its base of what decides its speed, to be said."""
    name = tree.entries.get("name")
    keys = [k for k in (*_DECIDES, *_PEAKS) if k in entry.entries and k not in tree.entries]
    if not keys or not isinstance(name, Leaf) or gpu_named(str(name.value), [base]) == base:
        return {}
    return {"borrowed": Leaf(f"{', '.join(keys)} of {base}", tree.place)}


#: what is said of one card differs by less: 80 GB are 74.5 GiB, and usable are 79.2 to 80 GiB
_A_SIZE = 0.08


def _of_other_size(base: str, name: str, memory: str, tree: Branch) -> dict[str, Tree]:
    """What a GPU leaves to the catalogue's of its name, which has another memory, to be said."""
    try:
        size = units.parse(memory, "B")
    except units.UnitError:  # none is written, or it is no quantity: told where it is bound
        return {}
    held = {n: _text(catalogue.gpu_table(n).entries["memory"]) for n in catalogue.gpu_names()}
    alike = [n for n, its in held.items() if abs(units.parse(its, "B") / size - 1.0) < _A_SIZE]
    entry = catalogue.gpu_table(base).entries
    keys = [k for k in (*_DECIDES, *_PEAKS) if k in entry and k not in tree.entries]
    if base in alike or not keys:
        return {}
    said = f"{', '.join(keys)} of {base}, a card of {held[base]}"
    if near := gpus_like(name, alike):
        said += f"; of about {memory} is {' or '.join(near)}"
    return {"borrowed": Leaf(said, tree.place)}


def _text(tree: Tree | None) -> str:
    """What a leaf says; "" where there is none."""
    return str(tree.value) if isinstance(tree, Leaf) else ""


def _own_gpu(reader: Binder, tree: Branch, path: str) -> Branch | None:
    """A GPU written out: over the catalogue's of its name, or with all that decides the answer."""
    name, memory = (_text(tree.entries.get(key)) for key in ("name", "memory"))
    names = catalogue.gpu_names()
    of_size = gpu_named(f"{name} {memory}", names) if name and memory else None
    if known := of_size or (gpu_named(name, names) if name else None):
        entry = catalogue.gpu_table(known)
        left_out = [k for k in entry.entries if k not in tree.entries and k != "base"]
        if left_out:
            reader.assumed.append(Assumption(f"{path}.base", known))
        other = {} if of_size else _of_other_size(known, name, memory, tree)
        return Branch({**entry.entries, **other, **tree.entries}, tree.place, tree.keys)
    missing = [key for key in _DECIDES if key not in tree.entries]
    missing += [" or ".join(_PEAKS)] * (not any(key in tree.entries for key in _PEAKS))
    if missing:
        hint = did_you_mean(name.lower(), names) if name else ""
        hint = hint if hint.startswith("; did") else ""
        message = f"is not of the catalogue, and does not say {', '.join(missing)}{hint}"
        reader.fault(tree.place, path, f"{message}; write these, or a base of the catalogue")
        return None
    return _lent(reader, tree, path)


_NUMBERS = re.compile(r"\d+")
#: what the measured GPU of an architecture lends to one that leaves it out
_LENT = ("boost_clock", "l2_cache", "peak_fp32", "idle_power", "compute_capability")
#: what a GPU has not unless it says so
_LACKS = {
    "peak_bf16": "null", "peak_fp16": "null", "peak_tf32": "null", "peak_fp8": "null",
    "peak_fp4": "null", "peak_int8": "null", "nvlink_generation": "null", "nvlink_links": "0",
    "multicast": "false",
}  # fmt: skip


def _lent(reader: Binder, tree: Branch, path: str) -> Branch:
    """A GPU of one's own with what it leaves out: another's by name, or nothing."""
    words = (tree.entries.get(key) for key in ("architecture", "compute_capability"))
    architecture, capability = (str(w.value) if isinstance(w, Leaf) else "" for w in words)
    lender = measured_gpu(architecture, float(capability) if _NUMBER.match(capability) else 0.0)
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
        alike = gpus_like(str(name), names)
        near = alike or meant(str(name).lower(), names)
        own = "another is described: {name: ..., base: %s, and what differs}"
        if why := no_gpu(str(name)):
            hint = f": it {why}" if not why.startswith("a ") else f"; {why}"
        elif near:
            hint = did_you_mean(str(name).lower(), names)
            if alike:
                hint = "; did you mean " + " or ".join(f'"{n}"' for n in alike) + "?"
            if _NUMBERS.findall(str(name)) != _NUMBERS.findall(near[0]):  # else a slip of the pen
                hint += f" {own % near[0]}"
        else:
            hint = f"; known are {', '.join(names)}; {own % 'the nearest of them'}"
        reader.fault(leaf.place, path, f"{described(leaf)} is no GPU of the catalogue{hint}")
    return found


def offer(reader: Binder, tree: Tree, path: str) -> Branch | None:
    """A mapping; what it leaves out comes from the offer that ``instance`` names."""
    if not isinstance(tree, Branch):
        hint = "is no mapping of provider, instance, ..., or of price_per_gpu_hour, provider, ..."
        if isinstance(tree, Leaf) and isinstance(tree.value, str):
            hint += f"; run and compare take one by name: --offer {tree.value}"
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
