"""Pictures of a study, as SVG."""

from __future__ import annotations

import math

from sim.report.svg import Curve, Scale, Tied, Whisker, curves, ties, whiskers
from sim.study.question.answers import Answers
from sim.study.question.rows import SHARES, MeasuredLine
from sim.study.question.spec import StudyPicture

#: measures as words
NAMES = {
    "tokens_per_s_per_gpu": "tokens/s per GPU", "tokens_per_s": "tokens/s", "memory_gib": "memory",
    "hours": "whole job", "days": "whole job", "cost_usd": "cost",
    "usd_per_million_tokens": "USD per million tokens", "energy_kwh": "energy", "mfu": "MFU",
    "exposed_share": "exposed communication", "hbm_share": "HBM-bound kernels",
}  # fmt: skip
_UNITS = {
    "hours": ", hours",
    "days": ", days",
    "memory_gib": " of a GPU, GiB",
    "cost_usd": ", USD",
    "energy_kwh": ", kWh",
}


def plots_of(answers: Answers) -> dict[str, str]:
    """Its pictures, by name; those of which nothing fits are left out."""
    found = {p.name: _drawn(p, answers) for p in answers.study.pictures}
    return {name: svg for name, svg in found.items() if svg}


def _drawn(picture: StudyPicture, answers: Answers) -> str:
    if picture.lines:
        return _lines(picture, answers)
    if picture.break_even:
        return _break_even(picture, answers)
    return _grid(picture, answers)


def _lines(picture: StudyPicture, answers: Answers) -> str:
    rows = [answers.rows[key] for key in picture.lines if answers.rows[key].value is not None]
    if not rows:
        return ""
    top = max(_most(row) for row in rows)
    metric = rows[0].metric
    title = NAMES[metric] + (" ratio" if rows[0].is_ratio else _UNITS.get(metric, ""))
    scale = Scale(title, 0.0, 1.08 * top)
    return whiskers(picture.title, scale, [_whisker(row, top) for row in rows])


def _most(row: MeasuredLine) -> float:
    ends = [row.value, row.band[1] if row.band else None, row.high]
    ends += [value for _, value in row.published]
    return max(v for v in ends if v is not None)


def _whisker(row: MeasuredLine, top: float) -> Whisker:
    claimed = None
    if row.low is not None or row.high is not None:
        claimed = (row.low or 0.0, 1.08 * top if row.high is None else row.high)
    return Whisker(
        row.label, row.value or 0.0, row.band, claimed,
        row.published[0][1] if row.published else None,
    )  # fmt: skip


def _break_even(picture: StudyPicture, answers: Answers) -> str:
    verdict = next(a for a in answers.answers if a.claim.id == picture.break_even)
    first, second = answers.study.machines
    known = [t for t in verdict.ties if t.key and t.ratio is not None and t.band is not None]
    if not known:
        return ""
    held = [offered.ratio for tie in known for offered in tie.offered]
    highs = [tie.band[1] for tie in known if tie.band is not None]
    top = math.ceil(2 * max([*held, *highs])) / 2 + 0.25
    return ties(
        picture.title,
        Scale(f"hourly price, {first} over {second}", 1.0, top),
        Scale(f"speed, {first} over {second}", 1.0, top),
        [
            Tied(tie.label, tie.ratio, tie.band, [(o.name, o.ratio) for o in tie.offered])
            for tie in known
            if tie.ratio is not None and tie.band is not None
        ],
        (f"{first} is cheaper", f"{second} is cheaper"),
    )


def _grid(picture: StudyPicture, answers: Answers) -> str:
    cells = next(
        cells for verdict in answers.answers for cells in verdict.cells
        if cells.grid.name == picture.grid and cells.metric == picture.metric
    )  # fmt: skip
    steps, columns = cells.grid.rows.steps, cells.grid.columns.steps
    factor = 100.0 if picture.metric in SHARES else 1.0
    values = [[None if v is None else factor * v for v in row] for row in cells.values]
    known = [v for row in values for v in row if v is not None]
    if not known:
        return ""
    x = [float(step.label.split()[0]) for step in steps]
    unit = ", %" if picture.metric in SHARES else _UNITS.get(picture.metric, "")
    return curves(
        picture.title,
        Scale(cells.grid.rows.name, 0.9 * min(x), 1.1 * max(x), logarithmic=True, marks=x),
        Scale(NAMES[picture.metric] + unit, 0.0, 1.1 * max(known)),
        [Curve(step.label, x, [row[j] for row in values]) for j, step in enumerate(columns)],
    )
