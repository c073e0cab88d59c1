"""Published training measurements as topologies and workloads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sim.inputs.loader import load, load_topology
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload

MEASURED = Path(__file__).parents[1] / "data" / "measured"


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One published run.

    Attributes
    ----------
    id, source, note : str
        Where it was read, and what is odd about it.
    topology, workload : specs
        What a user would have written.
    gpus : int
        Ranks.
    tokens_per_s_per_gpu : float or None
        Measured. [1/s]
    memory_bytes : float or None
        Measured peak per GPU. [B]
    memory_figure : str
        What that is: ``allocated``, ``reserved`` or ``device`` (`validate_memory.figure`).
    ran : bool
        False: it ran out of memory.
    status : str
        ``complete`` (the source specifies the run), ``incomplete`` or ``anomaly``.
    """

    id: str
    source: str
    topology: Topology
    workload: Workload
    gpus: int
    tokens_per_s_per_gpu: float | None
    memory_bytes: float | None
    status: str
    note: str
    memory_figure: str = "reserved"
    ran: bool = True

    @property
    def group(self) -> str:
        """Source, before the colon of the id."""
        return self.id.split(":", 1)[0]


@cache
def training_rows() -> tuple[MeasuredRow, ...]:
    """All rows of the shipped table."""
    return tuple(read_rows(MEASURED / "training.jsonl"))


@cache
def out_of_memory_rows() -> tuple[MeasuredRow, ...]:
    """Jobs that somebody tried and that ran out of memory."""
    return tuple(read_rows(MEASURED / "out_of_memory.jsonl"))


def read_rows(path: Path) -> Iterator[MeasuredRow]:
    """Rows of a table, a JSON record a line."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield parse_row(json.loads(line))


@cache
def _machine(name: str, sets: tuple[str, ...]) -> Topology:
    """A machine of the catalogue with some of its keys changed, read once for all its rows."""
    return load_topology(name, sets)


def parse_row(record: dict[str, Any]) -> MeasuredRow:
    """One record of the table; raises InputError where its specs are not valid."""
    machine = _machine(record["topology"], tuple(record["sets"]))
    loaded = load(machine, record["workload"])
    return MeasuredRow(
        id=record["id"],
        source=record["source"],
        topology=loaded.topology,
        workload=loaded.workload,
        gpus=record["gpus"],
        tokens_per_s_per_gpu=record.get("tokens_per_s_per_gpu"),
        memory_bytes=record.get("memory_bytes"),
        status=record["status"],
        note=record["note"],
        memory_figure=record.get("memory_figure", "reserved"),
        ran=record.get("ran", True),
    )
