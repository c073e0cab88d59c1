"""Published layouts of data, tensor and pipeline parallelism as topologies and workloads.

`sim/data/measured/mesh.toml` says once what ran, a row of `mesh.csv` on which ranks. What the
source does not print is read off a row's memory and off which group of rows it is of, not off its
speed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from sim.data import DATA, table
from sim.inputs.loader import Loaded, load
from sim.memory.report import memory
from sim.published.finetune import merged
from sim.published.rows import MeasuredRow
from sim.records import NamedTuple

TABLE = "measured/mesh"
GB = 1e9
#: a row is at odds with others from this many times their time of a slot
AT_ODDS = 2.0
#: of (model, nodes) one cell in three is kept out of every fit
MODELS, NODES = ("1B", "3B", "8B", "80B"), (1, 2, 4, 8, 16, 32, 64)


class MeasuredLayout(NamedTuple):
    """A row of the table."""

    model: str
    nodes: int
    dp: int
    pp: int
    tp: int
    zero: int
    micro_batch: int
    accumulation: int
    tokens_per_s_per_gpu: float | None
    memory_gb: float | None
    ran: bool

    @property
    def cell(self) -> str:
        """Model and number of nodes."""
        return f"{self.model}, {self.nodes} nodes"

    @property
    def held(self) -> bool:
        """Whether its cell is kept out of fits."""
        return (NODES.index(self.nodes) + MODELS.index(self.model)) % 3 == 2

    @property
    def slot_s(self) -> float:
        """Measured time of one of the M + p - 1 slots of a step. [s]"""
        length: int = table(TABLE)["workload"]["sequence_length"]
        tokens = length * self.micro_batch * self.accumulation
        ranks = self.tp * self.pp
        step = tokens / ((self.tokens_per_s_per_gpu or 0.0) * ranks)
        return step / (self.accumulation + self.pp - 1)

    @property
    def id(self) -> str:
        """A name."""
        return (
            f"mesh:{self.model}-n{self.nodes}-dp{self.dp}-tp{self.tp}-pp{self.pp}-z{self.zero}"
            f"-mb{self.micro_batch}"
        )


@cache
def layouts() -> tuple[MeasuredLayout, ...]:
    """All rows of the shipped table whose batch is the one that the source states."""
    sequences = table(TABLE)["sequences"]
    with (DATA / f"{TABLE}.csv").open(encoding="utf-8", newline="") as file:
        found = [_layout(row) for row in csv.DictReader(file)]
    return tuple(r for r in found if r.dp * r.micro_batch * r.accumulation == sequences)


def _layout(row: Mapping[str, str]) -> MeasuredLayout:
    def figure(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    nodes, dp, pp, tp, zero, micro, accumulation = (
        int(row[name])
        for name in ("nodes", "dp", "pp", "tp", "zero_stage", "micro_batch", "accumulation")
    )
    return MeasuredLayout(
        row["model"], nodes, dp, pp, tp, zero, micro, accumulation,
        figure("tokens_per_s_per_gpu"), figure("memory_gb"), row["ran"] == "yes",
    )  # fmt: skip


def at_odds(rows: Iterable[MeasuredLayout]) -> frozenset[MeasuredLayout]:
    """Rows that others of the table contradict.

    A micro-batch on the same stages and tensor-parallel ranks takes no longer than a larger one
    does anywhere, among runs that are held up as among others: a row whose slot takes `AT_ODDS`
    times that is slow for another reason than its layout. Most such rows take 0.7 to 1.2 s a slot,
    whatever its work. No speed is predicted for it.
    """
    alike: dict[tuple[str, int, int, bool], list[MeasuredLayout]] = {}
    for row in rows:
        if row.ran:
            alike.setdefault((row.model, row.pp, row.tp, held_up(row)), []).append(row)
    return frozenset(
        row
        for group in alike.values()
        for row in group
        if row.slot_s > AT_ODDS * min(o.slot_s for o in group if o.micro_batch >= row.micro_batch)
    )


@cache
def held_up(row: MeasuredLayout) -> bool:
    """Whether a row's run is of the kind whose ranks and messages hold up the CPU.

    Runs over nodes are of two kinds. Those that are held up took the memory of layers that gather
    again, where tensor-parallel ranks gather, the others that of layers that keep it. `[held_up]`
    of the data says of which rows memory tells, and which of the others are held up.
    """
    told = table(TABLE)["held_up"]
    if row.nodes == 1:
        return False
    alike = row.nodes in told["nodes"] or row.tp in told["tensor_parallel"]
    if row.pp > 1 and (alike or (row.memory_gb or 0.0) > told["memory_gb"]):
        return True
    if (kept := kept_copies(row)) is not None:
        return bool(kept < told["kept"])
    if row.pp == 1:
        return alike
    many = row.nodes >= told["many"]["nodes"] and row.accumulation >= told["many"]["accumulation"]
    return row.zero == 0 and row.dp > 1 and many


def kept_copies(row: MeasuredLayout) -> float | None:
    """How often memory holds what enters the layers, beyond that of a run which gathers again.

    Equation: (m - g)/(b s h 2 L/p min(p, M)), with m the memory measured, g that of a model which
    gathers again, and below the bf16 activations of b sequences of length s at all layers of a
    stage, of the micro-batches that the first stage has in flight. [1]

    None where memory does not tell: its rest weighs more (`told` in the data), or none is printed.
    """
    about = table(TABLE)
    told = about["held_up"]["told"]["pipeline" if row.pp > 1 else "alone"]
    if row.memory_gb is None or row.pp < told["stages"] or row.tp < told["tensor_parallel"]:
        return None
    if row.zero == 0 and row.micro_batch < told["without_zero"]:
        return None
    loaded = _loaded(row, about["held_up"]["run"])
    least = memory(loaded.topology, loaded.workload).peak_allocated_bytes
    shape = about["models"][row.model]
    tokens = row.micro_batch * about["workload"]["sequence_length"]
    in_flight = min(row.pp, row.accumulation) / row.pp
    copy: float = 2.0 * tokens * shape["hidden_size"] * shape["layers"] * in_flight
    return (row.memory_gb * GB - least) / copy


@cache
def _odd() -> frozenset[MeasuredLayout]:
    return at_odds(layouts())


@cache
def measured(row: MeasuredLayout) -> MeasuredRow:
    """A row as a user would have written it."""
    about: dict[str, Any] = table(TABLE)
    loaded = _loaded(row, *_ran(row))
    gb = None if row.memory_gb is None else row.memory_gb * GB
    return MeasuredRow(
        row.id, about["source"], loaded.topology, loaded.workload, loaded.topology.world_size,
        row.tokens_per_s_per_gpu, gb, "anomaly" if row in _odd() else "complete",
        "", ran=row.ran,
    )  # fmt: skip


def _ran(row: MeasuredLayout) -> Iterator[Mapping[str, Any]]:
    """What is said of the runs that a row is one of."""
    about: dict[str, Any] = table(TABLE)
    if row.nodes > 1 and row.pp > 1:
        yield about["pipeline_over_nodes"]
    if held_up(row):
        yield about["held_up"]["run"]
        if row.pp > 1:
            yield about["held_up"]["pipeline"]


def _loaded(row: MeasuredLayout, *more: Mapping[str, Any]) -> Loaded:
    """Its topology and workload, with more of the workload's keys."""
    about: dict[str, Any] = table(TABLE)
    shape = merged(about["model"], about["models"][row.model], {"name": row.model})
    shape |= {"kv_heads": shape["heads"], "head_dim": shape["hidden_size"] // shape["heads"]}
    ranks = {"tensor_parallel": row.tp, "pipeline_parallel": row.pp}
    workload = merged(
        about["workload"],
        {"model": shape, "micro_batch": row.micro_batch, "gradient_accumulation": row.accumulation},
        {"parallelism": merged(about["zero"][str(row.zero)], ranks)},
        *more,
    )
    machine = about["machine"]
    sets = [f"nodes={row.nodes}", f"network.switch_latency={machine['switch_latency']}"]
    return load(machine["topology"], workload, sets)
