"""Reading files of measurements: bounded, decompressed where needed, never a traceback."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import InputError
from sim.inputs.tree import too_deep

if TYPE_CHECKING:
    from sim.step.variation import Progress

MAX_TEXT = 64 * 1024 * 1024  # a log of nccl-tests has kilobytes
_MB, _PIECE = 10**6, 1 << 20
_GZIP = b"\x1f\x8b"
TOO_EARLY = "; the file ends too early"
#: what launchers put before each piece of output that they see, inside lines too: ``[0]``,
#: ``[1,0]<stdout>:`` of mpirun, ``[rank0]:`` of torchrun, ``[default0]:`` of its redirects
LAUNCHERS_TAG = r"\[(?:rank|default)?\d{1,6}(?:,\d{1,6})?\](?:<std(?:out|err)>)?:?"
#: keys of a line of output: docker's json-file, fluentd and CloudWatch, journald, Google's logging
_CARRIERS = ("log", "message", "msg", "MESSAGE", "textPayload")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def chunks(
    path: str | PathLike[str], limit: int, progress: Progress | None = None
) -> Iterator[bytes]:
    """A file's content, some of it at a time, decompressed if it is gzip.

    Parameters
    ----------
    path : path
        The file.
    limit : int
        Largest content that is read, decompressed. [B]
    progress : callable, optional
        Called with megabytes of the file that were read and all it has; 0 of a pipe.

    Raises
    ------
    InputError
        No such file, a folder, unreadable, too large, broken gzip.
    """
    source = str(path)
    try:
        file = Path(path)
        if file.is_dir():
            raise InputError.single(source, "is a folder; name a file")
        with file.open("rb") as stream:
            whole = os.fstat(stream.fileno()).st_size
            if whole > limit:
                raise _too_large(limit, source)
            for piece in _unpacked(stream, limit, source):
                if progress is not None:
                    progress(stream.tell() // _MB if whole else 0, whole // _MB)
                yield piece
    except FileNotFoundError:
        raise InputError.single(source, "no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError.single(source, f"cannot be read: {reason}") from None


def _unpacked(stream: io.BufferedReader, limit: int, source: str) -> Iterator[bytes]:
    """Pieces of a stream, decompressed if it is gzip, up to the limit."""
    packed = stream.peek(len(_GZIP)).startswith(_GZIP)
    length = 0
    try:
        with gzip.GzipFile(fileobj=stream) if packed else nullcontext(stream) as inner:
            while piece := inner.read(_PIECE):
                length += len(piece)
                if length > limit:
                    raise _too_large(limit, source)
                yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError.single(source, f"is broken gzip: {error}") from None


def _too_large(limit: int, source: str) -> InputError:
    return InputError.single(source, f"is larger than {limit / 1e6:.0f} MB")


def read_bytes(path: str | PathLike[str], limit: int) -> bytes:
    """A file's content, whole; arguments and faults as for `chunks`.

    Raises
    ------
    InputError
        Also if it is empty.
    """
    return _filled(chunks(path, limit), str(path))


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
    return _filled(_unpacked(io.BufferedReader(io.BytesIO(data)), limit, source), source)


def _filled(pieces: Iterator[bytes], source: str) -> bytes:
    data = b"".join(pieces)
    if not data.strip():
        raise InputError.single(source, "is empty")
    return data


def text_of(data: bytes, source: str) -> str:
    """Bytes as text without terminal colours; odd bytes of a log are replaced, not refused.

    Lines that a collector of logs wrote as JSON are what they carry.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", errors="replace")
    elif b"\x00" in data:
        raise InputError.single(source, "is not text: it has zero bytes")
    else:
        text = data.decode("utf-8-sig", errors="replace")
    return _ANSI.sub("", _carried(text) if text.lstrip().startswith("{") else text)


def _carried(text: str) -> str:
    """A log without the objects that carry its lines, line by line."""
    lines = [(line, _line_in(line)) for line in text.split("\n")]
    return "\n".join(line if inner is None else inner for line, inner in lines)


def _line_in(line: str) -> str | None:
    """The line that an object of a collector carries, None of what is none.

    One that has numbers beside its text is a program's own record, whose numbers count.
    """
    if not line.startswith("{"):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    found = next((entry[key] for key in _CARRIERS if isinstance(entry.get(key), str)), None)
    if found is None or any(isinstance(value, int | float) for value in entry.values()):
        return None
    return str(found).rstrip("\n")


def json_of(data: bytes, source: str) -> Any:
    """Bytes as JSON, or a fault that says where it breaks."""
    text = data.decode("utf-8-sig", errors="replace")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        hint = TOO_EARLY if ends_too_early(error.msg, error.pos, error.doc) else ""
        message = f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}{hint}"
        raise InputError.single(source, message) from None
    except RecursionError:
        raise too_deep(text, source) from None
    except ValueError as error:
        raise InputError.single(source, f"is not JSON: {error}") from None


def ends_too_early(message: str, at: int, text: str) -> bool:
    """Whether what `json` says of a place in a text is that the text should go on."""
    return message.startswith("Unterminated") or at >= len(text.rstrip())
