"""Messages between stages of a pipeline, as the units of a plan's collectives say them."""

from __future__ import annotations

from sim.records import NamedTuple


class StageMessage(NamedTuple):
    """An activation, or its gradient, from a stage to its neighbour."""

    source: int
    target: int
    micro: int
    forward: bool

    def __str__(self) -> str:
        return f"{'F' if self.forward else 'B'}{self.micro} {self.source}>{self.target}"


def messages_in(unit: str) -> int:
    """Messages between stages in a collective of a plan, by its unit; none in any other. [1]"""
    return unit.count(">")


def at_first(unit: str) -> tuple[str, int]:
    """What a unit of messages is of the first micro-batch, and which its own is; -1 of others."""
    if ">" not in unit:
        return unit, -1
    micro = int(unit[1 : unit.index(" ")])
    return later_unit(unit, -micro), micro


def later_unit(unit: str, steps: int) -> str:
    """What a collective's unit is so many micro-batches later; one of no messages stays so."""
    if not steps or ">" not in unit:
        return unit
    words = unit.split(" ")
    words[::2] = [f"{word[0]}{int(word[1:]) + steps}" for word in words[::2]]
    return " ".join(words)
