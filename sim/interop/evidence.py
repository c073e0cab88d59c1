"""Reading files of measurements: bounded, decompressed where needed, never a traceback."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from os import PathLike
from pathlib import Path
from typing import Any

from sim.errors import InputError

MAX_TEXT = 64 * 1024 * 1024  # a log of nccl-tests has kilobytes
_GZIP = b"\x1f\x8b"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def read_bytes(path: str | PathLike[str], limit: int) -> bytes:
    """A file's content, decompressed if it is gzip.

    Parameters
    ----------
    path : path
        The file.
    limit : int
        Largest content that is read, decompressed. [B]

    Raises
    ------
    InputError
        No such file, a folder, unreadable, too large, broken gzip, empty.
    """
    source = str(path)
    try:
        file = Path(path)
        if file.is_dir():
            raise InputError.single(source, "is a folder; name a file")
        with file.open("rb") as stream:
            data = stream.read(limit + 1)
    except FileNotFoundError:
        raise InputError.single(source, "no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError.single(source, f"cannot be read: {reason}") from None
    return checked(data, limit, source)


def checked(data: bytes, limit: int, source: str) -> bytes:
    """What was read of a file, decompressed if it is gzip.

    Parameters
    ----------
    data : bytes
        The whole, or more of it than the limit.
    limit : int
        Largest content that is taken, decompressed. [B]
    source : str
        Its name in faults.

    Raises
    ------
    InputError
        Too large, broken gzip, empty.
    """
    if data.startswith(_GZIP) and len(data) <= limit:
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as inner:
                data = inner.read(limit + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError.single(source, f"is broken gzip: {error}") from None
    if len(data) > limit:
        raise InputError.single(source, f"is larger than {limit / 1e6:.0f} MB")
    if not data.strip():
        raise InputError.single(source, "is empty")
    return data


def text_of(data: bytes, source: str) -> str:
    """Bytes as text without terminal colours; odd bytes of a log are replaced, not refused."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _ANSI.sub("", data.decode("utf-16", errors="replace"))
    if b"\x00" in data:
        raise InputError.single(source, "is not text: it has zero bytes")
    return _ANSI.sub("", data.decode("utf-8-sig", errors="replace"))


def json_of(data: bytes, source: str) -> Any:
    """Bytes as JSON, or a fault that says where it breaks."""
    try:
        return json.loads(data.decode("utf-8-sig", errors="replace"))
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) - 1
        hint = "; the file ends too early" if cut else ""
        message = f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}{hint}"
        raise InputError.single(source, message) from None
    except (RecursionError, ValueError) as error:
        raise InputError.single(source, f"is not JSON: {error}") from None
