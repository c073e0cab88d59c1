"""A study run: its cases simulated, its claims judged, its answers filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sim.documents import SCHEMAS, Document, Section
from sim.errors import Fault, InputError
from sim.inputs.loader import Loaded, Prepared, load, prepare
from sim.published.lookup import find_row
from sim.result.likeness import Residual
from sim.result.predict import predict
from sim.result.result import Result
from sim.step.variation import Progress, Stop, never, silent
from sim.study.question.answerable import answerable
from sim.study.question.contrast import Contrasts
from sim.study.question.prices import Tie, tie_of
from sim.study.question.reading import PLACE
from sim.study.question.rows import MeasuredLine, RanCase, measure, row_of
from sim.study.question.spec import Answer, Claim, Study, StudyCase, StudyGrid, Voice

ClaimWord = Literal["holds", "mixed", "undecided", "does not hold", "measured"]


@dataclass(frozen=True, slots=True)
class Cells(Section):
    """A measure of every case of a grid; None where it does not fit."""

    grid: StudyGrid
    metric: str
    values: tuple[tuple[float | None, ...], ...]  # by row, then column

    def content(self) -> dict[str, Any]:
        """Labels and values."""
        return {
            "grid": self.grid.name,
            "metric": self.metric,
            "rows": [step.label for step in self.grid.rows.steps],
            "columns": [step.label for step in self.grid.columns.steps],
            "values": self.values,
        }


@dataclass(frozen=True, slots=True)
class ClaimVerdict(Section):
    """A claim, what was measured for it, and the verdict."""

    claim: Claim
    rows: tuple[MeasuredLine, ...]
    ties: tuple[Tie, ...]
    cells: tuple[Cells, ...]
    reading: str

    @property
    def word(self) -> ClaimWord:
        """The verdict: that of all its rows, or mixed."""
        found = {row.holds for row in self.rows if row.holds is not None}
        if not found:
            return "measured"
        if len(found) > 1:
            return "mixed"
        words: dict[str, ClaimWord] = {
            "yes": "holds", "no": "does not hold", "undecided": "undecided",
        }  # fmt: skip
        return words[found.pop()]

    def labels(self, holds: str) -> tuple[str, ...]:
        """Labels of the rows of which that is said."""
        return tuple(row.label for row in self.rows if row.holds == holds)

    def content(self) -> dict[str, Any]:
        """Claim, verdict, rows, break-even prices and grids."""
        return {
            "id": self.claim.id,
            "claim": " ".join(self.claim.claim.split()),
            "verdict": self.word,
            "holds_for": self.labels("yes"),
            "undecided_for": self.labels("undecided"),
            "rows": self.rows,
            "break_even": self.ties,
            "grids": self.cells,
            "reading": self.reading,
        }


@dataclass(frozen=True, slots=True)
class Answers(Document):
    """A study and the answer to each of its claims."""

    schema: ClassVar[str] = SCHEMAS["study"]

    study: Study
    source: str
    answers: tuple[ClaimVerdict, ...]
    results: dict[str, Result]
    said: tuple[tuple[Answer, str], ...]  # what it comes to, by persona
    voices: tuple[tuple[Voice, MeasuredLine | None, str], ...]  # with our row and reading
    asked: int  # cases; fewer results where it was stopped: `study` is what they answer of it

    @property
    def stopped(self) -> bool:
        """Whether it ended before all its cases had run."""
        return len(self.results) < self.asked

    def content(self) -> dict[str, Any]:
        """Title, what it comes to, claims, who says otherwise."""
        return {
            "title": self.study.title,
            "stopped": self.stopped,
            "answers": [{"persona": a.persona, "says": text} for a, text in self.said],
            "claims": self.answers,
            "voices": [
                {"source": v.source, "says": v.says, "ours": row, "reading": reading}
                for v, row, reading in self.voices
            ],
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a measured line."""
        return [{"claim": a.claim.id, **row.content()} for a in self.answers for row in a.rows]

    @property
    def rows(self) -> dict[str, MeasuredLine]:
        """The lines that have a key, by it."""
        return {row.key: row for a in self.answers for row in a.rows if row.key}


def run_study(
    study: Study, source: str = "", progress: Progress | None = None, stop: Stop = never
) -> Answers:
    """Simulate the cases and answer the claims.

    Arguments are those of `sim.run_study`; `source` is its file's name.
    """
    loaded = _loaded(study.all_cases())
    ran: dict[str, RanCase] = {}
    told = progress or silent
    for name, (measured, one) in loaded.items():
        if stop():
            study = answerable(study, ran)
            break
        result = predict(one.topology, one.workload, scaling=False, fixes=False)
        ran[name] = RanCase(one, result, measured)
        told(len(ran), len(loaded))
    published = [_residual(r) for r in ran.values() if r.measured]
    contrasts = Contrasts(published, _compared(study, {r.id for r in published}))
    judged = [_judge(claim, study, ran, contrasts) for claim in study.claims]
    rows = {row.key: row for verdict in judged for row in verdict.rows if row.key}
    ties = {tie.key: tie for verdict in judged for tie in verdict.ties if tie.key}

    def filled(text: str) -> str:
        return PLACE.sub(lambda m: _figure(m.group(1), m.group(2) or "", rows, ties), text)

    answers = [
        ClaimVerdict(v.claim, v.rows, v.ties, v.cells, filled(v.claim.reading)) for v in judged
    ]
    return Answers(
        study, source, tuple(answers), {name: r.result for name, r in ran.items()},
        tuple((answer, filled(answer.says)) for answer in study.answers),
        tuple((v, rows.get(v.line), filled(v.reading)) for v in study.voices), len(loaded),
    )  # fmt: skip


def _loaded(cases: Sequence[StudyCase]) -> dict[str, tuple[str, Loaded]]:
    """The cases read and checked, all faults at once; a pair of files is parsed once."""
    faults: list[Fault] = []
    bases: dict[tuple[str, str], Prepared | None] = {}
    found: dict[str, tuple[str, Loaded]] = {}
    for case in cases:
        try:
            if case.measured:
                row = find_row(case.measured)
                found[case.name] = case.measured, load(row.topology, row.workload, case.set)
            else:
                found[case.name] = "", _vary(case, bases)
        except InputError as error:
            faults += [
                Fault(f.source, f.line, f.column, f"cases.{case.name}: {f.path}", f.message)
                for f in error.faults
            ]
    if faults:
        raise InputError(faults)
    return found


def _vary(case: StudyCase, bases: dict[tuple[str, str], Prepared | None]) -> Loaded:
    """A case; the files as they stand need not go together, so that they may have to be reread."""
    pair = case.topology, case.workload
    if pair not in bases:
        try:
            bases[pair] = prepare(*pair)
        except InputError:
            bases[pair] = None
    base = bases[pair]
    return load(*pair, case.set) if base is None else base.vary(case.set).loaded()


def _residual(ran: RanCase) -> Residual:
    """A published run that the study predicts itself, as the evidence has them."""
    row = find_row(ran.measured)
    measured = row.tokens_per_s_per_gpu
    miss = (
        0.0 if measured is None else math.log(ran.result.throughput.tokens_per_s_per_gpu / measured)
    )
    return Residual(row.id, row.group, row.workload.model.name, ran.job, miss, miss)


def _compared(study: Study, published: set[str]) -> list[tuple[str, str]]:
    """Pairs of published runs that a line compares."""
    ids = {case.name: case.measured for case in study.cases if case.measured in published}
    lines = [line for claim in study.claims for line in claim.lines]
    return [(ids[x.against], ids[x.case]) for x in lines if x.case in ids and x.against in ids]


def _judge(
    claim: Claim, study: Study, ran: Mapping[str, RanCase], contrasts: Contrasts
) -> ClaimVerdict:
    grids = {grid.name: grid for grid in study.grids}
    return ClaimVerdict(
        claim,
        tuple(row_of(line, ran, contrasts) for line in claim.lines),
        tuple(tie_of(pair, ran, contrasts) for pair in claim.break_even),
        tuple(
            _cells(grids[name], metric, ran)
            for name in claim.grids
            for metric in grids[name].metrics
        ),
        claim.reading,
    )


def _cells(grid: StudyGrid, metric: str, ran: Mapping[str, RanCase]) -> Cells:
    def value(row: str, column: str) -> float | None:
        result = ran[grid.case_name(row, column)].result
        known = result.memory.fits or metric == "memory_gib"
        return measure(result, metric) if known else None

    return Cells(
        grid, metric,
        tuple(
            tuple(value(row.label, column.label) for column in grid.columns.steps)
            for row in grid.rows.steps
        ),
    )  # fmt: skip


def _figure(key: str, part: str, rows: Mapping[str, MeasuredLine], ties: Mapping[str, Tie]) -> str:
    """What stands for ``{key.part}``."""
    if key in ties:
        tie = ties[key]
        if tie.ratio is None:
            return "no ratio, as one does not fit,"
        low, high = tie.band or (tie.ratio, tie.ratio)
        shown = {"": f"{tie.ratio:.2f}", "below": f"{low:.2f}", "above": f"{high:.2f}"}
        return shown.get(part) or f"{low:.2f} to {high:.2f}"
    row = rows[key]
    if part == "holds":
        return row.holds or "measured"
    if part == "published":
        return row.said(row.published[0][1]) if row.published else "not measured"
    if part == "band":
        ends = row.band or (row.value, row.value)
        return f"{row.said(ends[0]).removesuffix(' x')} to {row.said(ends[1])}"
    return row.said(row.value)
