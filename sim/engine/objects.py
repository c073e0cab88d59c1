"""Compiled functions in the user's cache: linked where that can be, else as object files.

One is taken only if it was compiled of this very source, for this processor, and if it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sim.engine.image import Image, linked, load

_TRIES, _TRY_S = 300, 0.1  # half a minute of waiting for another that compiles the same
_CALL = b"calls, addresses, results"  # how such functions are called


def source_of(functions: Sequence[Callable[..., Any]], kinds: Sequence[Any]) -> bytes:
    """What settles machine code.

    The functions as they were imported, too: files may have changed since, under a long process.

    Parameters
    ----------
    functions : sequence of callables
        What is compiled, and all of ours that it calls.
    kinds : sequence of types
        Named tuples of columns that it takes, and those that stand for columns.
    """
    names = {each.__module__ for each in (*functions, *kinds)}
    sources = [Path(sys.modules[name].__file__ or "").read_bytes() for name in sorted(names)]
    imported = [
        (each.__code__.co_code, repr(each.__code__.co_consts), _numbers(each)) for each in functions
    ]
    columns = [kind._fields for kind in kinds]
    return b"".join(sources) + repr((imported, columns)).encode() + _CALL


def _numbers(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """What stands in machine code as a constant, and which functions it calls by name."""
    found = [(name, function.__globals__.get(name)) for name in function.__code__.co_names]
    return [(name, value if isinstance(value, (int, float)) else None) for name, value in found]


def kept_at(source: bytes) -> Path:
    """Where what was compiled of a source is, or would be."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.path.expanduser(os.environ.get("NUMBA_CACHE_DIR") or f"{cache}/scaling-sim")
    name = hashlib.sha256(source).hexdigest()[:16]
    return Path(folder) / f"engine-{platform.system()}-{platform.machine()}-{name}.bin"


def kept(source: bytes) -> bytes | None:
    """What `packed` returned, if it is there, whole and made for this machine."""
    try:
        whole = kept_at(source).read_bytes()
        head, _, code = whole.partition(b"\n")
        known = json.loads(head)
        by = known["made"]
        is_image = "image" in known
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return whole if by == _made(code, is_image) else None


def packed(code: bytes, entry: str) -> bytes:
    """A compiled function as it is kept.

    Parameters
    ----------
    code : bytes
        An object file.
    entry : str
        Symbol of the function.
    """
    found = linked(code, entry) if processor() else None
    if found is None or load(found, 0) is None:
        head: dict[str, Any] = {"made": _made(code, False), "entry": entry}
    else:
        code = found.memory
        head = {"made": _made(code, True), "image": (found.code, found.entry, found.absolute)}
    return json.dumps(head).encode() + b"\n" + code


def unpacked(whole: bytes) -> Image | tuple[bytes, str]:
    """Linked code, or an object file and the symbol of the function in it."""
    head, _, code = whole.partition(b"\n")
    known = json.loads(head)
    if "image" not in known:
        return code, known["entry"]
    size, entry, absolute = known["image"]
    return Image(code, size, entry, tuple(absolute))


def processor() -> str:
    """The processor's name and what it can do; empty where the system does not say."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as cpus:
            first = cpus.read(1 << 14).partition("\n\n")[0]
    except OSError:
        return ""
    told = [line for line in first.splitlines() if line.startswith(("model name", "flags"))]
    return hashlib.sha256("\n".join(told).encode()).hexdigest() if len(told) == 2 else ""


def _made(code: bytes, image: bool) -> list[str]:
    """What kept code must have been made by, and its checksum."""
    checksum = hashlib.sha256(code).hexdigest()
    if image:
        return [processor(), checksum]
    import llvmlite
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    return [llvmlite.__version__, llvm.get_host_cpu_name(), features, checksum]


@contextmanager
def alone(source: bytes) -> Iterator[None]:
    """Hold back others of the machine that would compile the same, as workers that begin together.

    None waits longer than compiling takes, nor where its folder cannot be locked.
    """
    folder = kept_at(source).parent
    try:
        import fcntl

        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        for _ in range(_TRIES):
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_TRY_S)
                continue
            except OSError:  # a file system without locks
                pass
            break
        yield
    finally:
        os.close(held)


def keep(whole: bytes, source: bytes) -> None:
    """Write it, where there is a place to; where not, a terminal is told."""
    path = kept_at(source)
    part = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(whole)
        part.replace(path)
    except OSError:  # a full or read-only disk: it is compiled again next time
        tell(f"it is not kept, {path.parent} cannot be written; let XDG_CACHE_HOME name a folder")


def tell(text: str) -> None:
    """Say why it takes so long; at a terminal alone."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(text, file=sys.stderr)
