"""The compiled kernel's object file in the user's cache.

It is taken only if this very kernel, LLVM and processor made it, and if it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path

from sim.engine import kernel
from sim.engine.state import State
from sim.program import Program


def kept_at() -> Path:
    """Where the object file is, or would be."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.path.expanduser(os.environ.get("NUMBA_CACHE_DIR") or f"{cache}/scaling-sim")
    source = Path(kernel.__file__).read_bytes() + repr((Program._fields, State._fields)).encode()
    name = hashlib.sha256(source).hexdigest()[:16]
    return Path(folder) / f"engine-{platform.system()}-{platform.machine()}-{name}.o"


def kept() -> bytes | None:
    """The object file with its head, if it is there, whole and made for this machine."""
    try:
        whole = kept_at().read_bytes()
        head, _, code = whole.partition(b"\n")
        by = json.loads(head)["made"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return whole if by == made(code) else None


def made(code: bytes) -> list[str]:
    """What an object file must have been made by, and its checksum."""
    import llvmlite
    import llvmlite.binding as llvm

    processor = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    return [llvmlite.__version__, *processor, hashlib.sha256(code).hexdigest()]


def keep(whole: bytes) -> None:
    """Write it, where there is a place to."""
    path = kept_at()
    part = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(whole)
        part.replace(path)
    except OSError:  # a full or read-only disk: it is compiled again next time
        return
