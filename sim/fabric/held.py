"""How many machines caches keep alive: what is kept by machine goes when these are too large.

A sweep over nodes makes a machine a point. Prices, classes and plans of each are kept by it, and
hold it; counted entry by entry they say nothing of how large the machines are.
"""

from __future__ import annotations

from collections.abc import Callable

#: resources of all machines, at some 80 B with what is kept by them: 300 MB, eight of 4,096 nodes
MOST_RESOURCES = 4_000_000

_clears: list[Callable[[], None]] = []
_held = 0


def goes_with_machines(clear: Callable[[], None]) -> None:
    """Have a cache that holds machines cleared when machines are let go."""
    _clears.append(clear)


def hold(resources: int) -> None:
    """Count a new machine; where all are too large now, let go of those before it."""
    global _held
    _held += resources
    if _held > MOST_RESOURCES:
        let_go()
        _held = resources


def let_go(beyond: int = 0) -> None:
    """Let go of the machines that caches keep, where these have more resources than `beyond`.

    For what asks a long row of machines, each once.
    """
    global _held
    if _held > beyond:
        _held = 0
        for clear in _clears:
            clear()
