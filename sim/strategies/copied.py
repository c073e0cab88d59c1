"""Ops of a plan that are copies of earlier ones: the same but for where and when they stand.

A pipeline's plan has thousands of micro-batches that issue the same ops. Copies share the op they
are copies of; what is their own is an entry a stretch, and worked out where somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from sim.records import NamedTuple
from sim.strategies.messages import later_unit


class Copy(NamedTuple):
    """A stretch of ops that copies an earlier one, which may have copies in it.

    Attributes
    ----------
    at, source, size : int
        Its first op, that of the stretch it copies, and how many. [1]
    later : int
        Micro-steps from those ops to these. [1]
    old, new : tuple of int
        Ops before the stretch that the copied one waits for, and what the copy waits for instead.
    """

    at: int
    source: int
    size: int
    later: int
    old: tuple[int, ...]
    new: tuple[int, ...]

    def moved(self, op: int) -> int:
        """What an op that the copied stretch refers to is to this one; -1 stays -1."""
        if op >= self.source:
            return op - self.source + self.at
        return self.new[self.old.index(op)] if op >= 0 else op


class _Op(Protocol):
    @property
    def deps(self) -> tuple[int, ...]: ...
    @property
    def host_after(self) -> int: ...
    @property
    def micro_step(self) -> int: ...
    @property
    def unit(self) -> str: ...
    def _replace(self, **changes: Any) -> Any: ...


T = TypeVar("T", bound=_Op)


def written_out(ops: Sequence[T], copies: Iterable[Copy]) -> list[T]:
    """Every op with what is its own.

    Parameters
    ----------
    ops : sequence of ops of a plan
        Copies are the very ops that they are copies of.
    copies : iterable of Copy
        Which they are, in order.
    """
    out = list(ops)
    for copy in copies:
        for i in range(copy.size):
            op = out[copy.source + i]
            deps = tuple(sorted(map(copy.moved, op.deps), reverse=True))
            out[copy.at + i] = op._replace(
                deps=deps, host_after=copy.moved(op.host_after),
                micro_step=op.micro_step + copy.later, unit=later_unit(op.unit, copy.later),
            )  # fmt: skip
    return out
