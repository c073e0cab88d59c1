"""Results in SQLite, keyed by the hash of inputs and model version.

Finished configurations are committed in write-ahead mode, those of a tenth of a second together, so
that a process killed at any moment leaves a file with nearly all that was finished, and a second
run repeats none of what is in it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim import __version__
from sim.errors import InputError

RowKeys = NDArray[np.bytes_]
FORMAT = 1
PAGE = 1000  # rows that are read together
#: rows are stored so often at most; a process that is killed with -9 loses what came since [s]
EVERY_S = 0.1
KEYS = 100_000  # keys that are read together
WAIT_S = 8.0  # for another process to end its transaction; a sweep's own take milliseconds
_TABLE = """
create table if not exists results (
    key text primary key,
    status text not null,
    changes text not null,
    measures text not null,
    error text not null,
    attempts integer not null,
    seconds real not null
) without rowid
"""


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One configuration: what was changed and what came of it.

    Attributes
    ----------
    key : str
        Hash of inputs and model version.
    status : str
        ``ok``, ``invalid`` (the inputs contradict each other) or ``failed``.
    changes : dict
        As for ``--set``; ``topology`` and ``workload`` where these are varied.
    measures : dict
        By `sim.study.measures`; empty unless ``ok``.
    error : str
        What went wrong.
    attempts : int
        Workers it was given to.
    seconds : float
        Time that the computation took. [s]
    """

    key: str
    status: str
    changes: Mapping[str, Any]
    measures: Mapping[str, Any]
    error: str = ""
    attempts: int = 1
    seconds: float = 0.0


@cache
def model_version() -> str:
    """The version and a digest of the code and constants: a changed model repeats its results."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".toml", ".csv"):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def key_of(base_hash: str, changes: Mapping[str, Any]) -> str:
    """Key of a configuration: base inputs, changes and model version."""
    text = json.dumps([model_version(), base_hash, changes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def keys_together(keys: Iterable[str]) -> RowKeys:
    """(keys,) S32: a million take 32 MB."""
    return np.fromiter((key.encode() for key in keys), "S32")


class Store:
    """An SQLite file of rows; use as a context manager.

    Parameters
    ----------
    path : Path
        Created if it is not there.
    read_only : bool
        Of one that was opened before: nothing is made or written.

    Raises
    ------
    InputError
        Not a store, or not writable.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        where = f"{path.absolute().as_uri()}?mode=ro" if read_only else path
        try:
            self._db = sqlite3.connect(where, isolation_level=None, timeout=WAIT_S, uri=read_only)
            try:
                if not read_only:
                    self._open()
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise InputError.single(str(path), f"cannot be used as a store: {error}") from None

    def _open(self) -> None:
        # one transaction: another process may be making the same file
        self._db.execute("begin immediate")
        try:
            found = int(self._db.execute("pragma user_version").fetchone()[0])
            tables = self._db.execute("select count(*) from sqlite_master").fetchone()[0]
            columns = [row[1] for row in self._db.execute("pragma table_info(results)")]
            known = [field.name for field in fields(StoredRow)]
            if tables and (found != FORMAT or columns != known):
                message = "is an SQLite file, but not a store of this version; name another file"
                raise InputError.single(str(self.path), message)
            if not tables:
                self._db.execute(_TABLE)
                self._db.execute(f"pragma user_version = {FORMAT}")
        finally:
            self._db.execute("commit")
        self._write_ahead()
        self._db.execute("pragma synchronous = normal")

    def _write_ahead(self) -> None:
        """Switch to write-ahead mode; SQLite's own timeout does not cover this switch."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                self._db.execute("pragma journal_mode = wal")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def put(self, rows: Iterable[StoredRow]) -> None:
        """Store rows; durable against the end of this process when it returns."""
        values = [
            (
                row.key, row.status, json.dumps(row.changes), json.dumps(row.measures), row.error,
                row.attempts, row.seconds,
            )
            for row in rows
        ]  # fmt: skip
        try:
            with self._db:  # an interrupt ends the transaction, too
                self._db.execute("begin immediate")
                insert = "insert or replace into results values (?,?,?,?,?,?,?)"
                self._db.executemany(insert, values)
        except sqlite3.Error as error:
            raise InputError.single(str(self.path), f"cannot be written: {error}") from None

    def has(self, keys: RowKeys, failed: bool = False) -> NDArray[np.bool_]:
        """Of which keys there are rows, or rows that are not ``ok``.

        Parameters
        ----------
        keys : (keys,) S32
            In order, each once.
        failed : bool
            Rows that are ``ok`` do not count.
        """
        only = " where status <> 'ok'" if failed else ""
        found = np.zeros(len(keys), bool)
        # an interrupt leaves no cursor with which SQLite would keep the file open
        with closing(self._query(f"select key from results{only} order by key")) as there:
            while (page := keys_together(key for (key,) in itertools.islice(there, KEYS))).size:
                at = np.searchsorted(keys, page)
                page, at = page[at < len(keys)], at[at < len(keys)]
                found[at[keys[at] == page]] = True
        return found

    def get(self, keys: Iterable[str]) -> dict[str, StoredRow]:
        """Rows by key; those that are not there are left out."""
        wanted = list(keys)
        found: dict[str, StoredRow] = {}
        for begin in range(0, len(wanted), 500):
            part = wanted[begin : begin + 500]
            marks = ",".join("?" * len(part))
            records = list(self._query(f"select * from results where key in ({marks})", part))
            found |= {row.key: row for row in self._rows(records)}
        return found

    def _rows(self, records: list[tuple[Any, ...]]) -> list[StoredRow]:
        """Rows read together share the names of their measures, which are half of what they are."""
        texts = [text for record in records for text in record[2:4]]
        try:
            parts = json.loads(f"[{','.join(texts)}]")
        except (TypeError, ValueError):
            parts = []
        if len(parts) != len(texts):  # one is damaged
            parts = [_part(text) for text in texts]
        rows = []
        for place, (key, status, _, _, error, attempts, seconds) in enumerate(records):
            changes, measures = parts[2 * place : 2 * place + 2]
            if not isinstance(changes, dict) or not isinstance(measures, dict):
                message = f"row {key} is damaged; name another file, or delete this one"
                raise InputError.single(str(self.path), message)
            rows.append(StoredRow(key, status, changes, measures, error, attempts, seconds))
        return rows

    def _query(
        self, sql: str, values: Iterable[str] = ()
    ) -> Generator[tuple[Any, ...], None, None]:
        try:
            yield from self._db.execute(sql, tuple(values))
        except (sqlite3.Error, ValueError) as error:
            raise InputError.single(str(self.path), f"cannot be read: {error}") from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Store:
        """The store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()


class Arriving:
    """Rows that are stored as they come; use as a context manager, which stores the last ones.

    Those of `EVERY_S` are stored together; nothing that arrived is lost to an interrupt.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._stored_at = store, time.perf_counter()
        self._rows: list[StoredRow] = []

    def add(self, row: StoredRow) -> None:
        """Take one."""
        self._rows.append(row)
        if time.perf_counter() - self._stored_at > EVERY_S:
            self._put()

    def _put(self) -> None:
        try:
            self._store.put(self._rows)
        except InputError:
            self._rows = []  # a store that cannot be written is not asked twice
            raise
        self._rows, self._stored_at = [], time.perf_counter()

    def __enter__(self) -> Arriving:
        """What takes them."""
        return self

    def __exit__(self, *ending: object) -> None:
        """However it ends."""
        if self._rows:
            self._put()


class StoredRows(Sequence[StoredRow]):
    """Rows of a store in some order, a page of them held: each is read when it is looked at.

    Parameters
    ----------
    path : Path
        Of the store, which has to stay.
    keys : (rows,) S32
        Their keys.

    Raises
    ------
    InputError
        When one is looked at that is gone.
    """

    def __init__(self, path: Path, keys: RowKeys) -> None:
        self._path, self._keys = path.absolute(), keys
        self._page: tuple[int, list[StoredRow]] = -1, []

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[place] for place in range(len(self))[at]]
        number, place = divmod(range(len(self))[at], PAGE)
        if self._page[0] != number:
            self._page = number, self._read(number * PAGE)
        return self._page[1][place]

    def _read(self, begin: int) -> list[StoredRow]:
        names = [key.decode() for key in self._keys[begin : begin + PAGE]]
        with Store(self._path, read_only=True) as opened:
            known = opened.get(dict.fromkeys(names))
        if gone := [name for name in names if name not in known]:
            raise InputError.single(str(self._path), f"row {gone[0]} is gone since it was stored")
        return [known[name] for name in names]


def _part(text: Any) -> Any:
    """What a cell says; None where it is no JSON."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return None
