"""A view as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sim.report.formats.csv import flat
from sim.report.view import (
    Bar,
    Column,
    Facts,
    Figures,
    Lines,
    Picture,
    Remarks,
    Table,
    View,
    ViewPart,
    heading_of,
    text_of,
)

_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # what a page would take for HTML


def render(view: View) -> str:
    """A page: title, sections with headings, tables with numbers to the right."""
    parts = [f"# {view.title}"] if view.title else []
    for section in view.filled:
        level, heading = heading_of(section)
        body = list(_section(section))
        if body:
            parts += [f"{'#' * level} {heading}"] if heading else []
            parts += ["\n".join(body)]
    return "\n\n".join(parts)


def _section(section: ViewPart) -> Iterator[str]:
    if isinstance(section, Figures):
        rows = list(flat(section.rows).items())
        yield from _table([Column("key", right=False), Column("value", right=False)], rows)
    elif isinstance(section, Bar):
        yield from (f"- {label} {share} %" for label, share in section.told)
        yield from (f"- {line}" for line in section.more)
    elif isinstance(section, Facts):
        for label, text, more in section.rows:
            yield "\\\n  ".join([f"- **{label}**: {_escaped(text)}", *map(_escaped, more)])
    elif isinstance(section, Table):
        cells = [[text_of(cell) for cell in row] for row in section.rows]
        yield from _table(section.columns, cells)
    elif isinstance(section, Picture):
        yield from (f"![{line}]({section.path})" for line in section.lines if section.path)
    elif isinstance(section, Lines) and section.literal:
        yield "\n".join(["```text", *section.lines, "```"])
    elif isinstance(section, Remarks) or (isinstance(section, Lines) and section.list):
        yield from (f"- {_escaped(line.strip())}" for line in section.lines)
    elif isinstance(section, Lines):
        yield "\\\n".join(_escaped(line.strip()) for line in section.lines)


def _table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _row([column.head for column in columns])
    yield _row(["---:" if column.right else "---" for column in columns])
    for row in rows:
        yield _row([*row, *[""] * (len(columns) - len(row))])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell).replace("|", "\\|") for cell in cells) + " |"


def _escaped(text: str) -> str:
    return _TAG.sub("&lt;", text)
