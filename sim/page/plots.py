"""Charts of a document by itself, as far as it holds what they need."""

from __future__ import annotations

from sim.documents import Document
from sim.page.charts.canvas import Chart
from sim.page.model import Case
from sim.page.sections.answers import memory_pieces, pieces_of
from sim.page.sections.memory import memory_bars, memory_chart
from sim.page.sections.scaling import scaling_chart
from sim.page.sections.step import parts_chart, timeline_chart
from sim.result.memory import MemoryAnswer
from sim.result.result import Result
from sim.step.spans import StepTimeline


def charts_of(document: Document) -> list[Chart]:
    """What its report would draw of it; nothing for one of words and tables alone."""
    if isinstance(document, Result):
        cases = [Case("", document)]
        found = [parts_chart(cases), memory_bars(cases)]
        if len(document.scaling.curve) > 1:
            found.append(scaling_chart(document, document.scaling))
        return found
    if isinstance(document, StepTimeline):
        return [timeline_chart([("", document)]), memory_chart("", document)]
    pieces = memory_pieces(document) if isinstance(document, MemoryAnswer) else pieces_of(document)
    return [piece for piece in pieces if isinstance(piece, Chart)]
