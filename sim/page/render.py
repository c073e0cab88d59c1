"""A dossier as one HTML file: style and script inside, nothing fetched."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from sim.documents import Headline, plain
from sim.page.charts.canvas import NARROW, WIDE, Chart
from sim.page.model import Dossier, Folded, PageSection, Piece, TextSource, Tiles
from sim.page.sections import sections
from sim.report.formats import in_parts
from sim.report.formats.csv import csv_of
from sim.report.formats.html import html_page, part_html

#: the pattern of exposed communication, once a page
HATCH = (
    '<svg class="hidden" aria-hidden="true" focusable="false"><defs><pattern id="hatch" width="6" '
    'height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line x1="0" y1="0" '
    'x2="0" y2="6" class="hatch"/></pattern></defs></svg>'
)
_MOST_JSON = 120_000  # a longer document is told to be written with -o


def page(dossier: Dossier) -> str:
    """The report of a verb as an HTML page.

    Parameters
    ----------
    dossier : Dossier
        What it is about.

    Returns
    -------
    str
        A page of its own: no file and no address is fetched.
    """
    found = list(sections(dossier))
    body = "\n".join(line for section in found for line in _section(section))
    title, about = _title(dossier)
    links = "".join(f'<li><a href="#{s.slug}">{escape(s.title)}</a></li>' for s in found)
    whole = (
        f'<a class="skip" href="#main">To the report</a>\n{HATCH}\n'
        '<header class="top"><div class="inner"><div class="brand"><span>scaling-sim report</span>'
        f'</div><h1>{escape(title)}</h1><p class="about">{escape(about)}</p></div></header>\n'
        f'<nav class="bar" aria-label="Sections"><div class="inner"><ul>{links}</ul></div></nav>\n'
        f'<main id="main" class="inner">\n{body}\n</main>\n'
        f'<footer class="inner">{_document(dossier)}</footer>\n'
        f"<script>\n{asset('page.js')}</script>"
    )
    style = f"\n{asset('page.css')}"
    return html_page(f"{escape(title)} · scaling-sim", style, whole) + "\n"


def asset(name: str) -> str:
    """A style sheet or a script of this package."""
    return (files("sim.page") / "assets" / name).read_text(encoding="utf-8")


def _title(dossier: Dossier) -> tuple[str, str]:
    """What stands above, and what it is about."""
    view, case = dossier.view, dossier.first
    if case is not None and view.document is case.result:
        head, _, rest = view.title.partition(" · ")
        return f"{head} on {case.result.topology.title}", rest.partition(" · ")[2] or rest
    head, _, rest = view.title.partition(" · ")
    if len(dossier.cases) > 1:
        head, rest = " or ".join(case.label for case in dossier.cases), view.title
    return head or view.document.schema.split("/")[1].capitalize(), rest


def _document(dossier: Dossier) -> str:
    """The document itself, to save; a link, as no script is needed for it."""
    text = ""
    for part in in_parts(dossier.view, "json"):
        text += part
        if len(text) > _MOST_JSON:
            return "Written by scaling-sim."
    name = dossier.view.document.schema.split("/")[1]
    link = _saved(text, f"{name}.json", "application/json", "the numbers in full, as JSON")
    return f"Written by scaling-sim; {link}."


def _saved(text: str, name: str, kind: str, said: str, label: str = "") -> str:
    data = base64.b64encode(text.encode()).decode()
    spoken = f' aria-label="{escape(label)}"' if label else ""
    return (
        f'<a download="{escape(name)}" href="data:{kind};base64,{data}"{spoken}>{escape(said)}</a>'
    )


def _section(section: PageSection) -> Iterator[str]:
    yield f'<section id="{section.slug}" aria-labelledby="{section.slug}-title">'
    yield f'<h2 id="{section.slug}-title">{escape(section.title)}</h2>'
    if section.lead:
        yield f'<p class="lead">{escape(section.lead)}</p>'
    for part in section.parts:
        yield from piece_html(part)
    yield "</section>"


def piece_html(piece: Piece) -> Iterator[str]:
    """A part of a section as HTML."""
    if isinstance(piece, Chart):
        yield from chart_html(piece)
    elif isinstance(piece, Tiles):
        kind = "tiles small" if piece.small else "tiles"
        yield f'<ul class="{kind}">' + "".join(map(_tile, piece.tiles)) + "</ul>"
    elif isinstance(piece, TextSource):
        shown = " open" if piece.open else ""
        save = _saved(piece.text, piece.file, "text/plain", "save") if piece.file else ""
        yield (
            f"<details{shown} data-print><summary>{escape(piece.title)}</summary>"
            f"<pre>{escape(piece.text)}</pre>{save}</details>"
        )
    elif isinstance(piece, Folded):
        inside = "\n".join(line for part in piece.parts for line in piece_html(part))
        yield f"<details><summary>{escape(piece.title)}</summary>{inside}</details>"
    else:
        yield from part_html(piece, 1)


def _tile(tile: Headline) -> str:
    figure = escape(tile.text)
    if tile.value is not None:
        unit = f' title="{tile.value:.12g} {escape(tile.unit)}"' if tile.unit else ""
        figure = f'<data class="figure" value="{tile.value:.12g}"{unit}>{figure}</data>'
    return (
        f'<li><span class="name">{escape(tile.label)}</span>{figure}'
        f'<span class="below">{escape(_unbroken(tile.below))}</span></li>'
    )


def _unbroken(text: str) -> str:
    """A figure and its unit on one line."""
    return re.sub(r"(?<=\d) (?=[a-zA-Z%])|(?<=h) (?=\d)", "\N{NO-BREAK SPACE}", text)


def chart_html(chart: Chart) -> Iterator[str]:
    """A figure: the drawing for either width, what its colours mean, its numbers to save."""
    table = _saved(csv_of(plain(list(chart.rows))), f"{chart.name}.csv", "text/csv", "CSV",
                   f"{chart.title}: save as CSV")  # fmt: skip
    yield f'<figure data-name="{escape(chart.name)}"><figcaption><span>{escape(chart.title)}</span>'
    yield f'<span class="tools">{table}</span></figcaption>'
    yield f'<div class="wide-svg">{chart.draw(WIDE)}</div>'
    yield f'<div class="narrow">{chart.draw(NARROW)}</div>'
    if chart.legend:
        yield '<ul class="legend">' + "".join(
            f'<li><i class="{key.mark}"></i>{escape(key.label)}'
            + (f' <span class="value">{escape(key.value)}</span>' if key.value else "") + "</li>"
            for key in chart.legend
        ) + "</ul>"  # fmt: skip
    if chart.note:
        yield f'<p class="note-line">{escape(chart.note)}</p>'
    yield "</figure>"


def standalone(chart: Chart) -> str:
    """A drawing as a file of its own: its colours and patterns within."""
    head, rest = chart.draw(WIDE).split(">", 1)
    hatch = HATCH[HATCH.index("<defs>") : HATCH.index("</svg>")]
    paper = ":root { background: var(--paper); font-family: system-ui, sans-serif; }"
    return f"{head}><style>{asset('page.css')}{paper}</style>{hatch}{rest}"


def charts_html(charts: Sequence[Chart]) -> str:
    """Charts as a notebook shows them: in a frame, whose style is none of the notebook's."""
    body = "".join(line for chart in charts for line in chart_html(chart))
    page = html_page("charts", asset("page.css"), f'{HATCH}<main class="inner">{body}</main>')
    style = f"width: 100%; height: {min(30 * len(charts), 60)}rem; border: 0"
    return f'<iframe title="charts" style="{style}" srcdoc="{escape(page)}"></iframe>'
