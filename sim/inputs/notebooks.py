"""The Python of a notebook: its cells of code, less what IPython makes of lines of its own."""

from __future__ import annotations

import json
import re

from sim.errors import InputError

_KEYS = (re.compile(r'"nbformat"\s*:'), re.compile(r'"cells"\s*:'))
_MAGIC = re.compile(r"^(\s*)[%!?].*|^(\s*)[\w.]+\?+\s*$")
_ASSIGNED = re.compile(r"^(\s*[\w, ]+=\s*)[!%](.*)")  # x = !ls
#: magics of cells that are Python all the same
_PYTHON = {"capture", "time", "timeit", "prun", "python", "python3"}


def is_notebook(text: str, name: str) -> bool:
    """Whether a file is one, by its name or by its keys."""
    if name.endswith(".ipynb"):
        return True
    return text.lstrip().startswith("{") and all(key.search(text) for key in _KEYS)


def cells(text: str, name: str) -> tuple[str, list[int]]:
    """The code of a notebook, and the line of the file that each of its lines is written in.

    Raises
    ------
    InputError
        No notebook.
    """
    try:
        found = json.loads(text)["cells"]
        sources = ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError.single(name, "is no notebook: it has no cells") from None
    code, lines, at = [], [], 0
    for source in sources:
        other, goes_on = _other(source), False
        for line in source.splitlines():
            at = max(at, text.find(json.dumps(line, ensure_ascii=False)[1:-1], at))
            lines.append(1 + text.count("\n", 0, at))
            written = "" if other or goes_on else _plain(line)
            goes_on = (goes_on or written != line) and line.rstrip().endswith("\\")
            code.append(written)
    return "\n".join(code), lines


def _other(source: str) -> bool:
    """Whether a cell is a shell's, a file's or a page's, not Python."""
    head = source.lstrip()
    words = head[2:].split() if head.startswith("%%") else []
    return bool(words) and words[0] not in _PYTHON


def _plain(line: str) -> str:
    """A line as Python: commands are none, what is assigned from one is a call, as IPython's."""
    if kept := _ASSIGNED.match(line):
        return f"{kept[1]}get_ipython().getoutput({kept[2]!r})"
    if magic := _MAGIC.match(line):
        return f"{magic[1] or magic[2] or ''}pass"
    return line
