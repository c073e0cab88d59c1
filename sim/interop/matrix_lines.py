"""Lines of a matrix of `nvidia-smi topo -m`, as launchers, terminals and web pages leave them."""

from __future__ import annotations

import re

CELL = re.compile(r"X|NV\d+|PIX|PXB|PHB|NODE|SYS|SOC")
BEHIND = ("CPU", "NUMA", "GPU")  # first words of the columns behind the matrix
_TAGGED = re.compile(r"^(.{1,120}?)[ \t]*\bGPU0[ \t|]+(?:GPU1|CPU|NIC0|mlx)", re.M)
_WORD = re.compile(r"[A-Za-z]{2,}\d*")  # first words of rows: GPU3, NIC0, mlx5


def lines_of(plain: str) -> list[str]:
    """Lines without what stands before each of them, and those that were broken whole again.

    Parameters
    ----------
    plain : str
        The text, without colours.
    """
    tagged = _TAGGED.search(plain)
    tag = tagged[1] if tagged and not tagged[1].isspace() else ""
    lines = plain.splitlines()
    if tag and set(tag) <= set("| \t"):
        lines = [line.replace("|", " ") for line in lines]
    elif tag:
        before = re.compile(re.sub(r"\d+", lambda _: r"\d+", re.escape(tag)))
        lines = [before.sub("", line, count=1) for line in lines]
    head = head_of(lines)
    return lines if head is None else _whole(lines, head)


def head_of(lines: list[str]) -> int | None:
    """The line of the names of columns."""
    return next(
        (
            i
            for i, line in enumerate(lines)
            if line.split()[:1] == ["GPU0"] and "X" not in line.split()
        ),
        None,
    )


def _whole(lines: list[str], head: int) -> list[str]:
    """A terminal breaks long lines: the names of columns then go on below their line."""
    last = head + 1
    while last < len(lines) and lines[last].strip() and lines[last].split()[0] != "Legend:":
        last += 1
    table = lines[head:last]
    if set(table[0].split()) & set(BEHIND) or len(table) < 2 or is_row(table[1]):
        return lines
    width = max(map(len, table))
    rows: list[str] = []
    broken = [line.ljust(width) if len(line) > width - 8 else line for line in table]
    for line in broken:
        if rows and not is_row(line):
            rows[-1] += line
        else:
            rows.append(line)
    return lines[:head] + rows + lines[last:]


def is_row(line: str) -> bool:
    """A device with its cells."""
    words = line.split()
    return len(words) > 1 and bool(
        _WORD.match(words[0]) and not CELL.fullmatch(words[0]) and CELL.fullmatch(words[1])
    )
