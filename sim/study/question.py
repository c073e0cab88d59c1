"""A study: a question taken apart into claims, each measured by simulated cases.

The study is a YAML file: cases (machine, job, overrides) and claims, whose lines are a measure of
one case or the ratio of two, held against the range that the claim states and beside published
measurements. Its answer is recomputed from the file by one command.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from sim.blocks.kernels import STREAMED
from sim.documents import SCHEMAS, Document, Section
from sim.errors import Fault, InputError
from sim.files import is_file
from sim.inputs.base import Factor, Spec
from sim.inputs.bind import did_you_mean
from sim.inputs.loader import Loaded, load
from sim.inputs.offers import offers
from sim.inputs.reader import Reader
from sim.inputs.tree import from_yaml, read_file
from sim.job.cost import break_even_price
from sim.result.predict import predict
from sim.result.result import Result
from sim.study.compare import reasons_between
from sim.study.pricing import cost_at, matching

DATA = Path(__file__).parents[1] / "data"

Metric = Literal[
    "tokens_per_s_per_gpu", "tokens_per_s", "memory_gib", "days", "cost_usd",
    "usd_per_million_tokens", "energy_kwh", "mfu", "exposed_share", "hbm_share",
]  # fmt: skip


class Case(Spec):
    """A machine, a job and overrides; or a published run as it was made."""

    name: str
    topology: str = ""
    workload: str = ""
    measured: str = ""  # row of data/measured, instead of topology and workload
    set: tuple[str, ...] = ()


class Line(Spec):
    """A measure of a case, or its ratio to that of another."""

    label: str
    case: str
    against: str = ""
    metric: Metric = "tokens_per_s_per_gpu"
    low: Factor | None = None  # what the claim says
    high: Factor | None = None
    as_if: bool = False  # count it although a case does not fit
    published: tuple[str, ...] = ()  # rows of data/measured: "id", or "id / id" for a ratio
    why: bool = False  # print the reasons of the difference
    note: str = ""


class OfferPair(Spec):
    """Two cases whose cost is compared at every provider that rents both."""

    label: str
    case: str
    against: str


class Claim(Spec):
    """A sentence that holds or does not."""

    id: str
    claim: str
    lines: tuple[Line, ...] = ()
    offers: tuple[OfferPair, ...] = ()
    reading: str = ""


class Study(Spec):
    """A question and what it is answered from."""

    title: str
    question: str = ""
    cases: tuple[Case, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Row(Section):
    """A measured line."""

    label: str
    metric: str
    is_ratio: bool
    value: float | None  # None: a case does not fit
    band: tuple[float, float] | None
    low: float | None
    high: float | None
    published: tuple[tuple[str, float], ...]
    note: str
    reasons: tuple[str, ...] = ()

    @property
    def judged(self) -> float | None:
        """What the claim is held against: the measurement where there is one, else our figure."""
        return self.published[0][1] if self.published else self.value

    @property
    def within(self) -> bool | None:
        """Whether it is what the claim says; None where the claim says nothing of it."""
        if self.low is None and self.high is None:
            return None
        if self.judged is None:
            return False
        return (self.low or 0.0) <= self.judged <= (math.inf if self.high is None else self.high)

    def content(self) -> dict[str, Any]:
        """The measure, the claim about it, and whether it holds."""
        return {
            "label": self.label,
            "metric": self.metric,
            "ratio": self.is_ratio,
            "value": self.value,
            "band": self.band,
            "claimed": [self.low, self.high],
            "within": self.within,
            "published": dict(self.published),
            "note": self.note,
            "reasons": self.reasons,
        }


@dataclass(frozen=True, slots=True)
class Verdict(Section):
    """A claim, its rows and the verdict."""

    claim: Claim
    rows: tuple[Row, ...]
    verdict: Literal["holds", "holds only for", "does not hold", "measured"]

    @property
    def holding(self) -> tuple[str, ...]:
        """Labels of the rows for which the claim holds."""
        return tuple(row.label for row in self.rows if row.within)

    def content(self) -> dict[str, Any]:
        """Claim, verdict, rows."""
        return {
            "id": self.claim.id,
            "claim": " ".join(self.claim.claim.split()),
            "verdict": self.verdict,
            "holds_for": self.holding,
            "rows": self.rows,
        }


@dataclass(frozen=True, slots=True)
class Answers(Document):
    """A study and the answer to each of its claims."""

    schema: ClassVar[str] = SCHEMAS["study"]

    study: Study
    source: str
    answers: tuple[Verdict, ...]
    results: dict[str, Result]

    def content(self) -> dict[str, Any]:
        """Title and claims."""
        return {"title": self.study.title, "claims": self.answers}

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a measured line."""
        return [{"claim": a.claim.id, **row.content()} for a in self.answers for row in a.rows]


def find_study(name: str) -> Path:
    """The file of a study: a path, or a shipped name.

    Raises
    ------
    InputError
        If there is neither.
    """
    path = Path(name)
    if is_file(path):
        return path
    shipped = {p.stem: p for p in (DATA / "studies").glob("*.yaml")}
    if name in shipped:
        return shipped[name]
    hint = did_you_mean(name, shipped) or f"; shipped are {', '.join(shipped)}"
    raise InputError.single(name, f"no such file, and no study of that name{hint}")


def read_study(path: Path) -> Study:
    """A study from YAML; all faults of the file at once."""
    faults: list[Fault] = []
    tree = from_yaml(read_file(path), str(path), faults)
    reader = Reader(folder=path.parent, faults=faults, quiet=True)
    study = reader.read(Study, tree, "")
    if faults or study is None:
        raise InputError(faults)
    names = [case.name for case in study.cases]
    for case in study.cases:
        where = f"cases.{case.name}"
        if case.measured and (case.topology or case.workload):
            message = "measured names machine and job already"
            faults.append(Fault(str(path), None, None, where, message))
        elif case.measured and case.measured not in _records():
            hint = did_you_mean(case.measured, _records())
            message = f'no published row "{case.measured}"{hint}'
            faults.append(Fault(str(path), None, None, where, message))
        elif not case.measured and not (case.topology and case.workload):
            faults.append(Fault(str(path), None, None, where, "needs topology and workload"))
    for name in sorted({n for n in names if names.count(n) > 1}):
        faults.append(Fault(str(path), None, None, "cases", f'"{name}" is there twice'))
    for claim in study.claims:
        users: list[Line | OfferPair] = [*claim.lines, *claim.offers]
        for user in users:
            for name in (user.case, user.against):
                if name and name not in names:
                    where = f"claims.{claim.id}.{user.label}"
                    hint = did_you_mean(name, names)
                    faults.append(Fault(str(path), None, None, where, f'no case "{name}"{hint}'))
        for line in claim.lines:
            faults += [
                Fault(str(path), None, None, f"claims.{claim.id}.{line.label}", str(unknown))
                for unknown in _unknown_rows(line)
            ]
    if faults:
        raise InputError(faults)
    return study


def run_study(
    study: Study, source: str = "", progress: Callable[[int, int], None] | None = None
) -> Answers:
    """Simulate the cases and answer the claims.

    Parameters
    ----------
    study : Study
        Cases and claims.
    source : str
        Name of the file, for the page.
    progress : callable, optional
        Called with (cases done, cases in all).
    """
    loaded: dict[str, Loaded] = {}
    faults: list[Fault] = []
    for case in study.cases:
        try:
            loaded[case.name] = _load(case)
        except InputError as error:
            faults += [
                Fault(f.source, f.line, f.column, f"cases.{case.name}: {f.path}", f.message)
                for f in error.faults
            ]
    if faults:
        raise InputError(faults)
    results: dict[str, Result] = {}
    for index, (name, one) in enumerate(loaded.items()):
        results[name] = predict(one.topology, one.workload, one.notes, scaling=False, fixes=False)
        if progress is not None:
            progress(index + 1, len(loaded))
    rows_of = {case.name: case.measured for case in study.cases if case.measured}
    answers = tuple(_answer(claim, loaded, results, rows_of) for claim in study.claims)
    return Answers(study, source, answers, results)


def _load(case: Case) -> Loaded:
    if not case.measured:
        return load(case.topology, case.workload, case.set)
    record = _records()[case.measured]
    return load(record["topology"], record["workload"], (*record["sets"], *case.set))


def _answer(
    claim: Claim, loaded: dict[str, Loaded], results: dict[str, Result], rows_of: dict[str, str]
) -> Verdict:
    rows = [_row(_with_published(line, rows_of), loaded, results) for line in claim.lines]
    for pair in claim.offers:
        rows += _offer_rows(pair, loaded, results)
    judged = [row.within for row in rows if row.within is not None]
    if not judged:
        return Verdict(claim, tuple(rows), "measured")
    if all(judged):
        return Verdict(claim, tuple(rows), "holds")
    return Verdict(claim, tuple(rows), "holds only for" if any(judged) else "does not hold")


def measure(result: Result, metric: str) -> float:
    """A measure of a result, in the unit that its name says."""
    step, rates, job, cost, energy = (
        result.step, result.throughput, result.job, result.cost, result.energy,
    )  # fmt: skip
    hbm = (*STREAMED, "optimizer")
    found: dict[str, float | None] = {
        "tokens_per_s_per_gpu": rates.tokens_per_s_per_gpu,
        "tokens_per_s": rates.tokens_per_s,
        "memory_gib": result.memory.needed_bytes / 2**30,
        "days": job.wall_clock_s / 86400.0 if job else None,
        "cost_usd": cost.total_usd if cost else None,
        "usd_per_million_tokens": cost.usd_per_million_tokens if cost else None,
        "energy_kwh": energy.energy_j / 3.6e6 if energy else None,
        "mfu": rates.mfu,
        "exposed_share": step.exposed_communication_s / step.time_s,
        "hbm_share": sum(step.breakdown.get(k, 0.0) for k in hbm) / step.time_s,
    }
    value = found[metric]
    if value is None:
        raise _no_length(result, metric)
    return value


def _no_length(result: Result, metric: str) -> InputError:
    message = f"{metric} needs a job length and a price (tokens:, offer:)"
    return InputError([Fault(result.workload.name, None, None, metric, message)])


def _with_published(line: Line, rows_of: dict[str, str]) -> Line:
    """The line with the measurement of its own cases, where they are published runs."""
    names = [n for n in (line.case, line.against) if n]
    if line.published or line.metric != "tokens_per_s_per_gpu" or not set(names) <= set(rows_of):
        return line
    text = " / ".join(rows_of[n] for n in names)
    return line.model_copy(update={"published": (text,)})


def _row(line: Line, loaded: dict[str, Loaded], results: dict[str, Result]) -> Row:
    names = [line.case] + ([line.against] if line.against else [])
    unfit = [n for n in names if not results[n].memory.fits]
    note = line.note
    value: float | None = None
    if unfit and line.metric != "memory_gib":
        verb = "does" if len(unfit) == 1 else "do"
        text = f"{' and '.join(unfit)} {verb} not fit"
        note = "; ".join(t for t in (text + (", as if it did" if line.as_if else ""), note) if t)
    if not unfit or line.as_if or line.metric == "memory_gib":
        value = measure(results[line.case], line.metric)
        if line.against:
            value /= measure(results[line.against], line.metric)
    reasons: tuple[str, ...] = ()
    if line.why and line.against:
        first, second = ((loaded[n], results[n]) for n in (line.against, line.case))
        reasons = reasons_between(first[0], first[1], second[0], second[1])
    return Row(
        label=line.label,
        metric=line.metric,
        is_ratio=bool(line.against),
        value=value,
        band=_band(line, value, results),
        low=line.low,
        high=line.high,
        published=tuple((text, _published(text)) for text in line.published),
        note=note,
        reasons=reasons,
    )


def _band(
    line: Line, value: float | None, results: dict[str, Result]
) -> tuple[float, float] | None:
    """80 % band of a measure that follows the step time.

    For a ratio the errors of the two cases are taken as independent, which is cautious: much of
    the model's error is common to both machines.
    """
    follows_time = {
        "tokens_per_s_per_gpu": -1, "tokens_per_s": -1, "days": 1, "cost_usd": 1,
        "usd_per_million_tokens": 1, "mfu": -1,
    }  # fmt: skip
    sign = follows_time.get(line.metric)
    if sign is None or value is None:
        return None
    low = high = 0.0  # squares of log distances
    for name, way in ((line.case, sign), (line.against, -sign)):
        if not name:
            continue
        known, time_s = results[name].uncertainty, results[name].step.time_s
        if known is None:
            return None
        band = known.step_time_s
        down, up = math.log(time_s / band.low), math.log(band.high / time_s)
        if way < 0:
            down, up = up, down
        low, high = low + down * down, high + up * up
    return value * math.exp(-math.sqrt(low)), value * math.exp(math.sqrt(high))


# --- offers --------------------------------------------------------------------------------------


def _offer_rows(
    pair: OfferPair, loaded: dict[str, Loaded], results: dict[str, Result]
) -> Iterator[Row]:
    """Cost ratio at every provider and date that has both machines' GPUs in nodes of that size."""
    ends = [(loaded[n].topology, results[n]) for n in (pair.case, pair.against)]
    unfit = [n for n in (pair.case, pair.against) if not results[n].memory.fits]
    rented = [matching(t, offers()) for t, _ in ends]
    note = f"{' and '.join(unfit)}: does not fit" if unfit else ""
    for own in rented[0]:
        for other in rented[1]:
            if (own.provider, own.as_of) != (other.provider, other.as_of):
                continue
            costs = [cost_at(end[1], row) for end, row in zip(ends, (own, other), strict=True)]
            tie = break_even_price(costs[1].total_usd, costs[0])
            price = own.usd_per_gpu_hour / other.usd_per_gpu_hour
            text = f"price ratio {price:.2f}"
            if tie is not None:
                text += f", ties at {tie / other.usd_per_gpu_hour:.2f}"
            value = None if unfit else costs[0].total_usd / costs[1].total_usd
            line = Line(label=pair.label, case=pair.case, against=pair.against, metric="cost_usd")
            where = f"{own.provider} {own.region} {own.as_of}".replace(" any", "")
            yield Row(
                label=f"{pair.label}, {where} ({own.instance})",
                metric="cost_usd",
                is_ratio=True,
                value=value,
                band=_band(line, value, results),
                low=None,
                high=1.0,
                published=(),
                note="; ".join(t for t in (text, note) if t),
            )


# --- published measurements ----------------------------------------------------------------------


@cache
def _records() -> dict[str, dict[str, Any]]:
    """Published runs by id (data/measured/training.jsonl)."""
    with (DATA / "measured" / "training.jsonl").open(encoding="utf-8") as file:
        return {record["id"]: record for record in map(json.loads, file)}


@cache
def _measured() -> dict[str, float]:
    """Published tokens/s per GPU by row id."""
    found = {name: record.get("tokens_per_s_per_gpu") for name, record in _records().items()}
    return {name: float(value) for name, value in found.items() if value is not None}


def _unknown_rows(line: Line) -> Iterator[str]:
    for text in line.published:
        for name in text.split(" / "):
            if name not in _measured():
                yield f'no published row "{name}"{did_you_mean(name, _measured())}'


def _published(text: str) -> float:
    """Tokens/s per GPU of a row, or the ratio of two."""
    first, slash, second = text.partition(" / ")
    return _measured()[first] / (_measured()[second] if slash else 1.0)
