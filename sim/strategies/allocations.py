"""What a step allocates and frees, written down beside its ops by the same hooks.

A plan serves jobs that differ only in costs, while activations, logits and optimizer states depend
on those. So a size is a coefficient times a *quantity*: `BYTES` for what the plan itself knows, or
one that `sim.memory.ledger` measures for the job at hand.

Time is counted in *instants*, the points at which the CPU thread has just allocated: what was added
since the last one lives from here on, what `mark` is given lives for this instant alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sim.records import NamedTuple
from sim.strategies.terms import BYTES, INIT

Amount = tuple[int, float] | tuple[int, float, int] | tuple[int, float, int, int]
"""Term, coefficient, quantity (default bytes), and the layer it is one of (0: of the job)."""

ADD, PUT, MARK, AGAIN = range(4)


class Style(NamedTuple):
    """Layers of one style have equal quantities."""

    kind: str
    recomputed: bool


class Stretch(NamedTuple):
    """A layer in one pass of a recording, behind which equal ones are missing."""

    ops: tuple[int, int]  # its first, and the first behind it
    log: tuple[int, int]  # the same of the log of allocations
    step: int  # layers from one to the next: 1 forward, -1 backward


class Allocations:
    """The allocator's side of a recorded step: a log, which `columns` makes sense of.

    Parameters
    ----------
    ops : sequence
        The plan's ops as they are issued: an instant stands before the next one.
    """

    def __init__(self, ops: Sequence[object]) -> None:
        self._ops = ops
        self.moment = INIT
        self.ranks = 1  # that share the optimizer's states
        self.layers: Sequence[Style] = ()  # of the full model, from layer 1
        self.host: list[tuple[str, float, int, int]] = []  # name, then as in an `Amount`
        self.log: list[tuple[Any, ...]] = []
        self.unwritten = 0  # entries of a log that `columns` stands for
        self.stretches: Sequence[Stretch] = ()
        self.extra = 0  # layers missing behind each stretch
        self.derived: dict[str, Any] = {}  # what readers work out once a log
        #: makes the columns of one whose log is that of others but for numbers, and is not written
        self.columns: Callable[[], Any] | None = None
        self.edges: Callable[[], Any] | None = None  # and those of its first and last layers

    def add(self, term: int, size: float, quantity: int = BYTES, layer: int = 0) -> None:
        """Allocate (or with a negative size free), seen from the next instant on."""
        self.log.append((ADD, term, size, quantity, layer))

    def put(self, term: int, size: float = 0.0, quantity: int = BYTES) -> None:
        """Make a term this large, whatever it is; not for what layers hold."""
        self.log.append((PUT, term, size, quantity))

    def mark(self, *amounts: Amount) -> None:
        """An instant, with what lives only now."""
        self.log.append((MARK, self.moment, len(self._ops), amounts))

    def again(self, start: int, stop: int, ops: int) -> None:
        """Entries once more, so many ops later."""
        self.log.append((AGAIN, start, stop, ops))

    def entries(self, start: int, stop: int, ops: int = 0) -> Iterator[tuple[Any, ...]]:
        """Those of the log from one on, up to another, `ops` later; what is said again as well."""
        for entry in self.log[start:stop]:
            if entry[0] == AGAIN:
                _, first, end, later = entry
                yield from self.entries(first, end, ops + later)
            elif ops and entry[0] == MARK:
                kind, moment, before, amounts = entry
                yield kind, moment, before + ops, amounts
            else:
                yield entry

    def keep_on_host(self, name: str, size: float, quantity: int = BYTES, layer: int = 0) -> None:
        """Host memory that this rank holds from the first step on."""
        self.host.append((name, size, quantity, layer))

    def lengthen(self, stretches: Sequence[Stretch], extra: int) -> None:
        """Say which layers are missing, as `repeat.lengthen` is told for the ops."""
        self.stretches, self.extra = stretches, extra
