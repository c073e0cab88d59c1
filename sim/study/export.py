"""Rows of a sweep as a Parquet file."""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from pathlib import Path

from sim.errors import InputError
from sim.files import write_whole
from sim.study.sweep import SweepOutcome

_TOGETHER = 10_000  # rows of Python's; as columns they take a tenth


def needs_pyarrow(path: Path) -> None:
    """Refuse a file before anything is computed for it that cannot be written.

    Raises
    ------
    InputError
        pyarrow is not installed.
    """
    try:
        import_module("pyarrow")
    except ImportError:
        message = "Parquet needs pyarrow: pip install pyarrow (or write .csv or .jsonl)"
        raise InputError.single(str(path), message) from None


def write_parquet(outcome: SweepOutcome, path: Path) -> None:
    """Write the rows as a Parquet file.

    Raises
    ------
    InputError
        pyarrow is not installed, or the file cannot be written.
    """
    needs_pyarrow(path)
    import pyarrow
    from pyarrow import parquet

    rows = outcome.records()
    tables = [
        pyarrow.Table.from_pylist(rows[begin : begin + _TOGETHER])
        for begin in range(0, len(rows), _TOGETHER)
    ]
    # a column that some rows leave empty, or have whole numbers in, is what it is in the others
    table = pyarrow.table({})
    if tables:
        table = pyarrow.concat_tables(tables, promote_options="permissive")
    content = BytesIO()
    parquet.write_table(table, content)
    write_whole(path, content.getvalue())
