"""Codes of faults and warnings: what each is about. One text each, in ``sim/data/codes.toml``."""

from __future__ import annotations

from dataclasses import dataclass

from sim.data import table
from sim.documents import SCHEMAS, Document
from sim.errors import InputError
from sim.inputs.nearest import did_you_mean

_EXPLAIN = "explain"


@dataclass(frozen=True, slots=True)
class Code(Document):
    """What a code means.

    Attributes
    ----------
    code : str
        As it stands before a warning and behind a fault.
    title : str
        What is wrong or unusual, in a few words.
    why : str
        Why it is, and what follows from it.
    """

    schema = SCHEMAS["code"]
    code: str
    title: str
    why: str


def codes() -> tuple[Code, ...]:
    """All codes, by the room that they are about."""
    return tuple(Code(code, row["title"], row["why"]) for code, row in table("codes").items())


def code_named(name: str) -> Code:
    """A code; its brackets may be around it.

    Raises
    ------
    InputError
        There is none of that name.
    """
    known = {c.code: c for c in codes()}
    code = known.get(name.strip("[]! "))
    if code is None:
        message = f'"{name}" is no code{did_you_mean(name, known)}'
        raise InputError.single(_EXPLAIN, f"{message}; `list codes` has all")
    return code
