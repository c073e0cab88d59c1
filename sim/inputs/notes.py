"""What a reading has to say beside the specs: warnings, assumptions, where values came from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from sim.inputs.bind import Assumption
from sim.inputs.tree import Place
from sim.records import NamedTuple


@dataclass(frozen=True, slots=True)
class Message:
    """A warning: a stable code, the path of the key it is about, what and what to do."""

    code: str
    path: str
    message: str
    hint: str = ""

    @property
    def text(self) -> str:
        """What is the matter, and in brackets what to do."""
        return self.message + (f" ({self.hint})" if self.hint else "")


class Origin(NamedTuple):
    """Where the value of a key came from."""

    kind: Literal["user", "override", "catalogue", "default"]
    place: str  # "topo.yaml:9:7", "--set nodes=4", "catalogue:gpus/...", "" for a default


class Written(Protocol):
    """One side as the loader holds it: what was written in it and what was assumed."""

    @property
    def side(self) -> str:
        """``topology`` or ``workload``."""

    @property
    def assumed(self) -> dict[str, tuple[Assumption, ...]]:
        """Assumptions by top-level key."""

    @property
    def given(self) -> dict[str, Place]:
        """Path -> place."""


@dataclass(frozen=True)
class Notes:
    """Beside the two specs; put together on use, as a sweep reads few of them.

    Attributes
    ----------
    warnings : tuple of Message
        What is legal but unlikely to be meant.
    sides : tuple of Written
        The two halves.
    silent : frozenset of str
        Paths of the workload whose defaults have no effect on this job.
    followed : tuple of Assumption
        Keys left out whose value follows from others.
    """

    warnings: tuple[Message, ...]
    sides: tuple[Written, ...]
    silent: frozenset[str] = frozenset()
    followed: tuple[Assumption, ...] = ()

    @cached_property
    def assumed(self) -> tuple[Assumption, ...]:
        """Keys left out and the default each took, where that has an effect.

        Paths begin with the side's name. Defaults that mean "nothing" (null, auto, no text, an
        empty list) and knobs of other strategies are left out.
        """
        return self.followed + tuple(
            Assumption(f"{side.side}.{item.path}", item.value)
            for side in self.sides
            for group in side.assumed.values()
            for item in group
            if item.value not in (None, "", (), "auto") and item.path not in self.silent
        )

    @cached_property
    def given(self) -> dict[str, Place]:
        """Path -> place of every key that was written."""
        return {f"{s.side}.{path}": place for s in self.sides for path, place in s.given.items()}

    @cached_property
    def overrides(self) -> bool:
        """Whether a key of either side was set on the command line."""
        return any(_overrides(place) for side in self.sides for place in side.given.values())

    def origin(self, path: str) -> Origin:
        """Where the value at a path (``workload.micro_batch``) came from."""
        place = self.given.get(path)
        if place is None:
            return Origin("default", "")
        if _overrides(place):
            return Origin("override", place.source)
        shipped = place.text.startswith("catalogue:")
        return Origin("catalogue" if shipped else "user", place.text)

    def assumptions(self) -> tuple[str, ...]:
        """The assumed keys as lines of text: ``workload.stack.torch = 2.5``."""
        return tuple(f"{path} = {_brief(value)}" for path, value in self.assumed)


def _overrides(place: Place) -> bool:
    return place.source.startswith("--set")


def _brief(value: Any) -> str:
    if hasattr(value, "model_dump"):
        inner = ", ".join(f"{k}={_brief(v)}" for k, v in value)
        return f"{{{inner}}}"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
