"""The answers of a study as a Markdown page, a terminal table or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sim import __version__
from sim.quantities import usd
from sim.report.study_plots import NAMES
from sim.report.view import (
    Cell,
    Fact,
    Facts,
    Lines,
    Picture,
    Remarks,
    Row,
    Table,
    View,
    ViewPart,
    left,
    so_far,
    text_of,
)
from sim.study.question.answers import Answers, Cells, ClaimVerdict
from sim.study.question.prices import Offered, Tie
from sim.study.question.reading import Studies
from sim.study.question.rows import MeasuredLine, said
from sim.study.question.spec import StudyCase

_HEADS = ("case", "measure", "ours", "80 % band", "claimed", "holds", "published", "note")
_BANDS = (
    "The band of a ratio is what measured ratios of its kind missed by: published runs that differ "
    "as the two cases do and in nothing else, predicted by constants that had not seen their "
    "source. Ratios that nobody measured have the bands of both runs, taken as independent."
)
_HOLDS = (
    "A case holds where its whole band lies in the range that is claimed, and is undecided where "
    "part of it does. Published runs are judged by their measurement, with 2 % of noise each."
)


def listed(studies: Studies) -> View:
    """What `scaling-sim study --list` says."""
    rows: list[Row] = [[entry.name, entry.title] for entry in studies.studies]
    return View("", [Table([left("study"), left("question")], rows, indent=2)], studies)


def view(answers: Answers, plots: Mapping[str, str] | None = None, folder: str = "") -> View:
    """What `scaling-sim study` says: what it comes to, the claims one by one, the cases.

    Parameters
    ----------
    answers : Answers
        The study, run.
    plots : mapping of str to str, optional
        Its pictures as SVG, by name.
    folder : str
        Where they lie, as a page is to link them; empty: nowhere.
    """
    study = answers.study
    parts: list[ViewPart] = [Lines([_one_line(study.question)] if study.question else [], indent=0)]
    if answers.stopped:
        parts.append(Lines([so_far(len(answers.results), answers.asked, "case")], indent=0))
    at = f"{folder}/{{}}.svg" if folder else ""
    drawn = {
        p.name: Picture([p.title], at.format(p.name), plots[p.name])
        for p in study.pictures
        if plots and p.name in plots
    }
    for answer, text in answers.said:
        parts.append(Lines([_one_line(text)], answer.persona))
        parts += [drawn.pop(answer.picture)] if answer.picture in drawn else []
    verdicts = [Fact(a.claim.id, verdict(a)) for a in answers.answers]
    parts += [Facts(verdicts, "Verdicts"), Remarks([_HOLDS, _BANDS])]
    parts += drawn.values()
    for found in answers.answers:
        parts += _answer(found, answers)
    parts += _voices(answers)
    parts += _cases(answers)
    name = answers.source.removesuffix(".yaml")
    parts.append(Remarks([f"Made by `scaling-sim study {name}`, version {__version__}."], indent=0))
    return View(study.title, parts, answers)


def _answer(answer: ClaimVerdict, answers: Answers) -> Iterator[ViewPart]:
    claim = answer.claim
    yield Lines([f"-> {verdict(answer)}"], f"{claim.id}. {_one_line(claim.claim)}")
    if answer.rows:
        yield _table(answer)
    yield from _ties(answer, answers.study.machines)
    yield from map(_cells_table, answer.cells)
    for row in answer.rows:
        yield Lines(row.reasons, f"Why, for {row.label}:", indent=4, list=True)
    yield Lines([_one_line(answer.reading)] if answer.reading else [])


def verdict(answer: ClaimVerdict) -> str:
    """The verdict in words, with how many cases are for it, against it and open."""
    rows = [row for row in answer.rows if row.holds is not None]
    if answer.word == "measured":
        return _by_price(answer.ties) if answer.ties else "measured, no range claimed"
    if answer.word != "mixed":
        return answer.word
    phrases = {"yes": "holds for", "no": "fails for", "undecided": "undecided for"}
    said = []
    for holds, text in phrases.items():
        labels = answer.labels(holds)
        if labels:
            names = f": {'; '.join(labels)}" if len(labels) <= 2 else ""
            said.append(f"{text} {len(labels)} of {len(rows)}{names}")
    return ", ".join(said)


def _by_price(ties: Sequence[Tie]) -> str:
    """Between which price ratios the answer changes."""
    known = [tie.ratio for tie in ties if tie.ratio is not None]
    if not known:
        return "no two machines fit"
    return (
        f"depends on the job and on the price: machines tie at {min(known):.2f} to "
        f"{max(known):.2f} times the hourly price"
    )


def _claimed(row: MeasuredLine) -> str:
    if row.low is None and row.high is None:
        return ""
    if row.low is None:
        return f"at most {row.said(row.high)}"
    if row.high is None:
        return f"at least {row.said(row.low)}"
    return f"{row.said(row.low).removesuffix(' x')} to {row.said(row.high)}"


def _line(row: MeasuredLine) -> list[Cell | str]:
    band = ""
    if row.band:
        band = f"{row.said(row.band[0]).removesuffix(' x')} to {row.said(row.band[1])}"
    holds: str = row.holds or ""
    if row.published and holds:
        holds += ", as measured"
    published = "; ".join(f"{row.said(value)} ({text})" for text, value in row.published)
    return [
        row.label, f"{NAMES[row.metric]}{' ratio' if row.is_ratio else ''}",
        Cell(row.said(row.value), row.value), band, _claimed(row), holds, published, row.note,
    ]  # fmt: skip


def _table(answer: ClaimVerdict) -> Table:
    """A row a line, without the columns that say nothing."""
    rows = [_line(row) for row in answer.rows]
    keep = [i for i in range(len(_HEADS)) if any(text_of(row[i]) for row in rows)]
    columns = [left(_HEADS[i]) for i in keep]
    return Table(columns, [[row[i] for i in keep] for row in rows], indent=2, apart=False)


# --- prices --------------------------------------------------------------------------------------


def _ties(answer: ClaimVerdict, machines: tuple[str, ...]) -> Iterator[ViewPart]:
    """Price ratios at which either machine is the cheaper, and what providers ask."""
    if not answer.ties:
        return
    first, second = machines if len(machines) == 2 else ("first", "second")
    columns = [
        left("job"), left(f"{first} cheaper below"), left("ties at"),
        left(f"{second} cheaper above"),
    ]  # fmt: skip
    rows: list[Row] = []
    for tie in answer.ties:
        if tie.ratio is None or tie.band is None:
            rows.append([tie.label, "", "one does not fit", ""])
        else:
            ratios = (tie.band[0], tie.ratio, tie.band[1])
            rows.append([tie.label, *(Cell(f"{r:.2f} x", r) for r in ratios)])
    yield Table(columns, rows, f"Break-even: hourly price of {first} over {second}", indent=2)
    offered = dict.fromkeys(o for tie in answer.ties for o in tie.offered)
    asked = sorted(offered, key=lambda o: o.ratio)
    heads = [left("job"), *(left(f"{o.name}: {o.ratio:.2f} x") for o in asked)]
    words = {"first": first, "second": second}
    lines: list[Row] = []
    for tie in answer.ties:
        if tie.offered and tie.ratio is not None:
            known = {o: str(tie.cheaper(o.ratio)) for o in tie.offered}
            found = [known.get(o, "") for o in asked]
            lines.append([tie.label, *(words.get(word, word) for word in found)])
    if lines:
        yield Table(heads, lines, "The cheaper one at what providers ask for both", indent=2)
        columns = [left("provider, region, date"), left(first), left(second), left("source")]
        yield Table(columns, [_offer(o) for o in asked], "Prices of a GPU-hour", indent=2)


def _offer(offered: Offered) -> Row:
    ends = (offered.first, offered.second)
    sources = "; ".join(dict.fromkeys(row.source for row in ends))
    prices = [Cell(usd(row.usd_per_gpu_hour), row.usd_per_gpu_hour, "USD") for row in ends]
    return [offered.name, *prices, sources]


# --- grids, voices, cases ------------------------------------------------------------------------


def _cells_table(cells: Cells) -> Table:
    grid = cells.grid
    columns = [left(grid.rows.name), *(left(step.label) for step in grid.columns.steps)]
    rows: list[Row] = [
        [step.label, *(_cell(value, cells.metric) for value in values)]
        for step, values in zip(grid.rows.steps, cells.values, strict=True)
    ]
    heading = f"{grid.title}: {NAMES[cells.metric]} by {grid.rows.name} and {grid.columns.name}"
    return Table(columns, rows, heading, indent=2)


def _cell(value: float | None, metric: str) -> Cell | str:
    return "does not fit" if value is None else Cell(said(value, metric), value)


def _voices(answers: Answers) -> Iterator[ViewPart]:
    if not answers.voices:
        return
    columns = [left("who"), left("says"), left("ours"), left("reading")]
    rows: list[Row] = []
    for voice, row, reading in answers.voices:
        ours = f"{row.said(row.value)}: {row.label}" if row is not None else ""
        rows.append([voice.source, _one_line(voice.says), ours, _one_line(reading)])
    yield Table(columns, rows, "Who says otherwise, and who measured it", indent=2)


def _cases(answers: Answers) -> Iterator[ViewPart]:
    heads = [left("case"), left("machine"), left("job"), left("set")]
    yield Table(heads, [_case(c) for c in answers.study.cases], "The cases", indent=2)
    for grid in answers.study.grids:
        rows: list[Row] = [
            [axis.name, step.label, " ".join(step.set)]
            for axis in (grid.rows, grid.columns)
            for step in axis.steps
        ]
        where = f"{grid.topology}, {grid.workload} {' '.join(grid.set)}".rstrip()
        columns = [left("axis"), left("value"), left("set")]
        yield Table(columns, rows, f"The grid {grid.name}: {where}", indent=2)


def _case(case: StudyCase) -> Row:
    if case.measured:
        return [case.name, case.measured, "as published", " ".join(case.set)]
    return [case.name, case.topology, case.workload, " ".join(case.set)]


def _one_line(text: str) -> str:
    return " ".join(text.split())
