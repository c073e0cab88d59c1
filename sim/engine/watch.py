"""Long runs of compiled code, in a thread of their own: who waits hears interrupts meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from sim.errors import EngineError

T = TypeVar("T")
LARGE = 1_000_000  # ops of a program from which on it is watched: they take a tenth of a second
LOOK_S = 0.2  # between looks at how far a run is [s]


def watched(work: Callable[[], T], look: Callable[[], None] | None = None) -> T:
    """What `work` returns; `look` is called now and then, and once more when it has ended.

    Raises
    ------
    EngineError
        It has ended without a result.
    """
    said: list[T] = []
    # the thread holds what it works on, and may outlive an interrupt
    worker = Thread(target=lambda: said.append(work()), daemon=True)
    worker.start()
    while True:
        worker.join(LOOK_S)
        if look is not None:
            look()
        if not worker.is_alive():
            break
    if not said:
        message = "the engine has ended without a result"
        raise EngineError(message)
    return said[0]
