"""A recorded step beside the simulated one, drawn."""

from __future__ import annotations

from sim.interop.trace_diff import StepPart, TraceDifference
from sim.page.charts.bars import BarRow, Slice, ranked, stacked
from sim.page.charts.canvas import Chart, LegendKey
from sim.page.model import Piece
from sim.quantities import duration, percent, signed_duration

_COLOURS, _SHOWN = 9, 10


def trace_pieces(found: TraceDifference) -> list[Piece]:
    """Both steps as bars of their parts, and the parts by how much they differ."""
    return [_sides(found), _differences(found)]


def _sides(found: TraceDifference) -> Chart:
    parts = sorted(found.parts, key=lambda p: -max(p.recorded_s, p.simulated_s))
    big, small = parts[:_COLOURS], parts[_COLOURS:]
    if small:
        big.append(_together(small))
    sides = {
        "recorded": (found.recorded.step_s, [p.recorded_s for p in big]),
        "simulated": (found.simulated.step_s, [p.simulated_s for p in big]),
    }
    rows = [
        (
            f"{name}: {duration(step)}",
            [
                Slice(p.name, s, f"s{i}", f"{p.name}: {duration(s)}, {percent(s / step)}")
                for i, (p, s) in enumerate(zip(big, seconds, strict=True))
            ],
        )
        for name, (step, seconds) in sides.items()
    ]
    legend = [
        LegendKey(f"s{i}-key", p.name, f"{duration(p.recorded_s)} · {duration(p.simulated_s)}")
        for i, p in enumerate(big)
    ]
    said = ", ".join(name for name, _ in rows)
    return Chart("trace-parts", "One step, recorded and simulated", said,
                 lambda width: stacked(width, rows, said), found.records(), legend,
                 "Figures are recorded · simulated; parts add up to the step.")  # fmt: skip


def _together(parts: list[StepPart]) -> StepPart:
    theirs, ours = sum(p.recorded_s for p in parts), sum(p.simulated_s for p in parts)
    return StepPart("the rest", "", "", theirs, ours, theirs - ours, 0.0, 0.0)


def _differences(found: TraceDifference) -> Chart:
    rows = [
        BarRow(p.name, 0.0, p.difference_s, signed_duration(p.difference_s),
            "s5" if p.difference_s > 0.0 else "s2")
        for p in found.parts[:_SHOWN]
    ]  # fmt: skip
    low = min(0.0, *(row.end for row in rows))
    high = max(0.0, *(row.end for row in rows))
    said = "Recorded over simulated: " + ", ".join(f"{row.label} {row.text}" for row in rows)
    legend = [
        LegendKey("s5-key", "recorded takes longer"),
        LegendKey("s2-key", "simulated takes longer"),
    ]
    return Chart("trace-differences", "Where the difference is", said,
                 lambda width: ranked(width, rows, said, low, high), found.records(),
                 legend)  # fmt: skip
