"""Sentences and tables in lines of so many characters, for a terminal."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from sim.report.view import WIDTH, Table, text_of

_UNIT = re.compile(r"(?<=\d) (?=%|(?:[GMkT]?i?B|[mu]?s|h|min|days|[BMkT])\b)")
_JOINT = re.compile(r"(?<=[/_:=-])|(?=#)|(?<=[a-z]\.)(?=[a-z])")
_OPTION = "--"
_LAST = 24  # characters that the last column gives way to first
_SHORT = 12  # characters of cells that are not broken
#: characters up to which words are not broken, and those of the last column; the fewest last
_LONG = ((WIDTH, 32), (32, 24), (20, 16), (14, 16))
_RAGGED = 2  # characters that a broken line leaves free, about
_BELOW = 4  # further in than its row
_LOOKED_AT = 60  # rows by which columns are weighed against each other


def wrapped(text: str, margin: str, hanging: int = 0, width: int = WIDTH) -> Iterator[str]:
    """A sentence in lines, those after the first `hanging` further in; figures keep their unit."""
    found = textwrap.wrap(
        _UNIT.sub("\N{NO-BREAK SPACE}", text), width, initial_indent=margin,
        subsequent_indent=margin + " " * hanging, break_long_words=False, break_on_hyphens=False,
        expand_tabs=False, replace_whitespace=False,
    )  # fmt: skip
    yield from (line.replace("\N{NO-BREAK SPACE}", " ") for line in found or [margin.rstrip()])


def table_lines(table: Table, width: int = WIDTH) -> Iterator[str]:
    """A table: in columns as wide as their cells where that fits, else with words broken.

    Where even that is too wide it is set in parts, each with the first column again.
    """
    rows = [[text_of(cell) for cell in row] for row in table.rows]
    groups = [[i for i, column in enumerate(table.columns) if not column.below]]
    widths = _natural(table, rows)
    if _total(table, groups[0], widths) > width:
        for most in _LONG:
            least = _least(table, rows, widths, *most)
            if _total(table, groups[0], least) <= width:
                break
        else:
            groups = _groups(table, least, width)
        for group in groups:
            _narrow(table, group, widths, least, rows, width)
    # what stands below a row is said again only where it alone tells rows from each other
    alike = len({row[0] for row in rows if row}) < len(rows)
    for number, group in enumerate(groups):
        if number:
            yield ""
        yield from _part(table, group, widths, rows, width, below=alike or not number)


def _cut(text: str, width: int) -> str:
    """A text whose words fit into a width: longer ones cut at a joint, such as after a slash."""
    words: list[str] = []
    for word in text.split(" "):
        start = len(words)
        for piece in _JOINT.split(word) if len(word) > width else [word]:
            if len(words) > start and len(words[-1]) + len(piece) <= width:
                words[-1] += piece
            else:
                words += textwrap.wrap(piece, width) or [piece]
    return " ".join(words)


def _part(
    table: Table, group: Sequence[int], widths: Sequence[int], rows: Sequence[Sequence[str]],
    width: int, below: bool,
) -> Iterator[str]:  # fmt: skip
    """One part of a table, with or without what stands `below` its rows."""
    heads = [column.head for column in table.columns]
    if table.headed:
        yield from _row(table, group, widths, heads, width, head=True)
    for row in rows:
        yield from _row(table, group, widths, row, width)
        for i, column in enumerate(table.columns):
            if below and column.below and row[i:] and row[i]:
                yield from wrapped(
                    f"{column.head}: {row[i]}", " " * (table.indent + _BELOW), 2, width
                )


def _row(
    table: Table,
    group: Sequence[int],
    widths: Sequence[int],
    row: Sequence[str],
    end: int,
    head: bool = False,
) -> Iterator[str]:
    """A row in as many lines as its longest cell takes, to the `end` of the line."""
    cells: list[tuple[int, list[str]]] = []  # where it starts, its lines
    at = table.indent
    option = ""
    for place, i in enumerate(group):
        if i >= len(row):
            break
        column, text = table.columns[i], row[i]
        before, after = (column.before if place else ""), ("" if head else column.after)
        at += len(before)
        last = i == len(row) - 1 and not column.right
        early = len(row) < len(table.columns)  # such a row reaches over the columns that it lacks
        width = end - at if last or early else widths[i]
        if at + len(text) > end and text.startswith(_OPTION):
            option = text  # options are copied: whole, on a line of their own
            break
        lines = [text] if len(text) <= width else [*wrapped(_cut(text, width), "", width=width)]
        if column.pad and not last:
            lines = [x.rjust(widths[i]) if column.right else x.ljust(widths[i]) for x in lines]
        cells.append((at - len(before), [before + lines[0] + after, *lines[1:]]))
        cells[-1][1][1:] = [" " * len(before) + line for line in cells[-1][1][1:]]
        at += (len(lines[0]) if last or not column.pad else widths[i]) + len(after)
    for parts in itertools.zip_longest(*(lines for _, lines in cells), fillvalue=""):
        line = ""
        for (start, _), part in zip(cells, parts, strict=True):
            line = line.ljust(start) + part if part else line
        yield line or " " * table.indent
    if option:
        yield " " * (table.indent + 4) + option


# --- widths --------------------------------------------------------------------------------------


def _natural(table: Table, rows: Sequence[Sequence[str]]) -> list[int]:
    """Widths of columns in which nothing is broken; the last cell of a short row runs on."""
    columns = len(table.columns)
    full = [row if len(row) == columns else row[:-1] for row in rows]
    return [
        max([
            c.width, len(c.head) if table.headed else 0,
            *(len(row[i]) for row in full if i < len(row) and not row[i].startswith(_OPTION)),
        ])
        for i, c in enumerate(table.columns)
    ]  # fmt: skip


def _least(
    table: Table, rows: Sequence[Sequence[str]], widths: Sequence[int], word: int, last: int
) -> list[int]:
    """Widths below which columns are not set: figures stay whole, and words up to a length."""
    found = []
    for i, column in enumerate(table.columns):
        cells = [row[i] for row in rows if i < len(row) and not row[i].startswith(_OPTION)]
        longest = max(map(len, cells), default=0)
        if not column.right and longest > _SHORT:
            most = last if i == len(table.columns) - 1 else word
            longest = min(most, max(map(len, _words(cells))))
        head = max(map(len, column.head.split(" "))) if table.headed else 0
        found.append(min(widths[i], max(column.width, longest, head)))
    return found


def _words(cells: Sequence[str]) -> list[str]:
    """What stays together in cells: a figure and its unit, a word."""
    joined = (_UNIT.sub("\N{NO-BREAK SPACE}", cell) for cell in cells)
    return [word for cell in joined for word in cell.split(" ")]


def _total(table: Table, group: Sequence[int], widths: Sequence[int]) -> int:
    columns = [table.columns[i] for i in group]
    gaps = sum(len(c.before) for c in columns[1:]) + sum(len(c.after) for c in columns)
    return table.indent + gaps + sum(widths[i] for i in group)


def _groups(table: Table, least: Sequence[int], width: int) -> list[list[int]]:
    """Columns in as few parts as they fit into, each with the first column."""
    found = [[0]]
    for i, column in enumerate(table.columns):
        if not i or column.below:
            continue
        if len(found[-1]) > 1 and _total(table, [*found[-1], i], least) > width:
            found.append([0])
        found[-1].append(i)
    return found


def _narrow(
    table: Table, group: Sequence[int], widths: list[int], least: Sequence[int],
    rows: Sequence[Sequence[str]], width: int,
) -> None:  # fmt: skip
    """Take from the last column of words first, then where it costs fewest lines, until it fits."""
    last = group[-1]
    floor = {i: least[i] for i in group}
    if not table.columns[last].right:
        over = max(_total(table, group, widths) - width, 0)
        widths[last] = max(min(widths[last], _LAST), floor[last], widths[last] - over)
    while _total(table, group, widths) > width:
        free = [i for i in group if widths[i] > floor[i]]
        if not free:
            return
        now = dict(enumerate(widths))
        tried = {i: _height(group, now | {i: widths[i] - 1}, rows) for i in free}
        widths[min(free, key=lambda i: (tried[i], -widths[i]))] -= 1


def _height(group: Sequence[int], widths: Mapping[int, int], rows: Sequence[Sequence[str]]) -> int:
    """About how many lines a part takes: as if words could be broken anywhere."""
    return sum(
        max(-(-len(row[i]) // max(widths[i] - _RAGGED, 1)) for i in group if i < len(row))
        for row in rows[:_LOOKED_AT]
        if row
    )
