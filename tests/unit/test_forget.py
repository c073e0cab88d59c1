"""Fits that change constants of a running program forget what the old ones gave."""

from __future__ import annotations

import weakref
from functools import lru_cache

from bench.fit.training import forget


class Owner:
    """May be pointed at weakly."""


def test_what_is_kept_is_forgotten_beside_proxies_of_what_is_gone():
    """`isinstance` of such a proxy raises ReferenceError: docs/host.md was not written once."""
    asked = []

    @lru_cache
    def kept(x):
        asked.append(x)

    owner = Owner()
    gone = weakref.proxy(owner)
    del owner
    kept(1)
    forget()
    kept(1)
    assert asked == [1, 1]
    assert type(gone) is weakref.ProxyType  # until here it is one of the collector's objects
