"""What a report says, apart from how it is written: sections of facts, tables, lines and bars.

A document type has one function ``view(document) -> View`` in a file of this package; a format has
one file in `sim.report.formats` and knows nothing of documents. Numbers go into sentences and cells
as a reader would say them, and cells keep the full number beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sim.documents import Document, plain
from sim.quantities import counted, whole_percents
from sim.records import NamedTuple

if TYPE_CHECKING:
    from sim.inputs.notes import Message
    from sim.step.variation import Progress

_NOTES = "notes"
#: characters of a line where no terminal shows it, and of a sentence
WIDTH = 100
_MANY = 1000  # rows: so often it is told how many were written


class Cell(NamedTuple):
    """A cell with the number it stands for."""

    text: str
    value: float | None
    unit: str = ""


Row = Sequence[Cell | str]


class Column(NamedTuple):
    """A column; from `width` on, how a terminal lays it out: `below`, on a line of its own."""

    head: str
    right: bool = True  # numbers
    width: int = 0  # at least
    before: str = "  "
    after: str = ""
    pad: bool = True
    below: bool = False


def left(head: str = "", **layout: Any) -> Column:
    """A column of words."""
    return Column(head, right=False, **layout)


class Table(NamedTuple):
    """Rows of cells.

    Attributes
    ----------
    columns : sequence of Column
        Their heads.
    rows : sequence of Row
        A shorter row says nothing in the last columns.
    heading : str
        Above it.
    indent : int
        In a terminal.
    headed : bool
        Whether a terminal shows the heads; sentences laid out as columns need none.
    apart : bool
        A blank line before it in a terminal.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    heading: str = ""
    indent: int = 4
    headed: bool = True
    apart: bool = True


class Fact(NamedTuple):
    """A labelled sentence, and what is said below it."""

    label: str
    text: str
    more: tuple[str, ...] = ()


class Facts(NamedTuple):
    """Labelled sentences; `gap` columns between labels and them in a terminal."""

    rows: Sequence[Fact]
    heading: str = ""
    indent: int = 2
    gap: int = 2
    apart: bool = True


class Lines(NamedTuple):
    """Sentences; `apart` from what stands before them, as a `list`, or `literal`: as drawn."""

    lines: Sequence[str]
    heading: str = ""
    indent: int = 2
    list: bool = False
    literal: bool = False
    apart: bool = True


class Remarks(NamedTuple):
    """What a reader must know besides: warnings, assumptions, borrowed figures."""

    lines: Sequence[str]
    indent: int = 2
    apart: bool = True


class Bar(NamedTuple):
    """Shares of a whole."""

    heading: str
    parts: Sequence[tuple[str, float]]  # adding up to 1
    more: Sequence[str] = ()

    @property
    def told(self) -> list[tuple[str, int]]:
        """The parts in whole per cent, which add up too."""
        names, shares = zip(*self.parts, strict=True) if self.parts else ((), ())
        return list(zip(names, whole_percents(shares), strict=True))


class Picture(NamedTuple):
    """A drawing: what it shows, the file it was written to, as SVG."""

    lines: Sequence[str]  # its title
    path: str  # empty: to none, so that it is only where pictures are drawn
    svg: str


class Figures(NamedTuple):
    """Every number of the document by its key, for formats that are kept rather than read."""

    rows: Mapping[str, Any]


#: what a format knows how to write
ViewPart = Table | Facts | Lines | Remarks | Bar | Picture | Figures


class View(NamedTuple):
    """A report: what it is about, its sections in order, and the document behind it.

    The first `lead` sections are the answer; what stands below says why, and what else there is.
    """

    title: str
    sections: Sequence[ViewPart]
    document: Document
    told: Progress | None = None  # of formats that write rows: those written, and all
    lead: int = 1
    width: int = WIDTH  # characters of a line, of formats that break lines

    @property
    def brief(self) -> View:
        """The answer alone, of the same document."""
        return self._replace(sections=self.sections[: self.lead])

    @property
    def filled(self) -> list[ViewPart]:
        """The sections that say anything."""
        return [section for section in self.sections if _body(section)]

    @property
    def heads(self) -> list[str]:
        """Keys of `noted` rows of the document, where they are known before them."""
        heads = [*self.document.heads()]
        return [*heads, _NOTES] if heads and self._notes else heads

    @property
    def _notes(self) -> list[str]:
        """What stands beside every row; a document of one row has it already."""
        if type(self.document).records is Document.records:
            return []
        return [x.strip() for s in self.sections if isinstance(s, Remarks) for x in s.lines]

    def noted(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Rows of the document, with what the notes say."""
        notes = self._notes
        for row in self.passed(rows):
            yield {**row, _NOTES: notes} if notes else row

    def passed(self, rows: Sequence[Any]) -> Iterator[Any]:
        """Rows as plain mappings, one after the other; of many it is told how far they are."""
        for place, row in enumerate(rows):
            if self.told is not None and place % _MANY == _MANY - 1:
                self.told(place, len(rows))
            yield plain(row)


def _body(section: ViewPart) -> Any:
    return next(getattr(section, name) for name in ("rows", "lines", "parts")
                if hasattr(section, name))  # fmt: skip


def borrowed(texts: Iterable[str], indent: int = 2, apart: bool = True) -> Remarks:
    """Says which constants are those of other hardware."""
    return Remarks([f"borrowed: {text}" for text in texts], indent, apart)


def warned(warnings: Iterable[Message]) -> Remarks:
    """What a job is warned of, whatever was asked about it."""
    return Remarks([f"! {w.code} {w.text}" for w in warnings])


def so_far(done: int, asked: int, noun: str) -> str:
    """How far a verb had come that was stopped."""
    return f"Stopped after {done} of {counted(asked, noun)}; the others are missing here"


def heading_of(part: ViewPart) -> tuple[int, str]:
    """Level and text of a heading on a page; a list of reasons belongs to what stands above it."""
    minor = isinstance(part, Lines) and part.list
    return 3 if minor else 2, getattr(part, "heading", "").rstrip(":")


def text_of(cell: Cell | str) -> str:
    """What a reader sees of a cell."""
    return cell if isinstance(cell, str) else cell.text
