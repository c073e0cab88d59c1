"""The resolved configuration: every key of both files, its value, and where that came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim import units
from sim.documents import SCHEMAS, Document
from sim.inputs.base import Spec
from sim.inputs.fields import Alternative, plan_of
from sim.inputs.loader import Loaded
from sim.inputs.notes import Origin
from sim.records import NamedTuple


class KeyLine(NamedTuple):
    """One key of the resolved configuration."""

    path: str  # workload.parallelism.wrap
    value: str  # as the YAML would have it, with its unit
    origin: Origin


@dataclass(frozen=True, slots=True)
class Configuration(Document):
    """Every key of a machine and a job, in the order of the specs.

    Attributes
    ----------
    topology, workload : str
        Their names.
    keys : tuple of KeyLine
        Path, value as the YAML would have it, origin.
    """

    schema = SCHEMAS["config"]
    topology: str
    workload: str
    keys: tuple[KeyLine, ...]

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a key."""
        return [
            {"path": k.path, "value": k.value, "origin": k.origin.kind, "place": k.origin.place}
            for k in self.keys
        ]

    def content(self) -> Any:
        """Names, then the rows."""
        return {"topology": self.topology, "workload": self.workload, "keys": self.records()}


def resolved(loaded: Loaded) -> Configuration:
    """Every key of both files with its value and where that came from."""
    keys: list[KeyLine] = []
    for side, spec in (("topology", loaded.topology), ("workload", loaded.workload)):
        keys.extend(_lines(loaded, spec, side))
    return Configuration(loaded.topology.name, loaded.workload.name, tuple(keys))


def _lines(loaded: Loaded, spec: Spec, path: str) -> Iterator[KeyLine]:
    plan = plan_of(type(spec))
    for name, value in spec:
        yield from _value(loaded, plan[name].alternatives, value, f"{path}.{name}")


def _value(
    loaded: Loaded, alternatives: tuple[Alternative, ...], value: Any, path: str
) -> Iterator[KeyLine]:
    if isinstance(value, Spec):
        yield from _lines(loaded, value, path)
    elif isinstance(value, tuple) and value and isinstance(value[0], Spec):
        for index, item in enumerate(value):
            yield from _lines(loaded, item, f"{path}[{index}]")
    else:
        yield KeyLine(path, text_of(alternatives, value), _origin(loaded, path))


def _origin(loaded: Loaded, path: str) -> Origin:
    """The origin of a key: its own, or that of the name which a catalogue expanded."""
    own = loaded.notes.given.get(path)
    if own is not None:
        return loaded.notes.origin(path)
    above = path.rpartition(".")[0]
    short = above.rpartition(".")[2] in ("gpu", "model")
    if short and above in loaded.notes.given:
        return Origin("catalogue", loaded.notes.origin(above).place)
    return Origin("default", "")


def text_of(alternatives: tuple[Alternative, ...], value: Any) -> str:
    """A value as the YAML would have it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(str(v) for v in value) + "]"
    if isinstance(value, float):
        for kind, detail, _ in alternatives:
            if kind == "quantity":
                return units.write(value, detail)
        return f"{value:.12g}"
    return str(value) if value != "" else '""'
