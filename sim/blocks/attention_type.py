"""What a file that adds a type of attention says of it; `sim.blocks.layer` lists them."""

from __future__ import annotations

from collections.abc import Callable

from sim.blocks.tape import Tape
from sim.inputs.model import Model
from sim.records import NamedTuple


class AttentionType(NamedTuple):
    """One type of attention.

    Attributes
    ----------
    takes : callable
        Whether a model's layers have it; of several that say so the first is taken.
    play : callable
        Put it on a tape: the branch from the norm's output (a tensor), with the keys that a query
        sees at most, to what is added to the residual stream (a tensor).
    registered : tuple of str
        Its modules as the reference model registers them.
    cached : callable
        Numbers that a token leaves in a layer's cache on one of so many tensor-parallel GPUs, by
        whether the layer has a window.
    """

    takes: Callable[[Model], bool]
    play: Callable[[Tape, int, int | None], int]
    registered: tuple[str, ...]
    cached: Callable[[Model, int, bool], float]
