"""CSV files that users name, row by row: every way in which a file can be none is a fault."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError, visible
from sim.files import hidden


@contextmanager
def csv_rows(path: Path, most_bytes: int, remedy: str) -> Iterator[csv.DictReader[str]]:
    """Rows of a CSV by the heads in its first line, read as they are taken.

    Parameters
    ----------
    path : Path
        A file, device or pipe.
    most_bytes : int
        That are read of it, whatever it says of its size. [B]
    remedy : str
        What would make a longer one short enough.

    Raises
    ------
    InputError
        It cannot be read, is too long, no CSV or no UTF-8; while rows are taken, too.
    """
    source = str(path)
    with _opened(path, source) as raw:
        size = os.fstat(raw.fileno()).st_size
        if size > most_bytes:
            raise _too_long(source, f"{size:,}", most_bytes, remedy)
        bounded = io.BufferedReader(_Bounded(raw, source, most_bytes, remedy))
        reader = csv.DictReader(io.TextIOWrapper(bounded, "utf-8-sig", newline=""))
        try:
            yield reader
        except UnicodeDecodeError:
            raise InputError.single(source, "is not UTF-8; save it as a UTF-8 CSV") from None
        except csv.Error as error:
            message = f"cannot be read: {visible(str(error))}"
            line = reader.reader.line_num
            raise InputError([Fault(source, line, None, "", message)]) from None


def _opened(path: Path, source: str) -> io.FileIO:
    try:
        if hidden(path):
            raise FileNotFoundError
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise InputError.single(source, "no such file") from None
    except IsADirectoryError:
        raise InputError.single(source, "is a folder; name a CSV file in it") from None
    except OSError as error:
        raise _unread(source, error) from None
    except ValueError:  # a NUL in the name
        raise InputError.single(repr(source), "is no file name") from None


class _Bounded(io.RawIOBase):
    """A stream that is a fault where it goes on too long: a device of zeros never ends a line."""

    def __init__(self, raw: io.FileIO, source: str, most_bytes: int, remedy: str) -> None:
        self._raw, self._source, self._most, self._remedy = raw, source, most_bytes, remedy
        self._left = most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        try:
            count = self._raw.readinto(buffer)
        except OSError as error:
            raise _unread(self._source, error) from None
        self._left -= count or 0
        if self._left < 0:
            raise _too_long(self._source, f"more than {self._most:,}", self._most, self._remedy)
        return count


def _unread(source: str, error: OSError) -> InputError:
    return InputError.single(source, f"cannot be read: {error.strerror}")


def _too_long(source: str, has: str, most_bytes: int, remedy: str) -> InputError:
    return InputError.single(source, f"has {has} bytes; at most {most_bytes:,} are read: {remedy}")
