"""A pipeline's step: a chart of its ranks, as text and as a picture."""

from __future__ import annotations

from sim.pipeline.actions import BACKWARD, FORWARD, INPUT, WEIGHT
from sim.quantities import duration, percent
from sim.report.svg import COLOURS, escape
from sim.report.view import Cell, Column, Lines, Row, Table, View, ViewPart, left
from sim.step.stages import StageChart, StageRun

COLUMNS = 96  # characters of a rank's line
WIDTH, ROW, GAP, LEFT, TOP = 960, 30, 8, 64, 48  # of a picture
KINDS = {
    FORWARD: ("forward", COLOURS[4]), BACKWARD: ("backward", COLOURS[1]),
    INPUT: ("backward of inputs", COLOURS[3]), WEIGHT: ("backward of weights", COLOURS[2]),
}  # fmt: skip
_LEAST = 9.0  # width of a bar that has room for its micro-batch


def view(chart: StageChart) -> View:
    """What `scaling-sim trace --stages` says."""
    kinds = [kind for kind in KINDS if any(run.kind == kind for run in chart.runs)]
    rows: list[Row] = []
    for rank in range(chart.ranks):
        own = [run for run in chart.runs if run.rank == rank]
        took = [sum(r.end_s - r.start_s for r in own if r.kind == kind) for kind in kinds]
        rows.append(
            [
                Cell(str(rank), rank),
                ", ".join(map(str, sorted({run.stage for run in own}))),
                *(Cell(duration(seconds), seconds, "s") for seconds in took),
                Cell(percent(chart.idle[rank]), chart.idle[rank]),
            ]
        )
    heads = [Column("rank"), left("stages"), *(Column(KINDS[kind][0]) for kind in kinds)]
    drawn = [f"{rank:4d} {_line(chart, rank)}" for rank in range(chart.ranks)]
    said = ", ".join(f"{kind} {KINDS[kind][0]}" for kind in kinds)
    sections: list[ViewPart] = [
        Lines([f"{_subtitle(chart)}: {said}, . nothing"], indent=2),
        Lines(drawn, indent=2, literal=True),
        Table([*heads, Column("idle")], rows, indent=2),
    ]
    return View(chart.title, sections, chart)


def _subtitle(chart: StageChart) -> str:
    stages = f", {chart.virtual} stages each" if chart.virtual > 1 else ""
    return (
        f"{chart.schedule} on {chart.ranks} ranks{stages}, {chart.micro_batches} micro-batches, "
        f"{duration(chart.end_s)}"
    )


def _line(chart: StageChart, rank: int) -> str:
    """What a rank does in each of `COLUMNS` parts of the step, most of the time."""
    pitch = chart.end_s / COLUMNS
    cells = [dict.fromkeys(KINDS, 0.0) for _ in range(COLUMNS)]
    for run in chart.runs:
        if run.rank != rank:
            continue
        for k in range(int(run.start_s / pitch), min(COLUMNS, int(run.end_s / pitch) + 1)):
            covered = min(run.end_s, (k + 1) * pitch) - max(run.start_s, k * pitch)
            cells[k][run.kind] += max(0.0, covered)
    most = [max(cell, key=lambda kind, cell=cell: cell[kind]) for cell in cells]  # type: ignore[misc]
    return "".join(
        kind if sum(cell.values()) > pitch / 2 else "."
        for kind, cell in zip(most, cells, strict=True)
    )


def picture(chart: StageChart) -> str:
    """The chart as SVG: a row a rank, a bar an action, its micro-batch in it.

    Later stages of a rank are darker.
    """
    height = TOP + chart.ranks * (ROW + GAP) + 34
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(_subtitle(chart))}</text>',
        f'<text x="{LEFT}" y="38" fill="#555">{escape(chart.title)}</text>',
    ]
    across = WIDTH - LEFT - 12
    scale = across / chart.end_s
    for rank in range(chart.ranks):
        top = TOP + rank * (ROW + GAP)
        own = [run for run in chart.runs if run.rank == rank]
        nth = {stage: i for i, stage in enumerate(sorted({run.stage for run in own}))}
        out.append(f'<text x="{LEFT - 8}" y="{top + 19}" text-anchor="end">rank {rank}</text>')
        out.append(f'<rect x="{LEFT}" y="{top}" width="{across}" height="{ROW}" fill="#f1f1f1"/>')
        out += [_bar(run, top, scale, nth[run.stage]) for run in own]
    kinds = [kind for kind in KINDS if any(run.kind == kind for run in chart.runs)]
    for i, kind in enumerate(kinds):
        x, down = LEFT + 170 * i, height - 14
        out.append(
            f'<rect x="{x}" y="{down - 10}" width="12" height="12" fill="{KINDS[kind][1]}"/>'
            f'<text x="{x + 18}" y="{down}">{KINDS[kind][0]}</text>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


def _bar(run: StageRun, top: float, scale: float, nth: int) -> str:
    across, width = LEFT + run.start_s * scale, (run.end_s - run.start_s) * scale
    bar = (
        f'<rect x="{across:.1f}" y="{top}" width="{width:.1f}" height="{ROW}" '
        f'fill="{KINDS[run.kind][1]}" stroke="white" stroke-width="0.6"><title>{run.name} '
        f"{duration(run.end_s - run.start_s)}</title></rect>"
    )
    if nth:
        bar += (
            f'<rect x="{across:.1f}" y="{top}" width="{width:.1f}" height="{ROW}" fill="black" '
            f'fill-opacity="{min(0.45, 0.15 * nth):.2f}" pointer-events="none"/>'
        )
    if width < _LEAST:
        return bar
    middle = across + width / 2
    return bar + (
        f'<text x="{middle:.1f}" y="{top + 19}" text-anchor="middle" pointer-events="none">'
        f"{run.micro_batch}</text>"
    )
