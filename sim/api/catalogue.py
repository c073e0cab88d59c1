"""The catalogue, files to begin from, two results compared, and what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sim.errors import InputError

if TYPE_CHECKING:
    from sim.choices import WrittenShare
    from sim.files import File
    from sim.inputs.codes import Code
    from sim.inputs.doctor import Checkup
    from sim.inputs.entries import Entries, Entry
    from sim.inputs.starter import Starter
    from sim.study.difference import Difference


def entries(kind: str, word: str = "") -> Entries:
    """What the catalogue has of a kind.

    Parameters
    ----------
    kind : str
        ``models``, ``gpus``, ``machines``, ``jobs``, ``strategies``, ``offers``, ``formats`` or
        ``codes``; also in the singular, and ``topologies``, ``workloads`` and ``prices``.
    word : str
        Only entries with it in any column, whatever its case and punctuation.
    """
    from sim.inputs.entries import entries

    return entries(kind, word)


def entry(name: str) -> Entry:
    """The GPU, model, machine, job or strategy of a name, or of one that people use for it."""
    from sim.inputs.entries import entry

    return entry(name)


def explain_code(code: str) -> Code:
    """What the code of a fault or a warning is about.

    Parameters
    ----------
    code : str
        As ``[flash3]`` behind a fault, or before a warning.
    """
    from sim.inputs.codes import code_named

    return code_named(code)


def init(machine: str = "dgx-h100", job: str = "llama3-8b-sft") -> Starter:
    """Texts of a shipped machine and job, with their schemas, to edit.

    Parameters
    ----------
    machine, job : str
        Names of the catalogue.
    """
    from sim.inputs.starter import starter

    return starter(machine, job)


def diff(before: File, after: File, *, tolerance: WrittenShare = "0.1%") -> Difference:
    """Figures of two results (`to_json`) that differ.

    Parameters
    ----------
    before, after : paths
        JSON of two documents of one kind.
    tolerance : str or float
        Relative changes up to it are none.
    """
    from sim.study.difference import difference
    from sim.units import UnitError, parse

    try:
        share = parse(str(tolerance), "1")
    except UnitError as no:
        option = "--tolerance"
        raise InputError.single(option, str(no)) from None
    return difference(Path(before), Path(after), share)


def doctor() -> Checkup:
    """What is installed, and what that lets one do."""
    from sim.inputs.doctor import doctor

    return doctor()
