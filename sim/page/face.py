"""Pages and charts from Python: what ``--report`` writes, and its drawings one by one."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.api.arguments import Overrides, settings
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.documents import Document
    from sim.files import File
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration
    from sim.page.charts.canvas import Chart

_PLOT = "plot"


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page: `text` is all of it; a notebook shows it in a frame."""

    text: str

    def write(self, path: File) -> Path:
        """Write it to a file."""
        from sim.files import write_whole

        write_whole(Path(path), self.text)
        return Path(path)

    def _repr_html_(self) -> str:
        style = "width: 100%; height: 48rem; border: 0"
        return f'<iframe title="report" style="{style}" srcdoc="{escape(self.text)}"></iframe>'


def report_page(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    **keys: Any,
) -> Page:
    """Predict one job on one machine, as a page with charts to look at and hand over.

    Parameters
    ----------
    topology, workload, overrides, calibration, keys
        As for `sim.simulate`.

    Raises
    ------
    InputError
        All faults of both inputs.
    """
    import sim
    from sim.page.asked import Asked
    from sim.page.gather import dossier_of
    from sim.page.render import page
    from sim.report.run import view

    sets = settings(overrides, calibration, keys)
    result = sim.simulate(topology, workload, overrides=sets)
    return Page(page(dossier_of(view(result), [Asked(topology, workload, sets, result)])))


@dataclass(frozen=True, slots=True)
class Plot:
    """Charts of a document; a notebook shows them below each other.

    Attributes
    ----------
    charts : tuple of Chart
        Each with its `name`, `title` and the `rows` behind it.
    """

    charts: tuple[Chart, ...]

    @property
    def svg(self) -> str:
        """The first chart, with its colours: a file of its own."""
        from sim.page.render import standalone

        return standalone(self.charts[0])

    def write(self, path: File) -> Path:
        """Write the first chart as SVG, or the numbers behind it as CSV.

        Raises
        ------
        InputError
            Another suffix.
        """
        from sim.documents import plain
        from sim.files import write_whole
        from sim.report.formats.csv import csv_of

        kind = Path(path).suffix.lower()
        if kind not in (".svg", ".csv"):
            message = f"{kind or 'no suffix'!r} is neither .svg nor .csv"
            raise InputError.single(str(path), message)
        chart = self.charts[0]
        write_whole(Path(path), self.svg if kind == ".svg" else csv_of(plain(list(chart.rows))))
        return Path(path)

    def _repr_html_(self) -> str:
        from sim.page.render import charts_html

        return charts_html(self.charts)


def plot(document: Document, *names: str) -> Plot:
    """Charts of what a function of `sim` gave, as its report draws them.

    Parameters
    ----------
    document : Document
        Such as `sim.simulate` or `sim.timeline` gives.
    *names : str
        Only these, in this order: ``step-parts``, ``memory``, ``scaling``, ``timeline``, ...

    Raises
    ------
    InputError
        A document without charts, or no chart of a name.
    """
    from sim.documents import Document
    from sim.page.plots import charts_of

    if not isinstance(document, Document):
        message = (
            f"{type(document).__name__} {document!r} is no document that a function of sim gave"
        )
        raise InputError.single(_PLOT, message)
    found = {chart.name: chart for chart in charts_of(document)}
    if not found:
        message = f"{document.schema} has no charts; to_frame() gives its rows"
        raise InputError.single(_PLOT, message)
    unknown = [name for name in names if name not in found]
    if unknown:
        message = f"{unknown[0]!r} is none of {', '.join(map(repr, found))}"
        raise InputError.single(_PLOT, message, "names")
    return Plot(tuple(found[name] for name in names) if names else tuple(found.values()))
