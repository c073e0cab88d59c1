"""A study as its file says it: cases, claims about them, who says otherwise, answers, pictures."""

from __future__ import annotations

from typing import Literal

from sim.inputs.base import Factor, Spec

Metric = Literal[
    "tokens_per_s_per_gpu", "tokens_per_s", "memory_gib", "hours", "days", "cost_usd",
    "usd_per_million_tokens", "energy_kwh", "mfu", "exposed_share", "hbm_share",
]  # fmt: skip


class StudyCase(Spec):
    """A machine, a job and overrides; or a published run as it was made."""

    name: str
    topology: str = ""
    workload: str = ""
    measured: str = ""  # id of a published run, instead of topology and workload
    set: tuple[str, ...] = ()


class StudyStep(Spec):
    """A value of an axis: what it is called, and the overrides it stands for."""

    label: str
    set: tuple[str, ...] = ()


class StudyAxis(Spec):
    """What varies over a grid."""

    name: str
    steps: tuple[StudyStep, ...]


class StudyGrid(Spec):
    """Cases for every pair of two axes' values, and a measure of each as a table."""

    name: str
    title: str
    topology: str
    workload: str
    set: tuple[str, ...] = ()
    rows: StudyAxis
    columns: StudyAxis
    metrics: tuple[Metric, ...] = ("tokens_per_s_per_gpu",)

    def case_name(self, row: str, column: str) -> str:
        """What the case of two labels is called; lines may ask for it."""
        return f"{self.name}, {row}, {column}"


class StudyLine(Spec):
    """A measure of a case, or its ratio to that of another."""

    label: str
    case: str
    key: str = ""  # what answers and pictures call it
    against: str = ""
    metric: Metric = "tokens_per_s_per_gpu"
    low: Factor | None = None  # what the claim says
    high: Factor | None = None
    as_if: bool = False  # count it although a case does not fit
    published: tuple[str, ...] = ()  # published runs: "id", or "id / id" for a ratio
    why: bool = False  # print the reasons of the difference
    note: str = ""


class BreakEven(Spec):
    """Two cases and the price ratio at which both cost the same."""

    label: str
    case: str
    against: str
    key: str = ""


class Claim(Spec):
    """A sentence that holds or does not."""

    id: str
    claim: str
    lines: tuple[StudyLine, ...] = ()
    break_even: tuple[BreakEven, ...] = ()
    grids: tuple[str, ...] = ()
    reading: str = ""


class Voice(Spec):
    """Somebody who says otherwise or measured it, and the line of ours that answers."""

    source: str
    says: str
    line: str = ""  # its key
    reading: str = ""


class StudyPicture(Spec):
    """A drawing of lines (bars with bands), of break-evens with a key, or of a grid (curves)."""

    name: str
    title: str
    lines: tuple[str, ...] = ()  # keys
    break_even: str = ""  # id of a claim
    grid: str = ""
    metric: Metric = "tokens_per_s_per_gpu"


class Answer(Spec):
    """What the study comes to for one kind of reader.

    ``{key}`` in it stands for the figure of that line, ``{key.band}`` for its band, ``{key.holds}``
    for whether it is what is claimed, ``{key.published}`` for the measurement; of a break-even,
    ``{key}`` is the price ratio, ``{key.below}`` and ``{key.above}`` the ends of its band.
    """

    persona: str
    says: str
    picture: str = ""


class Study(Spec):
    """A question and what it is answered from."""

    title: str
    question: str = ""
    machines: tuple[str, ...] = ()  # that break-even prices are of: case, then against
    cases: tuple[StudyCase, ...] = ()
    grids: tuple[StudyGrid, ...] = ()
    claims: tuple[Claim, ...]
    voices: tuple[Voice, ...] = ()
    answers: tuple[Answer, ...] = ()
    pictures: tuple[StudyPicture, ...] = ()

    def all_cases(self) -> tuple[StudyCase, ...]:
        """The cases, those of grids after those of their own."""
        return (*self.cases, *(case for grid in self.grids for case in cases_of(grid)))


def cases_of(grid: StudyGrid) -> tuple[StudyCase, ...]:
    """A case for every pair of labels."""
    return tuple(
        StudyCase(
            name=grid.case_name(row.label, column.label), topology=grid.topology,
            workload=grid.workload, set=(*grid.set, *row.set, *column.set),
        )
        for row in grid.rows.steps
        for column in grid.columns.steps
    )  # fmt: skip
