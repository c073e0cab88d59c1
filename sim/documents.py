"""What every verb answers: a frozen document with a schema id, as mapping, JSON, frame and HTML.

The one list of schema ids, the one rounding of numbers and the one writing of JSON. A document is
a dataclass; what its JSON says is its fields, or what `Document.content` makes of them.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, TypeVar, cast

from sim.errors import InputError
from sim.records import NamedTuple

SCHEMAS = {
    name: f"scaling-sim/{name}/1"
    for name in (
        "result", "memory", "comparison", "size", "sweep", "need", "plan", "offers", "prices",
        "study", "studies", "explain", "collective", "collective-variants", "topology",
        "topology-import", "validation", "calibration", "diagnosis", "trace", "trace-difference",
        "timeline", "config", "file-schema", "import", "improvement", "post-training", "stages",
        "export", "entries", "entry", "difference", "doctor", "init", "code", "support",
        "plan-comparison", "confusion",
    )
}  # fmt: skip
_T = TypeVar("_T")
_FRAME = "to_frame"
_WRITTEN = "__repr__"
_SHORT = 60  # characters of a field that `repr` has in full
_CELLS = 60  # rows of a document that a notebook shows


class Headline(NamedTuple):
    """A figure to read from afar: its name, the figure, its range or what it is out of."""

    label: str
    text: str
    below: str
    value: float | None = None
    unit: str = ""


class Section:
    """Base of a part of a document: a frozen dataclass whose JSON is what `content` says."""

    __slots__ = ()

    def content(self) -> Any:
        """What it says, in the order of the JSON: its fields."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


class Document(Section):
    """Base of every verb's answer; `schema` names its keys and their version.

    A subclass overrides `content` where its JSON is not its fields, and `records` where it is a
    table.
    """

    __slots__ = ()
    schema: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Documents are written briefly, whatever `dataclass` would write."""
        setattr(cls, _WRITTEN, Document.__repr__)

    def __repr__(self) -> str:
        """Its fields: figures in full, of what has fields or items of its own what it is."""
        each = (f"{f.name}={_briefly(getattr(self, f.name))}" for f in fields(cast("Any", self)))
        return f"{type(self).__qualname__}({', '.join(each)})"

    def records(self) -> Sequence[Mapping[str, Any]]:
        """Its rows; a document that is no table is one row of dotted keys."""
        return [flatten(self.to_dict())]

    def heads(self) -> Sequence[str]:
        """Keys of its rows, all of them; empty where they are known by its rows alone."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        """The document as plain mappings, numbers rounded to 12 significant digits."""
        found: dict[str, Any] = plain({"schema": self.schema, **self.content()})
        return found

    def to_json(self, indent: int | None = 2) -> str:
        """The document as JSON text; same inputs give the same bytes."""
        return dumps(self.to_dict(), indent)

    def tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """What it holds as rows, by name; its own are ``rows``."""
        return {"rows": self.records()}

    def to_frame(self, table: str = "") -> Any:
        """Its rows, or those of another of its tables, as a pandas DataFrame.

        Raises
        ------
        InputError
            No such table, or pandas is not installed.
        """
        found = self.records()
        if table:
            tables = self.tables()
            if table not in tables:
                message = f"{table!r} is none of {', '.join(map(repr, tables))}"
                raise InputError.single(_FRAME, message, "table")
            found = tables[table]
        try:
            import pandas
        except ModuleNotFoundError:
            message = "needs pandas: pip install pandas; records() has the same rows without it"
            raise InputError.single(_FRAME, message) from None
        return pandas.DataFrame([plain(row) for row in found])

    def sentence(self) -> str:
        """What it says, in a sentence; empty where it has none."""
        return ""

    def __str__(self) -> str:
        """Its sentence, for ``print``; of one without, where to look: fields fill pages."""
        told = f"{type(self).__name__} ({self.schema}): see to_dict(), tables() and to_frame()"
        return self.sentence() or told

    def headline(self) -> Sequence[Headline]:
        """Its figures to read from afar; none where it has no few that matter most."""
        return ()

    def _repr_html_(self) -> str:
        """A card of its headline, else a table."""
        from html import escape

        if figures := self.headline():
            return _card(self.sentence(), figures)
        rows = [plain(row) for row in self.records()[:_CELLS]]
        if len(rows) == 1:  # a row of many columns reads better as a column
            rows = [{"": key, "value": value} for key, value in rows[0].items()]
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
        tags = ["th", *(["td"] * len(rows))]
        lines = (
            "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
            for tag, row in zip(tags, cells, strict=True)
        )
        return f"<table><caption>{escape(self.schema)}</caption>{''.join(lines)}</table>"


def _briefly(value: Any) -> str:
    """A field as `repr` has it, or what it is where that would fill lines."""
    if isinstance(value, str | bytes):
        return reprlib.repr(value)
    if isinstance(value, Mapping | Sequence):
        plain_items = all(isinstance(x, str | int | float | None) for x in value)
        if isinstance(value, Sequence) and plain_items and len(repr(value)) <= _SHORT:
            return repr(value)
        return f"<{type(value).__name__} of {len(value)}>"
    return f"{type(value).__name__}(...)" if hasattr(value, "__dataclass_fields__") else repr(value)


def _card(sentence: str, figures: Sequence[Headline]) -> str:
    """A notebook's card; its colours are the notebook's own."""
    from html import escape

    box = "border: 1px solid #8888; border-radius: 10px; padding: .8em 1.1em; max-width: 44em"
    cells = "".join(
        f'<tr><th style="text-align: left">{escape(f.label)}</th>'
        f'<td style="text-align: right"><b>{escape(f.text)}</b></td>'
        f'<td style="text-align: left">{escape(f.below)}</td></tr>'
        for f in figures
    )
    said = escape(sentence)
    return f'<div style="{box}"><p style="margin: 0 0 .6em">{said}</p><table>{cells}</table></div>'


class OneByOne(Sequence[_T]):
    """A list whose items are made when they are looked at, each time anew.

    Parameters
    ----------
    count : int
        How many there are.
    make : callable
        An item by its place.
    """

    def __init__(self, count: int, make: Callable[[int], _T]) -> None:
        self._places, self._make = range(count), make

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self._make(place) for place in self._places[at]]
        return self._make(self._places[at])


class Listing(Document):
    """A document that is a table and no more: its JSON is the list of its rows."""

    __slots__ = ()

    def records(self) -> Sequence[Mapping[str, Any]]:
        """Its rows."""
        raise NotImplementedError

    def items(self) -> Sequence[Any]:
        """What the JSON lists: its rows, but where these are flatter."""
        return self.records()

    def content(self) -> Any:
        """The items, under a name."""
        return {"rows": list(self.items())}

    def to_json(self, indent: int | None = 2) -> str:
        """The items as a JSON list."""
        return dumps(plain(list(self.items())), indent)


def dumps(value: Any, indent: int | None = 2, *, compact: bool = False) -> str:
    """JSON text of plain values, without white space where `compact`.

    Raises
    ------
    ValueError
        A number is infinite: a mistake of ours.
    """
    separators = (",", ":") if compact else None
    return json.dumps(value, indent=indent, separators=separators, allow_nan=False)


def plain(value: Any) -> Any:
    """Dataclasses, named tuples and sequences as mappings and lists, numbers rounded."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Document):
        return value.to_dict()
    if isinstance(value, Section):
        return plain(value.content())
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return round_significant(float(value))


def round_significant(value: float) -> float | None:
    """Twelve significant digits, so that two machines print the same bytes; None if not finite."""
    return float(f"{value:.12g}") if math.isfinite(value) else None


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; sequences stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
