"""What memory costs a process: C's allocator where it is ours, Python's collector for a while."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

#: smaller blocks are of the heap, where the next array finds them [B]
_OF_THE_HEAP = 1 << 30
_OF_THE_HEAP_AT_MOST = 32 << 20  # what older versions of glibc take (HEAP_MAX_SIZE / 2)
#: free bytes at the heap's end that are not given back to the kernel [B]
_KEPT = 512 << 20

#: objects between collections while many steps are computed: nearly all live on in what is kept,
#: and looking through them for the few that do not took a fifth of the time
COLLECTED_EVERY = 200_000

# how a user says either threshold, in the environment or in its GLIBC_TUNABLES
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_TUNABLES = ("glibc.malloc.mmap_threshold", "glibc.malloc.trim_threshold")


def keep_large_blocks() -> bool:
    """Have large blocks that are freed kept for the next ones.

    Left to itself glibc gives them back to the kernel, which clears every page anew when it is
    touched: a fifth of a large step. For the command line and workers alone: the allocator of a
    program that imports us is its own business. What a user has said in the environment holds.

    Returns
    -------
    bool
        Whether that is so now: False where the C library is not glibc, or the user said otherwise.
    """
    tuned = os.environ.get("GLIBC_TUNABLES", "")
    if any(name in os.environ for name in _VARIABLES) or any(name in tuned for name in _TUNABLES):
        return False
    # no ctypes; no library of all symbols (Windows); no such function (musl, macOS)
    with suppress(ImportError, TypeError, OSError, AttributeError):
        import ctypes  # comes with numpy: 2 ms for a process that needs neither

        mallopt = ctypes.CDLL(None).mallopt
        most = (_OF_THE_HEAP, _OF_THE_HEAP_AT_MOST)
        return any(mallopt(_MMAP_THRESHOLD, each) for each in most) and bool(
            mallopt(_TRIM_THRESHOLD, _KEPT)
        )
    return False


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Lets Python look for unreachable objects less often than it does of itself."""
    before = gc.get_threshold()
    if before[0]:  # 0: the caller has switched collection off
        gc.set_threshold(max(before[0], COLLECTED_EVERY), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
