"""The catalogue to look through: GPUs, models, machines, jobs, offers, formats, codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from sim.choices import entry_kind
from sim.documents import SCHEMAS, Document, Listing
from sim.errors import InputError
from sim.inputs import catalogue, models, offers
from sim.inputs.base import Spec
from sim.inputs.codes import codes
from sim.inputs.gpu import Gpu
from sim.inputs.loader import load_topology, load_workload
from sim.inputs.nearest import did_you_mean
from sim.inputs.registry import FORMATS, STRATEGIES
from sim.inputs.spoken import folded, gpu_named
from sim.inputs.strategy import strategy_named
from sim.inputs.written import lines_of

EntryFields = Mapping[str, Any]
_LIST, _SHOW = "list", "show"


@dataclass(frozen=True, slots=True)
class Entries(Listing):
    """What there is of a kind.

    Attributes
    ----------
    kind, word : str
        What was asked for.
    rows : tuple of mappings
        ``name`` and what tells one from another.
    """

    schema = SCHEMAS["entries"]
    kind: str
    word: str
    rows: tuple[EntryFields, ...]

    def records(self) -> Sequence[EntryFields]:
        """A row an entry."""
        return self.rows


@dataclass(frozen=True, slots=True)
class Entry(Document):
    """One entry of the catalogue.

    Attributes
    ----------
    kind, name : str
        What it is.
    lines : tuple of str
        Its keys as YAML.
    """

    schema = SCHEMAS["entry"]
    kind: str
    name: str
    lines: tuple[str, ...]


def _models() -> list[EntryFields]:
    found: list[EntryFields] = []
    for name in models.model_names():
        m = models.catalogue_model(name)
        assert m is not None
        experts = f"{m.experts_per_token} of {m.experts} experts" if m.experts else ""
        found.append(
            {
                "name": name,
                "layers": m.layers,
                "hidden_size": m.hidden_size,
                "max_positions": m.max_positions,
                "experts": experts,
                "source": m.source,
            }
        )
    return found


def _gpus() -> list[EntryFields]:
    found: list[EntryFields] = []
    for name in catalogue.gpu_names():
        g = catalogue.gpu(name)
        assert g is not None
        peak = g.peak_half
        found.append(
            {
                "name": name,
                "memory_gib": g.memory / 2**30,
                "gb_per_s": g.memory_bandwidth / 1e9,
                "tflops": peak / 1e12,
                "watts": g.power_limit,
                "architecture": g.architecture,
                "source": g.source,
            }
        )
    return found


def _about(kind: str, name: str) -> str:
    """The first sentence of the comment that a shipped file begins with."""
    path = catalogue.find(kind, name)
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None else []
    comment = takewhile(lambda line: line.startswith("#"), lines)
    words = " ".join(c.removeprefix("# ") for c in comment if not c.startswith("# yaml-"))
    sentence, stop, _ = words.partition(". ")
    return sentence + stop.rstrip()


def _shipped(folder: str) -> list[EntryFields]:
    return [{"name": n, "about": _about(folder, n)} for n in catalogue.names(folder)]


def _strategies() -> list[EntryFields]:
    return [
        {"name": n, "about": (type(strategy_named(n)).__doc__ or "").partition("\n")[0]}
        for n in STRATEGIES
    ]


def _offers() -> list[EntryFields]:
    return [
        {
            "name": row.instance,
            "provider": row.provider,
            "region": row.region,
            "gpu": row.gpu,
            "gpus_per_node": row.gpus_per_node,
            "usd_per_gpu_hour": row.usd_per_gpu_hour,
            "as_of": row.as_of,
        }
        for row in offers.offers()
    ]


KINDS: dict[str, Callable[[], list[EntryFields]]] = {
    "models": _models,
    "gpus": _gpus,
    "machines": lambda: _shipped("topologies"),
    "jobs": lambda: _shipped("workloads"),
    "strategies": _strategies,
    "offers": _offers,
    "formats": lambda: [{"name": n, "about": FORMATS[n].title} for n in FORMATS],
    "codes": lambda: [{"name": c.code, "about": c.title} for c in codes()],
}


def entries(kind: str, word: str = "") -> Entries:
    """What there is of a kind.

    Arguments are those of `sim.entries`.

    Raises
    ------
    InputError
        No such kind.
    """
    known = entry_kind(kind)
    if known is None:
        raise InputError.single(_LIST, f'"{kind}" is not one of {", ".join(KINDS)}')
    rows = KINDS[known]()
    if word:
        rows = [r for r in rows if any(folded(word) in folded(str(v)) for v in r.values())]
    return Entries(known, word, tuple(rows))


def entry(name: str) -> Entry:
    """An entry by its name, or by one that people use for it.

    Raises
    ------
    InputError
        There is none.
    """
    if (machine := catalogue.find("topologies", name)) is not None:
        return _spec("machine", machine.stem, load_topology(name))
    if (job := catalogue.find("workloads", name)) is not None:
        return _spec("job", job.stem, load_workload(name))
    gpu = name if name in catalogue.gpu_names() else gpu_named(name, catalogue.gpu_names())
    if gpu is not None:
        return _spec("gpu", gpu, catalogue.gpu(gpu), frozenset(Gpu.model_fields) - {"borrowed"})
    shape = models.catalogue_model(models.spoken(name))
    if shape is not None:
        return _spec("model", shape.name, shape)
    if name in STRATEGIES:
        strategy = strategy_named(name)
        knobs = ", ".join(sorted(strategy.knobs))
        about = (type(strategy).__doc__ or "").partition("\n")[0]
        return Entry("strategy", name, (f"# {about}", f"knobs: [{knobs}]"))
    names = [
        *catalogue.gpu_names(),
        *models.model_names(),
        *catalogue.names("topologies"),
        *catalogue.names("workloads"),
        *STRATEGIES,
    ]
    if reason := models.refused(name):
        raise InputError.single(_SHOW, reason)
    hint = did_you_mean(name, names)
    raise InputError.single(_SHOW, f'nothing in the catalogue is called "{name}"{hint}')


def _spec(kind: str, name: str, spec: Spec | None, given: frozenset[str] = frozenset()) -> Entry:
    assert spec is not None
    return Entry(kind, name, tuple(lines_of(spec, frozenset({"base"}), given)))
