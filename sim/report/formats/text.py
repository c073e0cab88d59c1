"""A view for a terminal: aligned columns, no colour."""

from __future__ import annotations

from collections.abc import Iterator

from sim.report.view import Bar, Cell, Facts, Lines, Part, Picture, Remarks, Table, View, text_of

_BAR = "█▓▒░▚▞"
_BAR_WIDTH = 48


def render(view: View) -> str:
    """Sections with a blank line between."""
    lines = [view.title] if view.title else []
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
        yield f"{section.lines[0]}: {section.path}"
    elif isinstance(section, Lines | Remarks):
        yield from (" " * section.indent + line for line in section.lines)


def _bar(bar: Bar) -> Iterator[str]:
    blocks = zip(_BAR, bar.parts, strict=False)
    drawn = "".join(mark * round(_BAR_WIDTH * share) for mark, (_, share) in blocks)
    parts = " · ".join(f"{label} {100 * share:.0f} %" for label, share in bar.parts)
    yield f"  {bar.heading}  {drawn}"
    yield from (" " * (len(bar.heading) + 4) + line for line in (parts, *bar.more))


def _facts(facts: Facts) -> Iterator[str]:
    width = max((len(row.label) for row in facts.rows), default=0)
    margin = " " * facts.indent
    for label, text, more in facts.rows:
        yield f"{margin}{label:<{width}}{' ' * facts.gap}{text}"
        yield from (margin + " " * (width + facts.gap) + line for line in more)


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
            line += (column.before if i else "") + text + (column.after if row is not heads else "")
        yield line
