"""NCCL's algorithms, one file each: a file here is one, under its own name, as ``ALGORITHM``."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.cost.nccl.algorithm import Algorithm


@functools.cache
def names() -> tuple[str, ...]:
    """Names of all algorithms; reads no file."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__)))


@functools.cache
def algorithm_named(name: str) -> Algorithm:
    """The algorithm of that name, one of `names`."""
    found: Algorithm = importlib.import_module(f"{__name__}.{name}").ALGORITHM
    return found
