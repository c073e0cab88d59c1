"""The answers of a study as a Markdown page, a terminal table or JSON."""

from __future__ import annotations

import math

from sim import __version__
from sim.report.prices import laid_out
from sim.report.quantities import percent
from sim.study.question import Answer, Answers, Row

_NAMES = {
    "tokens_per_s_per_gpu": "tokens/s per GPU", "tokens_per_s": "tokens/s", "memory_gib": "memory",
    "days": "days", "cost_usd": "cost", "usd_per_million_tokens": "USD per million tokens",
    "energy_kwh": "energy", "mfu": "MFU", "exposed_share": "exposed communication",
    "hbm_share": "HBM-bound kernels",
}  # fmt: skip
_SHARES = ("mfu", "exposed_share", "hbm_share")


def formatted(answers: Answers, form: str) -> str:
    """As ``md`` (the page), ``table`` (verdicts and numbers) or ``json``."""
    if form == "json":
        return answers.to_json()
    return _page(answers) if form == "md" else _table(answers)


def verdict(answer: Answer) -> str:
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


def shown(row: Row, value: float | None) -> str:
    """A value of a row as a reader would say it."""
    if value is None:
        return "does not fit"
    if row.is_ratio:
        return f"{value:.2f} x"
    if row.metric in _SHARES:
        return percent(value)
    if row.metric in ("cost_usd", "usd_per_million_tokens"):
        return f"${value:,.0f}" if value >= 100 else f"${value:.2f}"
    unit = {"memory_gib": " GiB", "days": " days", "energy_kwh": " kWh"}.get(row.metric, "")
    return f"{value:,.0f}{unit}" if value >= 100 else f"{value:.2f}{unit}"


def _claimed(row: Row) -> str:
    if row.low is None and row.high is None:
        return ""
    if row.low is None:
        return f"at most {shown(row, row.high)}"
    if row.high is None:
        return f"at least {shown(row, row.low)}"
    return f"{shown(row, row.low)} to {shown(row, row.high)}"


def _cells(row: Row) -> list[str]:
    band = f"{shown(row, row.band[0])} to {shown(row, row.band[1])}" if row.band else ""
    holds = {True: "yes", False: "no", None: ""}[row.within]
    if row.within is False and _reaches(row):
        holds = "no, its band does"
    if row.published and holds:
        holds += ", as measured"
    published = "; ".join(f"{shown(row, value)} ({text})" for text, value in row.published)
    return [
        row.label, f"{_NAMES[row.metric]}{' ratio' if row.is_ratio else ''}",
        shown(row, row.value), band, _claimed(row), holds, published, row.note,
    ]  # fmt: skip


def _reaches(row: Row) -> bool:
    """Whether a row's band reaches the claimed range."""
    if row.band is None or row.published:  # a measurement needs no band of ours
        return False
    return row.band[1] >= (row.low or 0.0) and row.band[0] <= (row.high or math.inf)


_HEAD = ["case", "measure", "ours", "80 % band", "claimed", "holds", "published", "note"]


def _used(rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows without empty columns."""
    keep = [i for i in range(len(_HEAD)) if any(row[i] for row in rows)]
    return [_HEAD[i] for i in keep], [[row[i] for i in keep] for row in rows]


def _page(answers: Answers) -> str:
    study = answers.study
    lines = [f"# {study.title}", "", study.question.strip(), ""]
    name = answers.source.removesuffix(".yaml")
    lines += [f"Made by `scaling-sim study {name}`, version {__version__}; do not edit.", ""]
    lines += ["| claim | verdict |", "| --- | --- |"]
    lines += [
        f"| [{a.claim.id}](#{a.claim.id}). {_one_line(a.claim.claim)} | {verdict(a)} |"
        for a in answers.answers
    ]
    for answer in answers.answers:
        head, rows = _used([_cells(row) for row in answer.rows])
        lines += ["", f"## {answer.claim.id}", "", f"> {_one_line(answer.claim.claim)}", ""]
        lines += [f"**Verdict: {verdict(answer)}.**", "", laid_out(head, rows, "md")]
        for row in answer.rows:
            if row.reasons:
                lines += ["", f"Why, for {row.label}:", "", *(f"- {r}" for r in row.reasons)]
        if answer.claim.reading:
            lines += ["", answer.claim.reading.strip()]
    lines += ["", "## The cases", "", laid_out(["case", "machine", "job", "set"], [
        [c.name, c.topology or c.measured, c.workload or "as published",
         " ".join(f"`{s}`" for s in c.set)] for c in study.cases
    ], "md")]  # fmt: skip
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _table(answers: Answers) -> str:
    lines = [answers.study.title]
    for answer in answers.answers:
        head, rows = _used([_cells(row) for row in answer.rows])
        lines += ["", f"{answer.claim.id}. {_one_line(answer.claim.claim)}"]
        lines += [f"  -> {verdict(answer)}", laid_out(head, rows, "table")]
    return "\n".join(lines)
