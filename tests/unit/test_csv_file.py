"""Reading CSV files: what is wrong with a file is a fault, what is wrong elsewhere is not its."""

import pytest

from sim.errors import InputError
from sim.inputs.csv_file import csv_rows


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n")
    return path


def test_rows_are_read_by_their_heads(table):
    with csv_rows(table, 100, "cut it") as rows:
        assert list(rows) == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("error", [ValueError("4"), FileNotFoundError("other"), OSError("full")])
def test_what_a_caller_raises_stays_its_own(table, error):
    with pytest.raises(type(error)) as found, csv_rows(table, 100, "cut it"):
        raise error
    assert found.value is error


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n\xff,2\n", "is not UTF-8"),
        (b"a,b\n" + b"1" * 200_000 + b",2\n", "table.csv:2  cannot be read: field larger"),
        (b"a" * 300_001, "has 300,001 bytes; at most 300,000 are read: cut it"),
    ],
)
def test_what_a_file_is_not_is_a_fault(table, content, said):
    table.write_bytes(content)
    with pytest.raises(InputError, match=said), csv_rows(table, 300_000, "cut it") as rows:
        list(rows)
