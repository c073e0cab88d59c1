"""Tables between marks of a page, ``<!-- NAME -->`` to ``<!-- end of NAME -->``."""

from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def inside(page: str, name: str) -> str:
    """What stands between the marks of a name.

    Raises
    ------
    ValueError
        A mark is missing.
    """
    return _parts(page, name)[1]


def replaced(page: str, name: str, text: str) -> str:
    """The page with another text there; ValueError as `inside`."""
    before, _, after = _parts(page, name)
    return f"{before}\n\n{text}\n\n{after}"


def cells(page: str, name: str) -> list[list[str]]:
    """Rows of the table between the marks of a name, the rule below its head left out."""
    lines = [line for line in inside(page, name).splitlines() if line.startswith("|")]
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if "---" not in line]


def _parts(page: str, name: str) -> tuple[str, str, str]:
    """What is before, between and after, the marks with their sides."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    between, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"no {begin} ... {end}")
    return before + begin, between, end + after
