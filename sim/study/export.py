"""Rows of a sweep as a Parquet file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from sim.errors import InputError
from sim.files import write_whole
from sim.study.sweep import SweepOutcome


def write_parquet(outcome: SweepOutcome, path: Path) -> None:
    """Write the rows as a Parquet file.

    Raises
    ------
    InputError
        pyarrow is not installed, or the file cannot be written.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        message = "Parquet needs pyarrow: pip install pyarrow (or write .csv or .jsonl)"
        raise InputError.single(str(path), message) from None
    rows = list(outcome.records())
    table = pyarrow.Table.from_pylist(rows) if rows else pyarrow.table({})
    content = BytesIO()
    parquet.write_table(table, content)
    write_whole(path, content.getvalue())
