"""The C library's allocator, in processes that are ours: large arrays keep their pages."""

from __future__ import annotations

import os
from contextlib import suppress

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

#: smaller blocks are of the heap, where the next array finds them [B]
_OF_THE_HEAP = 1 << 30
_OF_THE_HEAP_AT_MOST = 32 << 20  # what older versions of glibc take (HEAP_MAX_SIZE / 2)
#: free bytes at the heap's end that are not given back to the kernel [B]
_KEPT = 512 << 20

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
