"""What a page is made of: sections of parts, and what a verb has to fill them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sim.documents import Headline
from sim.fabric import Fabric
from sim.inputs.config import Configuration
from sim.page.charts.canvas import Chart
from sim.records import NamedTuple
from sim.report.view import View, ViewPart
from sim.result.bands import LikeRun
from sim.result.figures import Scaling
from sim.result.result import Result
from sim.step.spans import StepTimeline
from sim.study.pricing import PricedJobs


class Tiles(NamedTuple):
    """Figures side by side."""

    tiles: Sequence[Headline]
    small: bool = False


class TextSource(NamedTuple):
    """A text to open: a file, a command, a list of keys."""

    title: str
    text: str
    file: str = ""  # to save it as
    open: bool = False


class Folded(NamedTuple):
    """Parts that are opened by who wants them."""

    title: str
    parts: Sequence[ViewPart | Chart | Tiles | TextSource]


Piece = ViewPart | Chart | Tiles | TextSource | Folded


class PageSection(NamedTuple):
    """A section: what it is about, its sentence, and what shows it."""

    slug: str
    title: str
    lead: str
    parts: Sequence[Piece]


@dataclass(frozen=True)
class Case:
    """One job on one machine, as far as it was looked at.

    Attributes
    ----------
    label : str
        What tells it from the others; empty where it is alone.
    result : Result
        The simulation.
    timeline : StepTimeline or None
        A step to draw.
    fabric : Fabric or None
        The machine to draw.
    offers : PricedJobs or None
        The job at every offer of this machine.
    keys : Configuration or None
        Every key of both inputs.
    like : tuple of LikeRun
        Published runs that are most like it.
    strong : Scaling or None
        The same global batch on more nodes.
    capacity : (resources,) float64 or None
        Of the machine's links, where some give less than they should. [B/s]
    """

    label: str
    result: Result
    timeline: StepTimeline | None = None
    fabric: Fabric | None = None
    offers: PricedJobs | None = None
    keys: Configuration | None = None
    like: tuple[LikeRun, ...] = ()
    strong: Scaling | None = None
    capacity: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Dossier:
    """What a page is about.

    Attributes
    ----------
    view : View
        What the verb says, in words and tables; its document is the page's.
    command : str
        That made it.
    cases : tuple of Case
        The first is what the page is about, others stand beside it; none for a verb that simulates
        no single job.
    files : tuple of (name, text)
        Inputs as they were written.
    """

    view: View
    command: str = ""
    cases: tuple[Case, ...] = ()
    files: tuple[tuple[str, str], ...] = field(default=())

    @property
    def first(self) -> Case | None:
        """What it is about."""
        return self.cases[0] if self.cases else None
