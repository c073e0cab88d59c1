"""The answers of a study as a Markdown page, a terminal table or JSON."""

from __future__ import annotations

import math

from sim import __version__
from sim.quantities import percent, usd
from sim.report.view import (
    Cell,
    Fact,
    Facts,
    Lines,
    Part,
    Remarks,
    Row,
    Table,
    View,
    left,
    text_of,
)
from sim.study.question import Answers, Verdict
from sim.study.question import Row as Measured

_NAMES = {
    "tokens_per_s_per_gpu": "tokens/s per GPU", "tokens_per_s": "tokens/s", "memory_gib": "memory",
    "days": "days", "cost_usd": "cost", "usd_per_million_tokens": "USD per million tokens",
    "energy_kwh": "energy", "mfu": "MFU", "exposed_share": "exposed communication",
    "hbm_share": "HBM-bound kernels",
}  # fmt: skip
_HEADS = ("case", "measure", "ours", "80 % band", "claimed", "holds", "published", "note")
_SHARES = ("mfu", "exposed_share", "hbm_share")


def view(answers: Answers) -> View:
    """What `scaling-sim study` says: the verdicts, each claim with its rows, the cases."""
    study = answers.study
    parts: list[Part] = [
        Lines([_one_line(study.question)] if study.question else [], indent=0),
        Facts([Fact(a.claim.id, verdict(a)) for a in answers.answers], "Verdicts"),
    ]
    for answer in answers.answers:
        parts += _answer(answer)
    heads = ("case", "machine", "job", "set")
    rows: list[Row] = [
        [c.name, c.topology or c.measured, c.workload or "as published", " ".join(c.set)]
        for c in study.cases
    ]
    parts.append(Table([left(head) for head in heads], rows, "The cases", indent=2))
    name = answers.source.removesuffix(".yaml")
    parts.append(Remarks([f"Made by `scaling-sim study {name}`, version {__version__}."], indent=0))
    return View(study.title, parts, answers)


def _answer(answer: Verdict) -> list[Part]:
    claim = answer.claim
    why = [Lines(row.reasons, f"Why, for {row.label}:", indent=4, list=True) for row in answer.rows]
    return [
        Lines([f"-> {verdict(answer)}"], f"{claim.id}. {_one_line(claim.claim)}"),
        _table(answer), *why, Lines([_one_line(claim.reading)] if claim.reading else []),
    ]  # fmt: skip


def verdict(answer: Verdict) -> str:
    """The verdict in words; cases that only their band brings into the range are counted apart."""
    rows = [row for row in answer.rows if row.within is not None]
    near = sum(row.within is False and _reaches(row) for row in rows)
    maybe = f"; the bands of {near} more reach it" if near else ""
    if answer.verdict == "holds only for":
        labels = answer.holding
        if len(labels) > 4:
            return f"holds for {len(labels)} of {len(rows)} cases{maybe}"
        return f"holds only for {len(labels)} of {len(rows)}: {'; '.join(labels)}{maybe}"
    if answer.verdict == "measured":
        return "measured, no range claimed"
    return answer.verdict + (f"; the bands of {near} reach it" if near else "")


def shown(row: Measured, value: float | None) -> str:
    """A value of a row as a reader would say it."""
    if value is None:
        return "does not fit"
    if row.is_ratio:
        return f"{value:.2f} x"
    if row.metric in _SHARES:
        return percent(value)
    if row.metric in ("cost_usd", "usd_per_million_tokens"):
        return usd(value)
    unit = {"memory_gib": " GiB", "days": " days", "energy_kwh": " kWh"}.get(row.metric, "")
    return f"{value:,.0f}{unit}" if value >= 100 else f"{value:.2f}{unit}"


def _claimed(row: Measured) -> str:
    if row.low is None and row.high is None:
        return ""
    if row.low is None:
        return f"at most {shown(row, row.high)}"
    if row.high is None:
        return f"at least {shown(row, row.low)}"
    return f"{shown(row, row.low)} to {shown(row, row.high)}"


def _cells(row: Measured) -> list[Cell | str]:
    band = f"{shown(row, row.band[0])} to {shown(row, row.band[1])}" if row.band else ""
    holds = {True: "yes", False: "no", None: ""}[row.within]
    if row.within is False and _reaches(row):
        holds = "no, its band does"
    if row.published and holds:
        holds += ", as measured"
    published = "; ".join(f"{shown(row, value)} ({text})" for text, value in row.published)
    return [
        row.label, f"{_NAMES[row.metric]}{' ratio' if row.is_ratio else ''}",
        Cell(shown(row, row.value), row.value), band, _claimed(row), holds, published, row.note,
    ]  # fmt: skip


def _reaches(row: Measured) -> bool:
    """Whether a row's band reaches the claimed range."""
    if row.band is None or row.published:  # a measurement needs no band of ours
        return False
    return row.band[1] >= (row.low or 0.0) and row.band[0] <= (row.high or math.inf)


def _table(answer: Verdict) -> Table:
    """A row a line, without the columns that say nothing."""
    rows = [_cells(row) for row in answer.rows]
    keep = [i for i in range(len(_HEADS)) if any(text_of(row[i]) for row in rows)]
    columns = [left(_HEADS[i]) for i in keep]
    return Table(columns, [[row[i] for i in keep] for row in rows], indent=2, apart=False)


def _one_line(text: str) -> str:
    return " ".join(text.split())
