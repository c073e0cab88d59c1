"""Things known by name that may come from outside: imported when they are first asked for.

A name stands in a table of ours, was registered by a call, or is an entry point of some installed
package. Entry points are looked for only where a name is unknown otherwise, or all are listed:
reading every package's metadata takes milliseconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Named(Protocol):
    """What can be registered."""

    @property
    def name(self) -> str:
        """As inputs write it."""
        ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """A table of names.

    Parameters
    ----------
    group : str
        Entry-point group of packages that add to it. An entry point names a module that registers
        something of the entry point's name when it is imported.
    own : mapping of str to str
        Our names, and the modules that register them.
    """

    def __init__(self, group: str, own: Mapping[str, str]) -> None:
        self.group, self._own = group, own
        self._known: dict[str, T] = {}

    def register(self, thing: T) -> T:
        """Make a thing known by its name.

        Raises
        ------
        ValueError
            If the name is taken.
        """
        if thing.name in self._known:
            msg = f"{thing.name} is registered already"
            raise ValueError(msg)
        self._known[thing.name] = thing
        return thing

    def __getitem__(self, name: str) -> T:
        """The thing of a name; KeyError if there is none."""
        found = self._known.get(name)
        if found is None:
            if name in self._own:
                importlib.import_module(self._own[name])
            else:
                self._outside()[name].load()
            found = self._known[name]
        return found

    def __contains__(self, name: object) -> bool:
        """Whether a name is known; nothing is imported."""
        return name in self._known or name in self._own or name in self._outside()

    def __iter__(self) -> Iterator[str]:
        """All names, ours first."""
        return iter(dict.fromkeys((*self._own, *self._known, *self._outside())))

    def _outside(self) -> dict[str, EntryPoint]:
        from importlib.metadata import entry_points  # 8 ms

        return {point.name: point for point in entry_points(group=self.group)}


#: ways of spreading training over ranks: `sim.inputs.strategy.Strategy` objects
STRATEGIES: Registry[Any] = Registry("scaling_sim.strategies", {
    "fsdp1": "sim.strategies.flat_shard", "fsdp2": "sim.strategies.fully_shard",
    "zero1": "sim.strategies.zero12", "zero2": "sim.strategies.zero12",
    "zero3": "sim.strategies.zero3", "ddp": "sim.strategies.ddp",
    "single": "sim.strategies.ddp", "megatron": "sim.strategies.megatron",
})  # fmt: skip

#: files of trainers and launchers: `sim.inputs.foreign.Format` objects, the most telling first
FORMATS: Registry[Any] = Registry("scaling_sim.formats", {
    "axolotl": "sim.interop.trainers.axolotl",
    "llamafactory": "sim.interop.trainers.llamafactory",
    "ms-swift": "sim.interop.trainers.swift",
    "automodel": "sim.interop.trainers.automodel",
    "verl": "sim.interop.trainers.verl",
    "openrlhf": "sim.interop.trainers.openrlhf",
    "torchtitan": "sim.interop.trainers.torchtitan",
    "torchtitan-python": "sim.interop.trainers.torchtitan_python",
    "torchtune": "sim.interop.trainers.torchtune",
    "sagemaker": "sim.interop.trainers.sagemaker",
    "python": "sim.interop.trainers.python",
    "python-loop": "sim.interop.trainers.python_loop",
    "huggingface": "sim.interop.trainers.huggingface",
    "accelerate": "sim.interop.trainers.accelerate",
    "deepspeed": "sim.interop.trainers.deepspeed",
    "peft": "sim.interop.trainers.peft",
    "megatron": "sim.interop.trainers.megatron",
    "kubernetes": "sim.interop.trainers.kubernetes",
    "launch": "sim.interop.trainers.launch",
})  # fmt: skip
