"""Validations and studies, drawn: how many rows are within an error; a study's rows by claim."""

from __future__ import annotations

from bisect import bisect_right

from sim.calibration.validation import Validation
from sim.page.charts.axes import ChartAxis, ChartLine, Cursor, Drawn, axes
from sim.page.charts.bars import BarRow, ranked
from sim.page.charts.canvas import Chart, LegendKey
from sim.page.model import Piece
from sim.quantities import count, counted, percent
from sim.study.question.answers import Answers, ClaimVerdict
from sim.study.question.rows import MeasuredLine

_MARKS = ("line", "line-3", "line-5", "line-2", "line-4")  # of the parts, in their order
_WIDEST, _STEPS = 0.5, 100  # error at the end of the axis
_HELD = {
    "yes": ("s2", "as claimed"), "undecided": ("s1", "undecided"), "no": ("s5", "not as claimed"),
    None: ("s7", "no claim"),
}  # fmt: skip
_MOST, _LONGEST = 14, 52  # bars of a claim, letters of a label


def validated(found: Validation) -> list[Piece]:
    """The share of published rows that are no further off than an error, part by part."""
    errors = errors_of(found)
    if not errors:
        return []
    layers: list[Drawn] = []
    legend, rows = [], []
    for (part, each), mark in zip(errors.items(), _MARKS, strict=False):
        steps = [_WIDEST * i / _STEPS for i in range(_STEPS + 1)]
        points = [(step, bisect_right(each, step) / len(each)) for step in steps]
        layers.append(ChartLine(points, mark))
        middle = percent(each[len(each) // 2])
        legend.append(
            LegendKey(f"{mark}-key", part, f"{counted(len(each), 'row')}, half within {middle}")
        )
        rows += [{"part": part, "error": e, "share": s} for e, s in points]
    layers.append(Cursor([
        (error, f"within {percent(error)}: " + ", ".join(
            f"{part} {percent(bisect_right(each, error) / len(each), 0)}"
            for part, each in errors.items()
        ))
        for error in (_WIDEST * i / _STEPS for i in range(_STEPS + 1))
    ]))  # fmt: skip
    x = ChartAxis("error, simulated against measured", 0.0, _WIDEST, lambda v: percent(v, 0))
    y = ChartAxis("rows within it", 0.0, 1.0, lambda v: percent(v, 0))
    said = "; ".join(f"{key.label}: {key.value}" for key in legend)
    return [
        Chart("errors", "How many published rows are within an error", said,
              lambda width: axes(width, x, y, layers, said, 0.36), rows, legend)
    ]  # fmt: skip


def errors_of(found: Validation) -> dict[str, list[float]]:
    """How far off each row is, the least first, part by part."""
    errors: dict[str, list[float]] = {}
    for row in found.records():
        if row.get("error") is not None:
            errors.setdefault(str(row["part"]), []).append(abs(float(row["error"])))
    return {part: sorted(each) for part, each in errors.items()}


def answered(found: Answers) -> list[Piece]:
    """The rows of each claim, with their bands."""
    charts = (_claim(verdict) for verdict in found.answers)
    return [chart for chart in charts if chart is not None]


def _claim(verdict: ClaimVerdict) -> Chart | None:
    """Ratios of a claim; nothing where fewer than two have a band."""
    kept = [row for row in verdict.rows if row.is_ratio and row.value and row.band][:_MOST]
    if len(kept) < 2:
        return None
    bars = [_bar(row) for row in kept]
    high = max(1.0, *(bar.end for bar in bars))
    said = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    used = dict.fromkeys(_HELD[row.holds] for row in kept)
    return Chart(
        f"claim-{verdict.claim.id}", f"{verdict.claim.claim.rstrip('.')}: {verdict.word}", said,
        lambda width: ranked(width, bars, said, 0.0, high), [row.content() for row in kept],
        [LegendKey(f"{mark}-key", word) for mark, word in used],
        "From the lower to the upper end of each band; the figure is ours.",
    )  # fmt: skip


def _bar(row: MeasuredLine) -> BarRow:
    low, high = row.band or (0.0, 0.0)
    text = f"{count(row.value or 0.0)} x"
    label = row.label if len(row.label) <= _LONGEST else row.label[: _LONGEST - 1] + "\u2026"
    return BarRow(label, low, high, text, _HELD[row.holds][0], bool(row.published))
