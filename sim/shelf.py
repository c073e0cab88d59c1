"""What is costly to make and asked for again: kept by key, the last used, up to a size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Shelf(Generic[_T]):
    """Things by key, the last used ones, as many as have `most` entries in all.

    Parameters
    ----------
    most : int
        Entries that are kept.
    entries : callable
        How many a thing has; the same whenever it is asked.
    larger : bool
        Whether a thing of more entries than `most` is kept too, alone, until the next one comes;
        else it is not, and the others stay.
    """

    def __init__(self, most: int, entries: Callable[[_T], int], *, larger: bool = True) -> None:
        self.most, self.entries, self.larger = most, entries, larger
        self.of: dict[tuple[object, ...], _T] = {}
        self.held = 0  # entries of all

    def get(self, key: tuple[object, ...], make: Callable[[], _T]) -> _T:
        """What is kept by a key, or is made now."""
        found = self.find(key)
        return self.keep(key, make()) if found is None else found

    def find(self, key: tuple[object, ...]) -> _T | None:
        """What is kept by a key; None if nothing is."""
        found = self.of.pop(key, None)
        if found is not None:
            self.of[key] = found  # the last used stands last
        return found

    def clear(self) -> None:
        """Keep nothing of what there is."""
        self.of.clear()
        self.held = 0

    def keep(self, key: tuple[object, ...], thing: _T) -> _T:
        """Keep a thing by a key, in place of another thread's and of those used longest ago."""
        size = self.entries(thing)
        if (old := self.of.pop(key, None)) is not None:
            self.held -= self.entries(old)
        if size <= self.most or self.larger:
            self.held += size
            while self.of and self.held > self.most:
                self.held -= self.entries(self.of.pop(next(iter(self.of))))
            self.of[key] = thing
        return thing
