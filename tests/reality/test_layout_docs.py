"""Tables of docs/axes.md and docs/schedules.md are what the model says now: a quick row of each."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import layout_tables
import marked


def printed(name):
    """Rows of a table by what stands before its columns."""
    table = layout_tables.TABLES[name]
    text = (layout_tables.DOCS / table.page).read_text(encoding="utf-8")
    head, *rows = marked.cells(text, name)
    assert head == [*table.cells, "layout", *table.columns]
    named = len(table.cells) + 1
    return {tuple(row[:named]): row[named:] for row in rows}


@pytest.mark.parametrize("name", layout_tables.TABLES)
def test_a_row_of_each_table(name):
    table, rows = layout_tables.TABLES[name], printed(name)
    assert list(rows) == [(*layout.cells, layout.name) for layout in table.layouts]
    layout = table.layouts[0]
    result = layout_tables.result_of(table, layout)
    for column, said in zip(table.columns, rows[*layout.cells, layout.name], strict=True):
        now = layout_tables.cell(result, layout, column)
        if column in ("exposed", "bubble"):  # near nothing
            continue
        words, numbers = said.split(" ", 1), now.split(" ", 1)
        assert float(words[0].replace(",", "") or 0) == pytest.approx(
            float(numbers[0].replace(",", "") or 0), rel=0.03
        )
        assert words[1:] == numbers[1:]
