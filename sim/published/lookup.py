"""Published runs by their ids, one at a time, and what two of them have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from sim.data import DATA
from sim.published.finetune import TABLE, table_records, table_row
from sim.published.rows import MEASURED, MeasuredRow, parse_row

_FILES = (MEASURED / "training.jsonl", DATA / f"{TABLE}.jsonl")
#: keys of a workload that a comparison of two runs is about, or that it does not mind; all others
#: must be equal
COMPARED = (
    "name", "method", "precision", "compile", "attention", "stack", "parallelism",
    "gradient_accumulation",
)  # fmt: skip


def known_ids() -> frozenset[str]:
    """Ids of all published runs of the data files."""
    return frozenset(_settings())


def find_row(name: str) -> MeasuredRow:
    """A published run.

    Raises
    ------
    KeyError
        There is no row of that id.
    """
    group, _, number = name.partition(":")
    if group == "finetune":
        return table_row(int(number))
    return parse_row(_records()[name])


def setting(name: str) -> str:
    """What a run kept to beside what comparisons are about: equal texts make a pair.

    The model, the lengths, the micro-batch of a GPU, checkpointing, optimizer, loss.
    """
    return _settings()[name]


def speed(name: str) -> float | None:
    """Measured tokens/s of one GPU."""
    group, _, number = name.partition(":")
    if group == "finetune":
        return table_row(int(number)).tokens_per_s_per_gpu
    found = _records()[name].get("tokens_per_s_per_gpu")
    return None if found is None else float(found)


@cache
def _records() -> dict[str, dict[str, Any]]:
    """Runs that are written out one by one, as the files have them."""
    found: dict[str, dict[str, Any]] = {}
    for path in _FILES:
        with path.open(encoding="utf-8") as file:
            found |= {record["id"]: record for record in map(json.loads, file)}
    return found


@cache
def _settings() -> dict[str, str]:
    return {
        name: json.dumps(
            {k: v for k, v in record["workload"].items() if k not in COMPARED}, sort_keys=True
        )
        for name, record in _records().items()
    } | dict(_of_the_table())


def _of_the_table() -> Iterator[tuple[str, str]]:
    for number, row in enumerate(table_records(), 1):
        each = int(row["batch"]) / int(row["gpus"])
        kept = (row["model"], row["campaign"], row["length"], each, row["flag"])
        yield f"finetune:{number}", " ".join(map(str, kept))
