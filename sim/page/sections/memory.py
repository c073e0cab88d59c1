"""3: bytes on a GPU over the step, against what it has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sim.page.charts.axes import ChartAxis, ChartBand, Cursor, Drawn, Level, Limit, axes, ceiling
from sim.page.charts.bars import Slice, stacked
from sim.page.charts.canvas import Chart, LegendKey
from sim.page.model import Case, Dossier, PageSection, Piece
from sim.page.sections.answers import memory_pieces
from sim.quantities import duration, gib, percent
from sim.report.memory import titles
from sim.report.run import memory_table
from sim.result.memory import MemoryAnswer
from sim.step.spans import Held, StepTimeline
from sim.units import GIB

_NONE = 0.001  # odds that are not told from none
_LEAST = 0.002  # of the capacity: thinner layers are not drawn
_MARKS = ("s7", "s0", "s4", "s2", "s5", "s1", "s3", "s6", "s8", "s9", "s10")


def section(dossier: Dossier) -> PageSection | None:
    """The memory."""
    case = dossier.first
    if case is None:
        return None
    m = case.result.memory
    lost = 1.0 - m.fit_probability
    odds = percent(lost) if lost >= _NONE else f"below {percent(_NONE)}"
    lead = (
        f"{gib(m.needed_bytes)} of {gib(m.capacity_bytes)} must live at once "
        f"({percent(m.needed_bytes / m.capacity_bytes)}), at its highest in {m.peak_moment}; the "
        f"odds that it runs out of memory are {odds}."
    )
    parts: list[Piece] = [
        memory_chart(c.label, c.timeline) for c in dossier.cases if c.timeline is not None
    ]
    parts.append(memory_table(case.result))
    if isinstance(dossier.view.document, MemoryAnswer):
        parts = [*memory_pieces(dossier.view.document), *parts]
    return PageSection("memory", "Memory", lead, parts)


def memory_bars(cases: Sequence[Case]) -> Chart:
    """Bytes at the peak by what they are for, and what is left of the capacity."""
    names = list(dict.fromkeys(
        name for case in cases
        for name, size in sorted(case.result.memory.by_category.items(), key=lambda x: -x[1])
        if size > _LEAST * case.result.memory.capacity_bytes
    ))  # fmt: skip
    marks = {name: f"s{i % 11}" for i, name in enumerate(names)}
    drawn, rows = [], []
    for case in cases:
        m = case.result.memory
        found = {name: m.by_category.get(name, 0.0) for name in names}
        more = m.needed_bytes - sum(found.values())
        pieces = [Slice(n, b, marks[n], f"{n}: {gib(b)}") for n, b in found.items()]
        pieces.append(
            Slice("context and the rest", more, "s9", f"context and the rest: {gib(more)}")
        )
        left = m.capacity_bytes - m.needed_bytes
        pieces.append(Slice("free", left, "track", f"free: {gib(left)}"))
        name = f"{case.label}: {gib(m.needed_bytes)} of {gib(m.capacity_bytes)}"
        drawn.append((name if case.label else "", pieces))
        rows.append({"case": case.label, **found, "rest": more, "capacity_bytes": m.capacity_bytes})
    last = cases[-1].result.memory
    legend = [
        LegendKey(f"{marks[name]}-key", name, gib(last.by_category.get(name, 0.0)))
        for name in names
    ]
    said = f"{gib(last.needed_bytes)} of {gib(last.capacity_bytes)} at the peak"
    return Chart("memory-peak", "Memory at the peak", said,
                 lambda width: stacked(width, drawn, said), rows, legend)  # fmt: skip


def _held(held: Held, fixed: float, words: Mapping[str, str]) -> str:
    """What is live at an instant, the largest first."""
    most = sorted(held.by_category.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{words[name]} {gib(size)}" for name, size in most)
    return f"{duration(held.time_s)}: {gib(held.total_bytes + fixed)}; {parts}"


def memory_chart(label: str, one: StepTimeline) -> Chart:
    """Live bytes by category over a step, the peak's band and the capacity."""
    report = one.memory
    words = titles(report)
    fixed = sum(report.overheads.get(k, 0.0) for k in ("cuda_context", "communicators"))
    names = [
        name for name in words
        if max((h.by_category.get(name, 0.0) for h in one.held), default=0.0)
        > _LEAST * report.capacity_bytes
    ]  # fmt: skip
    base = [(h.time_s, fixed) for h in one.held]
    levels = [Level(base, _MARKS[0])]
    for name, mark in zip(names, _MARKS[1:], strict=False):
        base = [
            (t, below + h.by_category.get(name, 0.0))
            for (t, below), h in zip(base, one.held, strict=True)
        ]
        levels.append(Level(base, mark))
    layers: list[Drawn] = [*reversed(levels)]  # the highest at the back
    wide = math.exp(report.half_width)
    low, high = report.needed_bytes / wide, report.needed_bytes * wide
    ends = (0.0, one.end_s)
    layers.append(ChartBand([(t, high) for t in ends], [(t, low) for t in ends], "band"))
    layers.append(Limit(report.needed_bytes, f"peak {gib(report.needed_bytes)}", "peak"))
    layers.append(Limit(report.capacity_bytes, f"capacity {gib(report.capacity_bytes)}"))
    layers.append(Cursor([(h.time_s, _held(h, fixed, words)) for h in one.held]))
    y = ChartAxis("GiB on a GPU", 0.0, GIB * ceiling(max(report.capacity_bytes, high) * 1.06 / GIB),
                  lambda v: f"{v / GIB:.0f}", unit=GIB)  # fmt: skip
    x = ChartAxis("time in the step", 0.0, one.end_s, duration)
    legend = [LegendKey(f"{_MARKS[0]}-key", "CUDA context, NCCL buffers", gib(fixed))]
    legend += [
        LegendKey(
            f"{mark}-key", words[name], gib(max(h.by_category.get(name, 0.0) for h in one.held))
        )
        for name, mark in zip(names, _MARKS[1:], strict=False)
    ]
    legend.append(LegendKey("band-key", "80 % band of the peak", f"{gib(low)} to {gib(high)}"))
    said = (
        f"Live bytes over a step, at most {gib(report.needed_bytes)} of "
        f"{gib(report.capacity_bytes)}"
    )
    title = "Memory over the step" + (f": {label}" if label else "")
    rows = [
        {"time_s": h.time_s, "total_bytes": h.total_bytes,
         **{name: h.by_category.get(name, 0.0) for name in names}}
        for h in one.held
    ]  # fmt: skip
    return Chart(
        "memory", title, said, lambda width: axes(width, x, y, layers, said, 0.36), rows,
        legend, "Figures are each category's own highest. The peak includes fragmentation.",
    )  # fmt: skip
