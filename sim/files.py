"""Files that users name: found, and written whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sim.errors import InputError

#: a path as people write it
File = str | os.PathLike[str]
#: audit events of what a sealed process does not do
_FORBIDDEN = frozenset({
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect",
    "socket.bind", "shutil.rmtree",
})  # fmt: skip


_sealed: tuple[str, ...] = ()  # folders beside which this process knows no file; empty: all


def seal(folders: Iterable[Path]) -> None:
    """From now on this process opens files of ours and of Python alone, and starts nothing.

    For processes that work for others: no field of a request leads to a file, or says whether there
    is one. It cannot be undone.

    Parameters
    ----------
    folders : iterable of Path
        Of ours.
    """
    global _sealed
    ours = [os.path.realpath(folder) for folder in folders]
    _sealed = tuple(f"{folder}{os.sep}" for folder in ours)
    installed = (p for p in sys.path if Path(p).name in ("site-packages", "dist-packages"))
    python = (sys.prefix, sys.base_prefix, *installed, os.environ.get("NUMBA_CACHE_DIR", ""))
    readable = (*_sealed, *(f"{os.path.realpath(p)}{os.sep}" for p in python if p), "/dev/urandom")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            raise PermissionError(errno.EACCES, "is not done here")
        named = event == "open" and isinstance(arguments[0], str | bytes)
        if named and not os.path.realpath(os.fsdecode(arguments[0])).startswith(readable):
            raise PermissionError(errno.EACCES, "is not read here")

    sys.addaudithook(watch)


def hidden(path: Path) -> bool:
    """Whether this process is sealed against a file: it is then as if it were not there."""
    return bool(_sealed) and not os.path.realpath(path).startswith(_sealed)


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    return _is(path, Path.is_file)


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; as `is_file`."""
    return _is(path, Path.is_dir)


def is_there(path: Path) -> bool:
    """Whether there is something to read by that name: a file, a pipe, a device; as `is_file`."""
    return _is(path, Path.exists) and not is_folder(path)


def is_taken(path: Path) -> bool:
    """Whether something stands under a name that is to be written; as `is_file`."""
    return _is(path, Path.exists)


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return not hidden(path) and kind(path)
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def write_whole(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write a file so that a reader finds the old content or the new, never a part of it.

    Parameters
    ----------
    path : Path
        Replaced if it is there; links are followed, and a device or pipe is written to.
    content : str, bytes or iterable of bytes
        Text is written as UTF-8, what comes in parts as they come.

    Raises
    ------
    InputError
        It cannot be written: what was there is as it was.
    """
    whole = content.encode() if isinstance(content, str) else content
    data = (whole,) if isinstance(whole, bytes) else whole
    try:
        stream = path.absolute().parts[1:2] in (("dev",), ("proc",))  # /dev/stdout
        if stream or (path.exists() and not path.is_file()):  # a folder says so itself
            with path.open("wb") as file:
                file.writelines(data)
        else:
            _replace(Path(os.path.realpath(path)), data)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError.single(str(path), f"cannot write: {reason}") from None


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises
    ------
    InputError
        It cannot be made, or is no folder.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError.single(str(path), f"cannot make this folder: {reason}") from None


def _replace(target: Path, data: Iterable[bytes]) -> None:
    """A new file beside the target takes its name and its mode."""
    if target.exists() and not os.access(target, os.W_OK):
        message = "it is write-protected"
        raise ValueError(message)
    import tempfile  # 10 ms

    handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:64]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(data)
        os.chmod(beside, target.stat().st_mode if target.exists() else 0o666 & ~_mask())
        os.replace(beside, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
