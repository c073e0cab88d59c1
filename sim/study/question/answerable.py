"""What of a study can be answered when some of its cases have not run."""

from __future__ import annotations

from collections.abc import Collection

from sim.study.question.reading import PLACE
from sim.study.question.spec import BreakEven, Claim, Study, StudyLine, cases_of


def answerable(study: Study, ran: Collection[str]) -> Study:
    """The study as if it asked no more than the cases that ran can tell.

    Parameters
    ----------
    study : Study
        All of it.
    ran : collection of str
        Names of cases, those of grids included.
    """
    grids = [g for g in study.grids if all(case.name in ran for case in cases_of(g))]
    whole = {grid.name for grid in grids}
    claims = [c for c in study.claims if _cases(c) <= set(ran) and whole.issuperset(c.grids)]
    ids = {claim.id for claim in claims}
    keys = {line.key for c in claims for line in _lines(c) if line.key}

    def told(text: str) -> bool:
        return keys.issuperset(key for key, _ in PLACE.findall(text))

    return study.model_copy(
        update={
            "cases": tuple(c for c in study.cases if c.name in ran),
            "grids": tuple(grids),
            "claims": tuple(
                c if told(c.reading) else c.model_copy(update={"reading": ""}) for c in claims
            ),
            "voices": tuple(
                v for v in study.voices if told(v.reading) and (not v.line or v.line in keys)
            ),
            "answers": tuple(a for a in study.answers if told(a.says)),
            "pictures": tuple(
                p for p in study.pictures
                if keys.issuperset(p.lines) and p.break_even in {"", *ids}
                and p.grid in {"", *whole}
            ),
        }
    )  # fmt: skip


def _cases(claim: Claim) -> set[str]:
    """The cases that its lines and break-evens are of."""
    return {name for line in _lines(claim) for name in (line.case, line.against) if name}


def _lines(claim: Claim) -> tuple[StudyLine | BreakEven, ...]:
    return (*claim.lines, *claim.break_even)
