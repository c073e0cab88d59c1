"""Files that users name: found, and written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from sim.errors import InputError


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; as `is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader finds the old content or the new, never a part of it.

    Parameters
    ----------
    path : Path
        Replaced if it is there; links are followed, and a device or pipe is written to.
    content : str or bytes
        Text is written as UTF-8.

    Raises
    ------
    InputError
        It cannot be written: what was there is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        stream = path.absolute().parts[1:2] in (("dev",), ("proc",))  # /dev/stdout
        if stream or (path.exists() and not path.is_file()):  # a folder says so itself
            with path.open("wb") as file:
                file.write(data)
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


def _replace(target: Path, data: bytes) -> None:
    """A new file beside the target takes its name and its mode."""
    if target.exists() and not os.access(target, os.W_OK):
        message = "it is write-protected"
        raise ValueError(message)
    handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:64]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
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
