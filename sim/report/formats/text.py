"""A view for a terminal: aligned columns, no colour, sentences in lines of 100 characters."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from sim.report.view import Bar, Cell, Facts, Lines, Part, Picture, Remarks, Table, View, text_of

_BAR = "█▓▒░▚▞"
_BAR_WIDTH = 48
WIDTH = 100
_UNIT = re.compile(r"(?<=\d) (?=%|(?:[GMkT]?i?B|[mu]?s|h|min|days|[BMkT])\b)")
_LEAST = 24  # characters of a column that is broken


def render(view: View) -> str:
    """Sections with a blank line between."""
    lines = list(_wrapped(view.title, "", 2)) if view.title else []
    for section in view.filled:
        found = list(_section(section))
        if lines and found and getattr(section, "apart", True):
            lines.append("")
        lines += found
    return "\n".join(line.rstrip() for line in lines)


def _section(section: Part) -> Iterator[str]:
    """Lines of a section; its figures are left to formats that are kept."""
    if isinstance(section, Table | Facts | Lines) and section.heading:
        yield " " * max(section.indent - 2, 0) + section.heading
    if isinstance(section, Bar):
        yield from _bar(section)
    elif isinstance(section, Table):
        yield from _table(section)
    elif isinstance(section, Facts):
        yield from _facts(section)
    elif isinstance(section, Picture):
        yield from (f"{line}: {section.path}" for line in section.lines if section.path)
    elif isinstance(section, Lines) and section.literal:
        yield from (" " * section.indent + line for line in section.lines)
    elif isinstance(section, Lines | Remarks):
        for line in section.lines:
            inner = len(line) - len(line.lstrip())  # as it was laid out
            yield from _wrapped(line.lstrip(), " " * (section.indent + inner), 2)


def _wrapped(text: str, margin: str, hanging: int = 0) -> Iterator[str]:
    """A sentence in lines, those after the first `hanging` further in; figures keep their unit."""
    found = textwrap.wrap(
        _UNIT.sub("\N{NO-BREAK SPACE}", text), WIDTH, initial_indent=margin,
        subsequent_indent=margin + " " * hanging, break_long_words=False, break_on_hyphens=False,
        expand_tabs=False, replace_whitespace=False,
    )  # fmt: skip
    yield from (line.replace("\N{NO-BREAK SPACE}", " ") for line in found or [margin.rstrip()])


def _bar(bar: Bar) -> Iterator[str]:
    blocks = zip(_BAR, bar.parts, strict=False)
    drawn = "".join(mark * round(_BAR_WIDTH * share) for mark, (_, share) in blocks)
    parts = " · ".join(f"{label} {100 * share:.0f} %" for label, share in bar.parts)
    yield f"  {bar.heading}  {drawn}"
    for line in (parts, *bar.more):
        yield from _wrapped(line, " " * (len(bar.heading) + 4))


def _facts(facts: Facts) -> Iterator[str]:
    width = max((len(row.label) for row in facts.rows), default=0)
    margin = " " * facts.indent
    for label, text, more in facts.rows:
        inside = margin + " " * (width + facts.gap)
        first, *rest = _wrapped(text, inside)
        yield f"{margin}{label:<{width}}{' ' * facts.gap}{first[len(inside) :]}"
        yield from rest
        for line in more:
            yield from _wrapped(line, inside)


def _table(table: Table) -> Iterator[str]:
    columns = table.columns
    heads: list[Cell | str] = [c.head if table.headed else "" for c in columns]
    widths = [
        max([c.width, len(text_of(heads[i])),
             *(len(text_of(row[i])) for row in table.rows if len(row) == len(columns))])
        for i, c in enumerate(columns)
    ]  # fmt: skip
    for row in [heads, *table.rows] if table.headed else table.rows:
        line = " " * table.indent
        for i, (column, cell) in enumerate(zip(columns, row, strict=False)):
            text = text_of(cell)
            if column.pad:
                text = text.rjust(widths[i]) if column.right else text.ljust(widths[i])
            line += column.before if i else ""
            if len(line) + len(text.rstrip()) > WIDTH and text.startswith("--"):
                yield line  # options are copied: whole, on a line of their own
                yield " " * (table.indent + 4) + text.rstrip()
                break
            if i == len(row) - 1 and not column.right and WIDTH - len(line) >= _LEAST:
                first, *rest = _wrapped(text.rstrip(), " " * len(line))
                yield line + first[len(line) :] + (column.after if row is not heads else "")
                yield from rest
                break
            line += text + (column.after if row is not heads else "")
        else:
            yield line
