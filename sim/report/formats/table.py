"""A view for a terminal: aligned columns, no colour, lines no wider than the view's.

Sentences are no longer than in a pipe, however wide a terminal is.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.report.terminal import table_lines, wrapped
from sim.report.view import WIDTH, Bar, Facts, Lines, Picture, Remarks, Table, View, ViewPart

_BAR = "█▓▒░▚▞"
_BAR_WIDTH = 48


def render(view: View) -> str:
    """Sections with a blank line between."""
    lines = list(wrapped(view.title, "", 2, min(view.width, WIDTH))) if view.title else []
    for section in view.filled:
        found = list(_section(section, view.width))
        if lines and found and getattr(section, "apart", True):
            lines.append("")
        lines += found
    return "\n".join(line.rstrip() for line in lines)


def _section(section: ViewPart, width: int) -> Iterator[str]:
    """Lines of a section; its figures are left to formats that are kept."""
    wide, width = width, min(width, WIDTH)
    if isinstance(section, Table | Facts | Lines) and section.heading:
        yield from wrapped(section.heading, " " * max(section.indent - 2, 0), 2, width)
    if isinstance(section, Bar):
        yield from _bar(section, width)
    elif isinstance(section, Table):
        yield from table_lines(section, wide if section.headed else width)
    elif isinstance(section, Facts):
        yield from _facts(section, width)
    elif isinstance(section, Picture):
        yield from (f"{line}: {section.path}" for line in section.lines if section.path)
    elif isinstance(section, Lines) and section.literal:
        yield from (" " * section.indent + line for line in section.lines)
    elif isinstance(section, Lines | Remarks):
        for line in section.lines:
            inner = len(line) - len(line.lstrip())  # as it was laid out
            yield from wrapped(line.lstrip(), " " * (section.indent + inner), 2, width)


def _bar(bar: Bar, width: int) -> Iterator[str]:
    blocks = zip(_BAR, bar.parts, strict=False)
    margin = " " * (len(bar.heading) + 4)
    long = min(_BAR_WIDTH, width - len(margin))
    drawn = "".join(mark * round(long * share) for mark, (_, share) in blocks)
    parts = " · ".join(f"{label} {share} %" for label, share in bar.told)
    yield f"  {bar.heading}  {drawn}"[:width]  # shares that are rounded up may be one too many
    for line in (parts, *bar.more):
        yield from wrapped(line, margin, width=width)


def _facts(facts: Facts, end: int) -> Iterator[str]:
    width = max((len(row.label) for row in facts.rows), default=0)
    margin = " " * facts.indent
    for label, text, more in facts.rows:
        inside = margin + " " * (width + facts.gap)
        first, *rest = wrapped(text, inside, width=end)
        yield f"{margin}{label:<{width}}{' ' * facts.gap}{first[len(inside) :]}"
        yield from rest
        for line in more:
            yield from wrapped(line, inside, width=end)
