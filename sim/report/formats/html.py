"""A view as one HTML page: no scripts, nothing fetched, tables with headers, fit to print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from sim.report.formats.csv import flat
from sim.report.svg import COLOURS
from sim.report.view import (
    Bar,
    Cell,
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

_LINE = 20  # characters of words that are not broken

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2, h3 { font-size: 1.1rem; margin-top: 2rem; }
h3 { font-size: 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #8886; text-align: left;
  vertical-align: top; }
thead th { border-bottom: 2px solid #888; } .n, .w { white-space: nowrap; }
.n { text-align: right; }
.note { border-left: 4px solid #d55e00; padding-left: .7rem; }
.facts td { overflow-wrap: anywhere; }
.wide, pre { overflow-x: auto; } svg { width: 100%; max-width: 48rem; } svg.bar { height: 1.6rem; }
.key, svg { print-color-adjust: exact; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .3em; }
@media print { :root { color-scheme: light; } .wide { overflow: visible; }
  body { margin: 0; max-width: none; font-size: 10pt; }
  table, svg { break-inside: avoid; } thead { display: table-header-group; } }
"""


def render(view: View) -> str:
    """The page."""
    title = escape(view.title or view.document.schema.split("/")[1].capitalize())
    body = "\n".join(part for section in view.filled for part in part_html(section))
    return html_page(title, _STYLE, f"<main>\n<h1>{title}</h1>\n{body}\n</main>")


def html_page(title: str, style: str, body: str) -> str:
    """A page of its own around a body; all three are HTML already, or CSS."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>"
    )


def part_html(section: ViewPart, deeper: int = 0) -> Iterator[str]:
    """A part as HTML, its heading `deeper` levels below that of a page of its own."""
    level, heading = heading_of(section)
    if heading:
        yield f"<h{level + deeper}>{escape(heading)}</h{level + deeper}>"
    if isinstance(section, Figures):
        rows = "".join(
            f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>\n'
            for key, value in flat(section.rows).items()
        )
        head = '<thead><tr><th scope="col">key</th><th scope="col">value</th></tr></thead>'
        yield f'<details><summary>Every figure</summary>\n<div class="wide"><table>{head}<tbody>'
        yield f"{rows}</tbody></table></div></details>"
    elif isinstance(section, Bar):
        yield from _bar(section)
    elif isinstance(section, Facts):
        yield '<div class="wide"><table class="facts"><tbody>'
        for label, *text in ((row.label, row.text, *row.more) for row in section.rows):
            said = "<br>".join(map(escape, text))
            yield f'<tr><th scope="row">{escape(label)}</th><td>{said}</td></tr>'
        yield "</tbody></table></div>"
    elif isinstance(section, Table):
        yield from _table(section)
    elif isinstance(section, Remarks):
        yield from (f'<p class="note">{escape(line.strip())}</p>' for line in section.lines)
    elif isinstance(section, Picture):
        said = escape(section.lines[0])
        drawn = section.svg.replace("<svg ", f'<svg role="img" aria-label="{said}" ', 1)
        yield f"<figure>{drawn}<figcaption>{said}</figcaption></figure>"
    elif isinstance(section, Lines) and section.literal:
        yield "<pre>" + escape("\n".join(section.lines)) + "</pre>"
    elif isinstance(section, Lines) and section.list:
        yield "<ul>" + "".join(f"<li>{escape(x.strip())}</li>\n" for x in section.lines) + "</ul>"
    elif isinstance(section, Lines):
        yield from (f"<p>{escape(line.strip())}</p>" for line in section.lines)


def _table(table: Table) -> Iterator[str]:
    columns = [(i, column) for i, column in enumerate(table.columns) if not column.below]
    above = [column.below for column in table.columns[1:]] + [False]
    side = [
        ' class="n"' if column.right else ' class="w"' if not above[i] and _short(table, i) else ""
        for i, column in columns
    ]
    titles = _folded(table, [escape(column.head) for column in table.columns])
    heads = "".join(
        f'<th scope="col"{where}>{title}</th>' if title else "<td></td>"
        for title, where in zip(titles, side, strict=True)
    )
    yield f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>'
    for row in table.rows:
        cells = [*row, *[""] * (len(table.columns) - len(row))]
        first, *others = _folded(table, [*map(_cell, cells)])
        rest = "".join(f"<td{w}>{c}</td>" for c, w in zip(others, side[1:], strict=True))
        yield f'<tr><th scope="row"{side[0]}>{first}</th>{rest}</tr>'
    yield "</tbody></table></div>"


def _folded(table: Table, texts: Sequence[str]) -> list[str]:
    """Texts of all columns, those that stand below in the cell before them."""
    found: list[str] = []
    for i, (column, text) in enumerate(zip(table.columns, texts, strict=True)):
        if column.below:
            whole = ' class="w"' if _short(table, i - 1) else ""
            found[-1] = f"<span{whole}>{found[-1]}</span><br>{text}"
        else:
            found.append(text)
    return found


def _short(table: Table, i: int) -> bool:
    """Whether all cells of a column are short enough to stand in one line each."""
    return all(len(text_of(row[i])) <= _LINE for row in table.rows if i < len(row))


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return escape(cell)
    if cell.value is None:
        return escape(cell.text)
    unit = f' title="{cell.value:.12g} {escape(cell.unit)}"' if cell.unit else ""
    return f'<data value="{cell.value:.12g}"{unit}>{escape(cell.text)}</data>'


def _bar(bar: Bar) -> Iterator[str]:
    said = ", ".join(f"{label} {share} %" for label, share in bar.told)
    yield '<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" role="img" '
    yield f'aria-label="{escape(said)}">'
    start = 0.0
    for i, (label, share) in enumerate(bar.parts):
        width = 100 * max(share, 0.0)
        yield (
            f'<rect x="{start:.3f}" width="{width:.3f}" height="4" '
            f'fill="{COLOURS[i % len(COLOURS)]}"><title>{escape(label)}</title></rect>'
        )
        start += width
    yield "</svg><ul>"
    for i, (label, whole) in enumerate(bar.told):
        key = f'<span class="key" style="background: {COLOURS[i % len(COLOURS)]}"></span>'
        yield f"<li>{key}{escape(label)} {whole} %</li>"
    yield from (f"<li>{escape(line)}</li>" for line in bar.more)
    yield "</ul>"
